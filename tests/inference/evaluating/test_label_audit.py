"""Facts about the label audit: planted mistakes come first, and the verdict takes them out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from distributed.inference.evaluating.evaluation import evaluate
from distributed.inference.evaluating.label_audit import (
    LabelAudit,
    audit_labels,
    nearest_neighbours,
)
from distributed.inference.options import EvaluateOptions
from distributed.ingestion.drop_list import read_drop_list
from distributed.runtime.errors import OptionError
from distributed.training.checkpoint import load_checkpoint
from model.decisions.label_noise import label_doubts
from tests.training import small_run

FLIPPED = 12


@pytest.fixture(scope="module")
def flipped() -> set[str]:
    """The ids of training rows that get the label of another class."""
    ids = small_run.raw(small_run.SPLITS["train"], 0, "train")["id"].to_numpy()
    return set(np.random.default_rng(1).choice(ids, FLIPPED, replace=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, flipped: set[str]) -> Path:
    """shards/ with planted mistakes, and a run/ trained on them."""
    here = tmp_path_factory.mktemp("audited")
    original = small_run.raw
    counts = dict.fromkeys(small_run.CLASSES, 0)

    def with_mistakes(of_classes: tuple[int, ...], seed: int, prefix: str = "r") -> pd.DataFrame:
        frame = original(of_classes, seed, prefix)
        names = list(small_run.CLASSES)
        wrong = frame["id"].isin(flipped)
        frame.loc[wrong, "label"] = [
            names[(names.index(name) + 1) % 3] for name in frame.loc[wrong, "label"]
        ]
        if prefix == "train":
            counts.update(frame["label"].value_counts().to_dict())
        return frame

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "raw", with_mistakes)
        with_mistakes(small_run.SPLITS["train"], 0, "train")
        schema = dataclasses.replace(small_run.schema(), counts=tuple(counts.values()))
        small_run.write_shards(here / "shards", schema)
    small_run.train(here / "run", here / "shards", **{"optim.epochs": 6})
    return here


@pytest.fixture(scope="module")
def options(folder: Path) -> EvaluateOptions:
    return EvaluateOptions(
        checkpoint=str(folder / "run"),
        data=str(folder / "shards"),
        audit=str(folder / "audit"),
        replicates=0,
    )


@pytest.fixture(scope="module")
def audit(options: EvaluateOptions) -> LabelAudit:
    found = evaluate(options).audit
    assert found is not None
    return found


def test_planted_mistakes_come_first(audit: LabelAudit, flipped: set[str]) -> None:
    assert audit.rows == sum(small_run.SPLITS["train"])
    first = list(audit.suspects["id"][:FLIPPED])
    assert len(flipped & set(first)) >= 0.7 * FLIPPED
    doubts = audit.suspects["doubt"].to_list()
    assert doubts == sorted(doubts, reverse=True) and doubts[-1] > 0
    assert (audit.suspects["p_suggested"] > audit.suspects["p_label"]).all()
    assert (audit.suspects["suggested"] != audit.suspects["label"]).all()


def test_the_list_becomes_a_verdict(audit: LabelAudit, folder: Path) -> None:
    written = pd.read_csv(folder / "audit" / "suspects.csv", dtype=str)
    assert written["id"].to_list() == audit.suspects["id"].to_list()
    assert read_drop_list(str(folder / "audit" / "suspects.csv")) == frozenset()
    written["drop"] = ["yes", *["no"] * (len(written) - 1)]
    written.to_csv(folder / "verdict.csv", index=False)
    assert read_drop_list(str(folder / "verdict.csv")) == {audit.suspects["id"][0]}


def test_the_page_shows_suspects_with_neighbours_and_asks(audit: LabelAudit, folder: Path) -> None:
    html = (folder / "audit" / "audit.html").read_text()
    first = audit.suspects.iloc[0]
    assert f"labelled {first['label']}, rather {first['suggested']}" in html
    assert f'data-id="{first["id"]}"' in html
    assert html.count("most like it:") == min(len(audit.suspects), 40) or "few-shot" in html
    assert "Save verdict.csv" in html


def test_neighbours_are_the_rows_with_the_nearest_features(
    folder: Path, options: EvaluateOptions
) -> None:
    checkpoint = load_checkpoint(str(folder / "run"))
    found, source = audit_labels(checkpoint, options)
    places = found.places[:4]
    near = nearest_neighbours(checkpoint, source, places, torch.device("cpu"))
    with torch.inference_mode():
        fused = torch.cat([checkpoint.network(b).fused_BZ for b in source.batches(0)])
    fused = torch.nn.functional.normalize(fused, dim=1)
    cosine = fused[torch.from_numpy(places)] @ fused.T
    cosine[torch.arange(4), torch.from_numpy(places)] = -2
    assert np.array_equal(near, cosine.topk(5, 1).indices.numpy())


def test_other_rows_than_those_of_the_training_are_refused(
    folder: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    other = small_run.write_shards(tmp_path / "other")
    with pytest.raises(OptionError, match="audit needs the shards that the run was trained on"):
        evaluate(dataclasses.replace(options, data=str(other)))


def test_heads_that_learn_from_every_row_are_refused(folder: Path, tmp_path: Path) -> None:
    small_run.train(tmp_path / "run", folder / "shards", **{"optim.epochs": 1, "fusion.folds": 1})
    with pytest.raises(OptionError, match=r"audit needs a run with fusion\.folds of at least 2"):
        evaluate(
            EvaluateOptions(
                checkpoint=str(tmp_path / "run"), data=str(folder / "shards"), audit="out"
            )
        )


def test_doubt_is_the_log_of_the_ratio_of_the_best_other_class() -> None:
    log_p = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]).log()
    found = label_doubts(log_p, torch.tensor([0, 1]))
    assert found.other_B.tolist() == [1, 0]
    assert torch.allclose(found.doubt_B, torch.tensor([0.2 / 0.7, 0.7 / 0.2]).log())
    assert torch.allclose(found.label_B, torch.tensor([0.7, 0.2]))


def test_an_evaluation_writes_its_page(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    evaluate(
        EvaluateOptions(
            checkpoint=str(folder / "run"),
            data=str(folder / "shards"),
            report=str(place),
            corrupt="photo=noise:0.5",
            replicates=0,
        )
    )
    html = place.read_text()
    assert "Evaluation on test rows" in html and "corrupt photo=noise:0.5" in html
    assert "<h2>Most uncertain</h2>" in html and "<h2>Learning curves</h2>" not in html
    with pytest.raises(OptionError, match="report must name a file that can be written"):
        evaluate(
            EvaluateOptions(
                checkpoint=str(folder / "run"), data=str(folder / "shards"), report=str(tmp_path)
            )
        )
