"""One run: the test split is read only on demand, and a resumed run ends like an unbroken one."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.exceptions import RayTaskError

from distributed import config
from distributed.runtime.errors import UnreadableData
from distributed.searches.jobs import trial
from distributed.searches.jobs.searcher import STOPS
from distributed.searches.state.records import SEARCH_METRICS, SearchJob
from distributed.shards.batches import MemorySource, in_storage_order, open_batches
from distributed.shards.memory import load_splits
from distributed.training import priors
from distributed.training import spec as run_spec
from distributed.training.failures import failure_reason
from distributed.training.fusion_limits import learn_novelty_gate
from distributed.training.optimisation.divergence import Diverged
from distributed.training.progress.confusion import confusion_image
from distributed.training.progress.recorder import Progress
from distributed.training.results import RunMetrics, RunResult
from distributed.training.run import run_training
from distributed.training.scoring import Evaluator, compute_run_metrics
from distributed.training.spec import RunSpec
from model.batch import Batch
from model.fusion import novelty
from model.network import Network
from model.schema import Numeric, Schema, Table

SMALL = {
    "optim.epochs": 3,
    "image.width": 4,
    "dim": 8,
    "table.width": 8,
    "experts.hidden": 8,
    "data.max_rows": 150,
    "table.embedding_size": 4,
}


def train(
    shards: str,
    settings: dict[str, Any],
    *,
    arrays: dict[str, Any] | None = None,
    progress: Progress | None = None,
    state: str = "",
    test: bool = False,
) -> RunResult:
    """A training as a trial in one process runs it; state: the folder of its states."""
    spec = RunSpec(
        shards=shards,
        settings=settings,
        resume=True,
        test=test,
        states=run_spec.resumable_states(state) if state else None,
    )
    return run_training(spec, progress=progress, arrays=arrays)


@pytest.fixture(scope="module")
def arrays(wafer_shards: str) -> dict[str, Any]:
    splits = load_splits(
        wafer_shards, config.apply_changes(config.Config(), SMALL), ("train", "val")
    )
    assert splits is not None
    assert set(splits) == {"train", "val"}
    return splits


def test_metrics_of_validation_and_of_test_only_on_demand(
    wafer_shards: str, arrays: dict[str, Any]
) -> None:
    epochs: list[dict[str, float]] = []
    finished = train(wafer_shards, SMALL, arrays=arrays, progress=epochs.append)
    assert [e["epoch"] for e in epochs] == [1, 2, 3]
    assert epochs[0]["train_seconds"] < epochs[2]["train_seconds"]
    assert finished.metrics.test is None
    assert {m for m in SEARCH_METRICS if m != "train_seconds"} <= set(finished.metrics.val)
    assert 0 <= finished.metrics.val["balanced_accuracy"] <= 1


def test_a_stopped_trial_goes_on_to_the_same_end(
    wafer_shards: str, arrays: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(run_spec, "SECONDS_BETWEEN_STATES", 0.0)
    whole = train(wafer_shards, SMALL, arrays=arrays)
    train(
        wafer_shards,
        SMALL,
        arrays=arrays,
        state=str(tmp_path / "s"),
        progress=lambda e: e["epoch"] == 2,
    )
    epochs: list[dict[str, float]] = []
    rest = train(
        wafer_shards, SMALL, arrays=arrays, state=str(tmp_path / "s"), progress=epochs.append
    )
    assert [e["epoch"] for e in epochs] == [3]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, rest.network.state_dict()[name]), name
    assert whole.metrics.val == pytest.approx(rest.metrics.val, nan_ok=True)


def test_a_trial_never_goes_on_from_the_state_of_another_one_with_its_name(
    wafer_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that lost its journal numbers its trials from the beginning again."""
    reported: list[int] = []
    monkeypatch.setattr(trial.tune, "report", lambda result: reported.append(result["epoch"]))
    lost, new = (
        SearchJob(name="0003", kind="search", settings={"optim.lr": lr}, number=3)
        for lr in (0.01, 0.001)
    )

    def run(job: SearchJob, folder: str) -> RunMetrics:
        context = trial.TrialContext(
            shards=wafer_shards, base=SMALL, metrics=["accuracy"], folder=str(tmp_path / folder)
        )
        return trial.train(job.to_dict(), context)

    alone = run(new, "alone")
    run(lost, "shared")
    reported.clear()
    assert run(new, "shared").val == pytest.approx(alone.val, nan_ok=True)
    assert reported == [1, 2, 3]
    reported.clear()
    assert run(new, "shared").val == pytest.approx(alone.val, nan_ok=True)
    assert reported == [], "its own state is finished"


