"""What a model teaches: the right rows, by networks that have not learned them where it can."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.config import Config, apply_changes
from distributed.ensembles import building
from distributed.ensembles.building import build_model
from distributed.ensembles.teaching import TEMPERATURE, make_teacher
from distributed.shards.batches import BatchSource, MemorySource, open_batches
from distributed.training.checkpoint import Checkpoint, load_checkpoint
from distributed.training.run import run_training
from distributed.training.spec import RunSpec
from model.config import LossConfig
from model.decisions.selection import Selection
from model.ensemble import Ensemble
from model.learning.losses import teacher_loss
from model.learning.teacher import Teacher
from tests.training import small_run

FOLDS = 2
STUDENT = apply_changes(Config(), {**small_run.SETTINGS, "data.max_rows": 100})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_shards(tmp_path_factory.mktemp("teaching") / "shards")


def opened(shards: Path, split: str) -> Any:
    def open_rows(config: Config) -> BatchSource:
        return open_batches(str(shards), split, config, train=False)

    return open_rows


def model_of(folder: Path, shards: Path, folds: int) -> Checkpoint:
    """A model of one configuration on so many folds; without folds, of two seeds."""
    runs = {}
    for k in range(2):
        changes = {"data.folds": folds, "data.fold": k} if folds > 1 else {"optim.seed": k}
        small_run.train(folder / f"run{k}", shards, **{"optim.epochs": 4, **changes})
        runs[f"run{k}"] = load_checkpoint(str(folder / f"run{k}"))
    picks = (0,) if folds > 1 else (0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "select_members", lambda *_, **__: Selection(picks, "all"))
        configuration = {"run1": "run0"} if folds > 1 else {}
        built = build_model(
            runs, "run0", opened(shards, "val"), configuration=configuration, limit=5
        )
    return built.checkpoint


def taught(model: Checkpoint, shards: Path) -> Teacher:
    return make_teacher(
        model, STUDENT, opened(shards, "train"), opened(shards, "val"), lambda name: "run0"
    )


def uniform(answers_NC: torch.Tensor, counts_C: torch.Tensor) -> torch.Tensor:
    """The answers at the uniform class prior."""
    return (answers_NC - (counts_C / counts_C.sum()).log()).log_softmax(1)


def test_a_row_is_answered_by_the_network_that_was_not_trained_on_it(
    shards: Path, tmp_path: Path
) -> None:
    model = model_of(tmp_path, shards, FOLDS)
    assert isinstance(model.network, Ensemble)
    teacher = taught(model, shards)
    train = opened(shards, "train")(STUDENT)
    assert isinstance(train, MemorySource)
    assert len(teacher.answers_RC) == len(train.plan.selection) == 100
    known: dict[int, torch.Tensor] = {}
    for k, member in enumerate(model.network.members):
        data = dataclasses.replace(STUDENT.data, folds=FOLDS, fold=k)
        held_out = opened(shards, "val")(dataclasses.replace(STUDENT, data=data))
        alone = Ensemble(model.network.schema, [member], [0], model.network.prior_C).eval()
        answers = [alone(batch).logits_BEC[:, 0].detach() for batch in held_out.batches(0)]
        rows = held_out.plan.selection.rows_R.tolist()
        known |= dict(zip(rows, torch.cat(answers), strict=True))
    places = train.plan.selection.rows_R
    done = 0
    for batch in train.batches(0):
        found_BC = teacher.answer(batch).teacher_BC
        assert found_BC is not None
        expected_BC = torch.stack([known[row] for row in places[done : done + len(batch)]])
        counts_C = torch.tensor(train.schema.counts, dtype=torch.float32)
        torch.testing.assert_close(
            uniform(found_BC, counts_C), expected_BC.log_softmax(1), atol=1e-4, rtol=1e-4
        )
        done += len(batch)


def test_answers_for_rows_that_were_trained_on_are_softened(shards: Path, tmp_path: Path) -> None:
    model = model_of(tmp_path, shards, 1)
    teacher = taught(model, shards)
    batch = next(opened(shards, "train")(STUDENT).batches(0))
    found_BC = teacher.answer(batch).teacher_BC
    assert found_BC is not None
    own_BC = model.network(batch).logits_BEC.mean(1).log_softmax(1).detach()
    expected_BC = (own_BC / TEMPERATURE).log_softmax(1)
    counts_C = teacher.counts_C.float()
    torch.testing.assert_close(uniform(found_BC, counts_C), expected_BC, atol=1e-4, rtol=1e-4)


def test_a_student_learns_from_a_teacher_that_knows_better_than_the_labels(shards: Path) -> None:
    """The teacher calls every row of the first class the second one: the labels do not count."""
    train = opened(shards, "train")(STUDENT)
    selection = train.plan.selection
    labels_N = torch.from_numpy(selection.labels_R)
    called_N = torch.where(labels_N == 0, 1, labels_N)
    answers_NC = (torch.nn.functional.one_hot(called_N, 3) * 9.0).float().log_softmax(1)
    teacher = Teacher.of_rows(answers_NC, labels_N, torch.from_numpy(selection.ranks_R))
    settings = {**small_run.SETTINGS, "data.max_rows": 100, "loss.teacher_weight": 1.0}
    result = run_training(RunSpec(shards=str(shards), settings=settings), teacher=teacher)
    scores = result.scores["test"]
    first_N = scores.labels_N == 0
    decided_N = scores.logits_NEC.mean(1).argmax(1)
    assert (decided_N[first_N] == 0).float().mean() < 0.2


def test_the_teachers_loss_is_the_cross_entropy_at_the_prior_of_the_training_rows() -> None:
    counts_C = torch.tensor([6.0, 3.0, 1.0])
    config = LossConfig(spread_of_prior_strength=0.0)
    logits_BEC = torch.tensor([[[0.3, -1.0, 2.0]]])
    teacher_BC = torch.tensor([[0.2, 0.5, 0.3]]).log()
    shifted_C = logits_BEC[0, 0] + (counts_C / 10).log()
    expected = -(torch.tensor([0.2, 0.5, 0.3]) * shifted_C.log_softmax(0)).sum()
    found_B = teacher_loss(logits_BEC, teacher_BC, counts_C, config)
    torch.testing.assert_close(found_B, expected[None])
