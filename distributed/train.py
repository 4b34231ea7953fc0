"""Trains one configuration on a SHARDS folder and writes RUN: checkpoint, metrics.json, TensorBoard events."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from distributed import config
from distributed.config import Config
from distributed.runtime import command as cli
from distributed.runtime import errors, ray_session, signals, storage
from distributed.runtime import options as options_
from distributed.wafers.default import resolve_shards

DATA = "data.json"  # in the folder of a run: its shards


def parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    made = options_.Parser(
        prog="train.py",
        description=__doc__,
        epilog=config.describe_settings(),
        formatter_class=raw,
        allow_abbrev=False,
    )
    made.add_argument(
        "--data",
        metavar="SHARDS",
        help="folder or URI made by ingest.py (default: the built-in wafer data)",
    )
    made.add_argument(
        "--config", metavar="F.toml", help="settings that differ from the defaults (default: none)"
    )
    made.add_argument(
        "--set",
        metavar="K=V",
        nargs="+",
        action="extend",
        default=[],
        help="settings on top of --config, by dotted name (default: none)",
    )
    made.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="training processes, the same as --set scaling.workers=N (default: 1)",
    )
    made.add_argument(
        "--gpus-per-worker",
        type=float,
        metavar="G",
        help="GPUs a worker, fractions allowed (default: 0, that is CPU)",
    )
    made.add_argument(
        "--out", metavar="RUN", help="folder or URI of the run (default: runs/ and the time of day)"
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from its last saved epoch (default: start anew)",
    )
    return made


def main(argv: list[str]) -> int:
    options = parser().parse_args(argv)
    if options.resume and not options.out:
        raise ValueError("--resume needs --out RUN, the run to continue; got none")
    out = storage.absolute_location(options.out or f"runs/{time.strftime('%Y%m%d-%H%M%S')}")
    from distributed.shards.manifest import read_manifest

    with storage.as_option_error(out):
        settings = settle(out, options)
        before = read_data(out) if options.resume else {}
    data = resolve_shards(options.data or before.get("shards"))
    manifest, mark = read_manifest(data), digest(data)
    if before.get("digest", mark) != mark:
        raise ValueError(
            f"a resumed run must keep its data, {before['shards']} as it was; {data} holds other rows: take a new --out"
        )
    from distributed.shards.sampling import training_counts
    from distributed.training.console import epochs_summary, results_notes, results_table
    from distributed.training.run import RunSpec, check_trainable

    check_trainable(manifest, settings)
    if not (alone_here := in_process(settings)):
        from distributed.training.workers.capacity import check_fits

        ray_session.start_ray()
        check_fits(settings.scaling, "this run")
    with storage.as_option_error(out):
        storage.write_file(
            f"{out}/{DATA}", json.dumps({"shards": data, "digest": mark}, indent=1).encode()
        )
        storage.write_file(
            f"{out}/config.json", json.dumps(config.flatten(settings), indent=1).encode()
        )
    test = manifest.rows["test"] > 0
    job = RunSpec(
        shards=data,
        settings=config.changes_from_defaults(settings),
        out=out,
        resume=options.resume,
        test=test,
    )
    try:
        metrics = alone(job) if alone_here else together(job)
    except KeyboardInterrupt as interrupt:  # the last finished epoch is saved
        said = (
            f"stopped; go on with: python distributed/train.py --data {data} --out {out} --resume"
        )
        raise errors.Failure(said, signals.exit_code(interrupt)) from None
    classes = manifest.schema.classes
    counts = training_counts(
        manifest.schema.counts, settings.data.imbalance_ratio, settings.data.max_rows
    ).tolist()
    print(results_table(metrics, len(classes)))
    print("".join(f"note: {line}\n" for line in results_notes(metrics, classes, counts)))
    print(
        f"epochs      {epochs_summary(metrics, settings.optim)}\nrun         {out}\ncompare     tensorboard --logdir {beside(out)}"
    )
    print(
        f"use         python distributed/predict.py --checkpoint {out} --data SHARDS --out PREDICTIONS"
    )
    return 0


def beside(out: str) -> str:
    """The folder that holds the run and others to compare it with; of a whole bucket, itself."""
    above = out.rpartition("/")[0]
    return out if above.endswith(("://", ":/")) else above or "/"


def shortcuts(options: argparse.Namespace) -> list[str]:
    """--workers and --gpus-per-worker as settings."""
    pairs = {"scaling.workers": options.workers, "scaling.gpus_per_worker": options.gpus_per_worker}
    return [f"{name}={value}" for name, value in pairs.items() if value is not None]


def settle(out: str, options: argparse.Namespace) -> Config:
    """The settings of this run; refuses a folder in use, and a resume under settings other than scaling.*."""

    sets = [*options.set, *shortcuts(options)]
    try:
        before = json.loads(storage.read_file(f"{out}/config.json"))
    except FileNotFoundError:
        if options.resume:
            print(f"note: nothing to resume in {out}; starting anew", file=sys.stderr)
        return config.load_config(options.config, sets)
    if not options.resume:
        raise ValueError(f"--out must be a new folder, or add --resume to continue it; got {out}")
    base = config.apply_changes(Config(), before)
    settings, there = config.load_config(options.config, sets, base=base), config.flatten(base)
    for name, value in config.flatten(settings).items():
        if not name.startswith("scaling.") and value != there[name]:
            raise ValueError(
                f"a resumed run must keep its settings; {name} is {there[name]!r} there, got {value!r}"
            )
    return settings


def read_data(out: str) -> dict[str, str]:
    """The shards that the run began with, and their digest; nothing of a run that is not there, or older than these notes."""

    try:
        return json.loads(storage.read_file(f"{out}/{DATA}"))  # type: ignore[no-any-return]
    except FileNotFoundError:
        return {}


def digest(data: str) -> str:
    """Of all that ingest says about the shards; statistics of the training rows are among it."""
    from distributed.runtime.storage import join
    from distributed.shards.layout import MANIFEST

    return hashlib.sha256(storage.read_file(join(data, MANIFEST))).hexdigest()[:16]


def in_process(settings: Config) -> bool:
    """One worker on a machine that has what it asks for needs no Ray Train around it."""
    if settings.scaling.workers > 1 or settings.scaling.min_workers:
        return False
    if settings.scaling.gpus_per_worker == 0:
        return True
    import torch

    return torch.cuda.is_available() and not ray_session.in_job()


def alone(job: Any) -> dict[str, Any]:
    """Trains in this process."""
    from distributed.training.console import EpochBar
    from distributed.training.divergence import Diverged
    from distributed.training.run import execute

    settings = job.config
    try:
        with signals.stop_requests(), EpochBar(settings.optim.epochs) as bar:
            return execute(
                job, device="cuda" if settings.scaling.gpus_per_worker else "cpu", progress=bar
            ).metrics
    except Diverged as error:
        raise errors.Failure(f"{error}; lower optim.lr, or set optim.clip") from None


def together(job: Any) -> dict[str, Any]:
    """Trains in Ray Train workers; this process shows the progress that rank 0 writes into the run's folder."""
    from distributed.training.console import EpochBar
    from distributed.training.workers.follow import run_watched
    from distributed.training.workers.ray_train import TrainingFailed

    with (
        EpochBar(
            job.config.optim.epochs, title=f"training on {job.config.scaling.workers} workers"
        ) as bar,
        signals.stop_requests(only_note=True) as request,
    ):
        try:
            return run_watched(job, bar, request.raise_if_received)
        except TrainingFailed as error:
            raise errors.Failure(str(error)) from None


if __name__ == "__main__":
    cli.run(main)
