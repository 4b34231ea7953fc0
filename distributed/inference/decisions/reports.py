"""What prediction sets and costs did on labelled rows.

Legend: N labelled rows, R bootstrap replicates, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distributed.inference.decisions.decided_split import DecidedSplit
from distributed.inference.decisions.rule import DecisionRule
from distributed.inference.decisions.sets import SetThresholds
from model.metrics.metrics import bootstrap_weights
from model.metrics.scoring import SHOTS, shot_groups


@dataclass(frozen=True, kw_only=True)
class SetGroup:
    """How often the prediction sets of some rows hold the true class.

    low, high: the 95 % interval (Wilson) of the share of rows that are covered.
    """

    name: str
    rows: int
    covered: int
    mean_size: float
    low: float
    high: float

    @property
    def coverage(self) -> float:
        """Share of the rows whose set holds their class."""
        return self.covered / self.rows


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """The prediction sets of an evaluation.

    groups: all rows, and those of many-, medium- and few-shot classes, where there are any.
    classes: of each class with rows. one_class: share of the rows whose set is a single class.
    """

    thresholds: SetThresholds
    groups: Sequence[SetGroup]
    classes: Sequence[SetGroup]
    one_class: float

    def flat(self) -> dict[str, float]:
        """Returns the numbers by name: coverage/all, mean_set_size/few, coverage_of/CLASS."""
        entries = {"coverage/wanted": self.thresholds.coverage, "one_class_sets": self.one_class}
        for group in self.groups:
            entries |= {
                f"coverage/{group.name}": group.coverage,
                f"coverage/{group.name}/low": group.low,
                f"coverage/{group.name}/high": group.high,
                f"mean_set_size/{group.name}": group.mean_size,
            }
        for of_class in self.classes:
            entries[f"coverage_of/{of_class.name}"] = of_class.coverage
            entries[f"mean_set_size_of/{of_class.name}"] = of_class.mean_size
        return entries


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """What decisions by costs cost, beside those for the most probable class.

    saved: by how much a decision costs less, with its 95 % interval. changed: share of the rows
    that are decided otherwise.
    """

    mean_cost: float
    of_most_probable: float
    saved: float
    saved_interval: tuple[float, float] | None
    changed: float

    def flat(self) -> dict[str, float]:
        """Returns the numbers by name."""
        entries = {
            "mean_cost": self.mean_cost,
            "most_probable/mean_cost": self.of_most_probable,
            "cost_saved": self.saved,
            "changed_by_cost": self.changed,
        }
        if self.saved_interval:
            low, high = self.saved_interval
            entries |= {"cost_saved/low": low, "cost_saved/high": high}
        return entries


def report_sets(rows: DecidedSplit, thresholds: SetThresholds) -> SetReport:
    """Returns how the sets of labelled rows compare with the labels."""
    assert rows.decided.in_set_NC is not None
    labelled_N = rows.labels_N >= 0
    in_set_NC, labels_N = rows.decided.in_set_NC[labelled_N], rows.labels_N[labelled_N]
    is_hit_N, size_N = in_set_NC.gather(1, labels_N[:, None])[:, 0], in_set_NC.sum(1)
    group_N = shot_groups(rows.counts_C)[labels_N]

    def group(name: str, is_in_N: Tensor) -> list[SetGroup]:
        total, covered = int(is_in_N.sum()), int((is_hit_N & is_in_N).sum())
        if not total:
            return []
        low, high = wilson_interval(covered, total)
        size = float(size_N[is_in_N].double().mean())
        return [
            SetGroup(name=name, rows=total, covered=covered, mean_size=size, low=low, high=high)
        ]

    groups = group("all", torch.ones_like(is_hit_N))
    for number, shot in enumerate(SHOTS):
        groups += group(shot, group_N == number)
    classes = []
    for c, name in enumerate(thresholds.classes):
        classes += group(name, labels_N == c)
    return SetReport(
        thresholds=thresholds,
        groups=groups,
        classes=classes,
        one_class=float((size_N == 1).double().mean()),
    )


def wilson_interval(hits: int, rows: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share by Wilson's score."""
    z = 1.959964
    share = hits / rows
    middle = share + z**2 / (2 * rows)
    spread = z * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    scale = 1 + z**2 / rows
    return (middle - spread) / scale, (middle + spread) / scale


def report_costs(
    rows: DecidedSplit, rule: DecisionRule, replicates: int, seed: int
) -> CostReport | None:
    """Returns what the decisions cost on labelled rows; None where they know no costs."""
    cost_CC = rule.cost_CC
    if cost_CC is None:
        return None
    labelled_N = rows.labels_N >= 0
    labels_N = rows.labels_N[labelled_N]
    decided_N = rows.decided.decided_N[labelled_N]
    top_N = rows.probabilities_NC[labelled_N].argmax(1)
    cost_N, top_cost_N = cost_CC[labels_N, decided_N], cost_CC[labels_N, top_N]
    saved_N = top_cost_N - cost_N
    interval = None
    if replicates:
        weights_RN = torch.cat([*bootstrap_weights(labels_N, replicates, seed)]).double()
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = torch.quantile(weights_RN @ saved_N / len(saved_N), ends).tolist()
        interval = (low, high)
    return CostReport(
        mean_cost=float(cost_N.mean()),
        of_most_probable=float(top_cost_N.mean()),
        saved=float(saved_N.mean()),
        saved_interval=interval,
        changed=float((decided_N != top_N).double().mean()),
    )
