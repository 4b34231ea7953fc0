"""Recognises a run that is finished, so that a resume of it trains nothing."""

from __future__ import annotations

import sys

from distributed.runtime.errors import OptionError
from distributed.runtime.storage import read_json_object
from distributed.training.checkpoint import find_checkpoint
from distributed.training.results import METRICS_FILE, RunMetrics
from distributed.training.spec import RunSpec
from distributed.training.states import states_of


def finished_metrics(spec: RunSpec) -> RunMetrics | None:
    """The metrics of a run that is finished and whose states are deleted; None of any other.

    A finished run that has kept its states goes on from the last one, and writes its files anew.
    """
    states = states_of(spec)
    if states is not None and states.exist():
        return None
    try:
        values = read_json_object(f"{spec.out}/{METRICS_FILE}")
    except FileNotFoundError:
        return None
    try:
        find_checkpoint(spec.out)
    except OptionError as error:
        print(f"note: {error}; its states are deleted: training anew", file=sys.stderr)
        return None
    return RunMetrics.from_dict(values)
