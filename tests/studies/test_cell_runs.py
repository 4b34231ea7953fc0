"""One training and the cells that share it, on small real data."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed.config import Config, by_dotted_name
from distributed.inference import shifts
from distributed.runtime.errors import Failure, UnreadableData
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import read_manifest
from distributed.shards.memory import load_splits
from distributed.shards.sharing import share_splits
from distributed.studies.cell_runs import run_cells
from distributed.studies.definition import Cell
from distributed.studies.results import CellOutcome
from distributed.studies.schedule import outcome_of, run_training_task
from distributed.studies.state import Training
from distributed.training import loop, run, states
from distributed.training.states import States
from model.fusion import novelty
from tests.conftest import fill, flip_bit
from tests.studies.study_tools import (
    TINY,
)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("uniform", [4, 4, 4]),
        ("forward-4", [16, 8, 4]),
        ("backward-4", [1, 2, 4]),
        ("", [40, 20, 4]),
    ],
)
def test_a_shift_takes_the_largest_subset_of_its_shape(kind: str, sizes: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [40, 20, 4])
    rows = shifts.shifted_rows(labels, np.array([400, 200, 40]), kind, seed=0)
    assert np.bincount(labels[rows]).tolist() == sizes
    assert (np.diff(rows) > 0).all()
    if kind:
        assert (
            shifts.shifted_rows(labels, np.array([400, 200, 40]), kind, seed=1).tolist()
            != rows.tolist()
        )


def test_a_shift_follows_the_training_order_not_the_test_order() -> None:
    labels = np.repeat([0, 1], [10, 10])
    rows = shifts.shifted_rows(labels, np.array([5, 500]), "forward-5", seed=0)
    assert np.bincount(labels[rows]).tolist() == [2, 10]


@pytest.mark.parametrize(
    "kind", ["forward", "forward-0.5", "sideways-2", "uniform-2", "backward-x", "forward-nan"]
)
def test_an_unknown_shift_is_refused(kind: str) -> None:
    with pytest.raises(
        ValueError, match="a test distribution must be uniform, forward-K or backward-K"
    ):
        shifts.shifted_rows(np.array([0, 1]), np.array([1, 1]), kind, seed=0)


def group(*tests: dict[str, str], **settings: Any) -> list[Cell]:
    small = by_dotted_name(tomllib.loads(TINY))
    return [
        Cell(
            variant="v",
            condition=str(t),
            seed=0,
            model="network",
            settings={**small, "optim.seed": 0, **settings},
            test=t,
        )
        for t in tests
    ]


def run_outcomes(*args: Any, **options: Any) -> tuple[list[CellOutcome], list[dict[str, float]]]:
    outcome = run_cells(*args, **options)
    return outcome.cells, outcome.history


def test_one_training_is_scored_under_every_test_condition(wafer_shards: str) -> None:
    tests = [
        {},
        {"corrupt": "map=missing"},
        {"shift": "uniform"},
        {"aggregation": "prior"},
        {"corrupt": "sound=noise"},
    ]
    rows, history = run_outcomes(
        wafer_shards, group(*tests), load_splits(wafer_shards, Config(), SPLITS)
    )
    assert [r.state for r in rows] == ["done"] * 4 + ["failed"]
    assert "valid: map, table" in rows[4].reason
    assert [h["epoch"] for h in history] == [1, 2]
    assert len({r.metrics["train_seconds"] for r in rows[:4]}) == 1
    assert rows[1].metrics["test/weight/map"] == 0
    assert rows[0].metrics["test/weight/map"] > 0
    assert rows[2].metrics["test/rows"] < rows[3].metrics["test/rows"]
    assert sum(rows[3].metrics[f"test/expert_weight/{e}"] for e in (1, 2, 3)) == pytest.approx(1)
    assert rows[0].metrics["val/balanced_accuracy"] == rows[2].metrics["val/balanced_accuracy"]


def test_rows_say_what_they_rest_on_and_the_rarest_are_the_same_at_every_ratio(
    wafer_shards: str,
) -> None:
    schema = read_manifest(wafer_shards).schema
    rarest = sorted(range(9), key=lambda c: (-schema.counts[c], c))[6:]
    rows = [
        run_outcomes(wafer_shards, group({}, **{"data.imbalance_ratio": r}))[0][0] for r in (0, 4)
    ]
    for row in rows:
        assert row.metrics["test/rarest_accuracy"] == pytest.approx(
            np.mean([row.metrics[f"test/recall/{schema.classes[c]}"] for c in rarest])
        )
    whole, cut = rows
    assert whole.metrics["train_rows"] == sum(schema.counts)
    assert whole.metrics["train_imbalance"] == pytest.approx(
        max(schema.counts) / min(schema.counts)
    )
    assert cut.metrics["train_rows"] < whole.metrics["train_rows"]
    assert cut.metrics["train_imbalance"] == pytest.approx(4, rel=0.3)
    assert whole.metrics["test/rows"] == read_manifest(wafer_shards).rows["test"]


def test_confidences_are_held_against_the_truth_where_they_were_taught(wafer_shards: str) -> None:
    tests = ({}, {"unfamiliar": "trusted"})
    taught, _ = run_outcomes(wafer_shards, group(*tests))
    raw, _ = run_outcomes(
        wafer_shards, group({}, **{"fusion.shrinkage": 0, "fusion.correct_on_validation": False})
    )
    untaught, _ = run_outcomes(
        wafer_shards, group(*tests, **{"fusion.confidence_weight": 0, "fusion.kind": "uniform"})
    )
    for row in taught:
        for shot in ("all", "few"):
            assert 0 < row.metrics[f"test/confidence/map/{shot}/predicted"] < 1
            assert 0 < row.metrics[f"test/confidence/map/{shot}/true"] < 1
            assert 0 < row.metrics[f"test/confidence/map/{shot}/used"] < 1
            assert 0 <= row.metrics[f"test/confidence/map/{shot}/weight"] <= 1
        assert -1 <= row.metrics["test/confidence/map/all/rank_correlation"] <= 1
    for row, same in ((raw[0], True), (taught[0], False)):
        predicted, used = (
            row.metrics[f"test/confidence/map/few/{fact}"] for fact in ("predicted", "used")
        )
        assert (predicted == pytest.approx(used)) == same, "shrinkage is what lies between them"
    assert not [name for row in untaught for name in row.metrics if "confidence" in name]


def test_going_by_the_unfamiliar_is_what_training_without_it_gives(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty, "MIN_VALIDATION_ROWS", 30)  # this data set is small
    noise, trusted = {"corrupt": "map=noise"}, {"unfamiliar": "trusted"}
    settings = {"optim.epochs": 8, "image.width": 16, "dim": 64}
    (trusting, wary), _ = run_outcomes(wafer_shards, group(noise | trusted, noise, **settings))
    (without,), _ = run_outcomes(
        wafer_shards, group(noise, **settings, **{"fusion.reject_unfamiliar": False})
    )
    scored = [
        {n: v for n, v in row.metrics.items() if n.startswith("test/")}
        for row in (trusting, wary, without)
    ]
    assert scored[0] == scored[2]
    assert scored[1]["test/weight/map"] < scored[0]["test/weight/map"]


def test_a_diverging_cell_fails_alone_with_its_reason(wafer_shards: str) -> None:
    rows, _ = run_outcomes(
        wafer_shards, group({}, **{"optim.lr": 1e30, "optim.clip": 0.0, "optim.name": "sgd"})
    )
    assert rows[0].state == "failed"
    assert "is not finite at step" in rows[0].reason


def test_a_killed_cell_goes_on_from_its_last_state(
    wafer_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "finish_run", killed)  # after the last epoch
        with pytest.raises(KeyboardInterrupt):
            run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir())
    monkeypatch.setattr(loop, "train_epoch", killed)  # nothing is trained twice
    rows, history = run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert (rows[0].state, [epoch["epoch"] for epoch in history]) == ("done", [1, 2])
    again, _ = run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert again == rows, "a driver killed before it has the rows asks for them again"


def test_a_state_of_another_version_is_trained_anew(
    wafer_shards: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else every --resume of the study would fail again."""
    States(str(tmp_path), "this run").save(1, {"epoch": 1})
    monkeypatch.setattr(states, "WEIGHTS_FORMAT", states.WEIGHTS_FORMAT + 1)
    rows, history = run_outcomes(wafer_shards, group({}), folder=str(tmp_path))
    assert (rows[0].state, [epoch["epoch"] for epoch in history]) == ("done", [1, 2])
    assert "this training starts anew" in capsys.readouterr().err


