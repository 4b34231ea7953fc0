"""Writes the built-in example data set: `python -m distributed.wafers --help`."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from distributed.runtime import command
from distributed.wafers.generator import main

if __name__ == "__main__":
    command.run(main)
