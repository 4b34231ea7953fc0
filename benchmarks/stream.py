"""The stream regime against torch's DataLoader: rows per second over the same shards with the same decoding. Prints one JSON line.

The DataLoader is made as fast as it goes: persistent worker processes, one a core, that read whole row groups and hand over whole
batches, so that it collates nothing. Both shuffle in a buffer of the same size. Whole epochs, alternating; the median of their ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> None:
    from benchmarks import command

    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each")
    parser.add_argument(
        "--engine",
        choices=("threads", "ray"),
        default="threads",
        help="what decodes: threads here, or Ray Data tasks",
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    import torch

    from benchmarks.made import make_shards
    from distributed.config import Config, apply_changes
    from distributed.shards.batches import open_batches

    torch.set_num_threads(1)
    shards = f"{folder}/shards"
    make_shards(shards, args.rows, args.size)
    if args.engine == "ray":
        start_ray(f"{folder}/ray")
    config = apply_changes(
        Config(),
        {"data.cache": "stream", "data.engine": args.engine, "data.batch_size": args.batch_size},
    )
    ours = open_batches(shards, "train", config, train=True)
    cores = len(os.sched_getaffinity(0))
    processes, alone = loader(shards, args.batch_size, cores), loader(shards, args.batch_size, 0)
    speeds: dict[str, list[float]] = {"ours": [], "loader": [], "loader_in_process": []}
    work: dict[str, list[float]] = {"ours": [], "loader": []}
    for epoch in range(
        args.pairs + 1
    ):  # the first warms up: files in the page cache, processes started
        for name, batches in (
            ("ours", ours.batches(epoch)),
            ("loader", processes),
            ("loader_in_process", alone),
        ):
            before = cpu_seconds(processes)
            speed, rows = rows_per_second(batches)
            if epoch:
                speeds[name].append(speed)
            if epoch and name in work:
                work[name].append(1e6 * (cpu_seconds(processes) - before) / rows)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["loader"])]
    first = time.perf_counter()
    next(iter(ours.batches(99)))
    return {
        "benchmark": "stream",
        "engine": args.engine,
        "cores": cores,
        "rows": args.rows,
        "size": args.size,
        **{
            f"{name}_rows_per_second": round(statistics.median(values))
            for name, values in speeds.items()
        },
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(r, 3) for r in ratios],
        **{
            f"{name}_cpu_microseconds_per_row": round(statistics.median(values), 1)
            for name, values in work.items()
        },
        "ratio_in_process": round(
            statistics.median(a / b for a, b in zip(speeds["ours"], speeds["loader_in_process"])), 3
        ),
        "first_batch_seconds": round(time.perf_counter() - first, 3),
        "target": 1.0,
    }


def rows_per_second(batches: Iterable[Any]) -> tuple[float, int]:
    """The rate, and the rows."""
    start, rows = time.perf_counter(), 0
    for batch in batches:
        rows += len(batch["labels"]) if isinstance(batch, dict) else len(batch)
    return rows / (time.perf_counter() - start), rows


def cpu_seconds(processes: Any) -> float:
    """CPU time of this process and of a DataLoader's own: what counts where others use the machine too. Ray's tasks are not in it."""
    total = time.process_time()
    for worker in getattr(processes._iterator, "_workers", ()):
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def loader(shards: str, batch_size: int, processes: int) -> Any:
    """A torch DataLoader of dicts of tensors."""
    from torch.utils.data import DataLoader, IterableDataset

    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return read_batches(shards, batch_size)

    more = {"persistent_workers": True, "prefetch_factor": 4} if processes else {}
    return DataLoader(Rows(), batch_size=None, num_workers=processes, **more)


def read_batches(shards: str, batch_size: int, buffer: int = 4096) -> Iterator[Any]:
    """This process's share of the row groups, in batches shuffled within a buffer."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from torch.utils.data import get_worker_info

    from distributed.shards.decode import decode_columns, numpy_columns, shard_columns
    from distributed.shards.manifest import part_files, read_manifest

    schema, worker = read_manifest(shards).schema, get_worker_info()
    mine, processes = (worker.id, worker.num_workers) if worker else (0, 1)
    lot = np.random.default_rng()
    groups = [
        (path, g)
        for path in part_files(shards, "train")
        for g in range(pq.read_metadata(path).num_row_groups)
    ][mine::processes]
    waiting: list[Any] = []
    for step, place in enumerate(lot.permutation(len(groups)), 1):
        path, group = groups[place]
        waiting.append(
            pq.ParquetFile(path).read_row_group(
                group, columns=["label", "rank", *shard_columns(schema)], use_threads=False
            )
        )
        if sum(map(len, waiting)) < buffer and step < len(groups):
            continue
        columns = numpy_columns(pa.concat_tables(waiting))
        order, waiting = lot.permutation(len(columns["label"])), []
        for low in range(0, len(order), batch_size):
            batch = decode_columns(
                {name: values[order[low : low + batch_size]] for name, values in columns.items()},
                schema,
            )
            yield {name: torch.from_numpy(values) for name, values in batch.items()}


def start_ray(folder: str, store: int = 300_000_000) -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=folder,
        object_store_memory=store,
    )


if __name__ == "__main__":
    main()
