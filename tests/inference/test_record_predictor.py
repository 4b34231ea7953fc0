"""Facts about single records: the numbers of predict, whatever comes with them, and one reason a
record."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from distributed import load
from distributed.inference.record_predictor import Decisions, RecordPredictor
from distributed.training.checkpoint import load_checkpoint
from tests.training import small_run

CLASSES = small_run.CLASSES


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("records"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def predictor(folder: Path) -> RecordPredictor:
    return RecordPredictor(load_checkpoint(str(folder / "run")), Decisions(coverage=0.8))


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    rows = small_run.raw(small_run.SPLITS["test"], 2, "test").drop(columns="label")
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in rows.to_dict("records")
    ]


def test_answers_are_those_of_predict(
    folder: Path, predictor: RecordPredictor, records: list[dict[str, Any]]
) -> None:
    answers = predictor.predict(records)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame = load(folder / "run").predict(pd.DataFrame(records), coverage=0.8)
    assert [answer["id"] for answer in answers] == frame["id"].tolist()
    assert [answer["prediction"] for answer in answers] == frame["prediction"].tolist()
    for name in CLASSES:
        given = [answer["probabilities"][name] for answer in answers]
        np.testing.assert_allclose(given, frame[f"p/{name}"], atol=1e-5)
    assert [answer["set"] for answer in answers] == [list(names) for names in frame["set"]]
    for name in ("photo", "table"):
        given = [answer["weights"][name] for answer in answers]
        np.testing.assert_allclose(given, frame[f"weight/{name}"], atol=1e-5)


def test_a_record_does_not_depend_on_those_beside_it(
    predictor: RecordPredictor, records: list[dict[str, Any]]
) -> None:
    odd = [
        {"age": "forty", "dose": True, "site": 7},
        {"age": "41.5", "dose": 10**400, "site": "arm"},
        {"photo": records[0]["photo"]},
        *records[:3],
    ]
    together = predictor.predict(odd)
    alone = [predictor.predict([record])[0] for record in odd]
    for one, other in zip(together, alone, strict=True):
        assert one["prediction"] == other["prediction"]
        for name in CLASSES:
            assert one["probabilities"][name] == pytest.approx(
                other["probabilities"][name], abs=1e-5
            )
    assert together[2]["weights"]["table"] == 0, "columns that are not given are absent"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (3, "a record must be an object of columns; got int"),
        ({"agee": 3}, "a column must be one of the model's; got 'agee'; did you mean 'age'?"),
        ({"photo": "../../etc/passwd"}, "photo must be a picture as encoded bytes"),
        ({"photo": b"junk"}, "photo: not an image of a known format"),
        ({"age": [1]}, "age must be a number or a text; got list"),
        ({}, "no image and no table value"),
        ({"site": "\ud800"}, "the record cannot be read (UnicodeEncodeError)"),
        ({"site": "x" * 2_000_000}, "over the limit of 1,000,000"),
    ],
)
def test_a_bad_record_is_one_reason_and_harms_no_other(
    predictor: RecordPredictor, records: list[dict[str, Any]], record: object, reason: str
) -> None:
    given: list[Any] = [records[0], record, records[1]]
    first, bad, last = predictor.predict(given)
    assert reason in bad["reason"]
    assert set(bad) == {"reason"}
    assert "prediction" in first
    assert last == predictor.predict([records[1]])[0] or last["prediction"]
