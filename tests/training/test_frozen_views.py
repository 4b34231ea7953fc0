"""Views of the frozen part of an image encoder: computed once, equal to what pixels give."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distributed.config import Config, apply_changes
from distributed.shards.batches import MemorySource, open_batches
from distributed.shards.manifest import read_manifest
from distributed.training import frozen_views
from distributed.training.finish import calibrated_metrics
from distributed.training.frozen_views import cache_folder, free_space, with_frozen_views
from distributed.training.run import build_network, run_training
from distributed.training.scoring import Evaluator
from distributed.training.spec import RunSpec
from model.batch import Batch
from model.network import Network

SETTINGS: Mapping[str, object] = {
    "image.encoder": "efficientnet_lite0",
    "image.trainable": "head",
    "image.views": 2,
    "data.spoil": 0.0,
    "data.max_rows": 60,
    "optim.epochs": 2,
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def opened(
    shards: str, split: str, rank: int = 0, world: int = 1, **changes: object
) -> tuple[MemorySource, MemorySource, Network]:
    """The source of pixels, that of views, and the network."""
    config = apply_changes(Config(), {**SETTINGS, **changes})
    source = open_batches(
        str(shards), split, config, train=split == "train", rank=rank, world=world
    )
    network = build_network(read_manifest(shards), source.schema, config)
    views = with_frozen_views(source, network, config)
    assert isinstance(source, MemorySource)
    assert isinstance(views, MemorySource)
    return source, views, network


def test_rows_that_are_scored_get_what_their_pixels_give(wafer_shards: str) -> None:
    source, views, network = opened(wafer_shards, "val")
    network.eval()
    with torch.inference_mode():
        for batch, quick in zip(source.batches(0), views.batches(0), strict=True):
            assert "map" in batch.images
            assert list(quick.frozen) == ["map"]
            assert not quick.images
            expected = network(batch).logits_BEC
            assert torch.allclose(network(quick).logits_BEC, expected, atol=1e-4)


def views_of(batch: Batch) -> torch.Tensor:
    """The view of each record's image, and that of the degraded image, [B, 2, 1, K]."""
    return torch.stack([batch.frozen["map"], batch.frozen_degraded["map"]], 1)


