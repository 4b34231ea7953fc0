"""The page of a run: what it shows, for hostile names too, and that it never costs the run."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from distributed import FitOptions, fit
from distributed.reporting.cards import Card, Gallery
from distributed.shards.batches import open_batches
from distributed.shards.manifest import read_manifest
from distributed.training.exchange import Exchange
from distributed.training.pages import gallery, run_page
from distributed.training.results import RunResult
from distributed.training.run import open_split
from distributed.training.scoring import Evaluator
from distributed.training.spec import RunSpec
from model.metrics.names import worst_class
from tests.training import small_run

NASTY = "<script>alert(1)</script> 🦠\nsecond line"
CLASSES = (NASTY, *small_run.CLASSES[1:])


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_shards(tmp_path_factory.mktemp("page") / "shards")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> tuple[Path, RunResult]:
    """A run with its page."""
    out = tmp_path_factory.mktemp("page") / "run"
    return out, small_run.train(out, shards, page=True, **{"optim.epochs": 2})


def finished(run: tuple[Path, RunResult], shards: Path) -> run_page.FinishedRun:
    spec = RunSpec(shards=str(shards), settings=small_run.SETTINGS, out=str(run[0]), page=True)
    sources = {split: open_split(spec, split, Exchange(), None) for split in ("train", "val")}
    return run_page.FinishedRun(spec, read_manifest(str(shards)), run[1], sources)


def test_page_stands_alone_and_has_every_part(run: tuple[Path, RunResult]) -> None:
    html = (run[0] / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", html.split("<script", 1)[0])
    for title in ("Results", "Classes", "Confusion", "Calibration", "Worst mistakes"):
        assert f"<h2>{title}</h2>" in html
    for part in (
        "Most uncertain",
        "Learning curves",
        "data:image/png;base64,",
        "worst recall first",
    ):
        assert part in html
    values = run[1].metrics.splits
    accuracy = values["val"]["training_prior/accuracy"]
    assert "--prior training" in html and f">{100 * accuracy:.1f}</td>" in html
    for split, title in (("val", "validation"), ("test", "test")):
        worst = worst_class(values[split], small_run.CLASSES)
        assert f"Worst class of {title}: {worst}, recall" in html


def test_mistakes_are_the_most_certain_wrong_rows(
    run: tuple[Path, RunResult], shards: Path
) -> None:
    made = finished(run, shards)
    (val, _) = run_page.run_splits(made, run_page.calibrated(run[1].calibration))
    mistakes, uncertain, _ = gallery.pick_rows(val)
    wrong = (val.decisions_N != val.scores.labels_N).nonzero()[:, 0].tolist()
    assert set(mistakes.places) <= set(wrong)
    assert len(mistakes.places) == min(gallery.PICKED, len(wrong))
    probabilities_NC = val.probabilities_NC
    entropy_N = torch.special.entr(probabilities_NC).sum(1)
    assert uncertain.places[0] == int(entropy_N.argmax())
    certainty = (probabilities_NC.amax(1))[wrong]
    assert float(certainty.max()) == pytest.approx(
        float(probabilities_NC[mistakes.places].amax(1).max())
    )


def test_a_card_shows_the_record_that_was_picked(run: tuple[Path, RunResult], shards: Path) -> None:
    made = finished(run, shards)
    report = run_page.describe_run(made)[0]
    by_title: dict[str, Gallery] = dict(report.galleries)
    raw = small_run.raw(small_run.SPLITS["val"], 1, "val").set_index("id")
    cards: list[Card] = [card for shown in by_title.values() for card in shown.cards]
    assert cards
    for card in cards:
        row = raw.loc[card.title]
        assert f"true {row['label']}, said " in card.outcome
        cells = {cell.column: cell.value for cell in card.cells}
        if pd.notna(row["site"]):
            assert cells["site"] == row["site"]
        if "dose" in cells:
            assert float(cells["dose"]) == pytest.approx(row["dose"], abs=0.01)
        assert bool(card.pictures) == pd.notna(row["photo"])
        assert len(card.answers) == 3
        assert card.answers[0].probability >= card.answers[1].probability
        assert [voice.modality for voice in card.voices] == ["photo", "table"]


def test_names_from_data_are_escaped(
    tmp_path: Path, run: tuple[Path, RunResult], shards: Path
) -> None:
    made = finished(run, shards)
    network = made.result.network
    schema = network.schema
    try:
        network.schema = small_run.dataclasses.replace(schema, classes=CLASSES)
        run_page.write_page(str(tmp_path / "page.html"), run_page.describe_run(made)[0])
    finally:
        network.schema = schema
    html = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 🦠" in html


def test_a_page_that_fails_is_a_warning(
    run: tuple[Path, RunResult], shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = finished(run, shards)
    broken = small_run.dataclasses.replace(made, sources={})
    run_page.write_run_page(broken)
    assert "warning: no report.html and MODEL_CARD.md (" in capsys.readouterr().err


def test_fit_writes_the_page_unless_told_not_to(tmp_path: Path, shards: Path) -> None:
    settings = {**small_run.SETTINGS, "optim.epochs": 1}
    with_page = fit(FitOptions(data=str(shards), set=settings, out=str(tmp_path / "a")))
    assert with_page.page == f"{tmp_path}/a/report.html" and Path(with_page.page).exists()
    without = fit(FitOptions(data=str(shards), set=settings, out=str(tmp_path / "b"), no_page=True))
    assert without.page == "" and not (tmp_path / "b" / "report.html").exists()


def test_the_card_says_what_the_run_is_and_what_it_was_not_tested_on(
    run: tuple[Path, RunResult],
) -> None:
    text = (run[0] / "MODEL_CARD.md").read_text()
    assert text.startswith("# Model card: run\n")
    for title in ("Data", "Results", "With a broken modality", "How to load it"):
        assert f"\n## {title}\n" in text
    assert "train 172, val 53, test 95 rows." in text
    for name, rows, group in zip(small_run.CLASSES, (120, 40, 12), ("many", "medium", "few")):
        assert f"| {name} | {group} | {rows} |" in text
    accuracy = 100 * run[1].metrics.val["balanced_accuracy"]
    assert f"| balanced accuracy % | {accuracy:.1f} |" in text
    for condition in ("intact", "absent", "of another record", "noise"):
        assert f"| {condition} |" in text
    assert "- Records without table: every test row has it." in text
    assert "Records without photo" not in text  # some test rows lack it
    assert 'model = load("run")' in text
    assert "- optim.epochs = 2" in text


def test_a_streamed_run_has_the_same_page(tmp_path: Path, shards: Path) -> None:
    few = {"optim.epochs": 1, "data.cache": "stream"}
    small_run.train(tmp_path / "run", shards, page=True, **few)
    html = (tmp_path / "run" / "report.html").read_text()
    assert "<h2>Most uncertain</h2>" in html and "data:image/png;base64," in html
    assert "Shortcut audit of the rarest classes" in html


def test_scores_of_several_workers_know_their_rows(
    run: tuple[Path, RunResult], shards: Path
) -> None:
    spec = RunSpec(shards=str(shards), settings=small_run.SETTINGS)
    network, evaluator = run[1].network, Evaluator(torch.device("cpu"))
    whole = run[1].scores["val"]
    places = []
    for rank in range(2):
        source = open_batches(str(shards), "val", spec.config, train=False, rank=rank, world=2)
        part = evaluator.score(network, source)
        places += part.places_N.tolist()
        assert torch.equal(part.labels_N, whole.labels_N[part.places_N])
        assert torch.allclose(part.logits_NEC, whole.logits_NEC[part.places_N], atol=1e-4)
    assert sorted(places) == list(range(len(whole.labels_N)))
