"""Runs a study: named variants x conditions x seeds as parallel tasks, then tables, tests, figures and a report that says what is shown."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed import config
from distributed.runtime import command as cli
from distributed.runtime import errors, ray_session, signals, storage
from distributed.runtime import options as options_
from distributed.studies import definition as study
from distributed.studies.definition import Cell
from distributed.training.requirements import check_training
from distributed.wafers.default import resolve_shards

QUICK = {"optim.epochs": 4, "data.max_rows": 600}
QUICK_SEEDS = 2
BUILT_IN = "wafers"  # the name of the data set that is made here
REPORT_EVERY = 30.0  # seconds between two reports while the study runs


@dataclass(frozen=True)
class DataSet:
    """One --data: the name it has in tables, where it is, and the digest of its rows that names it in keys."""

    name: str
    shards: str
    digest: str
    manifest: Any


def parser() -> argparse.ArgumentParser:
    shipped = "\n".join(
        f"  {name:12} {study.read_study(name).title}" for name in study.study_names()
    )
    made = options_.Parser(
        prog="ablate.py",
        description=__doc__,
        epilog=f"shipped studies:\n{shipped}\n\nyour own study:\n{study.__doc__}\n{config.describe_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--study",
        required=True,
        metavar="NAME|F.toml",
        help="a shipped study, or a file of your own (below)",
    )
    made.add_argument(
        "--data",
        action="append",
        metavar="SHARDS",
        help="folder or URI made by ingest.py; repeat for several data sets (default: the built-in wafers)",
    )
    made.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="seeds 0 to N - 1 (default: the study's own number, mostly 5)",
    )
    made.add_argument(
        "--out", metavar="STUDY", help="folder or URI of the study (default: studies/ and its name)"
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="keep the finished cells in --out and run the rest; with a larger --seeds it extends a study",
    )
    made.add_argument(
        "--set",
        metavar="K=V",
        nargs="+",
        action="extend",
        default=[],
        help="settings of every cell (variants and conditions win)",
    )
    made.add_argument(
        "--variants", metavar="A,B", help="run only these variants and the reference (default: all)"
    )
    made.add_argument(
        "--conditions", metavar="A,B", help="run only these conditions (default: all)"
    )
    made.add_argument(
        "--quick", action="store_true", help=f"a small run to look at: {_quick_words()}"
    )
    made.add_argument("--plan", action="store_true", help="print what would run, and run nothing")
    return made


def _quick_words() -> str:
    return ", ".join(f"{k}={v}" for k, v in QUICK.items()) + f", {QUICK_SEEDS} seeds"


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    asked = study.read_study(options.study)
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1; got {options.seeds}")
    seeds = options.seeds or (min(QUICK_SEEDS, asked.seeds) if options.quick else asked.seeds)
    extra = {**(QUICK if options.quick else {}), **config.parse_assignments(options.set)}
    sets = data_sets(options.data or [])
    from distributed.studies.state import StudyState, study_cells

    plans = study_cells(asked, sets, seeds, extra, options.variants, options.conditions)
    out = storage.absolute_location(
        options.out or f"studies/{asked.name}{'-quick' if options.quick else ''}"
    )
    command = shlex.join(["python", "distributed/ablate.py", *argv])
    with storage.as_option_error(out):
        state = StudyState.open(
            out,
            asked,
            plans,
            {d.name: d.digest for d in sets},
            resume=options.resume,
            command=command,
        )
        todo = state.todo()
    check_trainings(todo, {d.name: d for d in sets})
    cells = sum(len(p.cells) for p in plans.values())
    print(
        f"{asked.title}: {cells} cells, {cells - sum(map(len, todo.values()))} done; {len(todo)} trainings to run",
        flush=True,
    )
    for reason in dict.fromkeys(r for p in plans.values() for r in p.left_out):
        print(f"left out: {reason}")
    if options.plan:
        print(
            "\n".join(
                f"  {d}  {c.condition}  {c.variant}  seed {c.seed}"
                for group in todo.values()
                for d, c in group
            )
        )
        return 0
    with storage.as_option_error(out):
        state.describe()
    if todo:
        run(state, todo, {d.name: d for d in sets})
    return finish(state)


def data_sets(places: Sequence[str]) -> list[DataSet]:
    """The data sets under the names of their folders."""
    from distributed.shards.manifest import read_manifest, shards_digest

    found = []
    for place in places or [None]:
        shards = resolve_shards(place)
        manifest = read_manifest(shards)
        if not manifest.rows["test"]:
            raise ValueError(
                f"--data must have test rows, on which a study compares its variants; {shards} has none"
            )
        *_, parent, last = ["", *shards.rstrip("/").split("/")]
        name = (
            BUILT_IN if place is None else parent if last in ("shards", "data") and parent else last
        )
        found.append(DataSet(name, shards, shards_digest(shards, manifest), manifest))
    names = [d.name for d in found]
    if len(set(names)) < len(names):
        raise ValueError(
            f"every --data needs a folder of another name, since tables show that name; got {', '.join(names)}"
        )
    return found


def check_trainings(
    todo: Mapping[str, list[tuple[str, Cell]]], sets: Mapping[str, DataSet]
) -> None:
    """Refuses, before anything is written, trainings that their data cannot give."""
    for (name, cell), *_ in todo.values():
        manifest = sets[name].manifest
        try:
            check_training(
                config.apply_changes(config.Config(), cell.settings),
                manifest.schema,
                manifest.rows["val"],
            )
        except ValueError as error:
            raise ValueError(f"{error} (variant {cell.variant!r} on {name})") from None


def run(
    state: Any, todo: Mapping[str, list[tuple[str, Cell]]], sets: Mapping[str, DataSet]
) -> None:
    """Runs every training as a Ray task and takes the results in as they come; an interrupt loses only what is in flight."""
    ray_session.start_ray(nested=True)
    import ray

    from distributed.shards import sharing
    from distributed.shards.layout import SPLITS
    from distributed.training.workers.capacity import check_fits

    for scaling in {
        config.apply_changes(config.Config(), group[0][1].settings).scaling
        for group in todo.values()
    }:
        check_fits(scaling, "a training")
    asked = {_decoding(group): group[0] for group in todo.values()}
    arrays = {
        key: sharing.share_splits(sets[name].shards, _cache(cell), SPLITS)
        for key, (name, cell) in asked.items()
    }
    waiting, pending = list(todo.values())[::-1], {}
    progress, reported, news = Progress(len(waiting)), time.monotonic(), False
    with signals.stop_requests(only_note=True) as request:
        while (waiting or pending) and not request.received:
            while waiting and len(pending) < _window(
                waiting[-1][0][1]
            ):  # a window keeps the order: whole seeds first
                group = waiting.pop()
                pending[_start(state, group, sets, arrays[_decoding(group)])] = group
            if (
                news and time.monotonic() - reported > REPORT_EVERY
            ):  # once there is work for all while it is written
                _report_so_far(state)
                reported, news = time.monotonic(), False
            ready, _ = ray.wait(list(pending), timeout=1.0)
            for reference in ready:
                progress.say(state.take(pending.pop(reference), _outcome(reference)))
            news = news or bool(ready)
        if not request.received:
            return
        ready, _ = (
            ray.wait(list(pending), num_returns=len(pending), timeout=0) if pending else ([], [])
        )
        for reference in ready:  # a training that is done has no state left to go on from
            progress.say(state.take(pending.pop(reference), _outcome(reference)))
        for reference in pending:
            ray.cancel(reference, force=True)
        _report_so_far(state)
        left = len(waiting) + len(pending)
    said = f"interrupted with {left} trainings left; add --resume to the same command to go on"
    raise errors.Failure(said, 128 + request.received)


def _cache(cell: Cell) -> dict[str, Any]:
    """The cell's settings of where decoded rows are kept."""
    return {
        name: value
        for name, value in cell.settings.items()
        if name in ("data.cache", "data.memory_share")
    }


