"""The command line of a benchmark: its options, an empty folder to work in, one JSON line."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from typing import Any


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The module's own text as it is, and every option's default."""


def parser(text: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=text, formatter_class=Help)


def run(
    made: argparse.ArgumentParser, measure: Callable[[argparse.Namespace, str], dict[str, Any]]
) -> None:
    """Prints what measure(options, folder) found; the folder's path is short, as Ray's sockets need it."""
    options = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as folder:
        print(json.dumps(measure(options, folder)))
