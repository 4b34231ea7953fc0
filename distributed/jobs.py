"""Hands work to Ray without loading torch in the driver: decoded data that is shared, and a search's trials."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any


def decode(shards: str, settings: dict[str, Any], splits: Sequence[str]) -> Any:
    from distributed import stream
    from distributed.config import Config, override

    return stream.load_splits(shards, override(Config(), settings), splits)


def share(shards: str, settings: dict[str, Any], splits: Sequence[str]) -> Any:
    """A reference to the decoded splits: one task decodes for all trials and workers, and nobody waits for it.

    Warming processes for the trials was tried: Tune's actors start processes of their own and take no idle ones.
    """
    import ray

    return ray.remote(num_cpus=0)(decode).remote(shards, settings, tuple(splits))


def run(config: dict[str, Any], plan: dict[str, Any]) -> None:
    """A trial, in its own process; torch is loaded there once, since processes are used again."""
    from distributed import trial

    trial.trainable(config, trial.Plan(**plan))


def trainable(shards: str, base: dict[str, Any], metrics: list[str], folder: str, arrays: Any) -> Callable[[dict[str, Any]], None]:
    """What Tune runs."""
    return functools.partial(run, plan={"shards": shards, "base": base, "metrics": metrics, "folder": folder, "arrays": arrays})
