"""Every metric and how it is written: title, unit, digits and direction.

This is their only declaration, for all tables, figures and reports. Names are flat:
balanced_accuracy, recall/CLASS, weight/MODALITY. The file imports no torch, because option parsing
and report writing use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is written: a share as 63.2 %, a plain number as 0.942, a duration as 12 s.

    is_descriptive: it describes a model, such as a fusion weight: neither more nor less is better.
    smooth_form: a metric of the probabilities that goes with one of decisions, which jumps with
        every row of a rare class; empty: it is smooth itself, or nothing goes with it.
    """

    name: str
    title: str  # for the inside of a sentence and the head of a column
    unit: str = ""  # "%": a share, which is shown times 100; "s": seconds; "": a plain number
    lower_is_better: bool = False
    is_descriptive: bool = False
    smooth_form: str = ""

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

    @property
    def axis_title(self) -> str:
        """The title of a figure's axis: balanced accuracy (%)."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def value(self, value: float | None, missing: str = "-") -> str:
        """Returns the value in the metric's digits, without its unit."""
        if value is None or not math.isfinite(value):
            return missing
        return f"{self.scale * value:.{self.digits}f}"

    def text(self, value: float | None, missing: str = "-") -> str:
        """Returns the value with its unit."""
        if value is None or not math.isfinite(value):
            return missing
        return f"{self.value(value)} {self.unit}".rstrip()


def _share(name: str, title: str, lower_is_better: bool = False, smooth_form: str = "") -> Metric:
    """Returns a metric that is written as a percentage."""
    return Metric(
        name=name,
        title=title,
        unit="%",
        lower_is_better=lower_is_better,
        smooth_form=smooth_form,
    )


BALANCED_NLL = "balanced_nll"
_DECLARED = (
    _share("balanced_accuracy", "balanced accuracy", smooth_form=BALANCED_NLL),
    _share("macro_f1", "macro-F1", smooth_form=BALANCED_NLL),
    _share("g_mean", "G-mean", smooth_form=BALANCED_NLL),
    Metric(name="mcc", title="MCC", smooth_form=BALANCED_NLL),
    Metric(name="macro_auroc", title="macro AUROC"),
    _share("accuracy", "accuracy", smooth_form="nll"),
    _share("worst_recall", "worst class recall", smooth_form=BALANCED_NLL),
    Metric(name="macro_auprc", title="macro AUPRC"),
    _share("many_shot_accuracy", "many-shot accuracy", smooth_form=BALANCED_NLL),
    _share("medium_shot_accuracy", "medium-shot accuracy", smooth_form=BALANCED_NLL),
    _share("few_shot_accuracy", "few-shot accuracy", smooth_form=BALANCED_NLL),
    Metric(name="nll", title="NLL", lower_is_better=True),
    Metric(name=BALANCED_NLL, title="class-balanced NLL", lower_is_better=True),
    Metric(name="brier", title="Brier score", lower_is_better=True),
    _share("ece", "ECE", lower_is_better=True),
    _share("classwise_ece", "class-wise ECE", lower_is_better=True),
)
# Metrics of predictions; a run or a search can select by any of these.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _DECLARED}
# Of these, those in which every row counts alike, so that frequent classes count for more.
OF_ROWS = ("accuracy", "nll", "brier", "ece")
# What TensorBoard shows of a finished run on a split.
HEADLINE_METRICS = (
    "balanced_accuracy",
    "macro_f1",
    "worst_recall",
    "many_shot_accuracy",
    "medium_shot_accuracy",
    "few_shot_accuracy",
    "ece",
)
_OTHERS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="train_seconds", title="training time", unit="s", lower_is_better=True),
        _share("rarest_accuracy", "accuracy of the rarest third"),
        Metric(name="mean_set_size", title="classes in a set", lower_is_better=True),
        Metric(name="mean_cost", title="cost of a decision", lower_is_better=True),
        Metric(
            name="most_probable/mean_cost",
            title="cost of the most probable class",
            lower_is_better=True,
        ),
    )
}
# Families of metrics FAMILY/MEMBER; the titles have a place for the member.
_FAMILIES: dict[str, Metric] = {
    family.name: family
    for family in (
        _share("recall", "recall of {}"),
        _share("precision", "precision of {}"),
        _share("coverage", "coverage of {}"),
        Metric(name="weight", title="fusion weight of {}", is_descriptive=True),
        Metric(name="confidence", title="confidence in {}", is_descriptive=True),
        Metric(name="unfamiliar", title="share of {} unlike training", is_descriptive=True),
        Metric(name="expert_weight", title="weight of expert {}", is_descriptive=True),
    )
}
# Priors at which a model is scored beside its own, and the metrics that are shown there.
OPERATING_PRIORS = ("training", "uniform")
OPERATING_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "few_shot_accuracy")
CHOOSE_WHEN = {
    "training": "most rows should be right, and classes come as often as in training",
    "uniform": "all classes matter alike, however rare",
}
PER_CLASS = ("recall", "precision")  # families with members that a run or a search can select by
# What the confidence report states of a modality in a group of classes.
CONFIDENCE_FACTS = (
    "predicted",
    "used",
    "true",
    "rank_correlation",
    "weight",
    "weight_spread",
    "weight_correlation",
)


def metric(name: str) -> Metric:
    """Returns the metric of this name; one that is not declared is a plain number.

    The name of a family without a member, such as recall, gives the heading of a column of members.
    """
    if name in METRICS or name in _OTHERS:
        return METRICS.get(name) or _OTHERS[name]
    plain = Metric(name=name, title=name.replace("_", " "))
    family, _, member = name.partition("/")
    prior = family.removesuffix("_prior")
    if prior in OPERATING_PRIORS and member in METRICS:  # training_prior/accuracy
        moved = METRICS[member]
        return replace(moved, name=name, title=f"{moved.title} at the {prior} prior")
    if family not in _FAMILIES:
        return plain
    declared = _FAMILIES[family]
    if "/" in member:  # confidence/MODALITY/CLASSES/FACT
        return replace(plain, is_descriptive=declared.is_descriptive)
    title = declared.title.format(member) if member else plain.title
    return replace(declared, name=name, title=title)


def smooth_metric(name: str) -> str:
    """Returns the metric by which early or few results are ranked: the smooth form, or itself."""
    return metric(name).smooth_form or name


def at_prior(name: str, prior: str) -> str:
    """Returns the name of a metric's value at one of OPERATING_PRIORS: training_prior/accuracy."""
    return f"{prior}_prior/{name}"


def worst_class(values: Mapping[str, float], classes: Sequence[str]) -> str | None:
    """Returns the class with the lowest recall, the first of several; None where none has rows."""
    recalls = {name: values[f"recall/{name}"] for name in classes if f"recall/{name}" in values}
    return min(recalls, key=recalls.__getitem__) if recalls else None


def check_name(setting: str, name: str, *more: str) -> None:
    """Raises ValueError for a metric that does not exist.

    setting: the option or setting that names it. more: valid names besides the declared ones.
    """
    if name not in (*METRICS, *more) and name.partition("/")[0] not in PER_CLASS:
        valid = ", ".join((*METRICS, *more))
        raise ValueError(
            f"{setting} must be one of {valid}, recall/CLASS, precision/CLASS; got {name!r}"
        )
