"""Encoded rows on their way from Ray Data into this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from distributed.shards.decode import numpy_columns

if TYPE_CHECKING:
    from distributed.shards.reader import Columns, ShardReader, Window

WAITING_BLOCKS = 2  # that have come and are not used yet, at most
STOP_SECONDS = 0.2  # between two looks at whether the rows are still wanted
LONGEST_STOP_SECONDS = 60.0


class BlockSource(Protocol):
    """Blocks of rows, for one thread."""

    def __iter__(self) -> Iterator[pa.Table]: ...

    def stop(self) -> None:
        """Ends the iteration, which may wait for a block in another thread."""


class StreamLeft(Exception):
    """Rows are asked for of a stream that was stopped."""


class RowFeed:
    """The windows of an epoch in order, read by Ray Data or, until its rows come, by this process.

    Ray Data takes half a second to start, and some seconds for the first time; meanwhile this
    process reads the windows itself, so that the first batch need not wait.

    blocks: starts Ray Data, which gives the rows of every window but the first, in order. It is
    called and used in a thread of its own.
    """

    def __init__(
        self,
        reader: ShardReader,
        windows: list[Window],
        blocks: Callable[[], BlockSource],
    ) -> None:
        self.reader, self.windows = reader, windows
        self._start = blocks
        self._blocks: BlockSource | None = None
        sizes = [len(window.rows) for window in windows]
        # Where each window begins among the rows that Ray Data reads.
        self._starts = np.cumsum([0, *sizes])[:-1] - sizes[0]
        self._position = 0  # of the first row of `_rest`
        self._rest: pa.Table | None = None
        self._came: queue.Queue[pa.Table | BaseException] = queue.Queue(WAITING_BLOCKS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fetch, name="ray data", daemon=True)
        if len(windows) > 1:
            self._thread.start()

    def read_window(self, number: int) -> Iterator[Columns]:
        """Returns the batches of a window, as stored. The windows are asked for in order."""
        window = self.windows[number]
        if number == 0 or (self._rest is None and not self.waiting_blocks()):
            return window.batches(self.reader.columns(window.rows))
        table = self._take(int(self._starts[number]), len(window.rows))
        ends = zip((0, *window.ends[:-1]), window.ends)
        return (numpy_columns(table.slice(low, high - low)) for low, high in ends)

    def waiting_blocks(self) -> int:
        """Returns how many blocks, or errors, have come from Ray Data and are not used yet."""
        return self._came.qsize()

    def stop(self) -> None:
        """Ends the reading, whether all rows have come or not.

        No thread of it is left then: one that asks for blocks, or lets go of them, when Ray has
        been shut down would end this process.
        """
        self._stopped.set()
        latest = time.monotonic() + LONGEST_STOP_SECONDS  # Ray itself may have died
        while self._thread.is_alive() and time.monotonic() < latest:
            if self._blocks is not None:
                self._blocks.stop()
            self._thread.join(STOP_SECONDS)

    def _take(self, first: int, rows: int) -> pa.Table:
        """Returns rows that Ray Data reads; drops those before them, which were not needed."""
        parts = [] if self._rest is None else [self._rest]
        held = sum(part.num_rows for part in parts)
        while self._position + held < first + rows:
            block = self._get()
            if isinstance(block, BaseException):
                raise block
            held += block.num_rows
            parts.append(block)
            while parts and self._position + parts[0].num_rows <= first:
                held -= parts[0].num_rows
                self._position += parts.pop(0).num_rows
        table = pa.concat_tables(parts)
        low = first - self._position
        self._rest = table.slice(low + rows)
        self._position = first + rows
        return table.slice(low, rows)

    def _fetch(self) -> None:
        try:
            self._blocks = self._start()
            for block in self._blocks:
                if not self._put(block):
                    return
        except BaseException as error:  # raised again where the rows are asked for
            self._put(error)

    def _put(self, block: pa.Table | BaseException) -> bool:
        """Hands a block over as soon as there is room; returns whether it is still wanted."""
        while not self._stopped.is_set():
            try:
                self._came.put(block, timeout=STOP_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def _get(self) -> pa.Table | BaseException:
        """Takes the next block as soon as it comes."""
        while not self._stopped.is_set():
            try:
                return self._came.get(timeout=STOP_SECONDS)
            except queue.Empty:
                continue
        raise StreamLeft
