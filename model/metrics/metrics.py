"""Scores predictions: every metric of a run by its flat name, bootstrap intervals, and the reason why a metric is undefined.

Legend: N rows, C classes, R bootstrap replicates, B batch, M modalities. The metrics themselves are defined in model/scoring.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from model.metrics.scoring import (
    FORMULAS,
    SHOTS,
    ScoredRows,
    midranks,
    replicates_per_chunk,
    score_rows,
    shot_groups,
)
from model.schema import join_names


def compute_metrics(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    classes: Sequence[str],
    predictions_N: Tensor | None = None,
) -> dict[str, float]:
    """Every metric that is defined, by its flat name; means are over the classes that have rows. counts_C: training rows a class."""
    scored = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    found = {name: float(metric(scored)) for name, metric in FORMULAS.items()}
    for c, name in enumerate(classes):
        found[f"recall/{name}"] = float(scored.recall_RC[0, c])
        found[f"precision/{name}"] = float(scored.precision_RC[0, c])
    return {name: value for name, value in found.items() if value == value}


def explain_metrics(
    probabilities_NC: Tensor,
    labels_N: Tensor,
    counts_C: Tensor,
    classes: Sequence[str],
    predictions_N: Tensor | None = None,
) -> dict[str, str]:
    """Why a metric is missing, or over which classes it was taken; empty where nothing needs saying."""
    scored = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    found: dict[str, str] = {}
    if len(scored.labels_N) < len(labels_N):
        found["rows"] = (
            f"{len(labels_N) - len(scored.labels_N)} of {len(labels_N)} rows have no label and are not scored"
        )
    if not len(scored.labels_N):
        return {**found, **dict.fromkeys(FORMULAS, "undefined: no labelled row")}
    table_CC = scored.confusion_RCC[0]
    present_C, told_C = table_CC.sum(1) > 0, table_CC.sum(0) > 0
    absent = [name for name, there in zip(classes, present_C.tolist()) if not there]
    if absent:
        for metric in (
            "balanced_accuracy",
            "macro_f1",
            "g_mean",
            "macro_auroc",
            "macro_auprc",
            "worst_recall",
        ):
            found[metric] = f"without the classes that have no rows: {join_names(absent)}"
        found["macro_f1"] += "; one of them that is predicted counts as 0"
    for group, shot in enumerate(SHOTS):
        if not bool((present_C & (scored.groups_C == group)).any()):
            found[f"{shot}_shot_accuracy"] = "undefined: no class of the group has rows"
    if int(present_C.sum()) == 1:
        found["macro_auroc"] = found["mcc"] = (
            f"undefined: every row is of the class {classes[int(present_C.long().argmax())]}"
        )
    elif int(told_C.sum()) == 1:
        found["mcc"] = (
            f"0 by convention: every prediction is {classes[int(told_C.long().argmax())]}"
        )
    for c, name in enumerate(classes):
        if not present_C[c]:
            found[f"recall/{name}"] = "undefined: the class has no rows"
        if not told_C[c]:
            found[f"precision/{name}"] = "undefined: the class is never predicted"
    return found


def bootstrap_weights(
    labels_N: Tensor, replicates: int, seed: int = 0, most: int = 0
) -> Iterator[Tensor]:
    """How often each row is drawn in each replicate [R, N], `most` replicates at a time; every class keeps its number of rows (stratified
    bootstrap)."""
    order_N = torch.argsort(labels_N, stable=True)
    _, size_K = torch.unique(labels_N, return_counts=True)
    start_N, size_N = (
        (size_K.cumsum(0) - size_K).repeat_interleave(size_K),
        size_K.repeat_interleave(size_K),
    )
    generator = torch.Generator().manual_seed(seed)
    for first in range(0, replicates, most or replicates):
        shape = min(most or replicates, replicates - first), len(labels_N)
        draws_RN = torch.rand(shape, generator=generator, dtype=torch.float64).to(labels_N.device)
        picked_RN = order_N[start_N + (draws_RN * size_N).long()]
        yield torch.zeros(shape, dtype=torch.long, device=labels_N.device).scatter_add_(
            1, picked_RN, torch.ones_like(picked_RN)
        )


def _values(scored: ScoredRows, name: str, classes: Sequence[str]) -> Tensor:
    kind, _, label = name.partition("/")
    if name in FORMULAS:
        return FORMULAS[name](scored)
    if kind in ("recall", "precision") and label in classes:
        return (scored.recall_RC if kind == "recall" else scored.precision_RC)[
            :, list(classes).index(label)
        ]
    raise ValueError(
        f"a metric must be one of {', '.join(FORMULAS)}, recall/CLASS or precision/CLASS; got {name!r}"
    )


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
    """Percentile intervals of the named metrics from a bootstrap stratified by class; an undefined metric is left out."""
    names = list(names)
    whole = score_rows(probabilities_NC, labels_N, counts_C, predictions_N)
    if not replicates or not len(whole.labels_N):
        return {}
    most = replicates_per_chunk(len(whole.labels_N), probabilities_NC.shape[1])
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for part_RN in bootstrap_weights(whole.labels_N, replicates, seed, most):
        chunk = dataclasses.replace(whole, weights_RN=part_RN)  # its matrices go with it
        for name in names:
            parts[name].append(_values(chunk, name, classes))
    found = {}
    for name in names:
        values_R = torch.cat(parts[name])
        values_R = values_R[~values_R.isnan()]
        if len(values_R):
            edges = torch.tensor(
                [(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device=values_R.device
            )
            low, high = torch.quantile(values_R, edges).tolist()
            found[name] = (low, high)
    return found


def _correlation(a_N: Tensor, b_N: Tensor) -> float | None:
    """Spearman's rank correlation; None where one side does not vary."""
    a_N, b_N = (midranks(v) - (len(v) + 1) / 2 for v in (a_N, b_N))
    scale = float((a_N.square().sum() * b_N.square().sum()).sqrt())
    return float((a_N * b_N).sum()) / scale if scale > 0 else None


