"""What `evaluate` and `predict` return: everything by name, as one flat object, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distributed.inference import summary
from distributed.inference.decisions.reports import CostReport, SetReport
from distributed.inference.evaluating.label_audit import LabelAudit
from distributed.inference.evaluating.subgroups import Subgroup
from distributed.inference.options import EvaluateOptions, PredictOptions
from distributed.inference.score import PredictionScore
from distributed.inference.weighing import Facts, aggregation_facts
from model.decisions.aggregation import Aggregation
from model.metrics.confidences import ConfidenceRow
from model.metrics.names import CONFIDENCE_FACTS, at_prior

# The options of an evaluation that its flat form repeats.
REPEATED_OPTIONS = (
    "checkpoint",
    "data",
    "split",
    "prior",
    "cost",
    "coverage",
    "shift",
    "modalities",
    "corrupt",
    "trust_unfamiliar",
    "seed",
    "replicates",
)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a checkpoint scores at one class prior, whatever prior an evaluation is made at.

    prior: one of OPERATING_PRIORS. is_own: whether it is the prior of the training loss.
    metrics, intervals: OPERATING_METRICS, with intervals of 95 %.
    """

    prior: str
    is_own: bool
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """How a checkpoint did on the rows of an evaluation."""

    options: EvaluateOptions
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]  # of 95 %
    operating_points: Sequence[OperatingPoint]
    sets: SetReport | None
    costs: CostReport | None
    subgroups: list[Subgroup]
    notes: dict[str, str]  # why a metric is undefined, or over which classes it was taken
    confidence: Sequence[ConfidenceRow]  # how good the confidence of each modality is
    aggregation: Aggregation
    requested_aggregation: str
    rows: int  # labelled rows, which are scored
    available: int  # rows of the split before a cut
    class_rows: dict[str, int]
    remarks: list[str]
    audit: LabelAudit | None = None  # of the labels of the training rows, if it was asked for

    def flat(self) -> dict[str, object]:
        """Returns everything as one flat object, as the option json writes it."""
        entries: dict[str, object] = {
            **self.metrics,
            "rows": self.rows,
            "rows_available": self.available,
        }
        for name, (low, high) in self.intervals.items():
            entries |= {f"{name}/low": low, f"{name}/high": high}
        for point in self.operating_points:
            for name, value in point.metrics.items():
                entries[at_prior(name, point.prior)] = value
            for name, (low, high) in point.intervals.items():
                moved = at_prior(name, point.prior)
                entries |= {f"{moved}/low": low, f"{moved}/high": high}
        entries |= self.sets.flat() if self.sets else {}
        entries |= self.costs.flat() if self.costs else {}
        entries |= subgroup_entries(self.subgroups)
        entries |= aggregation_facts(self.aggregation, self.requested_aggregation)
        for row in self.confidence:
            place = f"confidence/{row['modality']}/{row['group']}"
            entries |= {f"{place}/{fact}": row[fact] for fact in ("rows", *CONFIDENCE_FACTS)}
        entries |= {f"rows/{name}": count for name, count in self.class_rows.items()}
        if self.aggregation.prior_C is not None:
            for name, share in zip(self.class_rows, self.aggregation.prior_C, strict=True):
                entries[f"prior/{name}"] = float(share)
        entries |= {f"note/{name}": text for name, text in self.notes.items()}
        entries["remarks"] = "; ".join(self.remarks)
        return entries | {name: getattr(self.options, name) for name in REPEATED_OPTIONS}

    def show(self) -> None:
        """Prints conditions, metrics with intervals, recalls, confidences and every remark."""
        print(summary.evaluation_text(self))
        if self.audit is not None:
            print(f"\n{self.audit.text()}")
        for place in filter(None, (self.options.json, self.options.report)):
            print(f"\nwritten     {place}")


def subgroup_entries(groups: Sequence[Subgroup]) -> dict[str, object]:
    """Returns the numbers of groups by name: by/sex/female/balanced_accuracy."""
    entries: dict[str, object] = {}
    for group in groups:
        place = f"by/{group.column}/{group.value}"
        entries |= {f"{place}/{name}": value for name, value in group.metrics.items()}
        for name, (low, high) in group.intervals.items():
            entries |= {f"{place}/{name}/low": low, f"{place}/{name}/high": high}
        entries |= {f"{place}/rows/{name}": rows for name, rows in group.class_rows.items()}
        facts = ("rows", "gap", "noise", "p", "shared_classes", "is_shown")
        entries |= {f"{place}/{fact}": getattr(group, fact) for fact in facts}
    return entries


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """What a batch prediction wrote, and what its user should know."""

    options: PredictOptions
    out: str  # the folder of predictions/ and summary.json
    rows: int
    predicted: int
    refused: int
    abstained: int  # predicted rows without a class
    seconds: float
    class_rows: dict[str, int]  # rows predicted as each class
    set_rows: dict[int, int]  # rows by the number of classes in their prediction set
    score: PredictionScore | None  # of the rows with labels
    weights: dict[str, float]  # mean fusion weight of each modality
    unfamiliar_rows: dict[str, int]  # rows in which a modality is unlike training
    unread: dict[str, int]  # cells of each column that hold something the model cannot use
    reasons: dict[str, int]  # why rows were refused, the most frequent reason first
    notes: list[str]
    warnings: list[str]
    aggregation: Facts

    @property
    def rows_per_second(self) -> float:
        """Rows read, not only those predicted."""
        return self.rows / max(self.seconds, 1e-9)

    @property
    def is_mostly_refused(self) -> bool:
        """Whether more than half of the rows were refused."""
        return 2 * self.refused > self.rows

    def flat(self) -> dict[str, object]:
        """Returns everything as one flat object, as summary.json holds it."""
        return {
            "checkpoint": self.options.checkpoint,
            "data": self.options.data,
            "abstain": self.options.abstain,
            "coverage": self.options.coverage,
            "cost": self.options.cost,
            "rows": self.rows,
            "predicted": self.predicted,
            "rejected": self.refused,
            "abstained": self.abstained,
            "seconds": self.seconds,
            "rows_per_second": self.rows_per_second,
            **{f"rows/{name}": count for name, count in self.class_rows.items()},
            **{f"rows_with_set_of/{size}": rows for size, rows in self.set_rows.items()},
            **{f"weight/{name}": weight for name, weight in self.weights.items()},
            **{f"rows_unfamiliar/{name}": rows for name, rows in self.unfamiliar_rows.items()},
            **{f"unread/{name}": count for name, count in self.unread.items()},
            **{f"refused/{reason}": count for reason, count in self.reasons.items()},
            "notes": self.notes,
            "warnings": self.warnings,
            **self.aggregation,
            **(self.score.flat() if self.score else {}),
        }

    def show(self) -> None:
        """Prints counts, classes, fusion weights, notes and warnings."""
        print(summary.prediction_text(self))
