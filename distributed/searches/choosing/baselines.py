"""The configurations that every search tries: its starting point and the nested baselines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from distributed import config
from distributed.searches.choosing.spaces import Space, probe
from distributed.searches.state.records import SearchJob, SettingValues
from model.schema import Schema

ALONE = " alone"  # ends the labels of the baselines with one modality
BOOSTING = "gradient boosting"  # label of the trees on the tables
# The trees grow with the classes; of more classes they would take longer than the networks.
MOST_CLASSES_TO_BOOST = 200
MOST_ALONE = 4  # modalities of which each is a baseline of its own
STARTING_POINT = "starting point"  # label of "defaults" where the user has changed them

STARTING_POINTS = ("defaults", STARTING_POINT)
# The method must beat these to be worth its complexity. Each is the starting point with changes.
BASELINES: dict[str, SettingValues] = {
    "defaults": {},
    "concatenation": {"fusion.kind": "uniform"},
    "one expert": {"experts.count": 1},
    "plain softmax": {
        "loss.name": "prior",
        "loss.average_prior_strength": 0.0,
        "loss.spread_of_prior_strength": 0.0,
        "loss.margin": 0.0,
        "loss.drw": 0.0,
    },
}
# Settings, and beginnings of settings, that leave the method as it is: with these alone changed the
# starting point is still called the defaults.
NEUTRAL = ("optim.seed", "optim.metric", "scaling.", "data.cache", "data.engine")


@dataclass(frozen=True)
class StartingPoints:
    """The starting point and the baselines.

    inside: those that the space can express, as answers to its questions, by label.
    outside: those that it cannot express, which run beside the trials.
    """

    inside: dict[str, SettingValues]
    outside: tuple[SearchJob, ...]

    @property
    def labels(self) -> list[str]:
        return [*self.inside, *(job.label for job in self.outside)]


def starting_points(
    space: Space, changes: SettingValues, pins: SettingValues, schema: Schema
) -> StartingPoints:
    """Returns the starting point and the baselines that apply to this search.

    A baseline is left out where it is the starting point itself, where it needs a setting that is
    held fixed at another value, and where the data has too few modalities for it.

    changes: of the starting point from this project's defaults.
    pins: settings held fixed.
    schema: of the modalities that the starting point uses.
    """
    start = config.flatten(config.apply_changes(config.Config(), changes))
    start_is_changed = any(not name.startswith(NEUTRAL) for name in changes)
    inside: dict[str, SettingValues] = {}
    outside: list[SearchJob] = []
    for label, baseline in {**BASELINES, **_each_alone(schema.modalities)}.items():
        own_changes = {name: value for name, value in baseline.items() if start[name] != value}
        if own_changes.keys() & pins.keys():
            continue
        if label == "defaults":
            label = STARTING_POINT if start_is_changed else label
        elif not own_changes or (label == "concatenation" and len(schema.modalities) < 2):
            continue
        settings = probe(space, {**start, **own_changes}, pins)
        if settings is not None and own_changes.items() <= settings.items():
            inside[label] = {k: v for k, v in settings.items() if k not in pins}
        else:
            job = SearchJob(
                name=re.sub(r"[^A-Za-z0-9_.-]+", "-", label),
                kind="named",
                label=label,
                settings={**(settings or {}), **own_changes},
            )
            outside.append(job)
    is_pinned = "data.modalities" in pins
    if schema.tables and len(schema.classes) <= MOST_CLASSES_TO_BOOST and not is_pinned:
        outside.append(
            SearchJob(
                name=BOOSTING.replace(" ", "-"),
                kind="named",
                label=BOOSTING,
                settings={"data.modalities": ",".join(table.name for table in schema.tables)},
                method="boosting",
            )
        )
    return StartingPoints(inside, tuple(outside))


def _each_alone(modalities: Sequence[str]) -> dict[str, SettingValues]:
    """A baseline for each modality, where there are several and not too many."""
    if not 1 < len(modalities) <= MOST_ALONE:
        return {}
    return {f"{name}{ALONE}": {"data.modalities": name} for name in modalities}
