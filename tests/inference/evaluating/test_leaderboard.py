"""Facts about the leaderboard: the numbers of single evaluations, paired differences, same rows."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from distributed import EvaluateOptions, evaluate, leaderboard
from distributed.inference.evaluating.leaderboard import compare_runs
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import script
from tests.mistakes import mistake
from tests.training import small_run

command = script("evaluate")


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, and runs/: a trained one, the same with its classes numbered otherwise, one of the
    table alone, one with spoilt weights and no metrics, and one that is unfinished."""
    here = tmp_path_factory.mktemp("leaderboard")
    shards = shutil.copytree(trained_run / "shards", here / "shards")
    shutil.copytree(trained_run / "run", here / "runs" / "full")
    table = {"data.modalities": "table", "optim.epochs": 2}
    small_run.train(here / "runs" / "table", shards, **table)
    spoilt = load_checkpoint(str(here / "runs" / "full"))
    generator = torch.Generator().manual_seed(0)
    for tensor in spoilt.network.experts.parameters():
        tensor.data = torch.randn(tensor.shape, generator=generator)
    save_checkpoint(str(here / "runs" / "spoilt" / "checkpoint"), spoilt)
    (here / "runs" / "unfinished").mkdir()
    (here / "runs" / "unfinished" / "config.json").write_text("{}")
    return here


def runs(folder: Path, *names: str) -> list[str]:
    return [str(folder / "runs" / name) for name in names]


def test_its_numbers_are_those_of_single_evaluations(folder: Path) -> None:
    frame = leaderboard(runs(folder, "table", "full"), folder / "shards", replicates=200)
    assert frame["model"].tolist() == ["full", "table"], "the best first"
    for _, row in frame.iterrows():
        single = evaluate(EvaluateOptions(checkpoint=row["location"], data=str(folder / "shards")))
        assert row["balanced_accuracy"] == pytest.approx(single.metrics["balanced_accuracy"])
        low, high = single.intervals["balanced_accuracy"]
        assert row["balanced_accuracy_low"] == pytest.approx(low)
        assert row["balanced_accuracy_high"] == pytest.approx(high)
        own = json.loads((Path(row["location"]) / "metrics.json").read_text())
        assert row["balanced_accuracy_validation"] == own["val"]["balanced_accuracy"]
        assert row["train_seconds"] == own["train_seconds"]
        assert row["train_cpu_seconds"] == own["cpu_seconds"] > 0
        assert row["size"] == (Path(row["location"]) / "checkpoint" / "model.pt").stat().st_size
    full, table = frame.iloc[0], frame.iloc[1]
    assert full["verdict"] == "reference"
    assert table["difference"] == pytest.approx(
        table["balanced_accuracy"] - full["balanced_accuracy"]
    )
    assert table["difference_low"] <= table["difference"] <= table["difference_high"] < 0
    assert table["verdict"] == "worse"


def test_what_holds_no_checkpoint_is_passed_over_and_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = runs(folder, "full", "spoilt", "unfinished", "full/checkpoint")
    options = ["--compare", *everything, "--data", str(folder / "shards"), "--replicates", "200"]
    assert command.main([*options, "--json", str(tmp_path / "board.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("full ") >= 1
    assert "passed over: checkpoint must name a finished run" in shown
    assert "differences are to full, the first: not every run has its validation metrics" in shown
    result = json.loads((tmp_path / "board.json").read_text())
    assert result["spoilt/verdict"] == "worse"
    assert result["full/verdict"] == "reference"
    assert result["rows"] == sum(small_run.SPLITS["test"])


def test_the_same_network_with_classes_numbered_otherwise_is_the_same(
    folder: Path, tmp_path: Path
) -> None:
    other = small_run.write_shards(
        tmp_path / "shards", small_run.schema(classes=("scarce", "common", "middling"))
    )
    small_run.train(tmp_path / "run", other, **{"optim.epochs": 2})
    places = [*runs(folder, "full"), str(tmp_path / "run")]
    board = compare_runs(
        EvaluateOptions(compare=tuple(places), data=str(folder / "shards"), replicates=50)
    )
    for standing in board.standings:
        single = evaluate(
            EvaluateOptions(checkpoint=standing.run.location, data=str(folder / "shards"))
        )
        for name in ("balanced_accuracy", "few_shot_accuracy", "worst_recall", "ece"):
            assert standing.metrics[name] == pytest.approx(single.metrics[name]), name


def test_mistakes_are_one_line(folder: Path) -> None:
    data = ["--data", str(folder / "shards")]
    full = runs(folder, "full")
    with mistake("^--checkpoint must be given, or --compare with several; got neither$"):
        command.main(data)
    with mistake("^--compare goes without --checkpoint, --by, --coverage and --cost$"):
        command.main([*data, "--compare", *full, "--by", "site"])
    with mistake("^--compare must name runs or checkpoints; got none: passed over: "):
        command.main([*data, "--compare", *runs(folder, "unfinished")])
    with mistake("^metric must be one of balanced_accuracy, .*; got 'best'"):
        command.main([*data, "--compare", *full, "--metric", "best"])
    classes = load_checkpoint(full[0])
    schema = dataclasses.replace(classes.network.schema, classes=("a", "common", "scarce"))
    classes.network.schema = schema
    save_checkpoint(str(folder / "runs" / "other"), classes)
    with mistake("compare needs checkpoints of the same classes|data must have rows of"):
        command.main([*data, "--compare", *full, *runs(folder, "other")])
