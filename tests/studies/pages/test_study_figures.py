"""The figures of a study show the numbers of its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distributed.reporting.page import Figure
from distributed.studies.pages.figures import axis_figures, forest_figures, score_figures
from distributed.studies.pages.report import collect_data, number_equal_names, report_sections
from distributed.studies.pages.tables import main_table
from tests.studies.study_tools import (
    FAR,
    LEVELS,
    NOISE,
    THREE,
    TWO,
    filled,
    values,
)

RATIOS = (
    TWO
    + """
[[conditions]]
name = "ratio {data.imbalance_ratio}"
grid = { data.imbalance_ratio = [100, 10, 1] }
axis = "imbalance"
at = "{data.imbalance_ratio}"
"""
)
SHIFTS = TWO + "".join(
    f"""
[[conditions]]
name = "{kind}"
test = {{ shift = "{kind}" }}
axis = "test distribution"
at = "{kind}"
"""
    for kind in ("forward-10", "uniform", "backward-10")
)


def drawn(figures: list[Figure], name: str) -> dict[str, list[tuple[Any, float]]]:
    """{trace: its points} of the one figure of that name."""
    (figure,) = (f.figure for f in figures if f.name == name)
    return {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


def test_accuracy_is_drawn_against_imbalance(tmp_path: Path) -> None:
    state, views = filled(tmp_path, RATIOS, LEVELS)
    lines = drawn(
        axis_figures(state.study, state.planned, views),
        "curve-balanced-accuracy-set-imbalance",
    )
    assert lines.keys() == {"concatenation", "confidence"}
    for name, points in lines.items():
        assert [x for x, _ in points] == [100, 10, 1]
        for x, y in points:
            assert y == pytest.approx(100 * values(state, name, condition=f"ratio {x:g}").mean())


def test_the_weight_is_drawn_against_corruption(tmp_path: Path) -> None:
    state, views = filled(tmp_path, NOISE, LEVELS)
    for row in state.results.rows.values():
        row.metrics["test/weight/image"] = {"image noise 0.25": 0.3, "image noise 0.5": 0.1}.get(
            row.condition, 0.5
        )
    figures = axis_figures(state.study, state.planned, views)
    lines = drawn(figures, "weight-image-set-share of image that is noise".replace(" ", "-"))
    assert lines["confidence"] == [(0.25, pytest.approx(0.3)), (0.5, pytest.approx(0.1))]


def test_the_experts_weights_are_drawn_against_the_test_distribution(tmp_path: Path) -> None:
    state, views = filled(tmp_path, SHIFTS, LEVELS)
    for row in state.results.rows.values():
        row.metrics["test/expert_weight/1"] = {
            "forward-10": 0.8,
            "uniform": 0.5,
            "backward-10": 0.2,
        }[row.condition]
        row.metrics["test/expert_weight/2"] = 1 - row.metrics["test/expert_weight/1"]
    lines = drawn(
        axis_figures(state.study, state.planned, views),
        "experts-set-test-distribution-confidence",
    )
    assert [y for _, y in lines["expert 1"]] == pytest.approx([0.8, 0.5, 0.2])
    assert [y for _, y in lines["expert 2"]] == pytest.approx([0.2, 0.5, 0.8])


def test_forests_shots_and_seeds_show_the_numbers_of_the_tables(tmp_path: Path) -> None:
    state, views = filled(tmp_path, THREE, FAR)
    for row in state.results.rows.values():
        row.metrics["test/many_shot_accuracy"], row.metrics["test/medium_shot_accuracy"] = 0.9, 0.6
    (forest,) = forest_figures(state.study, views, "balanced_accuracy")
    points = {y: x for trace in forest.figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    for name in ("confidence", "late"):
        assert points[name] == pytest.approx(
            100 * (values(state, name) - values(state, "concatenation")).mean()
        )
    figures = score_figures(state.study, views)
    bars = drawn(figures, "shots-set")
    few = 100 * values(state, "late", "few_shot_accuracy").mean()
    assert bars["late"] == [
        ("many", pytest.approx(90)),
        ("medium", pytest.approx(60)),
        ("few", pytest.approx(few)),
    ]
    dots = drawn(figures, "seeds-set")["one seed"]
    assert sorted(y for y, name in dots if name == "late") == pytest.approx(
        sorted(100 * values(state, "late"))
    )


def test_pictures_of_data_sets_with_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    state, views = filled(tmp_path, TWO, LEVELS, "ham_1", "ham-1")
    data = collect_data(state.study, state.planned, state.rows(), "")
    sections = number_equal_names(report_sections(data, main_table(state.study, views)))
    names = [b.name for s in sections for b in s.blocks if isinstance(b, Figure)]
    assert len(names) == len(set(names)) > 4


def test_every_data_set_has_its_forests_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    state, views = filled(tmp_path, RATIOS, LEVELS, "one", "other", "third")
    names = [f.name for f in forest_figures(state.study, views, "few_shot_accuracy")]
    assert {
        f"forest-few-shot-accuracy-{name}-ratio-100" for name in ("one", "other", "third")
    } <= set(names)
    state.write_report()
    assert "Drawn are 6 of 9 data sets and conditions." in (tmp_path / "report.md").read_text()
