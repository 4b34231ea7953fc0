"""What reads a stream: Ray Data wherever Ray runs, the process itself where it does not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from distributed.config import Config, apply_changes
from distributed.inference.options import EvaluateOptions
from distributed.inference.rows.split_rows import open_evaluated_rows
from distributed.shards.batches import StreamSource, open_batches
from distributed.shards.parallel import MIN_RAY_WINDOWS
from distributed.training.checkpoint import load_checkpoint
from tests.conftest import ROOT

STREAMED = {"data.cache": "stream", "data.shuffle_buffer": 32, "data.batch_size": 16}


def open_stream(shards: str, split: str, rank: int = 0, world: int = 1) -> StreamSource:
    config = apply_changes(Config(), STREAMED)
    source = open_batches(shards, split, config, train=split == "train", rank=rank, world=world)
    assert isinstance(source, StreamSource)
    if split != "train":  # evaluations take larger batches
        plan = dataclasses.replace(source.plan, size=16)
        source = dataclasses.replace(source, plan=plan)
    return source


def starts_ray_data(source: StreamSource) -> bool:
    """Whether an executor of Ray Data runs for the stream after its first batch."""
    before = set(threading.enumerate())

    def began(name: str) -> bool:
        return any(t.name.startswith(name) for t in set(threading.enumerate()) - before)

    batches = source.batches(0)
    next(batches)
    latest = time.monotonic() + 60
    # The thread `ray data` starts the executor.
    while began("ray data") and not began("StreamingExecutor") and time.monotonic() < latest:
        time.sleep(0.005)
    is_running = began("StreamingExecutor")
    batches.close()  # type: ignore[attr-defined]  # a generator
    return is_running


@pytest.mark.parametrize("split", ["train", "val"])
def test_ray_data_reads_where_ray_runs(shards: str, ray_local: None, split: str) -> None:
    assert starts_ray_data(open_stream(shards, split))


def test_ray_data_reads_for_each_of_several_workers(shards: str, ray_local: None) -> None:
    """Workers of a training, and actors of a prediction, are processes in which Ray runs."""

    @ray.remote(num_cpus=1, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})
    def in_worker(rank: int) -> bool:
        return starts_ray_data(open_stream(shards, "train", rank, world=2))

    assert ray.get([in_worker.remote(0), in_worker.remote(1)]) == [True, True]


def test_ray_data_reads_the_rows_of_an_evaluation(trained_run: Path, ray_local: None) -> None:
    options = EvaluateOptions(
        checkpoint=str(trained_run / "run"), data=str(trained_run / "shards"), split="test"
    )
    checkpoint = load_checkpoint(options.checkpoint)
    streamed = apply_changes(checkpoint.config, {"data.cache": "stream"})
    checkpoint = dataclasses.replace(checkpoint, config=streamed)
    source = open_evaluated_rows(checkpoint, options).source
    assert isinstance(source, StreamSource)
    plan = dataclasses.replace(source.plan, size=2, buffer=2)
    assert plan.steps >= MIN_RAY_WINDOWS
    assert starts_ray_data(dataclasses.replace(source, plan=plan))


def test_a_worker_reads_by_itself_what_it_has_read_before_ray_data_begins(
    shards: str, ray_local: None
) -> None:
    source = open_stream(shards, "val")
    for windows in (MIN_RAY_WINDOWS - 1, MIN_RAY_WINDOWS):
        rows = -(-len(source.plan.selection) // windows)
        plan = dataclasses.replace(source.plan, size=rows, buffer=rows)
        few = dataclasses.replace(source, plan=plan)
        assert starts_ray_data(few) == (windows == MIN_RAY_WINDOWS)


def test_a_process_without_ray_reads_by_itself_and_loads_no_ray(shards: str) -> None:
    program = (
        "import sys\n"
        "from distributed.config import Config, apply_changes\n"
        "from distributed.shards.batches import open_batches\n"
        f"config = apply_changes(Config(), {STREAMED})\n"
        f"source = open_batches({shards!r}, 'train', config, train=True)\n"
        "assert [len(batch) for batch in source.batches(0)] == [16] * source.steps\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)
