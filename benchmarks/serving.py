"""Throughput and latency of the service beside the plain model loop, both on one core.

Everything of the service (proxy, copy of the model, Ray) is pinned to the first core, and the
clients to the second. The plain loop predicts the same records in batches of 16 on the first core,
without HTTP; it keeps freed memory, as the service does. Rounds of both alternate. `ratio` compares
CPU time, `ratio of rates` the records per second by the clock. Ray uses some CPU time without any
request, which counts for more where other work makes requests take longer: `ratio on a core of its
own` is what one core would answer that does nothing else. Rates and latencies are of the clock.
Page faults tell whether a batch gives its memory back to the system. One JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Mapping
from operator import truediv
from pathlib import Path
from typing import Any

import aiohttp
import pandas as pd
import torch

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")  # as serve.py does

from benchmarks import command
from distributed.inference.record_predictor import RecordPredictor
from distributed.runtime import ray_session
from distributed.runtime.freed_memory import keep_freed_memory
from distributed.serving import application
from distributed.serving.options import ServeOptions

BATCH = 16
CLIENTS = 16  # of single records
IDLE_SECONDS = 8
Record = dict[str, Any]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run")
    parser.add_argument("--table", required=True, help="Parquet with the columns of its training")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=40, help="of 16 records, in a round")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> Mapping[str, object]:
    os.sched_setaffinity(0, {0})
    torch.set_num_threads(1)
    keep_freed_memory()
    options = ServeOptions(checkpoint=args.checkpoint, port=args.port, batch_size=BATCH)
    predictor = application.load_predictor(options)
    records = read_records(predictor, args.table)
    ray_session.start_ray(cpus=2, object_store=300_000_000)
    application.start(options, "")
    try:
        return compare(args, predictor, records)
    finally:
        application.stop()


def compare(
    args: argparse.Namespace, predictor: RecordPredictor, records: list[Record]
) -> Mapping[str, object]:
    """Returns the rates of alternating rounds."""
    batches = [records[k : k + BATCH] for k in range(0, len(records) - BATCH + 1, BATCH)]
    in_sixteens = [body({"records": [encoded(r) for r in batch]}) for batch in batches]
    single = [body(encoded(record)) for record in records]
    plain, served, latencies, singles, single_latencies = [], [], [], [], []
    ratios, own_ratios, single_ratios, faults = [], [], [], []
    idle = idle_share()
    for round_number in range(args.rounds + 1):  # the first one warms up
        os.sched_setaffinity(0, {0})
        started, cpu, faults_before = time.perf_counter(), time.process_time(), page_faults()
        for k in range(args.requests):
            predictor.predict(batches[k % len(batches)])
        plain_rate = BATCH * args.requests / (time.perf_counter() - started)
        plain_cpu = (time.process_time() - cpu) / args.requests / BATCH
        faults.append((page_faults() - faults_before) / args.requests)
        os.sched_setaffinity(0, {1})
        # Two at a time: the next request is read while one is predicted.
        used = cpu_of_descendants()
        seconds, times = asyncio.run(load(args.port, in_sixteens, args.requests, 2))
        served_cpu = (cpu_of_descendants() - used) / args.requests / BATCH
        used = cpu_of_descendants()
        one_seconds, one_times = asyncio.run(load(args.port, single, 4 * args.requests, CLIENTS))
        single_cpu = (cpu_of_descendants() - used) / (4 * args.requests)
        if round_number:
            ratios.append(plain_cpu / served_cpu)
            own_cpu = served_cpu - idle * seconds / args.requests / BATCH
            own_ratios.append(plain_cpu * (1 - idle) / own_cpu)
            single_ratios.append(plain_cpu / single_cpu)
            plain.append(plain_rate)
            served.append(BATCH * args.requests / seconds)
            latencies += times
            singles.append(4 * args.requests / one_seconds)
            single_latencies += one_times
    return {
        "benchmark": "serving",
        "plain loop records/s": round(statistics.median(plain)),
        "plain loop page faults a batch": round(faults[-1]),
        "service records/s, 16 a request": round(statistics.median(served)),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "ratio of rates": round(statistics.median(map(truediv, served, plain)), 3),
        "CPUs of the service without requests": round(idle, 3),
        "ratio on a core of its own": round(statistics.median(own_ratios), 3),
        "ratio of single records": round(statistics.median(single_ratios), 3),
        "latency ms of 16 records, 50 %": milliseconds(latencies, 50),
        "latency ms of 16 records, 99 %": milliseconds(latencies, 99),
        "service requests/s, 16 clients of one record": round(statistics.median(singles)),
        "latency ms of one record, 50 %": milliseconds(single_latencies, 50),
        "latency ms of one record, 99 %": milliseconds(single_latencies, 99),
    }


def idle_share() -> float:
    """Returns how much of a core Ray uses while no request is under way."""
    used = cpu_of_descendants()
    time.sleep(IDLE_SECONDS)
    return (cpu_of_descendants() - used) / IDLE_SECONDS


def cpu_of_descendants() -> float:
    """Returns the CPU seconds that Ray's processes of this benchmark have used so far."""
    parents: dict[int, tuple[int, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        ticks = int(fields[11]) + int(fields[12])
        parents[int(folder.name)] = (int(fields[1]), ticks / os.sysconf("SC_CLK_TCK"))
    own = {os.getpid()}
    while more := {pid for pid, (parent, _) in parents.items() if parent in own} - own:
        own |= more
    return sum(seconds for pid, (_, seconds) in parents.items() if pid in own - {os.getpid()})


def page_faults() -> int:
    """Returns how often the system has given this process a page of memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def read_records(predictor: RecordPredictor, table: str) -> list[Record]:
    """Returns rows of a table as records."""
    frame = pd.read_parquet(table, columns=[*predictor.columns]).tail(20 * BATCH)
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def encoded(record: Record) -> Record:
    """Returns a record as JSON can hold it."""
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in record.items()
    }


def body(content: Record) -> bytes:
    return json.dumps(content).encode()


async def load(
    port: int, bodies: list[bytes], requests: int, clients: int
) -> tuple[float, list[float]]:
    """Sends requests by so many clients at a time; returns the time of all and of each."""
    times: list[float] = []
    numbers = iter(range(requests))
    async with aiohttp.ClientSession() as session:

        async def client() -> None:
            for k in numbers:
                started = time.perf_counter()
                place = f"http://127.0.0.1:{port}/predict"
                headers = {"content-type": "application/json"}
                async with session.post(
                    place, data=bodies[k % len(bodies)], headers=headers
                ) as reply:
                    content = await reply.json()
                assert all("prediction" in answer for answer in content["predictions"]), content
                times.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - started, times


def milliseconds(seconds: list[float], percent: int) -> float:
    """Returns a percentile in milliseconds."""
    return round(1000 * statistics.quantiles(seconds, n=100)[percent - 1], 1)


if __name__ == "__main__":
    main()
