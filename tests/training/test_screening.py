"""A training on a wide table uses only the columns that tell the classes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distributed import IngestOptions, ingest
from distributed.training.checkpoint import load_checkpoint
from distributed.training.exchange import Exchange
from distributed.training.run import open_run, run_training
from distributed.training.spec import RunSpec
from model.config import TableConfig
from model.encoders.table import TableEncoder
from model.schema import Numeric, Table

SETTINGS = {"optim.epochs": 2, "experts.count": 1, "table.width": 16}
ROWS, COLUMNS, TELLING, CATEGORY = 240, 80, (4, 17), 30


@pytest.fixture(scope="module")
def wide_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two tables of which only the first is wide; one of its telling columns is categorical."""
    folder = tmp_path_factory.mktemp("wide")
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(ROWS) % 3)
    values = rng.normal(size=(ROWS, COLUMNS))
    for column in TELLING:
        values[:, column] += 2 * labels
    frame = pd.DataFrame(values, columns=[f"wide.{i}" for i in range(COLUMNS)])
    frame[f"wide.{CATEGORY}"] = np.array(["low", "middle", "high"])[labels]
    frame["narrow.0"], frame["label"] = rng.normal(size=ROWS), labels.astype(str)
    frame.to_parquet(folder / "rows.parquet")
    ingest(
        IngestOptions(
            table=str(folder / "rows.parquet"),
            label="label",
            out=str(folder / "shards"),
            modality=(
                "wide=" + ",".join(f"wide.{i}" for i in range(COLUMNS)),
                "narrow=narrow.0",
            ),
        )
    )
    return str(folder / "shards")


def used(spec: RunSpec, exchange: Exchange | None = None) -> dict[str, list[int]]:
    """The places of the columns that each table uses."""
    network = open_run(spec, exchange or Exchange(), None).network
    places = {}
    for table, encoder in zip(network.schema.tables, network.encoders, strict=True):
        assert isinstance(encoder, TableEncoder)
        kept = encoder.used_F.nonzero()[:, 0].tolist()
        names = [table.columns[place].name for place in kept]
        places[table.name] = sorted(int(name.rpartition(".")[2]) for name in names)
    return places


def test_only_what_tells_the_classes_apart_is_used_and_only_of_a_wide_table(
    wide_shards: str,
) -> None:
    kept = used(RunSpec(shards=wide_shards, settings=SETTINGS))
    assert {*TELLING, CATEGORY} <= set(kept["wide"]) and len(kept["wide"]) <= 6
    assert kept["narrow"] == [0]
    kept = used(RunSpec(shards=wide_shards, settings={**SETTINGS, "table.screen": 0.0}))
    assert kept["wide"] == list(range(COLUMNS))


def test_streamed_rows_are_screened_alike(wide_shards: str) -> None:
    in_memory = used(RunSpec(shards=wide_shards, settings=SETTINGS))
    streamed = {**SETTINGS, "data.cache": "stream"}
    assert used(RunSpec(shards=wide_shards, settings=streamed)) == in_memory


class OneOfTwo(Exchange):
    """A worker's view of a training of two: its rank says which half of each batch it reads."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.world = rank, 2


def test_two_workers_find_the_same_columns_as_one(wide_shards: str) -> None:
    spec = RunSpec(shards=wide_shards, settings=SETTINGS)
    assert used(spec, OneOfTwo(0)) == used(spec, OneOfTwo(1)) == used(spec)


def test_cells_of_rows_that_lack_the_table_do_not_count(wide_shards: str) -> None:
    lacking = {**SETTINGS, "data.corrupt": "wide=missing:0.99"}
    kept = used(RunSpec(shards=wide_shards, settings=lacking))
    assert kept["wide"] == list(range(COLUMNS)), "three rows show nothing"


def test_the_checkpoint_answers_by_these_columns_alone_and_says_so(
    wide_shards: str, tmp_path: Path
) -> None:
    spec = RunSpec(shards=wide_shards, settings=SETTINGS, out=str(tmp_path / "run"), page=False)
    result = run_training(spec)
    assert " of 80 columns are used" in result.metrics.screening
    network = load_checkpoint(str(tmp_path / "run")).network
    place = network.schema.modalities.index("wide")
    numbers_BN = torch.randn(6, COLUMNS - 1)
    ids_BK, present_B = torch.zeros(6, 1, dtype=torch.long), torch.ones(6, dtype=torch.bool)
    encoder = network.encoders[place]
    assert isinstance(encoder, TableEncoder)
    is_used_N = encoder.used_F[: COLUMNS - 1] > 0
    changed_BN = torch.where(is_used_N, numbers_BN, torch.randn(6, COLUMNS - 1))
    with torch.inference_mode():
        before, after = (
            network.encode_modality(place, (values, ids_BK), present_B)
            for values in (numbers_BN, changed_BN)
        )
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_weights_of_before_use_all_columns() -> None:
    columns = tuple(
        Numeric(name=name, mean=0.0, std=1.0, quantiles=(-1.0, 0.0, 1.0)) for name in "ab"
    )
    encoder = TableEncoder(Table(name="t", numeric=columns), TableConfig(), 8)
    older = {name: value for name, value in encoder.state_dict().items() if name != "used_F"}
    encoder.use_columns(torch.tensor([True, False]))
    encoder.load_state_dict(older)
    assert encoder.used_F.tolist() == [1, 1]
