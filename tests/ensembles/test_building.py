"""One model of several runs: chosen on validation, saved and loaded like any other."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch

from distributed import EvaluateOptions, PredictOptions, evaluate, export, load, predict
from distributed.config import Config, apply_changes, changes_from_defaults
from distributed.ensembles import building
from distributed.ensembles.building import BuiltModel, build_model, stated_prior
from distributed.inference.loaded import PredictionNote
from distributed.inference.options import ExportOptions
from distributed.raw import images
from distributed.runtime.errors import OptionError
from distributed.shards import decode
from distributed.shards.batches import BatchSource, open_batches
from distributed.training.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from distributed.training.priors import mean_class_prior
from distributed.training.scoring import Evaluator
from model.decisions.selection import Selection
from model.ensemble import Ensemble
from model.member import Member
from model.network import Network
from tests.training import small_run

RUNS: dict[str, dict[str, Any]] = {
    "first": {"optim.seed": 1},
    "second": {"optim.seed": 2, "fusion.kind": "uniform", "experts.count": 2},
    "third": {"optim.seed": 3, "dim": 8, "loss.average_prior_strength": 0.0},
    "table": {"optim.seed": 4, "data.modalities": "table"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/ and a run of each of RUNS on them."""
    here = tmp_path_factory.mktemp("ensemble")
    shards = small_run.write_shards(here / "shards")
    for name, settings in RUNS.items():
        small_run.train(here / name, shards, **{"optim.epochs": 6, **settings})
    return here


@pytest.fixture(scope="module")
def candidates(folder: Path) -> dict[str, Checkpoint]:
    return {name: load_checkpoint(str(folder / name)) for name in RUNS}


def opened(folder: Path, split: str = "val") -> Any:
    def open_rows(config: Config) -> BatchSource:
        return open_batches(str(folder / "shards"), split, config, train=False)

    return open_rows


@pytest.fixture(scope="module")
def built(folder: Path, candidates: dict[str, Checkpoint]) -> BuiltModel:
    """The model of all runs, whatever they gain together."""
    chosen = Selection((0, 1, 2, 2, 3), "all", gain=0.1, error=0.01)  # the third one counts twice
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "select_members", lambda *_, **__: chosen)
        model = build_model(candidates, "first", opened(folder), limit=10)
    save_checkpoint(str(folder / "model"), model.checkpoint)
    return model


def test_its_answer_is_the_mean_of_the_calibrated_answers(
    folder: Path, candidates: dict[str, Checkpoint], built: BuiltModel
) -> None:
    network = built.checkpoint.network
    assert isinstance(network, Ensemble)
    assert dict(built.counts) == {"first": 1, "second": 1, "third": 2, "table": 1}
    evaluator = Evaluator(torch.device("cpu"))
    scores = evaluator.score(network, opened(folder)(built.checkpoint.config))
    third = candidates["third"]
    alone = evaluator.score(third.network, opened(folder)(third.config))
    counts_C = third.network.counts_C
    expected = third.calibration.scale(alone.logits_NEC).mean(1)
    # It was trained with plain cross-entropy: its answers stand for the training prior.
    expected = (expected - (counts_C / counts_C.sum()).log()).log_softmax(-1)
    torch.testing.assert_close(scores.logits_NEC[:, 2], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.logits_NEC[:, 2], scores.logits_NEC[:, 3])
    assert built.metrics["balanced_accuracy"] > 0.5


def test_the_saved_model_gives_the_same_answers(folder: Path, built: BuiltModel) -> None:
    loaded = load_checkpoint(str(folder / "model"))
    evaluator = Evaluator(torch.device("cpu"))
    before, after = (
        evaluator.score(c.network, opened(folder, "test")(c.config))
        for c in (built.checkpoint, loaded)
    )
    for name, values in vars(before).items():
        if name != "agreement":
            torch.testing.assert_close(getattr(after, name), values, equal_nan=True)
    assert isinstance(loaded.network, Ensemble)
    assert [m.name for m in loaded.network.members] == list(RUNS)
    assert loaded.network.members[1].settings["experts.count"] == 2


