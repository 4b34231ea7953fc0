"""The score of a batch prediction whose rows have labels."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.inference.totals import PredictionTotals
from distributed.training.checkpoint import Checkpoint
from model.metrics.metrics import metrics_of_counts


@dataclass(frozen=True, kw_only=True)
class PredictionScore:
    """How predictions compare with the labels of their rows.

    labelled: predicted rows with a label. decided: those of them that got a class.
    metrics: by name; also coverage and mean_set_size with prediction sets, mean_cost and
        most_probable/mean_cost with costs.
    """

    labelled: int
    decided: int
    metrics: dict[str, float]
    class_rows: dict[str, int]  # labelled rows of each class that got one

    @property
    def worst_class(self) -> str:
        """The class with the lowest recall."""
        recalls = {
            name.removeprefix("recall/"): value
            for name, value in self.metrics.items()
            if name.startswith("recall/")
        }
        return min(recalls, key=recalls.__getitem__)

    def flat(self) -> dict[str, object]:
        """Returns everything by name, for summary.json."""
        return {
            "score/rows": self.decided,
            "score/labelled": self.labelled,
            **{f"score/{name}": value for name, value in self.metrics.items()},
        }


def score_of_totals(checkpoint: Checkpoint, totals: PredictionTotals) -> PredictionScore | None:
    """Returns the score of counted rows; None where no row has both a label and a class."""
    decided = totals.confusion.total()
    if not decided:
        return None
    classes = checkpoint.network.schema.classes
    counts_C = checkpoint.network.counts_C.cpu()
    values = metrics_of_counts(totals.confusion, counts_C, classes)
    class_rows = dict.fromkeys(classes, 0)
    for (true, _), rows in totals.confusion.items():
        class_rows[classes[true]] += rows
    labelled = sum(totals.label_rows)
    if totals.set_hits:
        values["coverage"] = sum(totals.set_hits) / labelled
        values["mean_set_size"] = sum(totals.set_sizes) / labelled
        for name, hits, rows in zip(classes, totals.set_hits, totals.label_rows, strict=True):
            if rows:
                values[f"coverage/{name}"] = hits / rows
    if totals.costs:
        cost, of_most_probable = (total / labelled for total in totals.costs)
        values |= {"mean_cost": cost, "most_probable/mean_cost": of_most_probable}
    return PredictionScore(
        labelled=labelled, decided=decided, metrics=values, class_rows=class_rows
    )
