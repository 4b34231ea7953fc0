"""Trains on a SHARDS folder and writes RUN: checkpoint, metrics.json, TensorBoard events;
with --preset standard or best a search, whose best networks answer together."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.config import describe_settings, find_settings
from distributed.runtime import command, lease, options, signals
from distributed.runtime.errors import Failure
from distributed.training.options import FitOptions


def main(argv: list[str]) -> int:
    chosen = options.read(
        FitOptions,
        argv,
        prog="train.py",
        description=__doc__,
        epilog=describe_settings(),
        find_settings=find_settings,
    )
    if chosen.out:
        lease.refuse_held(chosen.out)
    # torch takes seconds to import, which --help and a refusal need not wait for.
    from distributed.presets.driver import FitInterrupted, fit

    try:
        fit(chosen).show()
    except FitInterrupted as stop:
        raise Failure(f"stopped; go on with: {stop.command}", signals.exit_code(stop)) from None
    return 0


if __name__ == "__main__":
    command.run(main)
