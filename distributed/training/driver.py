"""Trains one configuration from its options: settles the settings, trains here or on workers."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distributed.config import (
    Config,
    apply_changes,
    by_dotted_name,
    changes_from_defaults,
    flatten,
    load_config,
    parse_assignments,
)
from distributed.runtime import lease, ray_session, shell, signals, storage
from distributed.runtime.errors import Failure, OptionError
from distributed.runtime.option_values import check_options
from distributed.runtime.output_folders import RUN, check_output
from distributed.shards.layout import MANIFEST
from distributed.shards.manifest import Manifest, read_manifest
from distributed.shards.sampling import training_counts
from distributed.training.finished import finished_metrics
from distributed.training.optimisation.divergence import Diverged
from distributed.training.options import FitOptions
from distributed.training.pages.report import PAGE
from distributed.training.progress.console import (
    EpochBar,
    epochs_summary,
    results_notes,
    results_table,
)
from distributed.training.results import RunMetrics
from distributed.training.run import check_trainable, run_training
from distributed.training.spec import RunSpec, state_folder
from distributed.wafers.default import resolve_shards

DATA_FILE = "data.json"  # in the folder of a run: its shards and their digest
SETTINGS_FILE = "config.json"  # in the folder of a run: all its settings


class FitInterrupted(signals.Interrupted):
    """A signal stopped the training; `command` resumes it."""

    def __init__(self, number: int, command: str) -> None:
        super().__init__(number)
        self.command = command


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """A finished run.

    data: its shards. out: folder or URI of the run.
    epochs: how many there were, why no more, and which of them has the scores.
    notes: what the user should know about the metrics.
    page: its report.html; empty where none was written.
    """

    data: str
    out: str
    metrics: RunMetrics
    classes: tuple[str, ...]
    epochs: str
    notes: tuple[str, ...]
    page: str = ""

    @property
    def splits(self) -> dict[str, dict[str, float]]:
        """The metrics on the splits on which the run was scored."""
        return self.metrics.splits

    def show(self) -> None:
        """Prints the metrics, the notes, and what can be done with the run."""
        print(results_table(self.metrics, len(self.classes)))
        print("".join(f"note: {note}\n" for note in self.notes))
        print(f"epochs      {self.epochs}")
        print(f"run         {self.out}")
        if self.page:
            print(f"page        {self.page}")
        print(f"compare     {shell.tensorboard_command(folder_to_compare(self.out))}")
        words = ["--checkpoint", shell.shown_location(self.out)]
        words += ["--data", shell.shown_location(self.data), "--out", "predictions"]
        predict = shell.script_command("distributed/predict.py", *words)
        print(f"use         {predict} (--data: also a table of new rows)")


@dataclass(frozen=True)
class RunPlan:
    """A run that has been checked and can start."""

    spec: RunSpec
    manifest: Manifest
    digest: str  # of the shards


def fit(options: FitOptions) -> FitResult:
    """Trains one configuration on a SHARDS folder and writes the run to `options.out`."""
    options = check_options(FitOptions, options)
    if options.resume and not options.out:
        raise OptionError("resume needs out, the run to continue; got none", "resume", "out")
    out = storage.absolute_location(options.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    with lease.hold(out):
        return _fit_into(out, options)


def _fit_into(out: str, options: FitOptions) -> FitResult:
    """Trains the run in `out`, which this process holds."""
    plan = plan_run(out, options)
    spec, config = plan.spec, plan.spec.config
    if options.resume and (metrics := finished_metrics(spec)):
        return make_result(plan, metrics, "the run was finished already: nothing was trained")
    here = fits_in_this_process(config)
    if not here:
        # Ray takes seconds to import, which a run in one process need not spend.
        from distributed.training.workers.capacity import check_fits

        ray_session.start_ray()
        check_fits(config.scaling, "this run")
    write_inputs(plan)
    try:
        metrics = train_here(spec) if here else train_on_workers(spec)
    except signals.Interrupted as interrupt:  # the last finished epoch is saved
        raise FitInterrupted(
            interrupt.number, shell.resume_command("distributed/train.py", spec.out)
        ) from None
    except Diverged as error:
        raise Failure(f"{error}; lower optim.lr, or set optim.clip") from None
    if not options.keep_state:
        storage.remove_folder(state_folder(spec.out))
    return make_result(plan, metrics)


def make_result(plan: RunPlan, metrics: RunMetrics, *notes: str) -> FitResult:
    """The result of a finished run. notes: what to say before the notes on its metrics."""
    spec, config, schema = plan.spec, plan.spec.config, plan.manifest.schema
    counts = training_counts(schema.counts, config.data.imbalance_ratio, config.data.max_rows)
    return FitResult(
        data=spec.shards,
        out=spec.out,
        metrics=metrics,
        classes=schema.classes,
        epochs=epochs_summary(metrics, config.optim),
        notes=(*notes, *results_notes(metrics, schema.classes, counts.tolist())),
        page=f"{spec.out}/{PAGE}" if spec.page else "",
    )


def plan_run(out: str, options: FitOptions) -> RunPlan:
    """Settles settings and data of the run, and refuses what cannot be trained or resumed."""
    with storage.as_option_error(out):
        check_output(out, RUN)
        config = settle_config(out, options)
        saved = read_saved_data(out) if options.resume else {}
    shards = resolve_shards(options.data or saved.get("shards"))
    manifest, digest = read_manifest(shards), manifest_digest(shards)
    if saved.get("digest", digest) != digest:
        raise ValueError(
            f"a resumed run must keep its data, {saved['shards']} as it was; "
            f"{shards} holds other rows: start a new run"
        )
    check_trainable(manifest, config)
    spec = RunSpec(
        shards=shards,
        settings=changes_from_defaults(config),
        out=out,
        resume=options.resume,
        test=manifest.rows["test"] > 0,
        page=not options.no_page,
    )
    return RunPlan(spec, manifest, digest)


def settle_config(out: str, options: FitOptions) -> Config:
    """The settings of the run: from the options, or of a resumed run from its folder.

    Refuses a folder in use, and a resume that changes settings other than scaling.*.
    """
    changes = requested_settings(options)
    try:
        saved = storage.read_json_object(f"{out}/{SETTINGS_FILE}")
    except FileNotFoundError:
        config = apply_changes(load_config(options.config), changes)
        if options.resume:
            print(f"note: nothing to resume in {out}; starting anew", file=sys.stderr)
        return config
    if not options.resume:
        raise OptionError(
            f"out must be a new folder, or add resume to continue it; got {out}", "out", "resume"
        )
    before = saved_settings(out, saved)
    config = apply_changes(load_config(options.config, base=before), changes)
    old = flatten(before)
    for name, value in flatten(config).items():
        if not name.startswith("scaling.") and value != old[name]:
            raise ValueError(
                f"a resumed run must keep its settings; {name} is {old[name]!r} there, "
                f"got {value!r}"
            )
    return config


def saved_settings(out: str, saved: Mapping[str, object]) -> Config:
    """The settings in the content of config.json."""
    try:
        return apply_changes(Config(), saved)
    except ValueError as error:
        raise ValueError(
            f"{out}/{SETTINGS_FILE} must hold settings of this version: {error}"
        ) from None


def requested_settings(options: FitOptions) -> dict[str, object]:
    """The settings of `set`, `workers` and `gpus_per_worker` by dotted name."""
    if isinstance(options.set, Mapping):
        settings = by_dotted_name(options.set)
    else:
        settings = dict(parse_assignments(options.set))
    if options.workers is not None:
        settings["scaling.workers"] = options.workers
    if options.gpus_per_worker is not None:
        settings["scaling.gpus_per_worker"] = options.gpus_per_worker
    return settings


def read_saved_data(out: str) -> dict[str, str]:
    """The shards that the run began with and their digest; empty for a run that has no note."""
    place = f"{out}/{DATA_FILE}"
    try:
        saved = storage.read_json_object(place)
    except FileNotFoundError:
        return {}
    for name in ("shards", "digest"):
        if not isinstance(saved.get(name), str):
            raise storage.DamagedFile(f"{place} is damaged: its {name} must be text")
    return saved


def manifest_digest(shards: str) -> str:
    """A digest of the manifest, which holds the statistics of the training rows."""
    content = storage.read_file(storage.join(shards, MANIFEST))
    return hashlib.sha256(content).hexdigest()[:16]


def write_inputs(plan: RunPlan) -> None:
    """Notes the data and the settings in the run's folder, for a resume."""
    data = {"shards": plan.spec.shards, "digest": plan.digest}
    settings = flatten(plan.spec.config)
    with storage.as_option_error(plan.spec.out):
        for name, content in ((DATA_FILE, data), (SETTINGS_FILE, settings)):
            storage.write_file(f"{plan.spec.out}/{name}", json.dumps(content, indent=1).encode())


