"""Facts about the model that a search ends with: its files say what it is made of and took."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distributed import leaderboard
from distributed.searches.jobs.ensembling import Ingredients, build, score_test
from distributed.searches.state.model_files import DESCRIPTION_FILE
from distributed.training.results import read_metrics
from tests.training import small_run


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, and the runs a and b below trials/."""
    here = tmp_path_factory.mktemp("ensembling")
    shards = shutil.copytree(trained_run / "shards", here / "shards")
    shutil.copytree(trained_run / "run", here / "trials" / "a")
    small_run.train(here / "trials" / "b", shards, **{"optim.seed": 1})
    return here


def built(folder: Path, limit: int) -> Path:
    """Returns the folder of a model of the two runs."""
    model = folder / f"model of {limit}"
    ingredients = Ingredients(
        members=("a", "b"),
        leading="a",
        configuration={},
        trials=str(folder / "trials"),
        modalities="",
        balanced=True,
        limit=limit,
    )
    build(ingredients, str(folder / "shards"), str(model), None)
    return model


def test_a_model_costs_what_its_networks_cost(folder: Path) -> None:
    model = built(folder, 2)
    members = [
        entry["name"] for entry in json.loads((model / DESCRIPTION_FILE).read_text())["members"]
    ]
    runs = [read_metrics(str(folder / "trials" / name)) for name in members]
    assert all(run["cpu_seconds"] > 0 for run in runs)
    score_test(str(folder / "shards"), str(model))
    noted = read_metrics(str(model))
    assert {"val", "test"} <= noted.keys()
    for cost in ("train_seconds", "cpu_seconds"):
        assert noted[cost] == pytest.approx(sum(run[cost] for run in runs))
    frame = leaderboard(
        [str(model), str(folder / "trials" / "b")], folder / "shards", replicates=20
    ).set_index("location")
    assert frame.loc[str(model), "train_cpu_seconds"] == pytest.approx(noted["cpu_seconds"])
    b = read_metrics(str(folder / "trials" / "b"))
    assert frame.loc[str(folder / "trials" / "b"), "train_cpu_seconds"] == b["cpu_seconds"]


def test_where_a_run_does_not_say_what_it_cost_neither_does_the_model(folder: Path) -> None:
    file = folder / "trials" / "a" / "metrics.json"
    content = file.read_text()
    earlier = {key: value for key, value in json.loads(content).items() if key != "cpu_seconds"}
    file.write_text(json.dumps(earlier))
    noted = read_metrics(str(built(folder, 1)))
    file.write_text(content)
    assert "cpu_seconds" not in noted
    assert noted["train_seconds"] == earlier["train_seconds"]
