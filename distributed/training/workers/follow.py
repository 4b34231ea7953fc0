"""A run of several workers, alone or inside a Tune trial, watched: what rank 0 writes into its history is passed on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from distributed.runtime import storage
from distributed.training.run import RunSpec
from distributed.training.workers.ray_train import train_on_ray

POLL = 0.3  # seconds


def run_nested(
    shards: str,
    settings: Mapping[str, Any],
    out: str,
    progress: Callable[[dict[str, float]], Any],
    test: bool,
) -> dict[str, Any]:
    """The metrics of a trial's run of scaling.workers workers; one that was interrupted goes on from the state in `out`."""
    return run_watched(
        RunSpec(shards=shards, settings=dict(settings), out=out, resume=True, test=test), progress
    )


def run_watched(
    job: RunSpec,
    progress: Callable[[dict[str, float]], Any],
    heed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The metrics of a run; `progress` sees every epoch that it adds to its history, `heed` is called several times a second.

    Ray Train has the other thread: Tune stops a trial by raising in this one, in `progress`, signals do in `heed`, which Ray's own waiting
    would not let through. The process then ends, and with it the trainer and its workers.
    """
    raised: list[BaseException] = []
    ended = threading.Event()

    def train() -> None:
        try:
            train_on_ray(job)
        except BaseException as error:
            raised.append(error)
        finally:
            ended.set()

    seen = len(read_history(job.out))
    threading.Thread(target=train, name="trainer", daemon=True).start()
    while True:
        last = ended.wait(POLL)
        heed()
        found = read_history(job.out)
        for epoch in found[seen:]:
            progress(epoch)
        seen = max(seen, len(found))
        if last:
            break
    if raised:
        raise raised[0]
    return json.loads(storage.read_file(f"{job.out}/metrics.json"))  # type: ignore[no-any-return]


def read_history(out: str) -> list[dict[str, float]]:
    try:
        return json.loads(storage.read_file(f"{out}/history.json"))  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError):
        return []
