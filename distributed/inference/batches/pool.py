"""Predicts tasks of rows in a pool of Ray Data actors, each of which loads the model once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
import ray.data
import torch

from distributed.inference.batches.part_files import PartWriter, PredictionSettings
from distributed.inference.rows.tasks import TaskGroup
from distributed.inference.totals import PredictionTotals
from distributed.runtime import ray_session
from distributed.runtime.errors import OptionError
from distributed.shards.ray_blocks import Blocks
from distributed.training.checkpoint import parse_checkpoint

GPU_DECODING_THREADS = 4  # of an actor with a GPU, which would wait for one


class PredictorActor:
    """A worker of the pool: Ray Data gives it numbers of tasks.

    It loads the model with its first task.
    """

    def __init__(self, settings: PredictionSettings) -> None:
        torch.set_num_threads(1)
        self.settings = settings
        self.writer: PartWriter | None = None

    def __call__(self, numbers: pa.Table, shared: list[ray.ObjectRef[Any]], first: int) -> pa.Table:
        """Predicts the tasks of these numbers and returns their counts, or an error, as JSON.

        shared: references to the checkpoint's bytes and to the group of tasks. first: number of the
        part file of the group's first task.
        """
        content, task_group = ray.get(shared)
        if self.writer is None:
            threads = GPU_DECODING_THREADS if self.settings.gpus else 1
            checkpoint = parse_checkpoint(content, "the checkpoint")
            self.writer = PartWriter(checkpoint, self.settings, threads)
        try:
            results: list[object] = [
                self.writer.write_task(task_group, task_group.tasks[k], first + k).to_plain()
                for k in numbers["task"].to_pylist()
            ]
        except ValueError as error:
            # The user's mistake. Raised here, Ray Data would wrap it into a page of stack.
            results = [{"error": str(error)}]
        return pa.table({"outcome": [json.dumps(result) for result in results]})


def start_pool(concurrency: int | None, gpus_per_actor: float) -> int:
    """Starts or joins Ray and returns the number of actors: as requested, else all that fit."""
    # Otherwise Ray tells users of an issue with its own actor pools at every start.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray_session.start_ray()
    available = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray has no types here
    if not gpus_per_actor:
        return concurrency or max(1, int(available.get("CPU", 1)))
    gpus = available.get("GPU", 0)
    if gpus < gpus_per_actor:
        raise OptionError(
            f"gpus_per_actor must be at most what a machine of the cluster has ({gpus:g}); "
            f"got {gpus_per_actor:g}",
            "gpus_per_actor",
        )
    return concurrency or max(1, int(gpus / gpus_per_actor))


def predict_in_pool(
    content: bytes, settings: PredictionSettings, task_groups: Iterator[TaskGroup], actors: int
) -> Iterator[PredictionTotals]:
    """Predicts every task in a pool of actors and yields the counts of each.

    content: the bytes of the checkpoint's model.pt.
    """
    model = ray.put(content)
    part = 0
    for task_group in task_groups:
        # In a list, so that Ray hands on the references and not the values.
        shared = [model, ray.put(task_group)]
        numbers = ray.data.from_arrow(
            [pa.table({"task": [k]}) for k in range(len(task_group.tasks))]
        )
        done = numbers.map_batches(
            PredictorActor,  # type: ignore[arg-type]  # Ray types the arguments of __call__ as none
            fn_constructor_args=(settings,),
            fn_args=(shared, part),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(task_group.tasks))),
            num_cpus=1,
            num_gpus=settings.gpus or None,
        )
        for batch in Blocks(done):
            assert isinstance(batch, pa.Table)
            for result in map(json.loads, batch["outcome"].to_pylist()):
                if "error" in result:
                    raise ValueError(result["error"])
                yield PredictionTotals.from_plain(result)
        part += len(task_group.tasks)
