"""What many hostile requests do to the service: a crash, growth, other answers, slow ones?

The requests of hostile_requests.py are sent by several clients at a time, and in between good
records, whose answers must stay the same. Memory is that of the copy of the model and of the proxy
after a first tenth of the requests, which fills caches, and at the end. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.hostile_requests import (
    KINDS,
    MAX_BYTES,
    MAX_RECORDS,
    TOKEN,
    Record,
    Request,
    request,
)
from benchmarks.serving import body, encoded, read_records
from distributed.runtime import ray_session
from distributed.serving import application
from distributed.serving.options import ServeOptions

WARMING = 0.1  # share of the requests before the memory is looked at first
GOOD_EVERY = 50  # one request in so many is a good one
PROCESSES = ("ray::ServeReplica:longtail:Service", "ray::ProxyActor")
ANSWERED = range(200, 500)  # any but an error of the server
REFUSED_SILENTLY = 0  # the server closed the connection, as it may where the request is no HTTP


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="a run")
    parser.add_argument("--table", required=True, help="Parquet with the columns of its training")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--port", type=int, default=8766)
    parser.add_argument("--seed", type=int, default=0)
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> Mapping[str, object]:
    options = ServeOptions(
        checkpoint=args.checkpoint,
        port=args.port,
        coverage=0.9,
        max_bytes=MAX_BYTES,
        max_records=MAX_RECORDS,
    )
    predictor = application.load_predictor(options)
    records = [encoded(record) for record in read_records(predictor, args.table)]
    ray_session.start_ray(cpus=2, object_store=300_000_000)
    application.start(options, TOKEN)
    try:
        return asyncio.run(attack(args, records, predictor.images))
    finally:
        application.stop()


async def attack(
    args: argparse.Namespace, records: list[Record], images: tuple[str, ...]
) -> Mapping[str, object]:
    """Sends the requests; returns what came back, and the memory before and after."""
    draw = random.Random(args.seed)
    good = [request(body(record)) for record in records]
    wanted = [await send(args.port, one) for one in good]
    assert all(status == 200 for status, _ in wanted), wanted[0]
    statuses: dict[str, Counter[int]] = {}
    changed, seconds = 0, []
    started = time.perf_counter()
    numbers = iter(range(args.requests))
    before: dict[str, float] = {}

    async def client() -> None:
        nonlocal changed, before
        for k in numbers:
            if k == int(WARMING * args.requests):
                before = memory()
            if k % GOOD_EVERY == 0:
                place = draw.randrange(len(good))
                asked = time.perf_counter()
                answer = await send(args.port, good[place])
                seconds.append(time.perf_counter() - asked)
                changed += not same(answer, wanted[place])
                continue
            name = draw.choice([*KINDS])
            status, text = await send(args.port, *KINDS[name](draw, draw.choice(records), images))
            statuses.setdefault(name, Counter())[status] += 1
            assert b"Traceback" not in text, (name, text)

    await asyncio.gather(*(client() for _ in range(args.clients)))
    after = memory()
    every = sum(statuses.values(), Counter())
    return {
        "benchmark": "hostile",
        "requests": args.requests,
        "kinds": len(KINDS),
        "seconds": round(time.perf_counter() - started, 1),
        "by status": {str(status): every[status] for status in sorted(every)},
        "errors of the server": sum(
            count
            for status, count in every.items()
            if status not in ANSWERED and status != REFUSED_SILENTLY
        ),
        "good records": len(seconds),
        "of these with another answer": changed,
        "ms of a good record, 50 %": round(1000 * statistics.median(seconds), 1),
        "MB after a tenth": before,
        "MB at the end": after,
        "by kind": {name: {str(s): n for s, n in statuses[name].items()} for name in statuses},
    }


def same(answer: tuple[int, bytes], wanted: tuple[int, bytes]) -> bool:
    """Whether two answers are alike, but for the rounding of other batches."""
    if answer[0] != wanted[0]:
        return False
    one, other = (json.loads(text)["predictions"][0] for _, text in (answer, wanted))
    near = all(
        abs(p - other["probabilities"][name]) < 1e-4 for name, p in one["probabilities"].items()
    )
    return near and one["prediction"] == other["prediction"]


def memory() -> dict[str, float]:
    """Returns the resident MB of the copy of the model and of the proxy."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().decode()
            pages = int((folder / "statm").read_text().split()[1])
        except OSError:  # it has ended meanwhile
            continue
        for process in PROCESSES:
            if name.startswith(process):
                found[process.partition("::")[2]] = round(pages * 4096 / 1e6, 1)
    return found


async def send(port: int, asked: Request, cut: int | None = None) -> tuple[int, bytes]:
    """Returns status and body of the answer. cut: bytes of the body after which it hangs up."""
    head, content = asked
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + content[:cut])
        await writer.drain()
        if cut is not None:
            writer.close()
            return REFUSED_SILENTLY, b""
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    except OSError:
        return REFUSED_SILENTLY, b""
    first, _, rest = answer.partition(b"\r\n")
    words = first.split()
    status = int(words[1]) if len(words) > 1 and words[1].isdigit() else REFUSED_SILENTLY
    return status, rest.partition(b"\r\n\r\n")[2]


if __name__ == "__main__":
    main()