def test_a_finished_state_gives_test_metrics_without_training(
    wafer_shards: str, arrays: dict[str, Any], tmp_path: Path
) -> None:
    first = train(wafer_shards, SMALL, arrays=arrays, state=str(tmp_path / "s"))
    epochs: list[dict[str, float]] = []
    again = train(
        wafer_shards,
        SMALL,
        arrays=arrays,
        state=str(tmp_path / "s"),
        progress=epochs.append,
        test=True,
    )
    assert epochs == []
    assert again.metrics.val == pytest.approx(first.metrics.val, nan_ok=True)
    assert again.metrics.test is not None
    assert again.metrics.test["balanced_accuracy"] > 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"loss.spread_of_prior_strength": 0.0}, [1 / 2, 1 / 2]),
        ({"loss.average_prior_strength": 0.0, "loss.spread_of_prior_strength": 0.0}, [0.9, 0.1]),
        (
            {
                "loss.average_prior_strength": 0.0,
                "loss.spread_of_prior_strength": 0.0,
                "stage.kind": "crt",
            },
            [1 / 2, 1 / 2],
        ),
        ({"loss.average_prior_strength": 0.0, "fusion.kind": "late"}, [1 / 2, 1 / 2]),
        (
            {
                "loss.average_prior_strength": 0.0,
                "loss.spread_of_prior_strength": 0.0,
                "data.sampler": "balanced",
            },
            [1 / 2, 1 / 2],
        ),
        (
            {
                "loss.average_prior_strength": 0.0,
                "loss.spread_of_prior_strength": 0.0,
                "data.sampler": "sqrt",
            },
            [3 / 4, 1 / 4],
        ),
        ({"loss.spread_of_prior_strength": 0.0, "data.sampler": "balanced"}, [0.1, 0.9]),
        ({"loss.name": "influence", "loss.spread_of_prior_strength": 0.0}, [1 / 2, 1 / 2]),
    ],
)
def test_the_class_prior_of_the_logits_follows_what_was_trained(
    changes: dict[str, Any], expected: list[float]
) -> None:
    settings = config.apply_changes(config.Config(), changes)
    schema = Schema(
        tables=(Table(name="t", numeric=(Numeric(name="x"),)),),
        classes=("often", "rarely"),
        counts=(900, 100),
    )
    network = Network(schema, settings.model)
    for row in priors.expert_class_priors(network, settings):
        assert row.tolist() == pytest.approx(expected, abs=1e-4)


