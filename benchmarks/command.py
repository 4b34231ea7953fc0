"""The command line of a benchmark: options, a temporary folder, one JSON line of results."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Prints the module's docstring unchanged, and the default of every option."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a benchmark, to which it adds its options."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace, str], Mapping[str, object]],
) -> None:
    """Prints the results of measure(options, folder) as one JSON line.

    The folder is empty and temporary. Its path is short, because Ray puts Unix sockets below it and
    their paths may have only 107 characters.
    """
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="b", dir="/tmp", ignore_cleanup_errors=True) as folder:
        print(json.dumps(measure(options, folder)))
