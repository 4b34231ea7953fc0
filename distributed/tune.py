"""Searches the settings of the model: the command of distributed.searches."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed import config
from distributed.runtime import command, lease, signals
from distributed.runtime.options import read
from distributed.searches.options import SearchOptions

DESCRIPTION = (
    "Searches the settings of the model on a SHARDS folder and writes EXPERIMENT:"
    " best.toml, report, trials.csv, TensorBoard."
)


def main(argv: list[str]) -> int:
    options = read(
        SearchOptions,
        argv,
        prog="tune.py",
        description=DESCRIPTION,
        epilog=config.describe_settings(),
        find_settings=config.find_settings,
    )
    if options.out:
        lease.refuse_held(options.out)
    # Ray and Optuna take seconds to import, which --help and a refusal need not wait for.
    from distributed.searches.driver import search

    try:
        search(options).show()
    except signals.Interrupted as stop:  # the search has printed how to resume it
        return signals.exit_code(stop)
    return 0


if __name__ == "__main__":
    command.run(main)
