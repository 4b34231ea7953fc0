"""Facts about what is made of probabilities: joins, priors by name, prediction sets and costs.

Python and the command give the same.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distributed import load
from distributed.inference.decisions.sets import set_thresholds
from distributed.inference.loaded import LoadedModel
from distributed.inference.weighing import FixedAggregation
from distributed.training.checkpoint import load_checkpoint
from model.decisions.calibration import Calibration
from tests.conftest import script
from tests.mistakes import mistake
from tests.training import small_run

evaluate, predict = script("evaluate"), script("predict")
CLASSES = list(small_run.CLASSES)
P = [f"p/{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, a run/ trained on them, their test rows as table.parquet, and costs.csv."""
    here = shutil.copytree(trained_run, tmp_path_factory.mktemp("decisions"), dirs_exist_ok=True)
    small_run.raw(small_run.SPLITS["test"], 2, "test").to_parquet(here / "table.parquet")
    (here / "costs.csv").write_text(
        "true,scarce,common,middling\nmiddling,1,1,0\ncommon,1,0,1\nscarce,0,40,40\n"
    )
    return here


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load(folder / "run")


@pytest.fixture(scope="module")
def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "table.parquet")


def words(folder: Path, data: str, out: Path, *arguments: str) -> list[str]:
    places = {"--checkpoint": folder / "run", "--data": folder / data, "--out": out}
    return [*(str(word) for pair in places.items() for word in pair), *arguments]


def predicted(
    folder: Path, out: Path, *arguments: str, data: str = "table.parquet"
) -> tuple[pd.DataFrame, dict[str, Any]]:
    assert predict.main(words(folder, data, out, *arguments)) == 0
    return pd.read_parquet(out / "predictions"), json.loads((out / "summary.json").read_text())


