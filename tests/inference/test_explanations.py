"""Facts about explanations of predictions: predict.py, frames and single records say the same."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distributed.inference.batches.batch_prediction import predict
from distributed.inference.loaded import LoadedModel, load
from distributed.inference.options import PredictOptions
from tests.training import small_run


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = shutil.copytree(trained_run, tmp_path_factory.mktemp("explained"), dirs_exist_ok=True)
    small_run.raw((6, 4, 3), 2, "test").to_parquet(here / "table.parquet")
    return here


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load(folder / "run")


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "table.parquet")


@pytest.mark.filterwarnings("ignore::distributed.inference.loaded.PredictionNote")
def test_predict_and_a_frame_give_the_same_contributions(
    folder: Path, tmp_path: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    options = PredictOptions(
        checkpoint=str(folder / "run"),
        data=str(folder / "table.parquet"),
        out=str(tmp_path / "out"),
        explain=True,
    )
    predict(options)
    predicted = pd.read_parquet(tmp_path / "out" / "predictions")
    loaded = model.predict(frame, explain=True)
    pd.testing.assert_frame_equal(loaded, predicted, check_exact=True)
    plain = model.predict(frame)
    pd.testing.assert_frame_equal(plain, predicted[plain.columns], check_exact=True)
    more = [name for name in predicted if name not in plain]
    columns = ["age", "dose", "site"]
    assert more == [
        "contribution/photo",
        "contribution/table",
        *(f"contribution/table.{name}" for name in columns),
        "patches/photo",
    ]
    without_photo = frame["photo"].isna().to_numpy()
    assert np.array_equal(predicted["contribution/photo"].isna(), without_photo)
    assert predicted["patches/photo"].dropna().map(len).eq(25).all()


@pytest.mark.filterwarnings("ignore::distributed.inference.loaded.PredictionNote")
def test_taking_a_modality_away_changes_the_probability_by_its_contribution(
    model: LoadedModel, frame: pd.DataFrame
) -> None:
    whole = model.predict(frame, explain=True)
    without = model.predict(frame.drop(columns="photo"))
    has_photo = frame["photo"].notna()
    for i in whole.index[has_photo]:
        name = f"p/{whole.loc[i, 'prediction']}"
        fall = whole.loc[i, name] - without.loc[i, name]
        assert whole.loc[i, "contribution/photo"] == pytest.approx(fall, abs=1e-5)


@pytest.mark.filterwarnings("ignore::distributed.inference.loaded.PredictionNote")
def test_a_record_is_explained_as_in_a_frame(model: LoadedModel, frame: pd.DataFrame) -> None:
    row = int(np.flatnonzero(frame["photo"].notna() & frame["site"].notna())[0])
    whole = model.predict(frame, explain=True).iloc[row]
    found = model.explain(frame.iloc[row].to_dict())
    assert found.prediction == whole["prediction"]
    assert found.probability == pytest.approx(whole["probability"], abs=1e-5)
    parts = found.parts.set_index(["modality", "column"])
    assert parts.loc[("photo", ""), "contribution"] == pytest.approx(
        whole["contribution/photo"], abs=1e-5
    )
    assert parts.loc[("table", "site"), "value"] == frame["site"].iloc[row]
    assert parts.loc[("table", "site"), "contribution"] == pytest.approx(
        whole["contribution/table.site"], abs=1e-5
    )
    assert np.allclose(found.patches["photo"].ravel(), whole["patches/photo"], atol=1e-5)
    strongest = found.parts["contribution"].abs().to_list()
    assert strongest == sorted(strongest, reverse=True)


def test_any_class_can_be_explained_and_a_wrong_name_is_refused(
    model: LoadedModel, frame: pd.DataFrame
) -> None:
    record = frame[frame["photo"].notna()].iloc[0].to_dict()
    shares = [model.explain(record, class_name=name).probability for name in small_run.CLASSES]
    assert math.isclose(sum(shares), 1, abs_tol=1e-5)
    with pytest.raises(ValueError, match="class_name must be one of common, middling, scarce"):
        model.explain(record, class_name="other")
    with pytest.raises(ValueError, match="the record cannot be used: photo: "):
        model.explain({**record, "photo": b"no picture"})


def test_importance_over_labelled_rows(model: LoadedModel) -> None:
    rows = small_run.raw(small_run.SPLITS["val"], 1, "val")
    found = model.importance(rows)
    assert list(found.columns) == ["modality", "column", "fall", "low", "high"]
    assert list(found["modality"]) == ["photo", "table", "table", "table", "table"]
    assert list(found["column"]) == ["", "", "age", "dose", "site"]
    assert (found["low"] <= found["fall"]).all() and (found["fall"] <= found["high"]).all()
    assert found["fall"].iloc[0] > 0.1  # the stripe of each class
    with pytest.raises(ValueError, match="rows must have labels to measure importance"):
        model.importance(rows.drop(columns="label"))