def test_a_full_disk_is_no_failure_of_a_cell(
    wafer_shards: str, small_disk: Path, ray_local: None
) -> None:
    fill(small_disk)
    training = group({})
    task = run_training_task.remote(wafer_shards, training, {}, str(small_disk / "run"))
    with pytest.raises(Failure, match=rf"^no space left: {small_disk}/run.*add --resume"):
        outcome_of(task, Training("key", [("wafers", cell) for cell in training]))


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_damaged_shards_are_no_failure_of_a_cell(
    wafer_shards: str, tmp_path: Path, ray_local: None, cache: str
) -> None:
    shutil.copytree(wafer_shards, tmp_path / "data")
    damaged = tmp_path / "data" / "val" / "part-00000.parquet"
    flip_bit(damaged)
    training = group({}, **{"data.cache": cache})
    arrays = share_splits(str(tmp_path / "data"), {"data.cache": cache}, SPLITS)
    task = run_training_task.remote(str(tmp_path / "data"), training, arrays, "")
    with pytest.raises(UnreadableData) as caught:
        outcome_of(task, Training("key", [("wafers", cell) for cell in training]))
    assert str(caught.value).startswith(f"'{damaged}' is damaged: ")


def test_shards_that_are_damaged_after_the_training_fail_no_cell(
    wafer_shards: str, tmp_path: Path
) -> None:
    shutil.copytree(wafer_shards, tmp_path / "data")
    flip_bit(tmp_path / "data" / "test" / "part-00000.parquet")
    only_tested = group({"corrupt": "map=noise"}, **{"data.cache": "stream"})
    with pytest.raises(UnreadableData, match="test/part-00000.parquet' is damaged: "):
        run_cells(str(tmp_path / "data"), only_tested)
