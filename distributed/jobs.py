"""Hands a search's trials to Tune without loading torch in the driver."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def decode(shards: str, settings: dict[str, Any]) -> Any:
    from distributed import trial

    return trial.decode(shards, settings)


def run(config: dict[str, Any], plan: dict[str, Any]) -> None:
    """A trial, in its own process; torch is loaded there once, since processes are used again."""
    from distributed import trial

    trial.trainable(config, trial.Plan(**plan))


def warm() -> None:
    """Loads torch in a worker process, which is then there for a trial."""
    from distributed import trial  # noqa: F401


def share(shards: str, base: dict[str, Any]) -> Any:
    """A reference to the decoded splits: one task decodes them for all trials, through the object store, and nobody waits for it.

    On a local Ray the other processes that trials will take are warmed meanwhile.
    """
    import ray

    arrays = ray.remote(num_cpus=0)(decode).remote(shards, base)
    if len(ray.nodes()) == 1:
        for _ in range(min(4, int(ray.cluster_resources().get("CPU", 1)) - 1)):
            ray.remote(num_cpus=0)(warm).remote()
    return arrays


def trainable(shards: str, base: dict[str, Any], metrics: list[str], folder: str, arrays: Any) -> Callable[[dict[str, Any]], None]:
    """What Tune runs."""
    return functools.partial(run, plan={"shards": shards, "base": base, "metrics": metrics, "folder": folder, "arrays": arrays})
