"""The options of `fit` (train.py), declared once for the command line and for Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from model.declarations import option

QUICK, PRESETS = "quick", ("quick", "standard", "best")


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """What `fit` trains on, with which settings, how much it tries, and where the run goes.

    set: in Python also a dict, {"optim.epochs": 30, "data.modalities": "table"}.
    """

    data: str | None = option(
        None,
        "folder or URI made by ingest.py",
        metavar="SHARDS",
        shown="the built-in wafer data",
    )
    config: str | None = option(None, "settings that differ from the defaults", metavar="F.toml")
    set: tuple[str, ...] | Mapping[str, object] = option(
        (), "settings on top of --config, by dotted name", metavar="K=V"
    )
    preset: str = option(
        QUICK,
        "quick: one training with the defaults; standard: a search of 12 configurations and the "
        "best of them answering together; best: the same with 60",
        choices=PRESETS,
    )
    time_limit: float = option(
        0.0,
        "with the presets standard and best: seconds for all of it, in place of the number of "
        "configurations",
        low=0,
        metavar="S",
        shown="none",
    )
    folds: int | None = option(
        None,
        "with the presets standard and best: cuts of training and validation rows, on each of which"
        " the best are trained",
        low=1,
        high=20,
        metavar="K",
        shown="as many as tune.py takes",
    )
    distil: bool = option(
        False,
        "with the presets standard and best: also train one network on the answers of the model",
        shown="",
    )
    workers: int | None = option(
        None,
        "training processes, the same as --set scaling.workers=N",
        low=1,
        metavar="N",
        shown="1",
    )
    gpus_per_worker: float | None = option(
        None,
        "GPUs per worker, fractions allowed",
        low=0,
        metavar="G",
        shown="0, that is CPU",
    )
    out: str | None = option(
        None, "folder or URI of the run", metavar="RUN", shown="runs/ and the time of day"
    )
    resume: bool = option(False, "continue the run in --out from its last saved epoch")
    keep_state: bool = option(
        False,
        "keep the resumable states of a finished run, many times the size of its checkpoint",
        shown="they are deleted",
    )
    no_page: bool = option(False, "write neither report.html nor MODEL_CARD.md", shown="write them")
