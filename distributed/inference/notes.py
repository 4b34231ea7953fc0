"""Notes for the user about the rows that a model was applied to, as full sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distributed.raw.encoding import EMPTY_CELLS, NO_CLASS
from distributed.shards.manifest import Manifest
from model.fusion.cross_modal import CrossModalModel, CrossModalStats
from model.schema import Categorical, Numeric, Schema, join_names

if TYPE_CHECKING:
    from torch import Tensor

    from distributed.inference.totals import PredictionTotals
    from distributed.training.checkpoint import Checkpoint

MANY_UNSEEN = 0.1  # share of a column's cells: a few new categories are normal
MANY_REFUSED = 0.1  # share of the rows: beyond it the user is warned
OFTEN_MISSING = 0.5  # a column of which so many training cells were empty may be empty again


def row_notes(
    checkpoint: Checkpoint,
    totals: PredictionTotals,
    prior_C: Tensor | None,
    trust_option: str = "--trust-unfamiliar",
) -> list[str]:
    """Returns notes on the rows that were predicted.

    trust_option: how the user asks for modalities that are unlike training.
    """
    schema = checkpoint.network.schema
    return [
        *unfamiliar_notes(
            schema.modalities,
            totals.unfamiliar_rows,
            totals.rows_without_familiar,
            totals.predicted,
            trust_option,
        ),
        *cross_modal_notes(schema.modalities, totals.agreement, checkpoint.cross_modal),
        *unread_notes(checkpoint.manifest, schema, totals.unread, totals.rows, totals.predicted),
        *blank_notes(totals.blank, totals.predicted),
        *prior_notes(schema.classes, () if prior_C is None else prior_C.tolist()),
    ]


def refusal_warnings(refused: int, rows: int) -> list[str]:
    """A warning where many rows were refused."""
    if refused <= MANY_REFUSED * rows:
        return []
    return [
        f"{refused:,} of {rows:,} rows ({refused / rows:.0%}) were refused: "
        "they have no prediction, and their column reason says why"
    ]


def unfamiliar_notes(
    modalities: Sequence[str],
    unfamiliar_rows: Sequence[int],
    rows_without_familiar: int,
    rows: int,
    remedy: str = "--trust-unfamiliar",
) -> list[str]:
    """Notes on rows that are unlike the training data.

    unfamiliar_rows: for each modality, the rows in which it is unlike training.
    rows_without_familiar: rows in which every present modality is.
    remedy: the option that makes the model use such modalities all the same.
    """
    notes = [
        f"{name} is unlike anything in training in {count:,} of {rows:,} rows: "
        f"it counts as absent; {remedy} uses it anyway"
        for name, count in zip(modalities, unfamiliar_rows)
        if count
    ]
    if rows_without_familiar:
        notes.append(
            f"{rows_without_familiar:,} of these rows have nothing that is like training: "
            "all their modalities are used"
        )
    return notes


def prior_notes(classes: Sequence[str], prior: Sequence[float]) -> list[str]:
    """A note on the classes that a known prior rules out; no note where no prior is given."""
    ruled_out = [name for name, weight in zip(classes, prior) if not weight]
    if not ruled_out:
        return []
    return [f"the known prior gives {join_names(ruled_out)} no weight: never predicted"]


def cross_modal_notes(
    modalities: Sequence[str], measured: CrossModalStats | None, expected: CrossModalModel | None
) -> list[str]:
    """Notes on pairs of modalities that agree much less in these rows than on validation."""
    if measured is None or expected is None:
        return []
    return [
        f"{modalities[i]} and {modalities[j]} agree only {100 * share:.0f} % as much as on "
        "validation: in part of the rows one of the two may be broken, or of another record "
        "(a wrong join?), or the classes are much differently distributed"
        for i, j, share in measured.broken_pairs(expected)
    ]


def unread_notes(
    manifest: Manifest, schema: Schema, unread: Mapping[str, int], rows: int, predicted: int
) -> list[str]:
    """Notes on cells that hold something the model cannot use, such as another date format.

    unread: how many cells of each column that is, as encode_rows counts them.
    """
    readings: Mapping[str, str] = manifest.prepare.get("readings", {})
    notes: list[str] = []
    for table in schema.tables:
        for column in table.columns:
            empty = unread.get(EMPTY_CELLS + column.name, 0)
            if column.missing < OFTEN_MISSING and predicted and empty >= rows:
                notes.append(
                    f"{column.name}: empty in every row; "
                    f"in training {column.missing:.1%} of the cells were"
                )
        for number in table.numeric:
            notes += _number_notes(number, readings, unread.get(number.name, 0), rows)
        for category in table.categorical:
            notes += _category_notes(category, unread.get(category.name, 0), rows)
    if strangers := unread.get(NO_CLASS):
        notes.append(
            f"{manifest.prepare.get('label')}: {strangers:,} of {rows:,} labels are none of "
            f"the classes ({join_names(schema.classes)}): no label there"
        )
    return notes


def _number_notes(column: Numeric, readings: Mapping[str, str], count: int, rows: int) -> list[str]:
    if not count:
        return []
    reading = readings.get(column.name)
    wanted = f"not written as in training ({reading})" if reading else "no numbers as in training"
    return [f"{column.name}: {count:,} of {rows:,} cells are {wanted}: missing"]


def _category_notes(column: Categorical, count: int, rows: int) -> list[str]:
    if not count or count < MANY_UNSEEN * rows:
        return []
    return [
        f"{column.name}: {count:,} of {rows:,} cells are none of the categories of training "
        f"({join_names(column.vocabulary)})"
    ]


def blank_notes(blank: int, predicted: int) -> list[str]:
    """A note on rows in which every modality is absent."""
    if not blank:
        return []
    return [
        f"{blank:,} of {predicted:,} rows have no modality at all: "
        "their prediction does not depend on the record: it is the network's "
        "output without any input"
    ]
