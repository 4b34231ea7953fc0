"""What a search is to do: recorded in experiment.json, compared on a resume, checked."""

from __future__ import annotations

import dataclasses
import json
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from distributed import config
from distributed.runtime import storage
from distributed.runtime.errors import OptionError
from distributed.searches.choosing.baselines import StartingPoints, starting_points
from distributed.searches.choosing.portfolio import learned_jobs, portfolio_jobs
from distributed.searches.choosing.samplers import check_sampler
from distributed.searches.choosing.spaces import Space, load_space, setting_names
from distributed.searches.options import SearchOptions
from distributed.searches.recorded import RecordedOptions, merge_options
from distributed.searches.small import (
    DEMO_SETTINGS,
    QUICK_SEARCH_SETTINGS,
    WAFERS_CORRUPT,
)
from distributed.searches.state.records import SettingValue
from distributed.searches.state.study_storage import open_storage
from distributed.shards.corruption import parse_corruption
from distributed.shards.manifest import read_manifest
from distributed.training.requirements import check_class, check_training
from distributed.wafers.default import resolve_shards
from model.metrics.names import METRICS, check_name

SETUP_FILE = "experiment.json"


@dataclass
class Setup:
    """The options of a search and what follows from them; the fields are those of experiment.json.

    shards: folder or URI of the data.
    base: settings of the starting point that differ from this project's defaults.
    pins: settings that the option `set` holds fixed.
    owner: marks this search's trials in a study that several searches share.
    folds: cuts of training and validation rows; 1 keeps the splits.
    small: names of the settings that the search made small on its own, so that it takes minutes.
    """

    options: RecordedOptions
    shards: str
    base: dict[str, SettingValue]
    pins: dict[str, SettingValue]
    owner: str
    small: list[str] = field(default_factory=list)
    folds: int = 1

    def save(self, folder: Path) -> None:
        """Writes experiment.json. The folder is in use from then on, so check everything before."""
        path, text = folder / SETUP_FILE, json.dumps(vars(self), indent=1)
        if not path.exists() or path.read_text() != text:
            storage.write_file(str(path), text.encode())

    @property
    def metrics(self) -> list[str]:
        return parse_metrics(self.options["metric"])

    @property
    def settings(self) -> config.Config:
        """The starting point."""
        return config.apply_changes(config.Config(), self.base)

    @property
    def trained(self) -> dict[str, SettingValue]:
        """`base` for the trainings of the search: with its folds."""
        return {**self.base, "data.folds": self.folds} if self.folds > 1 else self.base

    @property
    def replicates(self) -> int:
        """Fresh seeds of the best; folds take their place."""
        return 0 if self.folds > 1 else self.options["replicates"]

    @property
    def lasting(self) -> dict[str, SettingValue]:
        """`base` for trainings after the search: without what it made small on its own."""
        return {name: value for name, value in self.base.items() if name not in self.small}


@dataclass(frozen=True)
class CheckedSearch:
    """A search that can start: its setup, and what follows from its data and its space.

    searched: names of the settings that the space may ask for.
    storage: where the study is, with its password; empty: a journal in the experiment's folder.
    val_rows, test_rows: rows of every class. few_shot: the few-shot classes. All from count_rows.
    """

    setup: Setup
    space: Space
    searched: list[str]
    starting_points: StartingPoints
    has_test_rows: bool
    storage: str = field(default="", repr=False)
    val_rows: Mapping[str, int] = field(default_factory=dict)
    test_rows: Mapping[str, int] = field(default_factory=dict)
    few_shot: tuple[str, ...] = ()


def parse_metrics(listed: str) -> list[str]:
    """The metrics of the option `metric`; refuses unknown ones and repetitions."""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    for name in names:
        try:
            check_name("metric", name, "train_seconds")
        except ValueError as error:
            raise OptionError(str(error), "metric") from None
    if not names or len(set(names)) < len(names):
        raise OptionError(
            f"metric takes one name or several different ones; got {listed!r}", "metric"
        )
    return names


