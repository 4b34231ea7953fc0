"""The score of several folds: all held-out rows together, beside the starting point's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distributed.runtime.errors import OptionError
from distributed.searches.jobs.pooling import HeldOut, pool
from distributed.searches.state.records import FOLD_ERROR, OVER_START, OVER_START_ERROR, SearchJob
from distributed.training.checkpoint import load_checkpoint
from tests.training import small_run

FOLDS = 2


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two configurations on both folds."""
    folder = tmp_path_factory.mktemp("pooling")
    shards = small_run.write_shards(folder / "shards")
    for name, seed in (("0000", 1), ("0001", 2)):
        for fold in range(FOLDS):
            run = folder / "trials" / (f"{name}-fold{fold}" if fold else name)
            changes = {"optim.epochs": 4, "optim.seed": seed, "data.folds": FOLDS}
            small_run.train(run, shards, **changes, **{"data.fold": fold})
    return folder / "trials"


def job(start: str = "") -> dict[str, object]:
    return SearchJob(name="0001-fold1", kind="fold", of="0001", fold=1, start=start).to_dict()


def test_every_row_counts_once_with_the_answer_of_its_own_fold(trials: Path) -> None:
    runs = [load_checkpoint(str(trials / name)) for name in ("0001", "0001-fold1")]
    rows = sum(small_run.SPLITS["train"]) + sum(small_run.SPLITS["val"])
    held_out = HeldOut.of(runs)
    assert len(held_out.labels_V) == rows
    found = pool(job(), str(trials), "balanced_accuracy")
    right_V = (held_out.decisions_V == held_out.labels_V).float()
    recalls = [right_V[held_out.labels_V == c].mean() for c in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(float(torch.stack(recalls).mean()))
    variance = (
        sum(float(r * (1 - r)) / int((held_out.labels_V == c).sum()) for c, r in enumerate(recalls))
        / 9
    )
    assert found[FOLD_ERROR] == pytest.approx(variance**0.5, rel=0.25)
    assert OVER_START not in found


def test_it_is_compared_with_the_starting_point_on_the_same_rows(trials: Path) -> None:
    compared = pool(job("0000"), str(trials), "balanced_accuracy")
    start = HeldOut.of([load_checkpoint(str(trials / name)) for name in ("0000", "0000-fold1")])
    expected = compared["balanced_accuracy"] - start.metrics()["balanced_accuracy"]
    assert compared[OVER_START] == pytest.approx(expected)
    assert 0 < compared[OVER_START_ERROR] < 0.2
    assert OVER_START not in pool(job("0007"), str(trials), "balanced_accuracy")


def test_a_missing_checkpoint_is_named(trials: Path) -> None:
    lost = SearchJob(name="0009-fold1", kind="fold", of="0009", fold=1).to_dict()
    with pytest.raises(OptionError, match="0009"):
        pool(lost, str(trials), "balanced_accuracy")