def test_training_takes_every_view_and_two_workers_take_the_same_ones(wafer_shards: str) -> None:
    _, views, _ = opened(wafer_shards, "train")
    values_VRK = views.frozen["map"].values_VRK
    assert values_VRK.shape[:2] == (6, 60)  # as they are, two augmented, three degraded
    assert not np.array_equal(values_VRK[0], values_VRK[1])
    whole = [views_of(batch) for batch in views.batches(1)]
    halves = [
        [views_of(batch) for batch in opened(wafer_shards, "train", rank, 2)[1].batches(1)]
        for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(batch, torch.cat([first, second]))
    taken = {view.numpy().tobytes() for batch in whole for record in batch for view in record}
    kinds = [sum(v.tobytes() in taken for v in values_RK) for values_RK in values_VRK]
    assert all(count > 0 for count in kinds)


def test_the_views_are_computed_once_for_all_seeds(wafer_shards: str) -> None:
    opened(wafer_shards, "train")
    files = {file: file.stat().st_ino for file in cache_folder().glob("*.npy")}
    assert len(files) == 1
    opened(wafer_shards, "train", **{"optim.lr": 1e-4, "data.batch_size": 32})
    assert {file: file.stat().st_ino for file in cache_folder().glob("*.npy")} == files
    opened(wafer_shards, "train", **{"data.rotate": 45.0})
    assert len(list(cache_folder().glob("*.npy"))) == 2


@pytest.mark.parametrize("kept", [0, 100, 1000])
def test_a_file_of_views_that_was_cut_is_computed_again(wafer_shards: str, kept: int) -> None:
    _, whole, _ = opened(wafer_shards, "val")
    expected = whole.frozen["map"].values_VRK.copy()
    (file,) = cache_folder().glob("*.npy")
    file.write_bytes(file.read_bytes()[:kept])
    _, again, _ = opened(wafer_shards, "val")
    assert np.array_equal(again.frozen["map"].values_VRK, expected)


def test_an_interrupted_computation_leaves_no_file_of_views(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def interrupted(self: object, x_BCHW: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return encode(self, x_BCHW)  # type: ignore[arg-type]

    encode = frozen_views.FrozenPart._encode
    monkeypatch.setattr(frozen_views.FrozenPart, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(wafer_shards, "train")
    assert not list(cache_folder().glob("*.npy"))
    opened(wafer_shards, "train")
    assert [file.suffix for file in cache_folder().iterdir() if file.stat().st_size] == [".npy"]


def test_the_oldest_files_are_removed_when_all_take_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = cache_folder()
    for age, name in enumerate(["views-new.npy", "views-old.npy", "views-oldest.npy"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(frozen_views, "MAX_BYTES", 500)
    free_space(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["views-new.npy", "views-old.npy"]


def test_on_a_full_disk_the_pixels_are_used(
    wafer_shards: str,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    _, views, _ = opened(wafer_shards, "train", **{"image.trainable": "top"})
    assert not views.frozen
    assert "No space left on device" in capsys.readouterr().err
    assert not [file for file in cache_folder().iterdir() if file.stat().st_size]


@pytest.mark.parametrize(("images_a_second", "words"), [(10, "about 2 min, once"), (100, "")])
def test_a_long_wait_for_the_views_is_announced_once(
    images_a_second: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = 0.0
    monkeypatch.setattr(frozen_views, "time", SimpleNamespace(perf_counter=lambda: now))
    notice = frozen_views.WaitNotice(1000)
    for _ in range(10):
        now += 16 / images_a_second * 2
        notice.add(32)
    said = capsys.readouterr().err
    assert said.count("1,000 images and augmented views") == bool(words)
    assert words in said


def test_training_on_views_is_repeatable_and_learns(wafer_shards: str) -> None:
    spec = RunSpec(shards=wafer_shards, settings=SETTINGS, test=False)
    first, second = run_training(spec), run_training(spec)
    assert first.metrics.val == second.metrics.val
    losses = [epoch["loss"] for epoch in first.history]
    assert losses[-1] < losses[0]
    assert Path(tempfile.gettempdir()) in cache_folder().parents


def test_test_rows_are_scored_on_views_as_on_pixels(wafer_shards: str) -> None:
    result = run_training(RunSpec(shards=wafer_shards, settings=SETTINGS))
    assert result.metrics.test is not None
    assert len(list(cache_folder().glob("*.npy"))) == 3  # training, validation, test
    config = apply_changes(Config(), SETTINGS)
    pixels = open_batches(wafer_shards, "test", config, train=False)
    scores = Evaluator(torch.device("cpu")).score(result.network, pixels)
    expected = calibrated_metrics(scores, result.network, config, result.calibration)
    assert result.metrics.test["nll"] == pytest.approx(expected["nll"], rel=1e-4)
    assert result.metrics.test["balanced_accuracy"] == expected["balanced_accuracy"]


def test_a_training_of_the_image_alone_reads_the_views_of_one_with_the_table(
    wafer_shards: str,
) -> None:
    alone = {"data.modalities": "map", "data.spoil": 0.1}
    _, own, _ = opened(wafer_shards, "train", **alone)
    (file,) = cache_folder().glob("views-*.npy")
    file.unlink()
    opened(wafer_shards, "train", **{"data.spoil": 0.1})
    _, shared, _ = opened(wafer_shards, "train", **alone)
    assert len([*cache_folder().glob("views-*.npy")]) == 1
    for before, after in zip(own.batches(1), shared.batches(1), strict=True):
        torch.testing.assert_close(before.frozen["map"], after.frozen["map"], rtol=0, atol=0)
        assert not before.frozen_spoilt
        assert after.frozen_spoilt  # which nothing reads where there is one modality
