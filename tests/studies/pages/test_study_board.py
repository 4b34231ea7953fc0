"""The TensorBoard runs of a study."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from distributed.studies.pages import board
from tests.studies.study_tools import (
    NOISE,
    TWO,
    done,
    opened,
    record,
)


def test_seeds_fold_and_every_variant_has_its_run(tmp_path: Path) -> None:
    # This variant shares the training of `confidence`.
    twin = '[[variants]]\nname = "trusting"\ntest = { unfamiliar = "trusted" }\n'
    state = opened(tmp_path, TWO + twin, seeds=2)
    history = [{"epoch": 1.0, "loss": 1.0, "val/balanced_accuracy": 0.5}]
    level = {"concatenation": 0.1, "confidence": 0.2, "trusting": 0.3}
    for training in state.remaining():
        outcomes = [
            done(**{"test/balanced_accuracy": level[cell.variant]}) for _, cell in training.cells
        ]
        record(state, training, outcomes, history)
    values: dict[str, dict[str, float]] = {}
    for place in sorted((tmp_path / "tensorboard").rglob("seed-*")):
        events = EventAccumulator(str(place))
        events.Reload()
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        name = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.group_name
        values.setdefault(name, {})[place.name] = events.Scalars("final/test/balanced_accuracy")[
            0
        ].value
    assert values == {
        f"set, clean, {name}": {"seed-0": pytest.approx(value), "seed-1": pytest.approx(value)}
        for name, value in {"concatenation": 0.1, "confidence": 0.2, "trusting": 0.3}.items()
    }
    assert board.HEADLINE_METRICS[0] == "balanced_accuracy"


def test_what_differs_at_test_only_and_gradient_boosting_have_runs_too(tmp_path: Path) -> None:
    boosting = '[[variants]]\nname = "boosting"\nmodel = "boosting"\n'
    state = opened(tmp_path, TWO + boosting + NOISE.removeprefix(TWO), seeds=1)
    history = [{"epoch": e, "loss": 1.0} for e in (1.0, 2.0)]
    for training in state.remaining():
        outcomes = [done(**{"test/balanced_accuracy": 0.5}) for _ in training.cells]
        if training.first.variant == "confidence":
            outcomes[-1] = replace(outcomes[-1], state="failed", reason="x")
        epochs = [] if training.first.model == "boosting" else history
        record(state, training, outcomes, epochs)
    curves, scores = {}, {}
    for place in sorted((tmp_path / "tensorboard").rglob("seed-*")):
        events = EventAccumulator(str(place))
        events.Reload()
        name = str(place.relative_to(tmp_path / "tensorboard"))
        curves[name] = "loss" in str(events.Tags()["scalars"])
        scores[name] = [(e.step, e.value) for e in events.Scalars("final/test/balanced_accuracy")]
    conditions = [
        f"{modality}-noise-0-{share}" for modality in ("image", "table") for share in (25, 5)
    ]
    assert scores.keys() == {
        f"{c}/{v}/seed-0" for c in conditions for v in ("boosting", "concatenation", "confidence")
    } - {"table-noise-0-5/confidence/seed-0"}
    assert [name for name, drawn in curves.items() if drawn] == [
        f"image-noise-0-25/{v}/seed-0" for v in ("concatenation", "confidence")
    ]
    assert scores["table-noise-0-5/boosting/seed-0"] == [(0, 0.5)]
    assert scores["table-noise-0-5/concatenation/seed-0"] == [(2, 0.5)]