def evaluated(folder: Path, *arguments: str) -> dict[str, Any]:
    places = ["--checkpoint", str(folder / "run"), "--data", str(folder / "shards")]
    out = folder / "evaluation.json"
    assert evaluate.main([*places, *arguments, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def quietly(model: LoadedModel, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.predict(frame, **options)


def test_kept_columns_join_the_predictions_in_the_order_of_the_rows(
    folder: Path, frame: pd.DataFrame, tmp_path: Path
) -> None:
    wide = frame.assign(
        visit=np.arange(95)[::-1],
        when=pd.date_range("2024-01-01", periods=95, freq="h"),
        reason=["=1+1", *["check"] * 94],
    )
    wide["photo"] = wide["photo"].astype(object)
    wide.loc[7, "photo"] = b"nothing"
    wide.to_parquet(folder / "wide.parquet")
    options = ("--id", "visit", "--keep", "when", "reason", "age")
    joined, summary = predicted(folder, tmp_path / "out", *options, data="wide.parquet")
    assert list(joined)[:5] == ["id", "when", "input/reason", "age", "label"]
    assert joined["id"].tolist() == wide["visit"].astype(str).tolist()
    assert joined["when"].tolist() == wide["when"].tolist()
    assert joined["input/reason"].tolist() == wide["reason"].tolist()
    assert joined["age"].tolist() == wide["age"].tolist(), "the refused row keeps its cells too"
    assert joined["reason"].notna().to_numpy().nonzero()[0].tolist() == [7]
    plain, _ = predicted(folder, tmp_path / "plain", data="wide.parquet")
    assert plain["id"].tolist() == wide["id"].tolist(), "the id column of training is the default"

    assert (
        predict.main(words(folder, "wide.parquet", tmp_path / "csv", *options, "--format", "csv"))
        == 0
    )
    assert sorted(file.name for file in (tmp_path / "csv").iterdir() if file.name[0] != ".") == [
        "predictions.csv",
        "summary.json",
    ]
    text = pd.read_csv(tmp_path / "csv" / "predictions.csv")
    assert list(text) == list(joined)
    assert text["id"].tolist() == wide["visit"].tolist()
    assert text["input/reason"].tolist() == ["'=1+1", *["check"] * 94], "never a formula"
    notes = json.loads((tmp_path / "csv" / "summary.json").read_text())["notes"]
    assert any("1 cells of predictions.csv begin as a formula would" in note for note in notes)
    good = text["reason"].isna()
    np.testing.assert_allclose(text.loc[good, P], joined.loc[good, P], rtol=1e-5)
    assert summary["rejected"] == 1


def test_python_keeps_columns_and_the_index(model: LoadedModel, frame: pd.DataFrame) -> None:
    indexed = frame.set_index(pd.Index(np.arange(95) * 3, name="n"))
    done = quietly(model, indexed, id="site", keep=["age", "label"])
    assert list(done)[:4] == ["id", "age", "input/label", "label"]
    assert done.index.equals(indexed.index)
    assert done["age"].equals(indexed["age"])
    with pytest.raises(ValueError, match="keep must name a column of the frame; got 'agee'"):
        model.predict(frame, keep=["agee"])


def test_labels_give_a_score(
    folder: Path, frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = frame.assign(label=frame["label"].where(np.arange(95) % 2 == 0))
    half = half.assign(label=half["label"].fillna("unknown"))
    half.to_parquet(folder / "half.parquet")
    done, summary = predicted(folder, tmp_path / "out", data="half.parquet")
    known = done[done["label"].notna()]
    right = known["label"] == known["prediction"]
    recalls = right.groupby(known["label"]).mean()
    assert summary["score/rows"] == summary["score/labelled"] == len(known) == 48
    assert summary["score/accuracy"] == pytest.approx(right.mean())
    assert summary["score/balanced_accuracy"] == pytest.approx(recalls.mean())
    assert summary["score/worst_recall"] == pytest.approx(recalls.min())
    out = capsys.readouterr().out
    assert "score       48 rows with a label and a class" in out
    assert f"({recalls.idxmin()})" in out
    frame.drop(columns="label").to_parquet(folder / "no_label.parquet")
    _, summary = predicted(folder, tmp_path / "none", data="no_label.parquet")
    assert not [name for name in summary if name.startswith("score/")]
    _, summary = predicted(folder, tmp_path / "strict", "--abstain", "0.7")
    done = pd.read_parquet(tmp_path / "strict" / "predictions")
    answered = done[~done["abstained"]]
    assert 0 < len(answered) == summary["score/rows"] < summary["score/labelled"] == 95
    assert summary["score/accuracy"] == pytest.approx(
        (answered["label"] == answered["prediction"]).mean()
    )


def test_priors_by_name(
    folder: Path, model: LoadedModel, frame: pd.DataFrame, tmp_path: Path
) -> None:
    plain = quietly(model, frame)[P].to_numpy(float)
    done, summary = predicted(folder, tmp_path / "out", "--prior", "training")
    moved = plain * np.array(small_run.SPLITS["train"])  # the mean of the experts is uniform
    np.testing.assert_allclose(done[P], moved / moved.sum(1, keepdims=True), rtol=1e-3, atol=1e-6)
    assert summary["aggregation"] == "given"
    np.testing.assert_allclose(quietly(model, frame, prior="training")[P], done[P], rtol=1e-6)
    np.testing.assert_allclose(quietly(model, frame, prior="uniform")[P], plain, atol=1e-5)
    with mistake("^--prior must be training, uniform or a JSON file that exists .*; got 'train'$"):
        predict.main(words(folder, "table.parquet", tmp_path / "o", "--prior", "train"))


def test_sets_are_the_classes_above_their_thresholds(
    folder: Path, model: LoadedModel, frame: pd.DataFrame, tmp_path: Path
) -> None:
    done, summary = predicted(folder, tmp_path / "out", "--coverage", "0.8")
    checkpoint = load_checkpoint(str(folder / "run"))
    sets = set_thresholds(checkpoint, FixedAggregation.uniform(checkpoint), 0.8)
    p = done[P].to_numpy(float)
    raw = load(folder / "run")
    raw.checkpoint.calibration = Calibration.identity(3, 3)
    inside = quietly(raw, frame)[P].to_numpy(float) >= np.array(sets.thresholds) - 1e-7
    inside[np.arange(95), p.argmax(1)] = True
    assert done["set_size"].tolist() == inside.sum(1).tolist()
    for names, row, member in zip(done["set"], p, inside, strict=True):
        order = np.argsort(-row, kind="stable")
        assert list(names) == [CLASSES[c] for c in order if member[c]], "the most probable first"
    true = done["label"].map(CLASSES.index).to_numpy()
    hits = inside[np.arange(95), true]
    assert summary["score/coverage"] == pytest.approx(hits.mean())
    assert summary["score/coverage/scarce"] == pytest.approx(hits[true == 2].mean())
    assert summary["score/mean_set_size"] == pytest.approx(inside.sum(1).mean())
    assert sum(n for key, n in summary.items() if key.startswith("rows_with_set_of/")) == 95
    python = quietly(model, frame, coverage=0.8)
    assert [list(names) for names in python["set"]] == [list(names) for names in done["set"]]
    assert python.attrs["score"]["coverage"] == pytest.approx(hits.mean())
    assert "set" not in quietly(model, frame)


def test_classes_with_few_validation_rows_share_a_threshold_and_are_named(
    folder: Path, tmp_path: Path
) -> None:
    _, summary = predicted(folder, tmp_path / "out", "--coverage", "0.9")
    (note,) = [note for note in summary["notes"] if note.startswith("prediction sets")]
    assert note.startswith(
        "prediction sets: middling, scarce share one threshold by 23 validation rows, too few"
    )
    rule = r"^--coverage 0\.99 needs 99 labelled validation rows; there are 53 in the checkpoint: "
    with mistake(rule + r"at most 0\.9815$"):
        predict.main(words(folder, "table.parquet", tmp_path / "o", "--coverage", "0.99"))


def test_sets_do_not_depend_on_the_temperatures_that_validation_chose(
    folder: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    before = quietly(model, frame, coverage=0.8)
    hot = load(folder / "run")
    hot.checkpoint.calibration.temperature = torch.tensor(3.0)
    after = quietly(hot, frame, coverage=0.8)
    assert not np.allclose(before[P], after[P], atol=0.01)
    assert [list(names) for names in before["set"]] == [list(names) for names in after["set"]]


def test_costs_decide_and_are_counted(
    folder: Path, model: LoadedModel, frame: pd.DataFrame, tmp_path: Path
) -> None:
    done, summary = predicted(folder, tmp_path / "out", "--cost", str(folder / "costs.csv"))
    cost = np.array([[0, 1, 1], [1, 0, 1], [40, 40, 0.0]])
    expected = done[P].to_numpy(float) @ cost
    assert done["prediction"].tolist() == [CLASSES[c] for c in expected.argmin(1)]
    assert done["expected_cost"].to_numpy() == pytest.approx(expected.min(1), abs=1e-3)
    same = quietly(model, frame, prior="training")
    np.testing.assert_allclose(done[P], same[P], rtol=1e-6)
    assert "costs are weighed with classes as frequent as among the training rows" in str(
        summary["notes"]
    )
    true, decided = (done[name].map(CLASSES.index) for name in ("label", "prediction"))
    assert summary["score/mean_cost"] == pytest.approx(cost[true, decided].mean())
    top = done[P].to_numpy().argmax(1)
    assert summary["score/most_probable/mean_cost"] == pytest.approx(cost[true, top].mean())
    table = pd.DataFrame(cost, index=CLASSES, columns=CLASSES)
    as_frame = quietly(model, frame, cost=table)
    assert as_frame["prediction"].tolist() == done["prediction"].tolist()
    uniform = quietly(model, frame, cost=table.to_dict("index"), prior="uniform")
    assert (uniform["prediction"] == "scarce").sum() > (done["prediction"] == "scarce").sum()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"bad\.csv: it is empty$"),
        ("true,common,middling\ncommon,0,1\nmiddling,1,0\n", r"lacks the row scarce; classes: "),
        (
            "true,common,middling,rare\ncommon,0,1,1\nmiddling,1,0,1\nscarce,1,1,0\n",
            r"lacks the column scarce and has a column for rare, which is no class",
        ),
        ("true,common,middling,scarce\ncommon,0,1\n", r"the row 'common' has 3 cells instead of 4"),
        (
            "true,common,middling,scarce\ncommon,0,x,1\nmiddling,1,0,1\nscarce,1,1,0\n",
            r"got 'x' for deciding middling where common is true$",
        ),
        (
            "t,common,middling,scarce\ncommon,0,1,1\ncommon,0,1,1\nmiddling,1,0,1\nscarce,1,1,0\n",
            r"the row 'common' is there twice$",
        ),
    ],
)
def test_a_cost_table_that_is_wrong_is_one_line(
    folder: Path, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with mistake(f"^--cost must .*{message}"):
        predict.main(
            words(folder, "table.parquet", tmp_path / "o", "--cost", str(tmp_path / "bad.csv"))
        )


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("table.parquet", ["--id", "idd"], "--id must name a column of the table; got 'idd'"),
        ("table.parquet", ["--keep", "agee"], "--keep must name a column of the table; got 'agee'"),
        ("shards", ["--keep", "age"], "--keep is for tables; "),
        ("shards", ["--id", "id"], "--id is for tables; "),
        (
            "table.parquet",
            ["--keep", "photo", "--format", "csv"],
            "--format csv holds .* --keep names 'photo'",
        ),
        ("table.parquet", ["--coverage", "0.2"], "--coverage must be "),
        ("table.parquet", ["--cost", "none.csv"], "--cost must name a CSV file that exists"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, data: str, arguments: list[str], message: str
) -> None:
    with mistake(message):
        predict.main(words(folder, data, tmp_path / "o", *arguments))


def test_an_evaluation_shows_both_operating_points(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, _ = predicted(folder, tmp_path / "out", "--prior", "training")
    right = done["label"] == done["prediction"]
    result = evaluated(folder, "--replicates", "50")
    assert result["training_prior/accuracy"] == pytest.approx(right.mean())
    recalls = right.groupby(done["label"]).mean()
    assert result["training_prior/balanced_accuracy"] == pytest.approx(recalls.mean())
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):  # the experts' mean is uniform
        assert result[f"uniform_prior/{name}"] == pytest.approx(result[name])
    low, high = (result[f"training_prior/accuracy/{end}"] for end in ("low", "high"))
    assert low <= result["training_prior/accuracy"] <= high
    shown = capsys.readouterr().out
    assert "uniform (its own)" in shown
    assert "most rows should be right, and classes come as often as in training" in shown
    own = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert own["training_prior/macro_f1"] == pytest.approx(result["training_prior/macro_f1"])


def test_an_evaluation_counts_sets_and_costs(folder: Path, tmp_path: Path) -> None:
    options = ("--coverage", "0.8", "--cost", str(folder / "costs.csv"))
    done, summary = predicted(folder, tmp_path / "out", *options)
    result = evaluated(folder, *options)
    hits = np.array([label in names for label, names in zip(done["label"], done["set"])])
    assert result["coverage/all"] == pytest.approx(hits.mean())
    assert result["coverage_of/scarce"] == pytest.approx(hits[done["label"] == "scarce"].mean())
    assert result["mean_set_size/all"] == pytest.approx(done["set_size"].mean())
    assert result["one_class_sets"] == pytest.approx((done["set_size"] == 1).mean())
    assert result["mean_cost"] == pytest.approx(summary["score/mean_cost"])
    saved = result["most_probable/mean_cost"] - result["mean_cost"]
    assert result["cost_saved"] == pytest.approx(saved)
    assert result["cost_saved/low"] <= saved <= result["cost_saved/high"]


def test_an_evaluation_by_columns_of_the_shards(
    folder: Path, frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, _ = predicted(folder, tmp_path / "out")
    result = evaluated(folder, "--by", "site", "table.age", "--modalities", "photo,table")
    right = done["label"] == done["prediction"]
    for site in small_run.SITES:
        chosen = (frame["site"] == site).to_numpy()
        assert result[f"by/site/{site}/rows"] == chosen.sum()
        assert result[f"by/site/{site}/accuracy"] == pytest.approx(right[chosen].mean())
    assert result["by/site/(missing)/rows"] == frame["site"].isna().sum()
    young = (frame["age"] <= 38).to_numpy()  # 38 is the first quartile of the training rows
    assert result["by/table.age/up to 38/rows"] == young.sum()
    assert "A gap is the group's balanced accuracy" in capsys.readouterr().out
    with mistake("^--by must name a column of the shards; got 'sitte'; did you mean 'site'"):
        evaluated(folder, "--by", "sitte")
