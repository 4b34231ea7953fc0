"""Facts about the figures of a search: what is drawn where, and in which colours and units."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from distributed.reporting.figure_style import name_in_lines
from distributed.searches.pages import figures
from distributed.searches.pages.parallel import parallel
from distributed.searches.pages.trial_study import TRIAL
from model.metrics.names import Metric, metric

TRIALS: list[dict[str, Any]] = [
    {
        "n": i,
        "loss.margin": 0.1 * i if i % 2 else None,
        "optim.lr": 10.0 ** -(i % 4),
        "kind": "ab"[i % 2],
        "one": 1,
        "score": 0.5 + 0.01 * i,
        "cost": float(i),
    }
    for i in range(12)
] + [
    {
        "n": 12,
        "loss.margin": 0.3,
        "optim.lr": 0.1,
        "kind": "a",
        "one": 1,
        "score": float("nan"),
        "cost": 3.0,
    }
]
NAMES = ["loss.margin", "optim.lr", "kind", "one"]
SCORE, COST = (Metric(name=name, title=name) for name in ("score", "cost"))
SHARE = replace(SCORE, unit="%")


def test_parallel_places_missing_settings_below_the_axis() -> None:
    figure = parallel(TRIALS, NAMES, SCORE)
    labels = list(figure.layout.xaxis.ticktext)
    assert labels == ["score", "loss.margin", "optim.lr", "kind"]  # `one` never varies
    lines = np.array([trace.y for trace in figure.data if trace.mode == "lines"])
    assert len(lines) == 12  # the trial without a score is left out
    margin, rate = lines[:, labels.index("loss.margin")], lines[:, labels.index("optim.lr")]
    assert (margin[::2] == 0).all()
    assert (margin[1::2] > 0.1).all()
    assert rate[:4].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])  # logarithmic
    assert len({trace.line.color for trace in figure.data if trace.mode == "lines"}) == 12


def test_slices_use_a_log_axis_where_it_reads_better() -> None:
    figure = figures.slices(TRIALS, NAMES, SCORE)
    assert [len(t.x) for t in figure.data] == [6, 12, 12]
    assert figure.layout.xaxis2.type == "log"
    assert figure.layout.xaxis.type is None


def test_contour_needs_trials_off_a_line() -> None:
    rng = np.random.default_rng(0)
    spread = [
        {"x": float(a), "y": float(b), "score": float(a + b)} for a, b in rng.uniform(0, 1, (20, 2))
    ]
    assert [t.type for t in figures.contour(spread, "x", "y", SCORE).data] == [
        "contour",
        "scatter",
    ]
    line = [{**t, "y": t["x"]} for t in spread]
    assert [t.type for t in figures.contour(line, "x", "y", SCORE).data] == ["scatter"]
    assert not figures.contour(TRIALS, "kind", "optim.lr", SCORE).data
    few = figures.contour(spread[:7], "x", "y", SCORE)
    assert [t.type for t in few.data] == ["scatter"]
    column = [{**t, "x": 1.0} for t in spread]
    (dots,) = figures.contour(column, "x", "y", SCORE).data
    assert list(dots.y) == [t["y"] for t in spread]


def test_categories_of_users_are_plain_text_without_quotes() -> None:
    rows = [
        {"kind": kind, "score": 0.5 + 0.1 * i} for i, kind in enumerate(["<b>", "it's", "it's"])
    ]
    figure = figures.slices(rows, ["kind"], SHARE)
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;", "it&#x27;s"]
    assert sorted(figure.data[0].y) == pytest.approx([50, 60, 70])
    texts = [note.text for note in parallel(rows, ["kind"], SHARE).layout.annotations]
    assert {"&lt;b&gt;", "it&#x27;s"} <= set(texts)


def test_front_holds_what_nothing_beats() -> None:
    beaten, front = figures.pareto(TRIALS, SCORE, COST).data
    assert (list(front.x), list(front.y)) == ([pytest.approx(0.61)], [11])
    assert len(beaten.x) == 11
    beaten, front = figures.pareto(TRIALS, SCORE, replace(COST, lower_is_better=True)).data
    assert list(front.y) == list(range(12))  # in the order of the line
    assert len(beaten.x) == 0


def test_empty_inputs_draw_empty_figures() -> None:
    drawn = [
        figures.slices([], NAMES, SCORE),
        parallel([], NAMES, SCORE),
        figures.contour([], "a", "b", SCORE),
        figures.pareto([], SCORE, COST),
        figures.importances({}),
    ]
    assert all(json.loads(f.to_json())["layout"]["height"] > 0 for f in drawn)


def line_colours(figure: go.Figure) -> list[str]:
    return [trace.line.color for trace in figure.data if trace.mode == "lines"]


def test_the_best_value_has_the_same_colour_in_both_directions() -> None:
    rows = [{"rate": float(i), "nll": float(i), "accuracy": float(i)} for i in range(3)]
    rising = parallel(rows, ["rate"], metric("accuracy"))
    falling = parallel(rows, ["rate"], metric("nll"))
    assert line_colours(falling) == line_colours(rising)
    assert line_colours(rising)[-1] == "rgb(224, 123, 0)"  # the orange end of the scale
    for figure, best in ((rising, "accuracy 200.0 %"), (falling, "NLL 0.000")):
        *_, last = [trace for trace in figure.data if trace.mode == "lines"]
        assert best in last.hovertemplate, "the best line is on top of the others"
        assert last.line.width > 2
    for name, reverse in (("accuracy", False), ("nll", True)):
        *_, colour_bar = parallel(rows, ["rate"], metric(name)).data
        assert colour_bar.marker.reversescale is reverse
        (dots,) = figures.contour(rows, "rate", name, metric(name)).data
        assert dots.marker.reversescale is reverse


def test_axes_have_the_metrics_titles_and_units() -> None:
    rows = [{"rate": float(i), "nll": 0.5 + i, "accuracy": 0.1 * i} for i in range(3)]
    accuracy, nll = metric("accuracy"), metric("nll")
    front = figures.pareto(rows, accuracy, nll)
    assert front.layout.xaxis.title.text == "accuracy (%)"
    assert front.layout.yaxis.title.text == "NLL (lower is better)"
    assert max(max(trace.x) for trace in front.data if len(trace.x)) == pytest.approx(20)
    slices = figures.slices(rows, ["rate"], nll)
    assert slices.layout.yaxis.title.text == "NLL"
    assert list(slices.data[0].y) == [0.5, 1.5, 2.5]
    lines = parallel(rows, ["rate"], accuracy)
    assert lines.layout.xaxis.ticktext[0] == "accuracy (%)"


NAMED = [
    {
        TRIAL: f"trial {i:04d}",
        "loss.margin": 0.1 * i,
        "fusion.temperature": 1.0 + (i * 7 % 10),
        "fusion.kind": "ab"[i % 2],
        "accuracy": 0.5 + 0.02 * i,
        "nll": 1.0 - 0.03 * i,
    }
    for i in range(10)
]
ACCURACY = metric("accuracy")


def test_every_point_says_its_trial_and_its_value() -> None:
    """Under the pointer: of slices, contour, parallel coordinates and the front."""
    expected = "trial 0003<br>accuracy 56.0 %"
    sliced = figures.slices(NAMED, ["fusion.kind", "loss.margin"], ACCURACY)
    for dots in sliced.data:
        at = [text.partition("<br>")[0] for text in dots.hovertext].index("trial 0003")
        assert dots.hovertext[at] == expected
        assert dots.y[at] == pytest.approx(56)
    *_, dots = figures.contour(NAMED, "loss.margin", "fusion.temperature", ACCURACY).data
    assert dots.hovertext[3] == expected
    lines = parallel(NAMED, ["loss.margin"], ACCURACY).data[:-1]
    assert lines[3].hovertemplate.startswith(f"{expected}<br>%{{customdata[0]}}")
    assert lines[3].customdata[1][0] == "loss.margin"
    for trace in figures.pareto(NAMED, ACCURACY, metric("nll")).data:
        assert all(text.startswith("trial 000") and "<br>NLL " in text for text in trace.text)


def test_stopped_trials_are_crosses_below_the_worst_score() -> None:
    stopped: list[dict[str, object]] = [
        {TRIAL: "trial 9, stopped at epoch 2", "loss.margin": 0.45, "fusion.kind": "a"},
        {TRIAL: "trial 8", "fusion.kind": "never ran to its end"},
    ]
    figure = figures.slices(NAMED, ["loss.margin", "fusion.kind"], ACCURACY, stopped)
    margins, kinds = (t for t in figure.data if t.name == "stopped early")
    assert (list(margins.x), list(kinds.x)) == ([0.45], ["'a'"])
    assert margins.y[0] < 50
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "ran to its end",
        "stopped early",
    ]
    falling = figures.slices(NAMED, ["loss.margin"], metric("nll"), stopped)
    assert falling.data[-1].y[0] > 1.0, "the worse end is the upper one"


def test_long_names_are_whole_in_lines_that_end_at_their_parts() -> None:
    assert name_in_lines("optim.lr") == "optim.lr"
    assert name_in_lines("loss.spread_of_prior_strength") == "loss.spread_of_<br>prior_strength"
    assert name_in_lines("balanced accuracy (%)") == "balanced<br>accuracy (%)"
    assert name_in_lines("<b>") == "&lt;b&gt;"
