"""How near the predicted confidences of the modalities come to the truth.

Legend: N rows, B batch, M modalities, K classes with rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.metrics.names import CONFIDENCE_FACTS
from model.metrics.scoring import SHOTS, midranks, shot_groups

# modality, group, rows, note and CONFIDENCE_FACTS of one row of the confidence report.
ConfidenceRow = dict[str, str | int | float | None]


def _correlation(a_N: Tensor, b_N: Tensor) -> float | None:
    """Returns Spearman's rank correlation; None where one side does not vary."""
    a_N, b_N = (midranks(v) - (len(v) + 1) / 2 for v in (a_N, b_N))
    scale = float((a_N.square().sum() * b_N.square().sum()).sqrt())
    return float((a_N * b_N).sum()) / scale if scale > 0 else None


def _class_mean(values_N: Tensor, labels_N: Tensor) -> float:
    """Returns the mean over classes of the class means, in which all classes count alike."""
    _, class_N, size_K = torch.unique(labels_N, return_inverse=True, return_counts=True)
    return float((values_N.double() / size_K[class_N]).sum() / len(size_K))


def _lead(true_BM: Tensor, present_BM: Tensor) -> Tensor:
    """Returns how much better each modality knows the class than the record's others, [B, M].

    That is the difference of true-class probabilities; NaN where the record has no other.
    """
    true_BM = torch.where(present_BM, true_BM, 0.0)
    others_B1 = present_BM.sum(1, keepdim=True) - 1
    mean_BM = (true_BM.sum(1, keepdim=True) - true_BM) / others_B1
    return torch.where(others_B1 > 0, true_BM - mean_BM, torch.nan)


def confidence_report(
    confidence_BM: Tensor,
    true_BM: Tensor,
    present_BM: Tensor,
    labels_B: Tensor,
    counts_C: Tensor,
    modalities: Sequence[str],
    weights_BM: Tensor | None = None,
    used_BM: Tensor | None = None,
) -> list[ConfidenceRow]:
    """Returns how good the confidences are: a row for each modality and group of classes.

    A row is over the records that have the modality. `predicted` and `true` are class-balanced
    means of the confidence and of the true-class probability, `rank_correlation` is Spearman's over
    the records, `used` and `weight` are class-balanced means of the confidence that the fusion uses
    and of the fusion weight. `weight_spread` is the weight's standard deviation over the records,
    and `weight_correlation` Spearman's of the weight with how much higher the true-class
    probability of the modality is than the mean of the record's others. None stands where there is
    nothing to measure; `note` then states why.
    """
    group_B = shot_groups(counts_C.to(labels_B.device))[labels_B.clamp(min=0)]
    lead_BM = _lead(true_BM, present_BM)
    rows: list[ConfidenceRow] = []
    for m, modality in enumerate(modalities):
        for group, shot in enumerate(("all", *SHOTS), start=-1):
            in_group_B = (group_B == group) | (group < 0)
            counted_B = present_BM[:, m] & (labels_B >= 0) & in_group_B
            row: ConfidenceRow = {
                "modality": modality,
                "group": shot,
                "rows": int(counted_B.sum()),
                **dict.fromkeys(CONFIDENCE_FACTS),
                "note": "no record",
            }
            if counted_B.any():
                predicted_N, true_N = confidence_BM[counted_B, m], true_BM[counted_B, m]
                labels_N = labels_B[counted_B]
                row["predicted"] = _class_mean(predicted_N, labels_N)
                row["true"] = _class_mean(true_N, labels_N)
                row["rank_correlation"] = _correlation(predicted_N, true_N)
                if used_BM is not None:
                    row["used"] = _class_mean(used_BM[counted_B, m], labels_N)
                if weights_BM is not None:
                    weights_N, lead_N = weights_BM[counted_B, m], lead_BM[counted_B, m]
                    row["weight"] = _class_mean(weights_N, labels_N)
                    row["weight_spread"] = float(weights_N.std(correction=0))
                    compared_N = lead_N.isfinite()
                    row["weight_correlation"] = _correlation(
                        weights_N[compared_N], lead_N[compared_N]
                    )
                varies = row["rank_correlation"] is not None
                row["note"] = "" if varies else "no rank correlation: constant values"
            rows.append(row)
    return rows