def _class_mean(values_N: Tensor, labels_N: Tensor) -> float:
    """Mean over classes of the class means, so that no group is told by its largest class."""
    _, place_N, size_K = torch.unique(labels_N, return_inverse=True, return_counts=True)
    return float((values_N.double() / size_K[place_N]).sum() / len(size_K))


def confidence_report(
    confidence_BM: Tensor,
    true_BM: Tensor,
    present_BM: Tensor,
    labels_B: Tensor,
    counts_C: Tensor,
    modalities: Sequence[str],
    weights_BM: Tensor | None = None,
    used_BM: Tensor | None = None,
) -> list[dict[str, str | int | float | None]]:
    """How good the confidences are: one row for all classes and one a shot group, for each modality, over the records that have it.

    `predicted` and `true` are class-balanced means of the confidence and of the true-class probability, `rank_correlation` is Spearman's
    over the records, `used` and `weight` the class-balanced means of the confidence as the fusion takes it and of the fusion weight. None
    where there is nothing to measure; `note` then says why.
    """
    group_B = shot_groups(counts_C.to(labels_B.device))[labels_B.clamp(min=0)]
    rows: list[dict[str, str | int | float | None]] = []
    for m, modality in enumerate(modalities):
        for group, shot in enumerate(("all", *SHOTS), start=-1):
            here_B = present_BM[:, m] & (labels_B >= 0) & ((group_B == group) | (group < 0))
            count = int(here_B.sum())
            row: dict[str, str | int | float | None] = {
                "modality": modality,
                "group": shot,
                "rows": count,
            }
            row |= dict.fromkeys(("predicted", "used", "true", "rank_correlation", "weight"))
            if count:
                told_N, true_N, labels_N = (
                    confidence_BM[here_B, m],
                    true_BM[here_B, m],
                    labels_B[here_B],
                )
                row |= {
                    "predicted": _class_mean(told_N, labels_N),
                    "true": _class_mean(true_N, labels_N),
                }
                row["rank_correlation"] = _correlation(told_N, true_N)
                row["used"] = None if used_BM is None else _class_mean(used_BM[here_B, m], labels_N)
                row["weight"] = (
                    None if weights_BM is None else _class_mean(weights_BM[here_B, m], labels_N)
                )
            row["note"] = (
                "no record"
                if not count
                else ""
                if row["rank_correlation"] is not None
                else "no rank correlation: constant values"
            )
            rows.append(row)
    return rows