def setup_for(folder: Path, options: SearchOptions) -> Setup:
    """Returns the new or recorded setup.

    A resumed search continues with its recorded setup and the changes that a resume may make.
    Raises OptionError if the folder already holds a search and `resume` is not given.
    """
    recorded = read_setup(folder / SETUP_FILE, options.out)
    if recorded and not options.resume:
        raise OptionError(
            f"out must be a new folder, or add resume to go on with it; got {options.out}",
            "out",
            "resume",
        )
    if options.resume and not recorded:
        print(f"note: nothing to resume in {options.out}; starting anew", file=sys.stderr)
    chosen = merge_options(options, recorded.options if recorded else None)
    check_sampler(chosen["sampler"], len(parse_metrics(chosen["metric"])))
    if not recorded:
        return prepare(chosen)
    recorded.options = chosen
    return recorded


def read_setup(path: Path, out: str | None) -> Setup | None:
    """Reads experiment.json; None where the folder is new."""
    if not path.exists():
        return None
    try:
        return Setup(**json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise OptionError(
            f"out must be new or hold a whole search; {path.name} in {out!r} is damaged:"
            " take another folder",
            "out",
        ) from None


def prepare(options: RecordedOptions) -> Setup:
    """The setup of a new search, from the configuration file and the settings held fixed."""
    from_file = config.read_config_file(options["config"]) if options["config"] else {}
    start = config.apply_changes(config.Config(), {"optim.seed": options["seed"], **from_file})
    small: dict[str, SettingValue] = {}
    if options["quick"]:
        small = QUICK_SEARCH_SETTINGS
    elif not options["data"]:
        small = DEMO_SETTINGS
    start = config.apply_changes(start, {k: v for k, v in small.items() if k not in from_file})
    fixed = config.parse_assignments(options["set"])
    start = config.apply_changes(start, fixed)
    # The epoch of a run is chosen by the metric of the search, unless the user has named another.
    metric = parse_metrics(options["metric"])[0]
    can_choose_epochs = metric in METRICS or "/" in metric
    if can_choose_epochs and "optim.metric" not in {**from_file, **fixed}:
        start = config.apply_changes(start, {"optim.metric": metric})
    if not options["data"] and not options["corrupt"]:
        options = {**options, "corrupt": WAFERS_CORRUPT}
    flat = config.flatten(start)
    if small:
        reason = "quick" if options["quick"] else "built-in wafer data"
        listed = " ".join(f"{name}={flat[name]}" for name in small)
        print(f"{reason}: small settings, {listed}", file=sys.stderr)
    return Setup(
        options=options,
        shards=resolve_shards(options["data"]),
        base=config.changes_from_defaults(start),
        pins={name: flat[name] for name in fixed},
        folds=options["folds"],
        owner=uuid.uuid4().hex[:12],
        small=[name for name in small if name not in {**from_file, **fixed}],
    )


def check_search(setup: Setup, storage: str = "") -> CheckedSearch:
    """Checks the setup against the data and the space, before anything is written or started.

    storage: as in CheckedSearch.
    """
    if storage:
        open_storage(storage)  # Ray would start for seconds before a wrong one
    manifest = read_manifest(setup.shards)
    data = setup.settings.data
    schema = manifest.schema.keep(config.split_list(data.modalities))
    if data.corrupt:
        parse_corruption(data.corrupt, schema)
    try:
        parse_corruption(setup.options["corrupt"], schema)
    except ValueError as error:
        raise OptionError(str(error), "corrupt") from None
    for metric in setup.metrics:
        try:
            check_class("metric", metric, schema.classes)
        except ValueError as error:
            raise OptionError(str(error), "metric") from None
    space = load_space(setup.options["space"])
    searched = setting_names(space, setup.pins)
    for name in searched:
        try:
            config.check_exists(name)
        except ValueError as error:
            raise OptionError(f"space asks for settings; {error}", "space") from None
    free = set(searched) - set(setup.pins)
    check_training(setup.settings, schema, manifest.rows["val"], undecided=free)
    points = starting_points(space, setup.base, setup.pins, schema)
    others = portfolio_jobs(setup.options["portfolio"], setup.settings, setup.pins, schema)
    others += learned_jobs(setup.options["learn_from"], setup.settings, setup.pins)
    return CheckedSearch(
        setup=setup,
        space=space,
        searched=searched,
        starting_points=dataclasses.replace(points, outside=(*points.outside, *others)),
        has_test_rows=manifest.rows["test"] > 0,
        storage=storage,
    )
