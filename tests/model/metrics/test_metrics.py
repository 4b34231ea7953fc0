"""Metrics against scikit-learn, torchmetrics and numbers by hand; bootstrap; confidence report."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from scipy.stats import spearmanr
from torch import Tensor

from model.metrics import metrics
from model.metrics.confidences import confidence_report
from model.metrics.metrics import (
    FORMULAS,
    bootstrap_intervals,
    bootstrap_weights,
    compute_metrics,
    explain_metrics,
    shot_groups,
)
from model.metrics.scoring import ScoredRows


def example(
    rows: int, classes: int, seed: int = 0, ties: bool = False
) -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """Informative random scores, every class with at least one row."""
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.cat(
        [torch.arange(classes), torch.randint(classes, (rows - classes,), generator=generator)]
    )
    logits_NC = torch.randn(rows, classes, generator=generator) + 1.5 * torch.nn.functional.one_hot(
        labels_N, classes
    )
    if ties:
        logits_NC = logits_NC.round()
    counts_C = torch.linspace(300, 3, classes).round()
    return logits_NC.softmax(1), labels_N, counts_C, tuple(f"c{c}" for c in range(classes))


@pytest.mark.parametrize("ties", [False, True])
def test_equals_scikit_learn_when_every_class_has_rows(ties: bool) -> None:
    p, y, counts, classes = example(400, 7, ties=ties)
    values = compute_metrics(p, y, counts, classes)
    notes = p.argmax(1)
    onehot = torch.nn.functional.one_hot(y, 7)
    precision, recall, _, _ = reference.precision_recall_fscore_support(y, notes)
    expected = {
        "balanced_accuracy": reference.balanced_accuracy_score(y, notes),
        "macro_f1": reference.f1_score(y, notes, average="macro"),
        "g_mean": float(np.prod(recall)) ** (1 / 7),
        "mcc": reference.matthews_corrcoef(y, notes),
        "macro_auroc": np.mean([reference.roc_auc_score(y == c, p[:, c]) for c in range(7)]),
        "macro_auprc": np.mean(
            [reference.average_precision_score(y == c, p[:, c]) for c in range(7)]
        ),
        "accuracy": reference.accuracy_score(y, notes),
        "worst_recall": recall.min(),
        "nll": reference.log_loss(y, p.double() / p.double().sum(1, keepdim=True)),
        "balanced_nll": np.mean(
            [reference.log_loss(y[y == c], p[y == c].double(), labels=range(7)) for c in range(7)]
        ),
        "brier": float(((p - onehot) ** 2).sum(1).mean()),
        **{f"recall/c{c}": recall[c] for c in range(7)},
        **{f"precision/c{c}": precision[c] for c in range(7)},
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name


def test_equals_torchmetrics_when_every_class_has_rows() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    p, y, counts, classes = example(500, 9)
    values = compute_metrics(p, y, counts, classes)
    expected = {
        "macro_auroc": functional.multiclass_auroc(p, y, 9),
        "macro_auprc": functional.multiclass_average_precision(p, y, 9),
        "balanced_accuracy": functional.multiclass_recall(p, y, 9),
        "macro_f1": functional.multiclass_f1_score(p, y, 9),
        "mcc": functional.multiclass_matthews_corrcoef(p, y, 9),
        "ece": functional.multiclass_calibration_error(p, y, 9, n_bins=15),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), abs=1e-6), name


def test_classwise_calibration_error_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    y = torch.tensor([0, 1, 1, 1])
    values = compute_metrics(p, y, torch.tensor([200, 50]), ("a", "b"))
    # Class a: two rows at 0.9, one of them true (gap 0.4), two at 0.2, none of them true (gap 0.2);
    # class b mirrors it.
    assert values["classwise_ece"] == pytest.approx(0.3, abs=1e-6)
    assert values["ece"] == pytest.approx((0.4 + 0.2) / 2, abs=1e-6)


def test_an_absent_class_is_left_out_and_named() -> None:
    p, y, counts, classes = example(300, 6)
    keep = y != 4
    p, y = p[keep], y[keep]
    values, why = compute_metrics(p, y, counts, classes), explain_metrics(p, y, counts, classes)
    present = [c for c in range(6) if c != 4]
    assert values["macro_auroc"] == pytest.approx(
        np.mean([reference.roc_auc_score(y == c, p[:, c]) for c in present])
    )
    assert values["macro_auprc"] == pytest.approx(
        np.mean([reference.average_precision_score(y == c, p[:, c]) for c in present]), abs=1e-6
    )
    with pytest.warns(UserWarning, match="not in y_true"):
        assert values["balanced_accuracy"] == pytest.approx(
            reference.balanced_accuracy_score(y, p.argmax(1))
        )
    assert values["macro_f1"] == pytest.approx(reference.f1_score(y, p.argmax(1), average="macro"))
    assert values["mcc"] == pytest.approx(reference.matthews_corrcoef(y, p.argmax(1)))
    assert values["worst_recall"] == min(values[f"recall/c{c}"] for c in present)
    assert "recall/c4" not in values
    assert "no rows" in why["recall/c4"]
    assert "c4" in why["macro_auroc"]


def test_of_very_many_absent_classes_the_first_are_named() -> None:
    p, y, counts, classes = example(300, 60)
    keep = y < 20
    note = explain_metrics(p[keep], y[keep], counts, classes)["balanced_accuracy"]
    assert note.startswith("without the classes that have no rows: c20, c21")
    assert note.endswith(" and 28 more")


@pytest.mark.parametrize(
    "case", ["one row", "one class", "constant", "none", "unknown labels", "certain and wrong"]
)
def test_nothing_is_nan_and_what_is_missing_has_a_reason(case: str) -> None:
    p, y, counts, classes = example(40, 4)
    if case == "one row":
        p, y = p[:1], y[:1]
    if case == "one class":
        p, y = p[y == 2], y[y == 2]
    if case == "constant":
        p = torch.tensor([[0.7, 0.1, 0.1, 0.1]]).expand(40, 4)
    if case == "none":
        p, y = p[:0], y[:0]
    if case == "unknown labels":
        y = torch.where(torch.arange(40) % 2 == 0, -1, y)
    if case == "certain and wrong":
        p = torch.nn.functional.one_hot((y + 1) % 4, 4).float()
    values, why = compute_metrics(p, y, counts, classes), explain_metrics(p, y, counts, classes)
    assert all(math.isfinite(v) for v in values.values())
    everything = {*FORMULAS, *(f"{kind}/{c}" for kind in ("recall", "precision") for c in classes)}
    undefined = everything - values.keys()
    if case == "none":
        assert undefined == everything
        assert set(FORMULAS) <= why.keys()
    else:
        assert undefined <= why.keys()
    if case == "constant":
        assert values["mcc"] == 0
        assert values["macro_auroc"] == 0.5
    if case == "unknown labels":
        assert values == compute_metrics(p[y >= 0], y[y >= 0], counts, classes)
        assert "20 of 40" in why["rows"]


def test_a_diverged_model_is_one_clear_error() -> None:
    p, y, counts, classes = example(40, 4)
    p[3, 1] = torch.nan
    with pytest.raises(ValueError, match="finite; got 1 of 40 rows"):
        compute_metrics(p, y, counts, classes)


def test_given_decisions_replace_the_most_probable_class() -> None:
    p, y, counts, classes = example(100, 4)
    assert compute_metrics(p, y, counts, classes, predictions_N=y)["accuracy"] == 1
    assert (
        compute_metrics(p, y, counts, classes, predictions_N=y)["nll"]
        == compute_metrics(p, y, counts, classes)["nll"]
    )


def test_shot_groups() -> None:
    assert shot_groups(torch.tensor([101, 100, 20, 19, 0])).tolist() == [0, 1, 1, 2, 2]
    assert shot_groups(torch.tensor([9000, 8000, 7000, 600, 500, 400])).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert shot_groups(torch.tensor([5, 9])).tolist() == [2, 0]
    assert shot_groups(torch.tensor([5])).tolist() == [0]
    assert shot_groups(torch.tensor([1, 9, 5])).tolist() == [2, 0, 1]


def test_shot_accuracy_is_the_mean_recall_of_the_group() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 2, 3])
    notes = torch.tensor([0, 0, 0, 1, 1, 0, 2, 0])
    p = torch.nn.functional.one_hot(notes, 4).float()
    values = compute_metrics(p, y, torch.tensor([500, 101, 50, 3]), ("a", "b", "c", "d"))
    assert values["many_shot_accuracy"] == pytest.approx((0.75 + 0.5) / 2)
    assert (values["medium_shot_accuracy"], values["few_shot_accuracy"]) == (1.0, 0.0)


def test_resamples_keep_every_class_size() -> None:
    labels = torch.tensor([2, 0, 0, 0, 1, 1, 2, 5])
    (weights,) = bootstrap_weights(labels, 50, seed=3)
    for c in (0, 1, 2, 5):
        assert (weights[:, labels == c].sum(1) == (labels == c).sum()).all()
    assert torch.equal(weights, torch.cat(list(bootstrap_weights(labels, 50, seed=3, chunk=7))))


def test_bootstrap_equals_recomputing_on_the_drawn_rows() -> None:
    p, y, counts, classes = example(60, 4, ties=True)
    names = [*FORMULAS, "recall/c1"]
    drawn = [torch.arange(60).repeat_interleave(w) for w in next(bootstrap_weights(y, 20, seed=5))]
    again = [compute_metrics(p[i], y[i], counts, classes) for i in drawn]
    intervals = bootstrap_intervals(
        p, y, counts, names, replicates=20, seed=5, classes=classes, level=1.0
    )
    for name in names:
        values = [metrics_of_draw[name] for metrics_of_draw in again]
        assert intervals[name] == (
            pytest.approx(min(values), abs=1e-9),
            pytest.approx(max(values), abs=1e-9),
        ), name


def test_the_bootstrap_does_not_depend_on_its_chunks_and_bounds_their_confusion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p, y, counts, _ = example(120, 20, ties=True)
    whole = bootstrap_intervals(p, y, counts, FORMULAS, replicates=30, seed=5)
    monkeypatch.setattr(
        "model.metrics.scoring._CELLS", 7 * 20**2
    )  # 7 replicates by classes, 23 by rows
    sizes = set()

    def counted(scored: ScoredRows, name: str, classes: Sequence[str]) -> Tensor:
        sizes.add(len(scored.confusion_RCC))
        return FORMULAS[name](scored)

    monkeypatch.setattr(metrics, "_values", counted)
    assert bootstrap_intervals(p, y, counts, FORMULAS, replicates=30, seed=5) == whole
    assert sizes == {7, 2}


def test_no_replicates_give_no_intervals() -> None:
    p, y, counts, _ = example(60, 4)
    assert bootstrap_intervals(p, y, counts, FORMULAS, replicates=0) == {}


def test_bootstrap_covers_the_truth_and_names_a_wrong_metric() -> None:
    inside = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(300) % 3
        notes = torch.where(
            torch.rand(300, generator=generator) < 0.7, y, (y + 1) % 3
        )  # the true balanced accuracy is 0.7
        p = torch.nn.functional.one_hot(notes, 3).float()
        low, high = bootstrap_intervals(
            p, y, torch.tensor([200, 50, 5]), ["balanced_accuracy"], seed=seed
        )["balanced_accuracy"]
        inside += low <= 0.7 <= high
    assert inside >= 34
    with pytest.raises(ValueError, match="got 'balanced'"):
        bootstrap_intervals(p, y, torch.tensor([200, 50, 5]), ["balanced"])


def test_fast_enough_for_every_epoch() -> None:
    p, y, counts, classes = example(2000, 59)
    compute_metrics(p, y, counts, classes)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        compute_metrics(p, y, counts, classes)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25  # 0.03 s on a quiet core; the bound leaves room for a busy one


def test_confidence_report() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    true = torch.rand(300, 2, generator=generator)
    notes = torch.stack([true[:, 0] ** 2, torch.full((300,), 0.5)], 1)
    present = torch.ones(300, 2, dtype=torch.bool)
    present[labels == 2, 1] = False
    weights = torch.tensor([0.8, 0.2]).expand(300, 2)
    rows = confidence_report(
        notes, true, present, labels, torch.tensor([500, 50, 5]), ("image", "table"), weights
    )
    by = {(r["modality"], r["group"]): r for r in rows}
    assert len(rows) == 8
    assert by["image", "all"]["rank_correlation"] == pytest.approx(1.0)
    assert by["image", "few"]["true"] == pytest.approx(float(true[labels == 2, 0].mean()), abs=1e-6)
    assert by["image", "few"]["weight"] == pytest.approx(0.8)
    assert by["table", "all"]["rank_correlation"] is None
    assert by["table", "all"]["rows"] == 200
    assert by["table", "few"]["predicted"] is None
    assert by["table", "few"]["note"] == "no record"


def test_the_report_says_whether_weights_go_to_the_modality_that_is_right() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    true = torch.rand(300, 2, generator=generator)
    lead = true[:, 0] - true[:, 1]
    present = torch.ones(300, 2, dtype=torch.bool)
    present[:100, 1] = False  # no other modality: such records are not compared

    def report(weight: torch.Tensor) -> dict[str, str | int | float | None]:
        weights = torch.stack([weight, 1 - weight], 1)
        counts = torch.tensor([500, 50, 5])
        return confidence_report(true, true, present, labels, counts, ("image", "table"), weights)[
            0
        ]

    following = report(torch.where(present[:, 1], lead.sigmoid(), 0.5))
    assert following["weight_correlation"] == pytest.approx(1.0)
    assert following["weight_spread"] > 0.05
    constant = report(torch.full((300,), 0.5))
    assert constant["weight_correlation"] is None
    assert constant["weight_spread"] == pytest.approx(0.0)
    noise = torch.rand(300, generator=generator)
    expected = spearmanr(noise[100:], lead[100:]).statistic
    assert report(noise)["weight_correlation"] == pytest.approx(expected)


def test_confidence_report_matches_scipy_and_balances_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    notes, true = (
        torch.rand(90, 1, generator=generator).mul(9).round(),
        torch.rand(90, 1, generator=generator).mul(5).round(),
    )
    labels = torch.tensor([0] * 80 + [1] * 9 + [2])
    row = confidence_report(
        notes,
        true,
        torch.ones(90, 1, dtype=torch.bool),
        labels,
        torch.tensor([800, 90, 10]),
        ("image",),
    )[0]
    assert row["rank_correlation"] == pytest.approx(spearmanr(notes[:, 0], true[:, 0]).statistic)
    assert row["true"] == pytest.approx(
        float(sum(true[labels == c].mean() for c in range(3)) / 3), abs=1e-6
    )
    assert row["weight"] is None
