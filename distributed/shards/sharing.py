"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def decode_splits(shards: str, settings: dict[str, Any], splits: Sequence[str]) -> Any:
    from distributed.config import Config, apply_changes
    from distributed.shards.batches import load_splits

    return load_splits(shards, apply_changes(Config(), settings), splits)


def share_splits(shards: str, settings: dict[str, Any], splits: Sequence[str]) -> Any:
    """A reference to the decoded splits: one task decodes for all trials and workers, and nobody waits for it.

    Warming processes for the trials was tried: Tune's actors start processes of their own and take no idle ones.
    """
    import ray

    return ray.remote(num_cpus=0)(decode_splits).remote(shards, settings, tuple(splits))
