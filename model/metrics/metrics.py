"""Scores predictions: metrics by name, bootstrap intervals, and why a metric is undefined.

The metrics themselves are defined in scoring.py.

Legend: N rows, C classes, R bootstrap replicates, K classes with rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from model.metrics.scoring import (
    FORMULAS,
    OF_DECISIONS,
    SHOTS,
    ScoredRows,
    replicates_per_chunk,
    score_rows,
    shot_groups,
)
from model.schema import join_names

OVER_PRESENT_CLASSES = (
    "balanced_accuracy",
    "macro_f1",
    "g_mean",
    "macro_auroc",
    "macro_auprc",
    "worst_recall",
    "balanced_nll",
)


def compute_metrics(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    classes: Sequence[str],
    predictions_N: Tensor | None = None,
    names: Sequence[str] = (),
) -> dict[str, float]:
    """Returns every metric that is defined, by its name.

    Means over classes are over those that have rows. counts_C: training rows of each class.
    predictions_N: decisions, the most probable class unless given. names: only these of FORMULAS.
    """
    scored = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    values = {name: float(FORMULAS[name](scored)) for name in names or FORMULAS}
    for c, name in enumerate(() if names else classes):
        values[f"recall/{name}"] = float(scored.recall_RC[0, c])
        values[f"precision/{name}"] = float(scored.precision_RC[0, c])
    return {name: value for name, value in values.items() if not math.isnan(value)}


def metrics_of_counts(
    counts: Mapping[tuple[int, int], int], counts_C: Tensor, classes: Sequence[str]
) -> dict[str, float]:
    """Returns the metrics that follow from decisions alone, by name, as `compute_metrics` does.

    counts: rows by true class and decided class. counts_C: training rows of each class.
    """
    pairs_K2 = torch.tensor(list(counts), dtype=torch.long).reshape(-1, 2)
    scored = ScoredRows(
        torch.zeros(len(pairs_K2), len(classes)),
        pairs_K2[:, 0],
        pairs_K2[:, 1],
        torch.tensor([list(counts.values())], dtype=torch.long),
        shot_groups(counts_C),
    )
    values = {name: float(FORMULAS[name](scored)) for name in OF_DECISIONS}
    for c, name in enumerate(classes):
        values[f"recall/{name}"] = float(scored.recall_RC[0, c])
        values[f"precision/{name}"] = float(scored.precision_RC[0, c])
    return {name: value for name, value in values.items() if not math.isnan(value)}


def explain_metrics(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    classes: Sequence[str],
    predictions_N: Tensor | None = None,
) -> dict[str, str]:
    """Returns why a metric is missing, or over which classes it is taken, by its name.

    The arguments are those of `compute_metrics`. It is empty where nothing needs an explanation.
    """
    scored = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    rows, labelled = len(labels_N), len(scored.labels_N)
    notes: dict[str, str] = {}
    if labelled < rows:
        notes["rows"] = f"{rows - labelled} of {rows} rows have no label and are not scored"
    if not labelled:
        return {**notes, **dict.fromkeys(FORMULAS, "undefined: no labelled row")}
    table_CC = scored.confusion_RCC[0]
    present_C, predicted_C = table_CC.sum(1) > 0, table_CC.sum(0) > 0
    absent = [name for c, name in enumerate(classes) if not present_C[c]]
    if absent:
        for metric in OVER_PRESENT_CLASSES:
            notes[metric] = f"without the classes that have no rows: {join_names(absent)}"
        notes["macro_f1"] += "; one of them that is predicted counts as 0"
    for group, shot in enumerate(SHOTS):
        if not bool((present_C & (scored.groups_C == group)).any()):
            notes[f"{shot}_shot_accuracy"] = "undefined: no class of the group has rows"
    if int(present_C.sum()) == 1:
        only = classes[int(present_C.long().argmax())]
        notes["macro_auroc"] = notes["mcc"] = f"undefined: every row is of the class {only}"
    elif int(predicted_C.sum()) == 1:
        only = classes[int(predicted_C.long().argmax())]
        notes["mcc"] = f"0 by convention: every prediction is {only}"
    for c, name in enumerate(classes):
        if not present_C[c]:
            notes[f"recall/{name}"] = "undefined: the class has no rows"
        if not predicted_C[c]:
            notes[f"precision/{name}"] = "undefined: the class is never predicted"
    return notes


def bootstrap_weights(
    labels_N: Tensor, replicates: int, seed: int = 0, chunk: int = 0
) -> Iterator[Tensor]:
    """Yields how often each row is drawn in each replicate, [R, N], `chunk` replicates at a time.

    The bootstrap is stratified: every class keeps its number of rows. chunk: 0 is all at once.
    """
    order_N = torch.argsort(labels_N, stable=True)
    _, size_K = torch.unique(labels_N, return_counts=True)
    start_N = (size_K.cumsum(0) - size_K).repeat_interleave(size_K)
    size_N = size_K.repeat_interleave(size_K)
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, replicates, chunk or replicates):
        shape = min(chunk or replicates, replicates - first), len(labels_N)
        draws_RN = torch.rand(shape, generator=generator, dtype=torch.float64).to(labels_N.device)
        picked_RN = order_N[start_N + (draws_RN * size_N).long()]
        counts_RN = torch.zeros(shape, dtype=torch.long, device=labels_N.device)
        yield counts_RN.scatter_add_(1, picked_RN, torch.ones_like(picked_RN))


def _values(scored: ScoredRows, name: str, classes: Sequence[str]) -> Tensor:
    """Returns the values of a metric in every weighting of the rows, [R]."""
    kind, _, label = name.partition("/")
    if name in FORMULAS:
        return FORMULAS[name](scored)
    if kind in ("recall", "precision") and label in classes:
        values_RC = scored.recall_RC if kind == "recall" else scored.precision_RC
        return values_RC[:, list(classes).index(label)]
    raise ValueError(
        f"a metric must be one of {', '.join(FORMULAS)}, recall/CLASS or precision/CLASS;"
        f" got {name!r}"
    )


def metric_values(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    names: Iterable[str],
    *,
    classes: Sequence[str] = (),
    predictions_N: Tensor | None = None,
) -> dict[str, float]:
    """Returns the named metrics, recall/CLASS and precision/CLASS too; NaN where undefined."""
    scored = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    return {name: float(_values(scored, name, classes)) for name in names}


def bootstrap_values(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    names: Iterable[str],
    replicates: int,
    seed: int = 0,
    *,
    classes: Sequence[str] = (),
    predictions_N: Tensor | None = None,
) -> dict[str, Tensor]:
    """Returns the named metrics in every replicate of a bootstrap stratified by class, [R].

    The same labels and seed draw the same rows, so that two predictors can be compared in pairs.
    Without replicates or rows, the tensors are empty.
    """
    names = list(names)
    whole = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    parts: dict[str, list[Tensor]] = {name: [torch.empty(0).double()] for name in names}
    chunk = replicates_per_chunk(len(whole.labels_N), probabilities_NC.shape[1])
    rounds: Iterable[Tensor] = ()
    if replicates and len(whole.labels_N):
        rounds = bootstrap_weights(whole.labels_N, replicates, seed, chunk)
    for part_RN in rounds:
        # A new object each time, so that the large matrices it caches are freed.
        scored = dataclasses.replace(whole, weights_RN=part_RN)
        for name in names:
            parts[name].append(_values(scored, name, classes).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def percentile_interval(values_R: Tensor, level: float = 0.95) -> tuple[float, float] | None:
    """Returns the interval that holds this share of the values; None where none is defined."""
    values_R = values_R[~values_R.isnan()]
    if not len(values_R):
        return None
    edges = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=values_R.dtype)
    low, high = torch.quantile(values_R, edges).tolist()
    return low, high


def bootstrap_intervals(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    names: Iterable[str],
    replicates: int = 200,
    seed: int = 0,
    *,
    classes: Sequence[str] = (),
    predictions_N: Tensor | None = None,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Returns percentile intervals of the named metrics from a bootstrap stratified by class.

    level: share of the replicates within an interval. A metric that is undefined is left out.
    """
    by_name = bootstrap_values(
        probabilities_NC,
        labels_N,
        counts_C,
        names,
        replicates,
        seed,
        classes=classes,
        predictions_N=predictions_N,
    )
    intervals = {name: percentile_interval(values_R, level) for name, values_R in by_name.items()}
    return {name: interval for name, interval in intervals.items() if interval}