def test_weights_that_members_share_are_stored_once(
    candidates: dict[str, Checkpoint], built: BuiltModel, tmp_path: Path
) -> None:
    first = candidates["first"]
    assert isinstance(first.network, Network)
    settings = changes_from_defaults(first.config)
    prior_C = mean_class_prior(first)
    member = Member(first.network, first.calibration, prior_C, "first", settings)
    places = range(4)
    uniform = torch.full((3,), 1 / 3)
    four = Ensemble(first.network.schema, [member] * len(places), [*places], uniform)
    save_checkpoint(str(tmp_path / "one"), first)
    save_checkpoint(str(tmp_path / "four"), dataclasses.replace(first, network=four))
    sizes = [(tmp_path / name / MODEL_FILE).stat().st_size for name in ("one", "four")]
    assert sizes[1] < 1.5 * sizes[0]
    assert isinstance(load_checkpoint(str(tmp_path / "four")).network, Ensemble)


def test_it_works_wherever_a_checkpoint_does(folder: Path, built: BuiltModel) -> None:
    frame = small_run.raw(small_run.SPLITS["test"], 2, "test")
    frame.to_parquet(folder / "table.parquet")
    where = str(folder / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionNote)
        loaded = load(where)
        predicted = loaded.predict(frame, explain=True)
        explained = loaded.explain(frame.iloc[0].to_dict())
    predict(
        PredictOptions(
            checkpoint=where,
            data=str(folder / "table.parquet"),
            out=str(folder / "predictions"),
            explain=True,
        )
    )
    by_command = pd.read_parquet(folder / "predictions" / "predictions")
    pd.testing.assert_frame_equal(predicted.reset_index(drop=True), by_command, check_exact=True)
    assert "ensemble of 4 networks" in repr(loaded)
    assert explained.prediction in small_run.CLASSES
    found = evaluate(EvaluateOptions(checkpoint=where, data=str(folder / "shards"), coverage=0.9))
    assert found.metrics["balanced_accuracy"] > 0.5
    with pytest.raises(OptionError, match="this is an ensemble of 4 networks: audit such a run"):
        evaluate(
            EvaluateOptions(
                checkpoint=where, data=str(folder / "shards"), audit=str(folder / "audit")
            )
        )


