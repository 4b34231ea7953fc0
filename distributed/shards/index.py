"""The index of a split: the label and rank of every row, and the row group that holds it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distributed.runtime.errors import UnreadableData
from distributed.runtime.storage import filesystem
from distributed.shards.checksums import PartRecord, open_part
from distributed.shards.decode import numpy_columns
from distributed.shards.layout import POOL
from distributed.shards.manifest import checked_parts, read_manifest
from distributed.shards.sampling import IntArray

MAX_THREADS = 16  # for reading footers


@dataclass(frozen=True)
class SplitIndex:
    """Every row of a split in storage order; 8 bytes per row.

    Legend: R rows, U row groups.

    records: what schema.json says of each file.
    file_U: the index of the row group's file. group_U: its number in that file.
    starts_U: the position of each group's first row, and one more entry, the number of rows.
    bytes_U: encoded bytes.
    """

    shards: str
    split: str
    files: tuple[str, ...]
    records: tuple[PartRecord | None, ...]
    file_U: IntArray
    group_U: IntArray
    starts_U: IntArray
    bytes_U: IntArray
    labels_R: NDArray[np.int32]
    ranks_R: NDArray[np.int32]

    @property
    def rows(self) -> int:
        return int(self.starts_U[-1])

    def row_groups(self, rows_B: IntArray) -> IntArray:
        """Returns the row group of each row."""
        return np.searchsorted(self.starts_U, rows_B, side="right") - 1


@dataclass(frozen=True)
class _FileIndex:
    """One Parquet part: rows and bytes of its row groups, and the labels and ranks it has."""

    group_rows: list[int]
    group_bytes: list[int]
    labels_and_ranks: pa.Table


def read_index(shards: str, split: str) -> SplitIndex:
    """Reads the index of a split from the Parquet footers and two small columns.

    split: also POOL, the rows of training and validation together.
    """
    if split == POOL:
        return join_indices(read_index(shards, "train"), read_index(shards, "val"), POOL)
    system, _ = filesystem(shards)
    parts_of_split = checked_parts(shards, split, read_manifest(shards))
    files = list(parts_of_split)
    if not files:
        raise UnreadableData(f"a split must have Parquet parts; {shards} has none in {split}/")

    def read_file_index(path: str) -> _FileIndex:
        with open_part(system, path, parts_of_split[path]) as file:
            groups = [file.metadata.row_group(g) for g in range(file.num_row_groups)]
            names = [name for name in ("label", "rank") if name in file.schema_arrow.names]
            return _FileIndex(
                [group.num_rows for group in groups],
                [group.total_byte_size for group in groups],
                file.read(names, use_threads=False),
            )

    with ThreadPoolExecutor(min(MAX_THREADS, len(files))) as pool:
        parts = list(pool.map(read_file_index, files))
    group_rows = np.array([n for part in parts for n in part.group_rows], dtype=np.int64)
    columns = numpy_columns(pa.concat_tables([part.labels_and_ranks for part in parts]))
    unknown_R = np.full(int(group_rows.sum()), -1, dtype=np.int32)
    groups_in_file = [len(part.group_rows) for part in parts]
    return SplitIndex(
        shards=shards,
        split=split,
        files=tuple(files),
        records=tuple(parts_of_split.values()),
        file_U=np.repeat(np.arange(len(files)), groups_in_file),
        group_U=np.concatenate([np.arange(n) for n in groups_in_file]),
        starts_U=np.concatenate(([0], np.cumsum(group_rows))),
        bytes_U=np.array([n for part in parts for n in part.group_bytes], dtype=np.int64),
        labels_R=columns.get("label", unknown_R).astype(np.int32),
        ranks_R=columns.get("rank", unknown_R).astype(np.int32),
    )


def join_indices(first: SplitIndex, second: SplitIndex, name: str) -> SplitIndex:
    """Returns the index of the rows of two splits of one folder, those of `first` first.

    The ranks of the second one go on after those of the first, so that they stay unique in a class.
    """
    counts_C = np.bincount(first.labels_R[first.labels_R >= 0], minlength=1)
    labels_R = second.labels_R
    known_R = (labels_R >= 0) & (labels_R < len(counts_C))
    ranks_R = second.ranks_R + np.where(known_R, counts_C[np.where(known_R, labels_R, 0)], 0)
    return SplitIndex(
        shards=first.shards,
        split=name,
        files=first.files + second.files,
        records=first.records + second.records,
        file_U=np.concatenate([first.file_U, second.file_U + len(first.files)]),
        group_U=np.concatenate([first.group_U, second.group_U]),
        starts_U=np.concatenate([first.starts_U, first.rows + second.starts_U[1:]]),
        bytes_U=np.concatenate([first.bytes_U, second.bytes_U]),
        labels_R=np.concatenate([first.labels_R, labels_R]),
        ranks_R=np.concatenate([first.ranks_R, ranks_R.astype(np.int32)]),
    )
