"""The tasks of an ingest in Ray: rows go through Ray Data, and stay in its object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from distributed.ingestion.blocks import Block, SourceRows
from distributed.ingestion.dataset import ray_dataset
from distributed.raw.rows import prepare_rows


class InRay:
    """Runs tasks on the CPUs of the cluster. What stands for a result is its ObjectRef."""

    def __init__(self) -> None:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # no types
        self.cpus = int(resources.get("CPU", 1))
        self.tasks: dict[Callable[..., Any], Any] = {}

    def prepare(self, source: SourceRows, batch_rows: int) -> Iterator[Block]:
        dataset = ray_dataset(source.table, source.names, source.pixels, self.cpus).map_batches(
            prepare_rows,  # type: ignore[arg-type]  # Ray's type omits fn_args
            fn_args=(source.plan,),
            batch_format="pyarrow",
            batch_size=batch_rows,
            zero_copy_batch=True,
        )
        dataset.context.execution_options.preserve_order = True
        for bundle in dataset.iter_internal_ref_bundles():
            for ref, metadata in zip(bundle.block_refs, bundle.metadata):
                yield Block(ref, metadata.num_rows or 0, metadata.size_bytes or 1)

    def start(self, task: Callable[..., Any], *arguments: Any, results: int = 1) -> list[Any]:
        if task not in self.tasks:
            self.tasks[task] = ray.remote(task)
        refs = self.tasks[task].options(num_returns=results).remote(*arguments)
        return refs if results > 1 else [refs]

    def wait(
        self, started: list[Any], *, results: int = 1, seconds: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        return ray.wait(started, num_returns=results, timeout=seconds)

    def get(self, started: Sequence[Any]) -> list[Any]:
        return ray.get(list(started))
