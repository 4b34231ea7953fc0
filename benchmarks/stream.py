"""The stream regime against torch's DataLoader: rows per second, same shards, same decoding.

The DataLoader is as fast as it can be: persistent worker processes, one a core, that read whole row
groups and hand over whole batches, so that it collates nothing. Both shuffle in a buffer of the
same size. Whole epochs, alternating; the median of their ratios. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.synthetic import make_shards
from distributed.config import Config, apply_changes
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.shards.batches import open_batches
from distributed.shards.decode import decode_columns, numpy_columns, shard_columns
from distributed.shards.manifest import part_files, read_manifest
from model.batch import Batch

BUFFER_ROWS = 4096  # the default of data.shuffle_buffer

Tensors = dict[str, Tensor]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=64, help="side of an image in pixels")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5, help="epochs of each")
    parser.add_argument(
        "--engine",
        choices=("threads", "ray"),
        default="threads",
        help="what reads: threads of this process, or Ray Data; threads of this process decode",
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    keep_freed_memory()  # as trainings do; the DataLoader's processes inherit it
    shards = f"{folder}/shards"
    make_shards(shards, args.rows, args.size)
    if args.engine == "ray":
        start_ray(f"{folder}/ray")
    changes = {
        "data.cache": "stream",
        "data.engine": args.engine,
        "data.batch_size": args.batch_size,
    }
    ours = open_batches(shards, "train", apply_changes(Config(), changes), train=True)
    cores = len(os.sched_getaffinity(0))
    processes = make_loader(shards, args.batch_size, cores)
    in_process = make_loader(shards, args.batch_size, 0)
    rates: dict[str, list[float]] = {"ours": [], "loader": [], "loader_in_process": []}
    cpu_micros: dict[str, list[float]] = {"ours": [], "loader": []}  # for each row
    for epoch in range(args.pairs + 1):
        sources: dict[str, Iterable[Batch] | Iterable[Tensors]] = {
            "ours": ours.batches(epoch),
            "loader": processes,
            "loader_in_process": in_process,
        }
        for name, batches in sources.items():
            before = cpu_seconds(processes)
            rate, rows = rows_per_second(batches)
            if epoch == 0:
                continue  # it warms up: files in the page cache, processes started
            rates[name].append(rate)
            if name in cpu_micros:
                cpu_micros[name].append(1e6 * (cpu_seconds(processes) - before) / rows)
    start = time.perf_counter()
    next(iter(ours.batches(99)))
    first_batch = time.perf_counter() - start
    ray.shutdown()  # before its folder is removed
    ratios = [a / b for a, b in zip(rates["ours"], rates["loader"])]
    in_process_ratios = [a / b for a, b in zip(rates["ours"], rates["loader_in_process"])]
    result: dict[str, object] = {
        "benchmark": "stream",
        "engine": args.engine,
        "cores": cores,
        "rows": args.rows,
        "size": args.size,
    }
    for name, values in rates.items():
        result[f"{name}_rows_per_second"] = round(statistics.median(values))
    result |= {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    for name, values in cpu_micros.items():
        result[f"{name}_cpu_microseconds_per_row"] = round(statistics.median(values), 1)
    return result | {
        "ratio_in_process": round(statistics.median(in_process_ratios), 3),
        "first_batch_seconds": round(first_batch, 3),
        "target": 1.0,
    }


def rows_per_second(batches: Iterable[Batch] | Iterable[Tensors]) -> tuple[float, int]:
    """Returns the rate at which a source hands over its rows, and their number."""
    start, rows = time.perf_counter(), 0
    for batch in batches:
        rows += len(batch["labels"]) if isinstance(batch, dict) else len(batch)
    return rows / (time.perf_counter() - start), rows


def cpu_seconds(loader: DataLoader[Tensors]) -> float:
    """Returns the CPU time of this process and of a DataLoader's processes, without Ray's tasks.

    CPU time is what counts where others use the machine too.
    """
    total = time.process_time()
    for worker in getattr(loader._iterator, "_workers", ()):
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


class StreamedRows(IterableDataset[Tensors]):
    """The training rows of a SHARDS folder as a dataset of whole batches."""

    def __init__(self, shards: str, batch_size: int) -> None:
        self.shards, self.batch_size = shards, batch_size

    def __iter__(self) -> Iterator[Tensors]:
        return read_batches(self.shards, self.batch_size)


def make_loader(shards: str, batch_size: int, processes: int) -> DataLoader[Tensors]:
    """Returns a DataLoader of batches as dicts of tensors; with 0 processes it reads here."""
    rows = StreamedRows(shards, batch_size)
    if processes == 0:
        return DataLoader(rows, batch_size=None)
    return DataLoader(
        rows, batch_size=None, num_workers=processes, persistent_workers=True, prefetch_factor=4
    )


def read_batches(shards: str, batch_size: int, buffer: int = BUFFER_ROWS) -> Iterator[Tensors]:
    """Yields this process's share of the row groups, in batches shuffled within a buffer."""
    schema, worker = read_manifest(shards).schema, get_worker_info()
    first, processes = (worker.id, worker.num_workers) if worker else (0, 1)
    rng = np.random.default_rng()
    groups = [
        (path, group)
        for path in part_files(shards, "train")
        for group in range(pq.read_metadata(path).num_row_groups)
    ][first::processes]
    names = ["label", "rank", *shard_columns(schema)]
    waiting: list[pa.Table] = []
    for step, index in enumerate(rng.permutation(len(groups)), 1):
        path, group = groups[index]
        waiting.append(pq.ParquetFile(path).read_row_group(group, columns=names, use_threads=False))
        if sum(map(len, waiting)) < buffer and step < len(groups):
            continue
        columns = numpy_columns(pa.concat_tables(waiting))
        waiting = []
        order = rng.permutation(len(columns["label"]))
        for low in range(0, len(order), batch_size):
            rows = order[low : low + batch_size]
            raw = {name: values[rows] for name, values in columns.items()}
            batch = decode_columns(raw, schema)
            yield {name: torch.from_numpy(values) for name, values in batch.items()}


def start_ray(folder: str, store: int = 300_000_000) -> None:
    """Starts a local Ray with an object store of so many bytes."""
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
