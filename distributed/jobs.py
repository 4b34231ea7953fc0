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


def share(shards: str, base: dict[str, Any]) -> Any:
    """A reference to the decoded splits: one task decodes them for all trials, through the object store, and nobody waits for it.

    Warming processes for the trials was tried: Tune's actors start processes of their own and take no idle ones.
    """
    import ray

    return ray.remote(num_cpus=0)(decode).remote(shards, base)


def trainable(shards: str, base: dict[str, Any], metrics: list[str], folder: str, arrays: Any) -> Callable[[dict[str, Any]], None]:
    """What Tune runs."""
    return functools.partial(run, plan={"shards": shards, "base": base, "metrics": metrics, "folder": folder, "arrays": arrays})
