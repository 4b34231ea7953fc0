"""Every metric and what is written about it: title, unit, digits and direction, declared once for all tables, figures and reports.

Names are flat: balanced_accuracy, recall/CLASS, weight/MODALITY. No torch here: option parsing and report writing read this file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is written: a share as 63.2 %, a plain number as 0.942, a duration as 12 s."""

    name: str
    title: str  # as it stands inside a sentence or at the head of a column
    unit: str = (
        ""  # "%": the value is a share and is shown times 100; "s": seconds; "": a plain number
    )
    lower_is_better: bool = False

    @property
    def scale(self) -> float:
        """What a value is multiplied by before it is shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def digits(self) -> int:
        """Digits after the decimal point."""
        return {"%": 1, "s": 0, "": 3}[self.unit]

    @property
    def difference_unit(self) -> str:
        """The unit of a difference of two values: points for shares."""
        return "points" if self.unit == "%" else self.unit

    @property
    def direction(self) -> str:
        """`min` or `max`: which of two values is the better one."""
        return "min" if self.lower_is_better else "max"

    @property
    def heading(self) -> str:
        """The title with the unit of the values below it: balanced accuracy %."""
        return f"{self.title} {self.unit}".rstrip()

    def value(self, value: float | None, missing: str = "-") -> str:
        """The value in the metric's digits, without its unit."""
        return (
            missing
            if value is None or not math.isfinite(value)
            else f"{self.scale * value:.{self.digits}f}"
        )

    def text(self, value: float | None, missing: str = "-") -> str:
        """The value with its unit."""
        return (
            self.value(value, missing)
            if value is None or not math.isfinite(value)
            else f"{self.value(value)} {self.unit}".rstrip()
        )


def _share(name: str, title: str, lower_is_better: bool = False) -> Metric:
    return Metric(name=name, title=title, unit="%", lower_is_better=lower_is_better)


_DECLARED = (
    _share("balanced_accuracy", "balanced accuracy"),
    _share("macro_f1", "macro-F1"),
    _share("g_mean", "G-mean"),
    Metric(name="mcc", title="MCC"),
    Metric(name="macro_auroc", title="macro AUROC"),
    _share("accuracy", "accuracy"),
    _share("worst_recall", "worst class recall"),
    Metric(name="macro_auprc", title="macro AUPRC"),
    _share("many_shot_accuracy", "many-shot accuracy"),
    _share("medium_shot_accuracy", "medium-shot accuracy"),
    _share("few_shot_accuracy", "few-shot accuracy"),
    Metric(name="nll", title="NLL", lower_is_better=True),
    Metric(name="brier", title="Brier score", lower_is_better=True),
    _share("ece", "ECE", lower_is_better=True),
    _share("classwise_ece", "class-wise ECE", lower_is_better=True),
)
METRICS: dict[str, Metric] = {
    metric.name: metric for metric in _DECLARED
}  # of predictions: a search or a run can go by any of these
_OTHERS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="train_seconds", title="training time", unit="s", lower_is_better=True),
        _share("rarest_accuracy", "accuracy of the rarest third"),
    )
}
# Families of metrics, NAME/PLACE, and what their titles are made of.
_FAMILIES: dict[str, tuple[str, str]] = {
    "recall": ("recall of {}", "%"),
    "precision": ("precision of {}", "%"),
    "weight": ("fusion weight of {}", ""),
    "confidence": ("confidence in {}", ""),
    "unfamiliar": ("share of {} unlike training", ""),
    "expert_weight": ("weight of expert {}", ""),
}
PER_CLASS = ("recall", "precision")  # families of which a run or a search can go by a member
CONFIDENCE_FACTS = (
    "predicted",
    "used",
    "true",
    "rank_correlation",
    "weight",
)  # of a modality in a group of classes


def metric(name: str) -> Metric:
    """The metric of this name; one that is not declared is a plain number titled by its name."""
    if name in METRICS or name in _OTHERS:
        return METRICS.get(name) or _OTHERS[name]
    family, _, place = name.partition("/")
    if family in _FAMILIES and place and "/" not in place:
        title, unit = _FAMILIES[family]
        return Metric(name=name, title=title.format(place), unit=unit)
    return Metric(name=name, title=name.replace("_", " "))


def check_name(setting: str, name: str, *more: str) -> None:
    """Refuses a metric that does not exist. more: names that are valid besides the declared ones."""
    if name not in (*METRICS, *more) and name.partition("/")[0] not in PER_CLASS:
        valid = ", ".join((*METRICS, *more))
        raise ValueError(
            f"{setting} must be one of {valid}, recall/CLASS, precision/CLASS; got {name!r}"
        )
