"""Plans an epoch: which rows are drawn, in what order, and which worker gets them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from distributed.config import LEAST_BATCH, MIN_ROWS_PER_OWN_NORM, Config
from distributed.shards import sampling
from distributed.shards.sampling import IntArray, Selection


def batch_rows(config: Config, rows: int, train: bool) -> int:
    """Returns the rows of a global batch: fewer where there are few training rows.

    A training needs some hundred steps, however few rows it has. Smaller batches give them in the
    same number of epochs (docs/results/quality.md).
    """
    if not train:
        return min(config.inference.batch_size, rows)
    size, scaling = config.data.batch_size, config.scaling
    if config.data.least_batches:
        # Every worker needs a row, and enough of them where it normalises by its own.
        each = 1 if scaling.sync_batch_norm or scaling.workers == 1 else MIN_ROWS_PER_OWN_NORM
        least = max(LEAST_BATCH, each * scaling.workers)
        size = min(size, max(rows // config.data.least_batches, least))
    return min(size, rows)


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """How the rows of an epoch are drawn, ordered and divided among the workers.

    size: rows of a global batch.
    buffer: rows that a stream shuffles together.
    paired: rows 2i and 2i + 1 of a global batch go to the same worker, which mixes them.
    """

    selection: Selection
    size: int
    train: bool
    sampler: str = "instance"
    epochs: int = 1
    seed: int = 0
    buffer: int = 4096
    rank: int = 0
    world: int = 1
    paired: bool = False

    @property
    def rows(self) -> int:
        return len(self.selection)

    @property
    def steps(self) -> int:
        """Global batches of an epoch. Only training drops an incomplete last one."""
        if self.train:
            return max(1, self.rows // self.size)
        return -(-self.rows // self.size)

    def share(self, k: int) -> tuple[int, int, int]:
        """Returns (low, high, total): this worker's slice of batch k, and all its rows."""
        total = min(self.size, self.rows - k * self.size)
        low, high = sampling.rank_slice(total, self.rank, self.world, self.paired)
        return low, high, total

    def draws(self, epoch: int) -> IntArray:
        """Returns the epoch's rows in storage order, as indices into the selection."""
        return sampling.draw_epoch(
            self.selection, self.sampler, seed=self.seed, epoch=epoch, epochs=self.epochs
        )

    def order(self, epoch: int) -> IntArray:
        """Returns the epoch's rows in the order of use when they are in memory."""
        if not self.train:
            return np.arange(self.rows)
        return sampling.shuffle_draws(self.draws(epoch), seed=self.seed, epoch=epoch)

    def windows(
        self, epoch: int, start: int, row_groups: IntArray, buffer: int
    ) -> Iterator[tuple[IntArray, tuple[int, ...]]]:
        """Yields this worker's epoch in a stream, from batch `start` on, as windows.

        A window holds the rows that are read together, in the order of use, and the position in
        it where each of its batches ends. row_groups: the row group of every row.
        """
        shares = [self.share(k) for k in range(self.steps)]
        own = self._own_rows(epoch, row_groups, shares)
        ends = np.cumsum([high - low for low, high, _ in shares])
        batches = max(1, buffer // max(int(ends[0]), 1))
        for first in range(start // batches * batches, self.steps, batches):
            origin = int(ends[first - 1]) if first else 0
            window = own[origin : int(ends[min(first + batches, self.steps) - 1])]
            if self.train:
                window = window[self._window_order(epoch, first, len(window))]
            next_batch = max(start, first)
            skipped = (int(ends[next_batch - 1]) if next_batch else 0) - origin
            batch_ends = (int(end) - origin - skipped for end in ends[next_batch : first + batches])
            yield window[skipped:], tuple(batch_ends)

    def _own_rows(
        self, epoch: int, row_groups: IntArray, shares: list[tuple[int, int, int]]
    ) -> IntArray:
        """Returns this worker's rows of an epoch in a stream, before windows are shuffled."""
        if self.train:
            low, high, _ = shares[0]
            order = sampling.order_by_row_group(
                self.draws(epoch), row_groups, seed=self.seed, epoch=epoch
            )
            return order[self.steps * low : self.steps * high]
        slices = [
            np.arange(k * self.size + low, k * self.size + high)
            for k, (low, high, _) in enumerate(shares)
        ]
        return np.concatenate(slices)

    def _window_order(self, epoch: int, first: int, rows: int) -> IntArray:
        rng = sampling.random_generator(self.seed, sampling.WINDOW, epoch, self.rank, first)
        return rng.permutation(rows)
