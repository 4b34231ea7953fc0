"""Facts about subgroups: gaps by hand, noise that is called noise, planted gaps that are shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distributed.inference.decisions.decided_split import DecidedSplit
from distributed.inference.decisions.rule import DecidedRows
from distributed.inference.evaluating.subgroups import Subgroup, subgroups

CLASSES = ("a", "b", "c")


def decided(labels: list[int], decisions: list[int]) -> DecidedSplit:
    chosen = torch.tensor(decisions)
    return DecidedSplit(
        probabilities_NC=torch.nn.functional.one_hot(chosen, 3).float(),
        labels_N=torch.tensor(labels),
        counts_C=torch.tensor([100.0, 50.0, 10.0]),
        classes=CLASSES,
        decided=DecidedRows(chosen, torch.zeros(len(labels), dtype=torch.bool)),
    )


def groups_of(rows: DecidedSplit, values: list[str], seed: int = 0) -> dict[str, Subgroup]:
    column = {"site": np.array(values, dtype=object)}
    return {group.value: group for group in subgroups(rows, column, 0, seed)}


def test_a_gap_is_over_the_classes_of_both_sides() -> None:
    rows = decided([0, 0, 0, 0, 1, 1, 2, -1], [0, 0, 0, 1, 1, 0, 2, 0])
    groups = groups_of(rows, ["x", "x", "y", "y", "x", "y", "y", "x"])
    assert (groups["x"].rows, groups["y"].rows) == (3, 4)  # the row without a label is in neither
    # Class a: 2 of 2 against 1 of 2; class b: 1 of 1 against 0 of 1; class c is in y only.
    assert groups["x"].gap == pytest.approx(0.75)
    assert groups["y"].gap == pytest.approx(-0.75)
    assert groups["x"].shared_classes == 2
    assert groups["x"].class_rows == {"a": 2, "b": 1, "c": 0}
    assert groups["x"].metrics["balanced_accuracy"] == pytest.approx(1.0)
    assert not groups["x"].is_shown


def test_noise_is_called_noise_and_a_planted_gap_is_shown() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 100, 30])
    alarms, seen = 0, 0
    for run in range(40):
        values = random.choice(["f", "m", "u"], len(labels), p=[0.5, 0.45, 0.05])
        right = random.random(len(labels)) < np.array([0.9, 0.7, 0.5])[labels]
        for planted in (False, True):
            hit = right & ~(planted & (values == "f") & (random.random(len(labels)) < 0.35))
            decisions = np.where(hit, labels, (labels + 1) % 3)
            rows = decided(labels.tolist(), decisions.tolist())
            groups = groups_of(rows, values.tolist(), seed=run)
            if planted:
                seen += groups["f"].is_shown
            else:
                alarms += any(group.is_shown for group in groups.values())
    assert alarms <= 5, alarms  # 5 % of 40 are 2
    assert seen >= 35, seen


def test_classes_that_are_more_frequent_in_a_group_make_no_gap() -> None:
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1], [400, 400])
    values = np.where(random.random(800) < np.where(labels == 0, 0.9, 0.1), "x", "y")
    hit = random.random(800) < np.where(labels == 0, 0.95, 0.5)
    groups = groups_of(decided(labels.tolist(), np.where(hit, labels, 2).tolist()), values.tolist())
    apart = groups["x"].metrics["accuracy"] - groups["y"].metrics["accuracy"]
    assert apart > 0.3, "x has the easy class"
    assert not groups["x"].is_shown
    assert not groups["y"].is_shown