def test_shared_arrays_change_nothing(wafer_shards: str, arrays: dict[str, Any]) -> None:
    one_epoch = {**SMALL, "optim.epochs": 1}
    shared, own = (train(wafer_shards, one_epoch, arrays=a).metrics.val for a in (arrays, None))
    assert shared == pytest.approx(own, nan_ok=True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            Diverged("the loss term classification is not finite at step 3 (epoch 1)"),
            "not finite at step 3",
        ),
        (MemoryError(), "out of memory"),
        (ValueError("experts.count\nmust be"), "experts.count must be"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_a_failure_is_one_line(error: Exception, message: str) -> None:
    assert message in failure_reason(error)
    assert "\n" not in failure_reason(error)


def test_a_trial_reports_what_stops_the_search_apart_from_its_own_failure() -> None:
    damaged = UnreadableData("'part' is damaged")
    from_a_task = RayTaskError("decode_splits", "a traceback", damaged).as_instanceof_cause()
    full = OSError(errno.ENOSPC, "full", "/state")
    assert trial.failure_result(damaged) == {"unreadable_data": "'part' is damaged"}
    assert trial.failure_result(from_a_task) == {"unreadable_data": "'part' is damaged"}
    assert trial.failure_result(full) == {"full_disk": "no space left: /state"}
    assert trial.failure_result(ValueError("a setting")) == {"failed": "a setting"}
    assert {*STOPS} == {"unreadable_data", "full_disk"}


def test_a_diverging_run_says_so(wafer_shards: str, arrays: dict[str, Any]) -> None:
    with pytest.raises(Diverged, match="not finite"):
        train(
            wafer_shards,
            {**SMALL, "optim.lr": 1e30, "optim.clip": 0.0, "optim.warmup": 0.0},
            arrays=arrays,
        )


def test_a_streamed_data_set_is_not_shared(wafer_shards: str) -> None:
    assert (
        load_splits(
            wafer_shards,
            config.apply_changes(config.Config(), {"data.cache": "stream"}),
            ("train", "val"),
        )
        is None
    )


def test_an_epoch_as_a_result() -> None:
    epoch = {
        "epoch": 2,
        "loss": 1.0,
        "val/nll": 0.5,
        "val/balanced_accuracy": math.nan,
        "train_seconds": 3.0,
        "lr": 0.1,
    }
    result = trial.epoch_result(epoch, ["nll", "train_seconds"], 5)
    assert (result["epoch"], result["epochs"], result["value"]) == (2, 5, 0.5)
    assert result["metrics"]["train_seconds"] == 3.0
    assert "lr" not in result["metrics"]


def test_settings_of_a_job_go_over_the_base() -> None:
    config = {"settings": {"loss.margin": 0.1}, "seed": 7}
    assert trial.job_settings(config, {"loss.margin": 0.0, "dim": 8}) == {
        "loss.margin": 0.1,
        "dim": 8,
        "optim.seed": 7,
    }
    assert trial.job_settings({**config, "seed": None}, {}) == {"loss.margin": 0.1}


def test_metric_names_are_those_of_the_model() -> None:
    from model.metrics import names, scoring

    assert set(names.METRICS) == set(scoring.FORMULAS)
    assert {n for n, m in names.METRICS.items() if m.lower_is_better} == {
        "nll",
        "balanced_nll",
        "brier",
        "ece",
        "classwise_ece",
    }
    assert RunSpec(shards="x").test


def test_the_confusion_of_many_classes_is_a_picture_of_bounded_size() -> None:
    labels_N = torch.arange(2500).repeat_interleave(2)
    predictions_N = labels_N.clone()
    predictions_N[:6:2] = 2499  # one of the two rows of each of the first three classes
    image_HWC = confusion_image(predictions_N, labels_N, [str(c) for c in range(2500)])
    assert (image_HWC.shape, image_HWC.dtype) == ((834, 834, 3), "uint8")
    assert image_HWC[1, 1].tolist() == image_HWC[833, 833].tolist() == [20, 60, 140]
    assert image_HWC[1, 0].tolist() == [250, 250, 252]
    assert image_HWC[0, 0].tolist() == image_HWC[0, 833].tolist() == [135, 155, 196]
    assert confusion_image(labels_N % 300, labels_N % 300, ["x"] * 300).shape == (900, 900, 3)


def test_stored_rows_of_a_training_source_are_at_most_so_many_with_every_class_among_them(
    wafer_shards: str,
) -> None:
    train = open_batches(wafer_shards, "train", config.Config(), train=True)
    assert isinstance(train, MemorySource)
    sample = in_storage_order(train, 32, 60)
    counts_C = sample.plan.selection.counts_C
    labels = torch.cat([batch.labels_B for batch in sample.batches(0)])
    assert torch.bincount(labels, minlength=len(counts_C)).tolist() == counts_C.tolist()
    assert counts_C.min() >= 1
    assert len(labels) <= 60 + len(counts_C)
    assert sample.arrays is train.arrays, "nothing is decoded again"
    assert (
        len(torch.cat([batch.labels_B for batch in in_storage_order(train, 32).batches(0)]))
        == train.rows
    )


def test_a_worker_without_rows_in_a_batch_learns_what_is_familiar(wafer_shards: str) -> None:
    class Ragged:
        def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            batch = next(source.batches(0))
            yield batch
            yield batch.select(slice(0, 0))

    source = open_batches(wafer_shards, "val", config.Config(), train=False)
    network = Network(
        source.schema,
        config.apply_changes(config.Config(), {k: v for k, v in SMALL.items() if "." in k}).model,
    )
    ones_C = torch.ones(len(source.schema.classes))
    learn_novelty_gate(Evaluator(torch.device("cpu")), network, Ragged(), ones_C, [Ragged()])
    assert torch.isfinite(network.novelty_gate.whiten_MDD).all()
    assert network.novelty_gate.mean_MD.abs().sum() > 0


def test_a_modality_that_becomes_noise_after_training_counts_as_absent(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty, "MIN_VALIDATION_ROWS", 30)  # this data set is small
    settings = {"optim.epochs": 8, "image.width": 16, "dim": 64, "optim.seed": 2}
    metrics: dict[str, dict[str, float]] = {}
    for familiar in (True, False):
        finished = train(wafer_shards, {**settings, "fusion.reject_unfamiliar": familiar})
        for what in ("", "map=noise", "map=missing"):
            source = open_batches(
                wafer_shards,
                "test",
                config.apply_changes(config.Config(), {"data.corrupt": what}),
                train=False,
            )
            scores = Evaluator(torch.device("cpu")).score(finished.network, source)
            metrics[f"{what} {familiar}"] = compute_run_metrics(scores, finished.network)
    assert metrics[" True"]["unfamiliar/map"] < 0.03
    assert metrics["map=noise True"]["unfamiliar/map"] > 0.8
    assert metrics["map=noise True"]["weight/map"] < 0.2
    assert metrics["map=noise True"]["balanced_accuracy"] == pytest.approx(
        metrics["map=missing True"]["balanced_accuracy"], abs=0.05
    )
    assert (
        metrics["map=noise True"]["balanced_accuracy"]
        > metrics["map=noise False"]["balanced_accuracy"] + 0.05
    )
    assert "unfamiliar/map" not in metrics["map=noise False"]
