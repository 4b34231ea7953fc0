"""Writes docs/configuration.md: every setting and every option of every command."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.reference import configuration_page
from distributed.runtime import command

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"


def main(argv: list[str]) -> int:
    if argv:
        raise ValueError(f"describe.py takes no options; got {argv[0]!r}")
    PAGE.write_text(configuration_page())
    print(f"written     {PAGE}")
    return 0


if __name__ == "__main__":
    command.run(main)