def fits_in_this_process(config: Config) -> bool:
    """Whether the run needs no Ray Train: one worker, and this machine has what it needs."""
    if config.scaling.workers > 1 or config.scaling.min_workers:
        return False
    if config.scaling.gpus_per_worker == 0:
        return True
    return torch.cuda.is_available() and not ray_session.in_job()


def train_here(spec: RunSpec) -> RunMetrics:
    """Trains in this process."""
    with signals.stop_requests(), EpochBar(spec.config.optim.epochs) as bar:
        return run_training(spec, progress=bar).metrics


def train_on_workers(spec: RunSpec) -> RunMetrics:
    """Trains in Ray Train workers; this process shows the progress."""
    # Ray takes seconds to import, which a run in one process need not spend.
    from distributed.training.workers.watched_run import run_on_workers

    title = f"training on {spec.config.scaling.workers} workers"
    with (
        EpochBar(spec.config.optim.epochs, title=title) as bar,
        signals.stop_requests(only_note=True) as request,
    ):
        return run_on_workers(spec, bar, request.raise_if_received)


def folder_to_compare(out: str) -> str:
    """The folder that holds the run and others to compare it with; of a whole bucket, itself."""
    parent = out.rpartition("/")[0]
    if parent.endswith(("://", ":/")):
        return out
    return parent or "/"
