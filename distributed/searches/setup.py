"""The options of a search: recorded in its folder, checked against it on a resume, and what follows from them."""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed import config
from distributed.runtime import storage
from distributed.searches.baselines import BASELINES, STARTING_POINT
from distributed.searches.experiment import check_metrics
from distributed.searches.records import SearchJob
from distributed.wafers import generator
from model.metrics.names import METRICS

DEFAULTS: dict[str, Any] = {
    "data": "",
    "space": "full",
    "trials": 20,
    "concurrent": 0,
    "metric": "balanced_accuracy",
    "time_budget": 0.0,
    "storage": "",
    "study": "search",
    "sampler": "tpe",
    "stopper": "",
    "replicates": 3,
    "best": 3,
    "seed": 0,
    "config": "",
    "quick": False,
}
CHANGEABLE = (
    "trials",
    "concurrent",
    "time_budget",
    "replicates",
    "best",
    "sampler",
    "stopper",
)  # by a later --resume
# Without --data: settings that let the whole search on the built-in wafers take a few minutes on two cores.
DEMO: dict[str, Any] = {"optim.epochs": 8, "data.max_rows": 2000, "image.width": 16}
QUICK: dict[str, Any] = {
    "optim.epochs": 3,
    "data.max_rows": 500,
    "image.width": 8,
    "dim": 32,
    "table.width": 32,
}
NEUTRAL = (
    "optim.seed",
    "optim.metric",
    "scaling.",
    "data.cache",
    "data.engine",
)  # these change no method: still the defaults
QUICK_OPTIONS: dict[str, Any] = {"trials": 6, "replicates": 1, "best": 1}


@dataclass
class Setup:
    """A search's options and what follows from them; all of it is in experiment.json."""

    options: dict[str, Any]
    shards: str
    base: dict[str, Any]  # dotted differences of the starting point from this project's defaults
    pins: dict[str, Any]  # settings that --set holds fixed
    owner: str

    def save(self, folder: Path) -> None:
        """To be called when nothing is wrong with it: from then on the folder is in use."""
        path, text = folder / "experiment.json", json.dumps(vars(self), indent=1)
        if not path.exists() or path.read_text() != text:
            storage.write_file(str(path), text.encode())

    @property
    def metrics(self) -> list[str]:
        return check_metrics(self.options["metric"])

    @property
    def settings(self) -> config.Config:
        return config.apply_changes(config.Config(), self.base)


def claim(folder: Path, given: dict[str, Any]) -> Setup:
    """The options of this search; refuses a folder in use, and a resume of something else."""
    before = read(folder / "experiment.json", given["out"])
    if before and not given["resume"]:
        raise ValueError(
            f"--out must be a new folder, or add --resume to go on with it; got {given['out']}"
        )
    if given["resume"] and not before:
        print(f"note: nothing to resume in {given['out']}; starting anew", file=sys.stderr)
    options = {
        **DEFAULTS,
        **(QUICK_OPTIONS if given["quick"] else {}),
        **(before.options if before else {}),
    }
    options["set"] = before.options["set"] if before else []
    sets = list(given["set"] or []) + (
        [f"scaling.workers={given['workers']}"] if given["workers"] is not None else []
    )
    for name, value in {**given, "set": sets or None}.items():
        if value is None or name not in options:
            continue
        if before and name not in CHANGEABLE and value != options[name]:
            raise ValueError(
                f"a resumed search must keep its --{name}; it was {options[name]!r}, got {value!r}"
            )
        options[name] = value
    check(options)
    setup = before or prepare(options)
    setup.options = options
    return setup


def read(path: Path, out: str) -> Setup | None:
    """What an earlier sitting has recorded; nothing in a new folder."""
    if not path.exists():
        return None
    try:
        return Setup(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(
            f"--out must be new or hold a whole search; {path.name} in {out!r} is damaged: take another folder"
        ) from None


def check(options: dict[str, Any]) -> None:
    least = {"trials": 1, "concurrent": 0, "time_budget": 0, "replicates": 0, "best": 1, "seed": 0}
    for name, low in least.items():
        if options[name] < low:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at least {low}; got {options[name]}"
            )
    metrics = check_metrics(options["metric"])
    if len(metrics) > 1 and options["sampler"] == "cmaes":
        raise ValueError(
            "--sampler cmaes takes one metric; with several use tpe, random, gp or nsga2"
        )


def prepare(options: dict[str, Any]) -> Setup:
    """Reads --config and --set, finds the data."""
    changes = config.read_config_file(options["config"]) if options["config"] else {}
    start = config.apply_changes(config.Config(), {"optim.seed": options["seed"], **changes})
    small = QUICK if options["quick"] else {} if options["data"] else DEMO
    start = config.apply_changes(start, {k: v for k, v in small.items() if k not in changes})
    sets = config.parse_assignments(options["set"])
    start = config.apply_changes(start, sets)
    metric = check_metrics(options["metric"])[0]
    if (metric in METRICS or "/" in metric) and "optim.metric" not in {**changes, **sets}:
        start = config.apply_changes(start, {"optim.metric": metric})
    flat = config.flatten(start)
    if small:
        words = " ".join(f"{k}={flat[k]}" for k in small)
        print(
            f"{'quick' if options['quick'] else 'built-in wafer data'}: small settings, {words}",
            file=sys.stderr,
        )
    pins = {name: flat[name] for name in sets}
    return Setup(
        options,
        generator.resolve_shards(options["data"]),
        config.changes_from_defaults(start),
        pins,
        uuid.uuid4().hex[:12],
    )


def starting_points(
    space: Any, setup: Setup, modalities: int
) -> tuple[list[tuple[str, dict[str, Any]]], list[SearchJob]]:
    """The defaults (or what --config and --set made of them) and the nested baselines: as trials where the space can express them, else
    as runs beside it. A baseline of which a setting is held fixed at another value would not be what its name says: it is left out.
    """
    from distributed.searches.spaces import probe

    base = config.flatten(setup.settings)
    inside: list[tuple[str, dict[str, Any]]] = []
    outside: list[SearchJob] = []
    changed = any(not name.startswith(NEUTRAL) for name in setup.base)
    for label, wanted in BASELINES.items():
        changes = {k: v for k, v in wanted.items() if base[k] != v}
        if changes.keys() & setup.pins.keys():
            continue
        if label == "defaults":
            label = STARTING_POINT if changed else label
        elif not changes or (label == "concatenation" and modalities < 2):
            continue
        asked = probe(space, {**base, **changes}, setup.pins)
        if asked is not None and changes.items() <= asked.items():
            inside.append((label, {k: v for k, v in asked.items() if k not in setup.pins}))
        else:
            outside.append(
                SearchJob(
                    name=label.replace(" ", "-"),
                    kind="named",
                    label=label,
                    settings={**(asked or {}), **changes},
                )
            )
    return inside, outside
