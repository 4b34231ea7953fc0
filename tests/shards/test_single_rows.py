"""Single rows of a split: the same from memory and from a stream, in the order asked for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from distributed.config import Config, apply_changes
from distributed.shards.batches import open_batches
from distributed.shards.index import read_index
from distributed.shards.reader import ShardReader
from distributed.shards.sampling import IntArray
from distributed.shards.single_rows import GROUPS_READ, read_columns, read_places, storage_rows

PLACES = np.array([599, 3, 41, 40, 300, 3, 120, 200, 250, 450, 510, 560])


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_rows_are_those_of_the_places_in_their_order(shards: str, cache: str) -> None:
    config = apply_changes(Config(), {"data.cache": cache, "inference.batch_size": 50})
    source = open_batches(shards, "train", config, train=False)
    whole = list(source.batches(0))
    read = read_places(source, PLACES)
    assert len(read) == len(PLACES)
    for b, place in enumerate(PLACES):
        k, row = divmod(int(place), 50)
        assert torch.equal(read.images["photo"][b], whole[k].images["photo"][row])
        assert torch.equal(read.categories["table"][b], whole[k].categories["table"][row])
        assert read.labels_B[b] == whole[k].labels_B[row]
        assert read.ranks_B[b] == whole[k].ranks_B[row]


def test_a_stream_holds_few_row_groups_at_a_time(
    shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    read = ShardReader._read_row_groups

    def count(reader: ShardReader, row_groups: IntArray) -> dict[int, pa.Table]:
        held.append(len(row_groups))
        return read(reader, row_groups)

    monkeypatch.setattr(ShardReader, "_read_row_groups", count)
    config = apply_changes(Config(), {"data.cache": "stream", "data.engine": "threads"})
    source = open_batches(shards, "train", config, train=False)
    read_places(source, np.arange(0, 600, 10))
    assert 1 < max(held) <= GROUPS_READ < sum(held)


def test_columns_are_those_of_the_rows_of_a_cut_training_split(shards: str) -> None:
    config = apply_changes(Config(), {"data.cache": "memory", "data.max_rows": 100})
    source = open_batches(shards, "train", config, train=False)
    places = np.array([99, 0, 50])
    rows = storage_rows(source, places)
    table = read_columns(read_index(shards, "train"), rows, ["id", "file.photo", "label"])
    assert table.column_names == ["id", "label"]  # these shards have no file names
    assert table["id"].to_pylist() == [f"train{row}" for row in rows]
    assert table["label"].to_pylist() == read_places(source, places).labels_B.tolist()
