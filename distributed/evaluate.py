"""Scores a checkpoint on a labelled split of its own or other shards, under test conditions:
metrics with intervals, and their reasons.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed.inference.options import EvaluateOptions
from distributed.runtime import command, options


def main(argv: list[str]) -> int:
    chosen = options.read(EvaluateOptions, argv, prog="evaluate.py", description=__doc__)
    # PyTorch takes seconds to import, which --help and mistakes in the options need not wait for.
    from distributed.inference.evaluating import evaluation, leaderboard

    done = leaderboard.compare_runs(chosen) if chosen.compare else evaluation.evaluate(chosen)
    done.show()
    return 0


if __name__ == "__main__":
    command.run(main)
