"""Decodes the splits once for a whole search or study, in one Ray task.

The result is in the object store, and every trial and worker of a node reads the same memory.
This module stands below the drivers and the workers, so that both may import it without
importing each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import ray

from distributed.config import Config, apply_changes
from distributed.shards.memory import load_splits

if TYPE_CHECKING:
    from distributed.shards.decode import Arrays

SplitArrays: TypeAlias = (
    "dict[str, Arrays] | None"  # None: the splits do not fit and are to be streamed
)
SplitArraysRef: TypeAlias = "ray.ObjectRef[SplitArrays]"  # in Ray's object store


def decode_splits(
    shards: str, settings: Mapping[str, object], splits: Sequence[str]
) -> SplitArrays:
    """Decodes the splits under these dotted settings, in this process."""
    return load_splits(shards, apply_changes(Config(), settings), splits)


def share_splits(
    shards: str, settings: Mapping[str, object], splits: Sequence[str]
) -> SplitArraysRef:
    """Returns a reference to the decoded splits; the decoding itself runs in the background.

    Warming processes for the trials was tried: Tune's actors start processes of their own and
    take no idle ones.
    """
    task = ray.remote(num_cpus=0)(decode_splits)
    return task.remote(shards, settings, tuple(splits))
