"""`fit` by presets: what search a preset stands for, and that its model is loaded like a run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed import FitOptions, fit, load
from distributed.presets.driver import PRESETS, SEARCHING_SHARE, search_options
from distributed.runtime.errors import OptionError
from tests.conftest import run_command

TINY = {
    "image.width": 4,
    "dim": 8,
    "table.width": 8,
    "table.embedding_size": 4,
    "optim.epochs": 3,
    "data.max_rows": 200,
}


def test_a_preset_is_a_search_with_the_settings_held_fixed() -> None:
    options = FitOptions(
        data="shards", out="runs/a", preset="best", set={"optim": {"epochs": 5}}, workers=2
    )
    search = search_options(options)
    assert (search.data, search.out, search.workers) == ("shards", "runs/a", 2)
    assert search.trials == PRESETS["best"].trials
    assert search.set == ("optim.epochs=5",)
    assert search.time_budget is None
    assert PRESETS["standard"].trials < PRESETS["best"].trials
    by_command = search_options(
        FitOptions(preset="standard", set=("optim.epochs=5",), gpus_per_worker=0.5)
    )
    assert by_command.set == ("optim.epochs=5", "scaling.gpus_per_worker=0.5")
    assert by_command.out is not None
    assert by_command.out.startswith("runs/")


def test_a_time_limit_takes_the_place_of_the_number_of_trials() -> None:
    search = search_options(FitOptions(preset="best", time_limit=1000))
    assert search.time_budget == pytest.approx(1000 * SEARCHING_SHARE)
    assert search.trials == PRESETS["best"].limited_trials
    assert search.replicates == 0
    assert search_options(FitOptions(preset="best", folds=3)).folds == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_limit": 60.0}, "time_limit goes with preset standard or best; quick trains once"),
        ({"folds": 3}, "folds goes with preset standard or best; quick trains once"),
        ({"preset": "best", "keep_state": True}, "keep_state goes with preset quick"),
        ({"preset": "standard", "no_page": True}, "no_page goes with preset quick"),
        ({"preset": "fast"}, "preset must be one of quick, standard, best; got 'fast'"),
    ],
)
def test_what_does_not_go_together_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        fit(FitOptions(data=str(tmp_path), **options))


@pytest.mark.slow
def test_the_model_of_a_time_limit_is_loaded_from_its_folder(
    wafer_shards: str, tmp_path: Path
) -> None:
    """The limit leaves time for the starting point at least, which runs to its end anyway."""
    out = tmp_path / "run"
    words = ["--preset", "best", "--time-limit", "6", "--data", wafer_shards, "--out", str(out)]
    settings = [f"{name}={value}" for name, value in TINY.items()]
    done = run_command("distributed/train.py", *words, "--set", *settings)
    assert done.returncode == 0, done.stderr
    model = load(out)
    assert model.metrics is not None
    assert set(model.metrics) == {"val", "test"}
    assert f"{out}/model" in done.stdout
    again = run_command("distributed/train.py", *words, "--set", *settings)
    assert again.returncode == 2
    assert "add --resume" in again.stderr
