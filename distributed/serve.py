"""Answers predictions over HTTP, on Ray Serve: JSON or forms with pictures in, JSON out, and a page
for people.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.runtime import command, signals
from distributed.runtime.options import read
from distributed.serving.options import ServeOptions

PATHS = """\
paths: GET / the page; POST /predict with {"column": value} or {"records": [...]} as JSON, pictures
in base64, or one record as multipart/form-data; GET /health; GET /metrics for Prometheus"""


def main(argv: list[str]) -> int:
    options = read(ServeOptions, argv, prog="serve.py", description=__doc__, epilog=PATHS)
    # PyTorch and Ray take seconds to import, which --help need not wait for.
    from distributed.serving.driver import serve

    try:
        serve(options)
    except signals.Interrupted as stop:
        return signals.exit_code(stop)
    return 0


if __name__ == "__main__":
    command.run(main)
