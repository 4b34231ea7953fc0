"""Notes for the user about the rows that a model was applied to."""

from __future__ import annotations

from collections.abc import Sequence

from model.fusion.cross_modal import CrossModalModel, CrossModalStats
from model.schema import join_names


def unfamiliar_notes(
    names: Sequence[str], unlike: Sequence[int], nowhere: int, rows: int
) -> list[str]:
    """What is to be said of rows that are unlike training: in each modality, and in all that they have."""
    told = [
        f"{name} is unlike anything in training in {n:,} of {rows:,} rows: it counts as absent; --trust-unfamiliar goes by it"
        for name, n in zip(names, unlike)
        if n
    ]
    return told + [
        f"{nowhere:,} of these rows have nothing that is like training: they are predicted by all they have"
    ] * (nowhere > 0)


def prior_notes(classes: Sequence[str], prior: Sequence[float]) -> list[str]:
    """What is to be said of a known prior, if there is one."""
    ruled_out = [name for name, weight in zip(classes, prior) if not weight]
    return (
        [f"the known prior gives {join_names(ruled_out)} no weight: never predicted"]
        if ruled_out
        else []
    )


def cross_modal_notes(
    names: Sequence[str], now: CrossModalStats | None, known: CrossModalModel | None
) -> list[str]:
    """What is to be said of modalities that no longer belong together."""
    return [
        f"{names[i]} and {names[j]} agree only {100 * share:.0f} % as much as on validation: in part of the rows one of the two "
        "may be broken, or of another record (a wrong join?), or the classes are much differently distributed"
        for i, j, share in (now.broken_pairs(known) if now and known else [])
    ]