def _decoding(group: list[tuple[str, Cell]]) -> str:
    """What trainings have in common that share decoded rows: all modalities of one data set."""
    name, cell = group[0]
    return json.dumps([name, _cache(cell)], sort_keys=True)


def _start(
    state: Any, group: list[tuple[str, Cell]], sets: Mapping[str, DataSet], arrays: Any
) -> Any:
    """The task of one training."""
    from distributed.studies.cell_runs import run_cells

    name, cells = group[0][0], [cell for _, cell in group]
    return _task(run_cells, cells[0]).remote(
        sets[name].shards, cells, arrays, state.run_folder(group)
    )


def _report_so_far(state: Any) -> None:
    """A report while cells are missing; its failure must not end the study, whose results are on disk already."""
    try:
        state.report()
    except Exception as error:
        print(f"no report so far: {type(error).__name__}: {error}", file=sys.stderr)


def _task(function: Any, cell: Cell) -> Any:
    """The Ray task with what one training needs; a task whose process dies is started again, one that fails is not."""
    import ray

    scaling = config.apply_changes(config.Config(), cell.settings).scaling
    alone = (
        scaling.workers == 1
    )  # several workers have their own resources, and the task that waits for them has none
    cpus, gpus = (scaling.cpus_per_worker, scaling.gpus_per_worker) if alone else (0, 0)
    return ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=2)


def _window(cell: Cell) -> int:
    """Tasks in flight: on a cluster twice what it holds, so that it never waits for the driver and an autoscaler sees demand. Here as many
    as fit: of tasks that wait, Ray may start the oldest last, and a study that is stopped would not have whole seeds."""
    from distributed.training.workers.capacity import count_that_fit, required_resources

    scaling = config.apply_changes(config.Config(), cell.settings).scaling
    fit = count_that_fit(required_resources(scaling))
    if (
        scaling.workers > 1 or not ray_session.in_cluster()
    ):  # tasks that wait for workers of their own ask for nothing: they must fit
        return max(1, fit)
    return 2 * max(2, fit)


def _outcome(reference: Any) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """What the task returned; a task whose process died, after its retries, is a failed row with the reason."""
    import ray

    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayError as error:
        words = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        return [{"state": "failed", "reason": f"{type(error).__name__}: {words.strip()[:240]}"}], []


class Progress:
    """One line a finished training, with the time that is left."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.started = total, 0, time.monotonic()

    def say(self, line: str) -> None:
        self.done += 1
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        print(f"[{self.done}/{self.total}] {line}; about {left / 60:.0f} min left", flush=True)


def finish(state: Any) -> int:
    """Report, the main table on the terminal, and the exit code: 1 when a cell failed."""
    folder, table, missing = state.report(pictures=True)
    if missing:
        print(missing, file=sys.stderr)
    print(
        f"\n{table}\n\nreport      {folder}\ncompare     tensorboard --logdir {state.folder}/tensorboard"
    )
    failed = state.failures()
    for row in failed[:5]:
        print(
            f"failed: {row['data']}, {row['variant']}, {row['condition']}, seed {row['seed']}: {row['reason']}",
            file=sys.stderr,
        )
    if failed:
        print(f"{len(failed)} cells failed; --resume runs them again", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
