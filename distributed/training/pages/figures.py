"""The figures of a run's page: confusion, reliability, bars by shot group, learning curves.

Legend: N rows, C classes, K kept classes, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from distributed.reporting.figure_style import (
    COLOURS,
    DASHES,
    GREY,
    empty_figure,
    row_labels,
    short_label,
    with_opacity,
)
from distributed.reporting.page import Figure
from distributed.training.pages.splits import PageSplit
from model.metrics.confidences import ConfidenceRow
from model.metrics.names import metric
from model.metrics.scoring import BINS, SHOTS

MAX_CLASSES = 120  # of a confusion matrix; of more, those with the most mistakes are shown


def confusion_figure(
    split: PageSplit, classes: Sequence[str], counts: Sequence[int]
) -> Figure | None:
    """Draws the true classes down and the decided ones across; colour is the share of the row."""
    rows_CC = split.confusion(len(classes))
    present_C = rows_CC.sum(1) > 0
    if not bool(present_C.any()):
        return None
    kept, note = _kept_classes(rows_CC)
    kept_KK = rows_CC[kept][:, kept]
    share_KK = kept_KK / rows_CC[kept].sum(1, keepdim=True).clamp_min(1)
    labels = list(_unique_labels([classes[c] for c in kept]))
    size = 22 if len(kept) <= 30 else 15
    figure = empty_figure(max(340, 150 + size * len(kept)), x="decided", y="true")
    figure.add_heatmap(
        x=labels,
        y=labels,
        z=[[round(100 * value, 1) for value in row] for row in share_KK.tolist()],
        customdata=kept_KK.tolist(),
        zmin=0,
        zmax=100,
        colorscale=[[0.0, with_opacity(COLOURS[0], 0.0)], [1.0, with_opacity(COLOURS[0], 1.0)]],
        showscale=False,
        hovertemplate="true %{y}<br>decided %{x}<br>%{customdata} rows, %{z} %<extra></extra>",
        xgap=1,
        ygap=1,
    )
    if len(kept) <= 12:
        texts = [[str(value) if value else "" for value in row] for row in kept_KK.tolist()]
        figure.data[0].update(text=texts, texttemplate="%{text}")
    orders = _orders(kept_KK, [counts[c] for c in kept], labels)
    figure.update_xaxes(**_axis(orders["by training rows"]), side="bottom", tickangle=-60)
    figure.update_yaxes(**_axis(orders["by training rows"][::-1]))
    return Figure(
        figure=figure,
        caption=(
            f"{split.title.capitalize()}: rows of a true class by the class that was decided, "
            "darker for a larger share of the true class. Draw a rectangle to zoom in, click twice "
            f"to zoom out.{note}"
        ),
        name=f"confusion-{split.name}",
        arrangements={
            name: {
                "xaxis.categoryarray": order,
                "yaxis.categoryarray": order[::-1],
                "xaxis.autorange": True,
                "yaxis.autorange": True,
            }
            for name, order in orders.items()
        },
    )


def _kept_classes(rows_CC: Tensor) -> tuple[list[int], str]:
    """Returns the classes to show, and what to say where these are not all."""
    classes = len(rows_CC)
    if classes <= MAX_CLASSES:
        return list(range(classes)), ""
    wrong_CC = rows_CC - rows_CC.diagonal().diag()
    kept = (wrong_CC.sum(0) + wrong_CC.sum(1)).argsort(descending=True)[:MAX_CLASSES]
    return kept.sort().values.tolist(), (
        f" Of {classes} classes these {MAX_CLASSES} have the most mistakes."
    )


def _unique_labels(names: Sequence[str]) -> list[str]:
    """Returns short labels; equal ones are told apart by a number."""
    labels: list[str] = []
    for name in names:
        label = short_label(name, 24) or "(blank)"
        labels.append(label if label not in labels else f"{label} {len(labels) + 1}")
    return labels


def _axis(order: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": list(order),
        "tickmode": "linear",
        "showgrid": False,
        "tickfont": {"size": 12 if len(order) <= 30 else 9},
    }


def _orders(rows_KK: Tensor, counts: Sequence[int], labels: Sequence[str]) -> dict[str, list[str]]:
    """Returns the labels in several orders, by the name of the order."""
    recall_K = rows_KK.diagonal() / rows_KK.sum(1).clamp_min(1)
    recall_K = recall_K.masked_fill(rows_KK.sum(1) == 0, 2.0)  # classes without rows come last
    by_count = sorted(range(len(labels)), key=lambda k: -counts[k])
    orders = {
        "by training rows": by_count,
        "worst recall first": recall_K.argsort(stable=True).tolist(),
        "by name": sorted(range(len(labels)), key=lambda k: labels[k].lower()),
        "confused classes together": _by_similarity(rows_KK, by_count),
    }
    return {name: [labels[k] for k in order] for name, order in orders.items()}


def _by_similarity(rows_KK: Tensor, by_count: Sequence[int]) -> list[int]:
    """Returns an order in which each class follows the one that it is most confused with."""
    both_KK = (rows_KK + rows_KK.T).double() / rows_KK.sum(1).clamp_min(1).double()[:, None]
    left = list(by_count)
    order = [left.pop(0)]
    while left:
        closest = max(left, key=lambda k: float(both_KK[order[-1], k] + both_KK[k, order[-1]]))
        left.remove(closest)
        order.append(closest)
    return order


def reliability_figure(splits: Sequence[PageSplit]) -> Figure:
    """Draws how often decisions are right against the probability that the model gives them."""
    figure = empty_figure(400, x="probability of the decided class (%)", y="right (%)")
    figure.add_scatter(
        x=[0, 100], y=[0, 100], mode="lines", name="calibrated", line={"color": GREY, "dash": "dot"}
    )
    for i, split in enumerate(splits):
        bins = reliability_bins(split)
        ece = metric("ece").text(split.metrics.get("ece"))
        figure.add_scatter(
            x=[100 * score for _, score, _ in bins],
            y=[100 * right for _, _, right in bins],
            customdata=[rows for rows, _, _ in bins],
            mode="lines+markers",
            name=f"{split.title} (ECE {ece})",
            line={"color": COLOURS[i], "dash": DASHES[i]},
            marker={"size": _marker_sizes([rows for rows, _, _ in bins])},
            hovertemplate="%{customdata} rows: said %{x:.1f} %, right in %{y:.1f} %<extra></extra>",
        )
    figure.update_xaxes(range=[0, 102])
    figure.update_yaxes(range=[0, 102])
    return Figure(
        figure=figure,
        caption=(
            f"Reliability in {BINS} bins of the probability: larger marks are more rows. Below the "
            "dotted line the model is too sure of itself."
        ),
        name="reliability",
    )


def _marker_sizes(rows: Sequence[int]) -> list[float]:
    largest = max(rows, default=1)
    return [round(5 + 13 * (count / largest) ** 0.5, 1) for count in rows]


def reliability_bins(split: PageSplit) -> list[tuple[int, float, float]]:
    """Returns rows, mean probability and share of right decisions of every bin that has rows."""
    labelled_N = split.labelled_N
    decided_N = split.decisions_N[labelled_N]
    scores_N = split.probabilities_NC[labelled_N].gather(1, decided_N[:, None])[:, 0].double()
    right_N = (decided_N == split.scores.labels_N[labelled_N]).double()
    bin_N = (scores_N * BINS).long().clamp(0, BINS - 1)
    rows_B = torch.bincount(bin_N, minlength=BINS)
    score_B = torch.bincount(bin_N, scores_N, minlength=BINS) / rows_B.clamp_min(1)
    right_B = torch.bincount(bin_N, right_N, minlength=BINS) / rows_B.clamp_min(1)
    return [
        (int(rows_B[b]), float(score_B[b]), float(right_B[b])) for b in range(BINS) if rows_B[b]
    ]


def shots_figure(splits: Sequence[PageSplit]) -> Figure:
    """Draws the accuracy of the many, medium and few-shot classes with intervals."""
    figure = empty_figure(
        340, x="training rows", y="mean recall of the classes (%)", barmode="group"
    )
    for i, split in enumerate(splits):
        names = [f"{shot}_shot_accuracy" for shot in SHOTS]
        shown = [name for name in names if name in split.metrics]
        values = [100 * split.metrics[name] for name in shown]
        ends = [split.intervals.get(name, (split.metrics[name],) * 2) for name in shown]
        figure.add_bar(
            x=[metric(name).title.partition("-")[0] for name in shown],
            y=values,
            name=split.title,
            marker={"color": COLOURS[i]},
            error_y={
                "type": "data",
                "array": [100 * high - value for (_, high), value in zip(ends, values)],
                "arrayminus": [value - 100 * low for (low, _), value in zip(ends, values)],
                "thickness": 1.6,
                "color": GREY,
            },
        )
    figure.update_yaxes(range=[0, 105])
    return Figure(
        figure=figure,
        caption="Classes with many, some and few training rows, with 95 % intervals.",
        name="shots",
    )


def fusion_figure(
    rows: Sequence[ConfidenceRow], fact: str, title: str, caption: str
) -> Figure | None:
    """Draws one fact of the confidence report as bars: a group a modality, a bar a shot group."""
    shown = [row for row in rows if row["group"] != "all" and row[fact] is not None]
    if not shown:
        return None
    modalities = list(dict.fromkeys(str(row["modality"]) for row in shown))
    labels = row_labels(modalities)
    figure = empty_figure(320, y=title, barmode="group")
    for i, shot in enumerate(SHOTS):
        values = {str(row["modality"]): row[fact] for row in shown if row["group"] == shot}
        figure.add_bar(
            x=[labels[name] for name in modalities if name in values],
            y=[values[name] for name in modalities if name in values],
            name=f"{shot}-shot classes",
            marker={"color": COLOURS[i]},
        )
    figure.update_yaxes(range=[0, 1.02])
    return Figure(figure=figure, caption=caption, name=f"fusion-{fact}")


CURVES = ("val/balanced_accuracy", "val/macro_f1", "val/few_shot_accuracy")


def curve_figures(history: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Draws scores on validation and the terms of the loss over the epochs."""
    if not history:
        return []
    best = history[-1].get("best_epoch")
    scores = empty_figure(360, x="epoch", y="validation (%)")
    for i, name in enumerate(CURVES):
        points = [(entry["epoch"], 100 * entry[name]) for entry in history if name in entry]
        if points:
            _add_line(scores, points, metric(name.partition("/")[2]).title, i)
    losses = empty_figure(320, x="epoch", y="training loss")
    terms = [name for name in history[0] if name == "loss" or name.startswith("loss/")]
    for i, name in enumerate(terms):
        points = [(entry["epoch"], entry[name]) for entry in history if name in entry]
        if any(value for _, value in points):
            _add_line(losses, points, name.partition("/")[2] or "sum", i)
    if best is not None:
        scores.add_vline(x=best, line={"color": GREY, "dash": "dash", "width": 1})
    return [
        Figure(
            figure=scores,
            caption="Scores on validation; the dashed line marks the epoch that was kept.",
            name="curves",
        ),
        Figure(figure=losses, caption="Terms of the training loss.", name="losses"),
    ]


def _add_line(figure: go.Figure, points: Sequence[tuple[float, float]], name: str, i: int) -> None:
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[round(y, 4) for _, y in points],
        name=short_label(name),
        mode="lines" if len(points) > 1 else "markers",
        line={"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)]},
    )
