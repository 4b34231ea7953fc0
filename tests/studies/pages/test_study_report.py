"""What the report of a study shows, from results whose truth is known."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from distributed.studies.results import Results
from tests.studies.study_tools import (
    EVIL,
    FAR,
    LEVELS,
    THREE,
    TWO,
    against,
    done,
    filled,
    invented,
    opened,
    record,
    report_of,
)


def test_the_report_says_what_is_shown(tmp_path: Path) -> None:
    text = f"""
    title = "Title {EVIL}"
    reference = "concatenation"
    {TWO}
    [[variants]]
    name = "late"
    set = {{ fusion.kind = "late" }}
    [[variants]]
    name = "gate {EVIL}"
    set = {{ fusion.kind = "gate" }}
    {against("fusion", "confidence")}
    {against("late fusion", "late", "few_shot_accuracy")}
    [[claims]]
    text = "{{modality}} weighs little"
    variant = "confidence"
    metric = "weight/{{modality}}"
    at_most = 0.1
    [[variants]]
    name = "only {{modality}}"
    each = "modality"
    set = {{ data.modalities = "{{modality}}" }}
    {against("{modality} alone", "only {modality}")}
    """
    state = opened(tmp_path, text.replace("\n    ", "\n"))
    alone = {"only image": 0.4, "only table": 0.5}
    invented(
        state,
        {"concatenation": 0.5, "confidence": 0.55, "late": 0.5, f"gate {EVIL}": 0.4, **alone},
        failing=(f"gate {EVIL}", 3),
    )
    report = state.write_report()
    html, page = Path(report.path).read_text(), (tmp_path / "report.md").read_text()
    assert (
        "Fusion helps here: confidence is better than concatenation in balanced accuracy (+5."
        in page
    )
    assert "5 seeds do not show whether late fusion helps here" in page
    assert "Image alone does harm here: only image is worse than concatenation" in page
    assert "5 seeds do not show whether table alone helps here" in page
    assert "| image weighs little | 0.050 | 0.050 to 0.050 | 5 | holds |" in page
    assert "| table weighs little | 0.950 | 0.950 to 0.950 | 5 | does not hold |" in page
    assert "With 4 seeds the Wilcoxon test cannot go below p = 0.125" in page  # one of five failed
    assert "Failed cells" in page
    assert EVIL not in html.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    assert "<script>alert" not in html
    assert "<script>alert" not in page
    assert len(html) < 2_500_000
    assert "concatenation" in report.table
    tex = (tmp_path / "table.tex").read_text()
    assert r"\begin{tabular}" in tex
    assert tex.count(r"\\") == 7
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    best = {r["variant"]: float(r["mean"]) for r in rows if r["metric"] == "balanced_accuracy"}
    assert best["confidence"] == pytest.approx(
        np.mean(
            [r.metrics["test/balanced_accuracy"] for r in state.rows() if r.variant == "confidence"]
        )
    )


def test_one_variant_with_one_seed_does_not_speak_for_the_others(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO, seeds=5)
    invented(state, LEVELS)
    more = opened(
        tmp_path, TWO + '[[variants]]\nname = "late"\nset = { fusion.kind = "late" }\n', seeds=5
    )
    outcome = done(**{"test/balanced_accuracy": 0.5, "test/few_shot_accuracy": 0.3})
    record(more, more.remaining()[0], [outcome])
    more.write_report()
    page = (tmp_path / "report.md").read_text()
    assert "With 5 seeds the Wilcoxon test cannot go below" in page
    assert "One seed: means only" not in page
    assert "not tested: one seed in common" in page


def test_tables_do_not_depend_on_the_order_in_which_cells_finish(tmp_path: Path) -> None:
    pages = []
    for name, order in (("a", 1), ("b", -1)):
        state = opened(tmp_path / "source", TWO)
        invented(state, LEVELS)
        other = opened(tmp_path / name, TWO)
        for row in list(state.results.rows.values())[::order]:
            other.results.add([row])
        other.write_report()
        pages.append((tmp_path / name / "report.md").read_text())
    assert pages[0] == pages[1]


def test_several_data_sets_are_ranked_and_averaged(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO, "one", "other", "third")
    invented(state, LEVELS)
    state.write_report()
    page = (tmp_path / "report.md").read_text()
    assert (
        "Mean ranks over 3 data sets, under the first condition of each (1 is the best): "
        "confidence 1.00, concatenation 2.00." in page
    )
    assert "mean of 3 data sets" in page
    assert "| one | concatenation | 5 |" in page


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO)
    state.write_report()
    page = (tmp_path / "report.md").read_text()
    assert "No cell has finished yet" in page
    assert "10 cells have not run yet" in page
    invented(state, LEVELS, failing=("concatenation", 0))
    one = opened(tmp_path, TWO, seeds=1)
    one.write_report()
    assert "nan" not in (tmp_path / "report.md").read_text().lower().replace("nan <", "").replace(
        "nan &lt;", ""
    )


def test_a_study_can_live_under_a_uri(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/deep/study"
    state = opened(Path("unused"), TWO, seeds=2)
    state.folder = state.results.folder = uri
    history = [{"epoch": 1, "loss": 1.0, "val/balanced_accuracy": 0.5}]
    for training in state.remaining():
        outcome = done(**{"test/balanced_accuracy": 0.5, "train_seconds": 1.0})
        record(state, training, [outcome for _ in training.cells], history)
    assert state.write_report(pictures=True).path == f"{uri}/report.html"
    folder = tmp_path / "deep/study"
    assert {p.name for p in folder.iterdir()} == {
        *(
            "results.csv",
            "report.html",
            "report.md",
            "study.json",
            "table.csv",
            "table.md",
            "table.tex",
            "tensorboard",
        )
    }
    assert len(list(folder.rglob("events.*"))) == 4
    assert len(Results.load(uri).rows) == 4


def test_a_cut_report_keeps_what_was_run_before_and_says_that_it_is_cut(tmp_path: Path) -> None:
    """Else whoever asks for one variant after many were run escapes the correction over them."""
    invented(opened(tmp_path, THREE), FAR)
    again = opened(tmp_path, THREE, variants="confidence")
    assert again.remaining() == []
    page = report_of(again, tmp_path)
    assert "late" in page.split("## Results")[1]
    assert "cut down" not in page
    fresh = opened(tmp_path / "fresh", THREE, variants="confidence")
    invented(fresh, FAR)
    assert {r.variant for r in fresh.rows()} == {"concatenation", "confidence"}
    assert (
        "The study is cut down to 2 of its 3 variants: "
        "tests are corrected over what is shown here only." in report_of(fresh, tmp_path / "fresh")
    )


def test_what_some_data_set_lacks_is_left_out_of_ranks_and_means_by_name(tmp_path: Path) -> None:
    hard = """[[conditions]]
