"""Writes a checkpoint as one file that runs where this project is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.inference.options import ExportOptions
from distributed.runtime import command, options


def main(argv: list[str]) -> int:
    chosen = options.read(ExportOptions, argv, prog="export.py", description=__doc__)
    # PyTorch takes seconds to import, which --help and mistakes in the options need not wait for.
    from distributed.inference.exporting.driver import export

    export(chosen).show()
    return 0


if __name__ == "__main__":
    command.run(main)
