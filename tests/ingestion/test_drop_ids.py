"""Rows left out by their ids: refused with a reason, while all others keep their splits."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from distributed.ingestion.drop_list import read_drop_list
from distributed.runtime.errors import OptionError
from tests.ingestion.example_table import records, rows_of, run, write_csv


def test_listed_rows_are_refused_and_the_others_stay_where_they_were(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_csv(tmp_path, {k: v for k, v in records().items() if k != "photo"})
    words = ["--table", table, "--label", "y", "--id", "key", "--group", "patient", "--out"]
    run(*words, tmp_path / "all")
    verdict = tmp_path / "verdict.csv"
    verdict.write_text("id,label,drop\nr0003,a,yes\nr0004,a,no\nr0050,b,YES\nunknown,a,yes\n")
    manifest = run(*words, tmp_path / "kept", "--drop-ids", verdict)
    before = {s: set(rows_of(tmp_path / "all", s)["id"]) for s in ("train", "val", "test")}
    after = {s: set(rows_of(tmp_path / "kept", s)["id"]) for s in ("train", "val", "test")}
    dropped = {"r0003", "r0050"}
    assert after == {split: ids - dropped for split, ids in before.items()}
    rejected: pd.DataFrame = pq.read_table(tmp_path / "kept" / "rejected.parquet").to_pandas()
    assert dict(zip(rejected["id"], rejected["reason"])) == dict.fromkeys(
        sorted(dropped), "left out by --drop-ids"
    )
    train = rows_of(tmp_path / "kept", "train")
    assert manifest.schema.counts == tuple(train["label"].value_counts().sort_index())
    for label, ranks in train.groupby("label")["rank"]:
        assert sorted(ranks) == list(range(len(ranks))), label
    printed = capsys.readouterr().out
    assert "drop_ids has ids that no row has: unknown" in printed


def test_without_a_verdict_every_id_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "ids.csv").write_text("\ufeffid\n1\n'=2\n\n3\n")
    assert read_drop_list(str(tmp_path / "ids.csv")) == {"1", "=2", "3"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\nx\n", "drop_ids must have rows and a column 'id'; .* has name"),
        ("", "drop_ids must have rows and a column 'id'; .* has none"),
        ("id,drop\nx,perhaps\n", "drop_ids must have yes or no in its column 'drop'; .* 'perhaps'"),
    ],
)
def test_a_list_that_says_nothing_clear_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "ids.csv").write_text(content)
    with pytest.raises(OptionError, match=message):
        read_drop_list(str(tmp_path / "ids.csv"))


def test_a_list_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="drop_ids must name a CSV file that can be read"):
        read_drop_list(str(tmp_path / "none.csv"))