def test_a_picture_is_decoded_once_for_all_networks(
    folder: Path, built: BuiltModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[str] = Counter()

    def count(module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def counting(*args: Any, **options: Any) -> Any:
            decoded[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(module, name, counting)

    count(images, "prepare_image")
    count(decode, "decode_stored_image")
    frame = small_run.raw(small_run.SPLITS["test"], 2, "test")
    pictures = int(frame["photo"].notna().sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionNote)
        load(str(folder / "model")).predict(frame)
    assert decoded == {"prepare_image": pictures, "decode_stored_image": pictures}
    decoded.clear()
    evaluate(EvaluateOptions(checkpoint=str(folder / "model"), data=str(folder / "shards")))
    assert decoded == {"decode_stored_image": pictures}


def test_it_is_exported(folder: Path, built: BuiltModel, tmp_path: Path) -> None:
    done = export(
        ExportOptions(
            checkpoint=str(folder / "model"), format="torch", out=str(tmp_path / "model.pt2")
        )
    )
    assert done.difference < 1e-4


def test_the_class_prior_that_answers_stand_for_is_judged_on_validation(
    candidates: dict[str, Checkpoint],
) -> None:
    plain = candidates["third"]  # plain cross-entropy: its answers stand for the training prior
    counts_C = plain.network.counts_C
    torch.testing.assert_close(stated_prior(plain), counts_C / counts_C.sum())
    balanced = candidates["first"]
    late = apply_changes(balanced.config, {"loss.drw": 0.1, "loss.effective_beta": 0.9999})
    rows = balanced.validation
    assert rows is not None
    # Answers that err alike in every class stand for the uniform prior, whatever the settings say.
    logits_VEC = torch.nn.functional.one_hot(rows.labels_V, 3).float()[:, None]
    rows = dataclasses.replace(rows, logits_VEC=logits_VEC.expand_as(rows.logits_VEC))
    claimed = dataclasses.replace(balanced, config=late, validation=rows)
    uniform_C = torch.full((3,), 1 / 3)
    assert not torch.allclose(mean_class_prior(claimed), uniform_C, atol=0.05)
    torch.testing.assert_close(stated_prior(claimed), uniform_C)
    without = dataclasses.replace(claimed, validation=None)
    torch.testing.assert_close(stated_prior(without), mean_class_prior(claimed))


def test_one_run_is_kept_where_several_are_no_better(
    folder: Path, candidates: dict[str, Checkpoint]
) -> None:
    first = candidates["first"]
    model = build_model({"a": first, "b": first}, "a", opened(folder), limit=5)
    assert model.checkpoint.network is first.network
    assert model.counts == {"a": 1}
    assert model.description()["networks"] == 1
    table = build_model({"t": candidates["table"]}, "t", opened(folder), limit=5)
    assert table.checkpoint.network.schema.modalities == ("table",)
    assert 0 <= table.metrics["balanced_accuracy"] <= 1


def test_networks_run_again_where_checkpoints_lack_validation_rows(
    folder: Path, candidates: dict[str, Checkpoint]
) -> None:
    without = {
        name: dataclasses.replace(checkpoint, validation=None)
        for name, checkpoint in candidates.items()
    }
    stored = build_model(candidates, "first", opened(folder), limit=4)
    computed = build_model(without, "first", opened(folder), limit=4)
    assert computed.counts == stored.counts
    assert computed.selection.gain == pytest.approx(stored.selection.gain, abs=1e-4)


def test_runs_on_folds_answer_for_their_own_rows_and_together_for_new_ones(tmp_path: Path) -> None:
    """One configuration has all three folds, the other one the first only."""
    shards = small_run.write_shards(tmp_path / "shards")
    runs = {("a", k): f"a-fold{k}" for k in range(3)} | {("b", 0): "b-fold0"}
    for (name, k), run in runs.items():
        seed = {"a": 1, "b": 2}[name]
        changes = {"optim.epochs": 5, "optim.seed": seed, "data.folds": 3, "data.fold": k}
        small_run.train(tmp_path / run, shards, **changes)
    candidates = {run: load_checkpoint(str(tmp_path / run)) for run in runs.values()}
    seen: dict[str, Any] = {}

    def select(answers_KVC: torch.Tensor, labels_V: torch.Tensor, *_: Any, **__: Any) -> Selection:
        seen.update(answers=answers_KVC, labels=labels_V)
        return Selection((0, 1), "both", gain=0.1, error=0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "select_members", select)
        model = build_model(
            candidates,
            "a-fold0",
            opened(tmp_path),
            configuration={run: run[0] + "-fold0" for run in runs.values()},
            limit=10,
        )
    rows = sum(small_run.SPLITS["train"]) + sum(small_run.SPLITS["val"])
    assert seen["answers"].shape[:2] == (2, rows)
    of_first = candidates["a-fold0"].validation
    assert of_first is not None
    first = len(of_first.labels_V)
    # Where the second configuration was not trained, it is the first one.
    torch.testing.assert_close(seen["answers"][0, first:], seen["answers"][1, first:])
    assert not torch.allclose(seen["answers"][0, :first], seen["answers"][1, :first])
    # Both configurations count alike, whatever the number of their folds.
    assert dict(model.counts) == {"a-fold0": 1, "a-fold1": 1, "a-fold2": 1, "b-fold0": 3}
    assert model.checkpoint.config.data.folds == 1
    held_out = model.checkpoint.validation
    assert held_out is not None
    assert held_out.logits_VEC.shape[:2] == (rows, 6)
    evaluator = Evaluator(torch.device("cpu"))
    test = opened(tmp_path, "test")(model.checkpoint.config)
    scores = evaluator.score(model.checkpoint.network, test)
    assert scores.logits_NEC.shape[1] == 6
    assert model.metrics["balanced_accuracy"] > 0.5
