"""Facts about figures: what is drawn where, and that users' names stay plain text."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from distributed.reporting import figure_style, figures, png
from distributed.reporting.ranking import Ranking, rank_variants
from distributed.reporting.significance import compare_to_reference, summarise
from model.metrics.names import metric

BASE = {i: 0.5 + 0.01 * i for i in range(6)}
SCORES = {
    "base": BASE,
    "<b>good</b>": {i: v + 0.1 + 0.001 * (i % 3) for i, v in BASE.items()},
    "bad": {i: v - 0.1 - 0.001 * (i % 3) for i, v in BASE.items()},
    "same": {i: v + 0.01 * (-1) ** i for i, v in BASE.items()},
}


def test_forest_tells_better_worse_and_noise_apart() -> None:
    figure = figures.forest_plot(compare_to_reference(SCORES, "base"), metric("balanced_accuracy"))
    drawn = {trace.name: (list(trace.y), trace.x[0]) for trace in figure.data}
    assert drawn["better"] == (["&lt;b&gt;good&lt;/b&gt;"], pytest.approx(10.1))
    assert drawn["worse"][0] == ["bad"]
    assert drawn["not shown to differ"][0] == ["same"]
    flipped = figures.forest_plot(compare_to_reference(SCORES, "base"), metric("nll"))
    assert {t.name: list(t.y) for t in flipped.data}["better"] == ["bad"]


def test_forest_intervals_end_where_the_comparison_says() -> None:
    (comparison,) = (c for c in compare_to_reference(SCORES, "base") if c.name == "same")
    (trace,) = (t for t in figures.forest_plot([comparison], metric("accuracy")).data)
    assert trace.x[0] + trace.error_x.array[0] == pytest.approx(100 * comparison.high)
    assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(100 * comparison.low)


def test_strip_shows_every_seed_and_the_mean() -> None:
    values = {n: list(v.values()) for n, v in SCORES.items()}
    dots, means = figures.strip_plot(
        values, {n: summarise(v) for n, v in values.items()}, metric("accuracy")
    ).data
    assert len(dots.x) == 24
    assert list(means.x) == pytest.approx([52.5, 62.6, 42.4, 52.5])


def test_curves_skip_points_without_a_mean_and_label_log_ticks() -> None:
    figure = figures.line_plot(
        {"a": [(1, summarise([0.5, 0.6])), (100, summarise([]))], "b": [(10, summarise([0.4]))]},
        x="ratio",
        y="acc",
        log_x=True,
    )
    assert [list(t.x) for t in figure.data] == [[1], [10]]
    assert list(figure.layout.xaxis.ticktext) == ["1", "10", "100"]


def test_rank_view_colours_what_differs_from_the_best() -> None:
    table = {
        name: {str(d): level for d in range(12)}
        for name, level in {"good": 0.9, "fair": 0.7, "poor": 0.5}.items()
    }
    drawn = {t.name: list(t.y) for t in figures.rank_plot(rank_variants(table)).data}
    assert drawn == {
        "not told apart from the best": ["good"],
        "worse than the best": ["fair", "poor"],
    }
    assert (
        figures.rank_plot(Ranking(ranks={"a": 1.0, "b": 2.0}, data_sets=1, reason="one data set"))
        .data[0]
        .error_x.value
        is None
    )


def test_long_names_that_begin_alike_have_a_row_each() -> None:
    names = [f"confidence, cross-fitted, shrunk, checked, temperature {t}" for t in (0.1, 0.5)]
    scores = {n: [0.5 + i] for i, n in enumerate(names)}
    dots, _ = figures.strip_plot(
        scores, {n: summarise(v) for n, v in scores.items()}, metric("accuracy")
    ).data
    assert len(set(dots.y)) == 2
    assert {y.replace("<br>", " ") for y in dots.y} == set(names)


def test_without_a_critical_difference_no_rank_is_called_worse() -> None:
    table = {
        name: {str(d): level for d in range(4)}
        for name, level in {"good": 0.9, "poor": 0.5}.items()
    }
    assert [t.name for t in figures.rank_plot(rank_variants(table)).data] == [
        "not told apart from the best"
    ]


def test_bars_and_learning_curves_draw_all_they_are_given() -> None:
    drawn = figures.bar_plot(
        {"a": {"many": summarise([0.5]), "few": summarise([])}, "b": {"many": summarise([0.25])}},
        y="acc",
    ).data
    assert [list(t.y) for t in drawn] == [[50.0], [25.0]]
    lines = figures.learning_curves(
        {"t0": [(1, 0.1), (2, 0.2)], "t1": [(1, 0.3)]}, metric("accuracy"), best="t0"
    ).data
    assert [(t.name, t.mode) for t in lines] == [
        ("ran to their end", "markers"),
        ("t0 (best)", "lines"),
    ]
    curves = {name: [(1, 0.1), (2, 0.2)] for name in ("t0", "t1", "t2", "t3")}
    figure = figures.learning_curves(curves, metric("accuracy"), best="t3", stopped={"t2"})
    assert [t.name for t in figure.data if t.showlegend] == [
        "stopped early",
        "ran to their end",
        "t3 (best)",
    ]
    assert "t2<br>epoch %{x}" in figure.data[0].hovertemplate


def test_empty_inputs_draw_empty_figures() -> None:
    drawn = [
        figures.forest_plot([], metric("accuracy")),
        figures.line_plot({}, x="", y="", log_x=True),
        figures.rank_plot(rank_variants({})),
    ]
    assert all(json.loads(f.to_json())["layout"]["height"] > 0 for f in drawn)


def test_png_without_kaleido_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without_kaleido(name: str, *rest: Any, **options: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without_kaleido)
    message = png.save_png_files({tmp_path / "x.png": figure_style.empty_figure()})
    assert "pip install kaleido" in message
    assert "\n" not in message
    assert not (tmp_path / "x.png").exists()