name = "clean"
[[conditions]]
name = "hard"
test = { corrupt = "image=noise" }
"""
    state, _ = filled(tmp_path, THREE + hard, FAR, "one", "other", "third")
    for row in state.results.rows.values():
        if (row.data, row.variant, row.condition) == ("third", "late", "clean"):
            row.state, row.reason = "failed", "x"
    page = report_of(state, tmp_path)
    assert (
        "under the first condition of each (1 is the best): confidence 1.00, concatenation 2.00."
        in page
    )
    assert "Not ranked, since some data set has no result of it there: late." in page
    assert "Not in the means, since some data set has no result of it: late under clean." in page
    for row in state.results.rows.values():
        if (row.data, row.condition) == ("other", "clean"):
            row.state, row.reason = "failed", "x"
    page = report_of(state, tmp_path)
    assert "No ranks over data sets" in page
    assert "Means over data sets under: hard." in page
    assert "everything under clean" in page


def test_the_guard_is_counted_over_all_cells_that_weigh_experts(tmp_path: Path) -> None:
    text = TWO + '[[variants]]\nname = "stability"\ntest = { aggregation = "stability" }\n'
    state, _ = filled(tmp_path, text, {**LEVELS, "stability": 0.5})
    for row in state.results.rows.values():
        row.metrics["test/fell_back"] = float(row.variant == "stability" and row.seed == 2)
        row.note = "too few rows" if row.metrics["test/fell_back"] else ""
    assert (
        "Test-time aggregation fell back to uniform weights: stability in 1 of 5 cells."
        in report_of(state, tmp_path)
    )
