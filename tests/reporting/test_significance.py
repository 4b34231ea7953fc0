"""Facts about intervals, paired tests and ranks, against numbers worked out by hand or by scipy."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from distributed.reporting import significance
from distributed.reporting.ranking import rank_variants
from distributed.reporting.significance import (
    bootstrap_interval,
    compare_to_reference,
    holm_correction,
    paired_comparison,
    summarise,
)
from distributed.reporting.verdicts import (
    describe_comparison,
    describe_whether_helps,
    seed_limit_note,
)
from model.metrics.names import metric

CONCAT = dict(enumerate([0.50, 0.52, 0.49, 0.51, 0.53]))
BETTER = dict(enumerate([0.55, 0.58, 0.53, 0.56, 0.57]))
SIMILAR = dict(enumerate([0.50, 0.53, 0.49, 0.50, 0.54]))


def test_summary_is_the_textbook_one() -> None:
    summary = summarise([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (summary.n, summary.mean) == (8, 5.0)
    assert summary.sd == pytest.approx(math.sqrt(32 / 7))
    assert 2.0 <= summary.low < 5.0 < summary.high <= 9.0


@pytest.mark.parametrize(
    ("values", "missing", "reason"),
    [
        ([], ("mean", "sd", "low", "high"), "no values"),
        ([0.5], ("sd", "low", "high"), "one seed"),
        ([math.nan, 0.5], ("sd", "low", "high"), "1 of 2 values are not finite"),
    ],
)
def test_what_cannot_be_computed_is_none_with_a_reason(
    values: list[float], missing: tuple[str, ...], reason: str
) -> None:
    summary = summarise(values)
    assert all(getattr(summary, name) is None for name in missing)
    assert reason in summary.reason


def test_equal_values_have_no_spread_even_after_rounding() -> None:
    summary = summarise([0.1 + 0.2, 0.3, 0.3])
    assert (summary.sd, summary.reason) == (0.0, "all values are equal")
    assert summary.low == summary.high == summary.mean


def test_bootstrap_interval_of_five_normal_values_covers_about_95_percent() -> None:
    draws = np.random.default_rng(0).normal(size=(400, 5))
    hits = sum(low <= 0 <= high for low, high in map(bootstrap_interval, draws))
    assert hits / 400 == pytest.approx(
        0.9375, abs=0.03
    )  # the plain percentile interval covers 0.83


def test_interval_agrees_with_the_t_interval_for_many_values() -> None:
    values = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(values)
    expected = stats.t.interval(0.95, 199, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.01)


def test_paired_numbers_are_those_of_scipy_and_of_hand_calculation() -> None:
    comparison = paired_comparison(BETTER, CONCAT)
    ours, theirs = list(BETTER.values()), list(CONCAT.values())
    gaps = np.subtract(ours, theirs)  # .05 .06 .04 .05 .04
    assert comparison.difference == pytest.approx(0.048)
    assert comparison.t_p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert comparison.wilcoxon_p == pytest.approx(2 / 2**5)  # all five differences on one side
    # Hedges: d = 0.048 / 0.00836660 = 5.73710; J(4) = Gamma(2) / (sqrt(2) Gamma(1.5)) = 0.797885
    assert comparison.effect == pytest.approx(5.73710 * 0.797885, rel=1e-5)
    assert comparison.low <= gaps.mean() <= comparison.high


def test_wilcoxon_without_ties_is_the_exact_test() -> None:
    ours = {i: v for i, v in enumerate([1.1, 2.3, 2.75, 4.8, 4.4, 6.05, 7.7])}
    theirs = {i: float(i + 1) for i in range(7)}
    assert paired_comparison(ours, theirs).wilcoxon_p == pytest.approx(
        stats.wilcoxon([ours[i] - theirs[i] for i in range(7)], method="exact").pvalue
    )


@pytest.mark.parametrize(
    ("gaps", "p"),
    [
        ([0.1, 0.0, 0.0], 1.0),
        ([0.1, 0.1, -0.1], 1.0),
        ([0.1, 0.1, 0.1, 0.1], 0.125),
        ([1, 2, 3, 4, -1], 0.1875),
    ],
)
def test_wilcoxon_with_zeros_and_ties_enumerates_all_signs(gaps: list[float], p: float) -> None:
    # The last one has ranks 1.5 3 4 5 -1.5 with the sum 12. 3 of 32 flips reach 12 (none or one of
    # the two 1.5s is negative), and 3 reach -12.
    assert (
        paired_comparison(dict(enumerate(gaps)), dict.fromkeys(range(len(gaps)), 0.0)).wilcoxon_p
        == p
    )


def enumerated(gaps: np.ndarray) -> float:
    """The share of all sign flips whose rank sum is at least as far from 0 as that of the gaps."""
    kept = gaps[gaps != 0]
    ranks = stats.rankdata(np.abs(kept))
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=len(kept))))
    return float((np.abs(flips @ ranks) >= abs(np.sign(kept) @ ranks) - 1e-9).mean())


@pytest.mark.parametrize("pairs", range(1, 12))
@pytest.mark.parametrize("grid", [0, 1, 2], ids=["without ties", "many ties", "some ties"])
def test_wilcoxon_is_the_share_of_sign_flips_to_the_last_digit(pairs: int, grid: int) -> None:
    rng = np.random.default_rng(pairs)
    for _ in range(4):
        gaps = rng.normal(0.5, 1, pairs)
        gaps = np.round(gaps * grid) / grid if grid else gaps
        if gaps.any():
            assert significance._wilcoxon(tuple(gaps.tolist())) == enumerated(gaps)


def test_wilcoxon_of_many_pairs_is_that_of_scipy() -> None:
    gaps = np.random.default_rng(0).normal(0.3, 1, 30)
    assert paired_comparison(
        dict(enumerate(gaps)), dict.fromkeys(range(30), 0.0)
    ).wilcoxon_p == pytest.approx(stats.wilcoxon(gaps).pvalue)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04: x4 .04, x3 .06, x2 .06, x1 max(.04, .06)
    assert holm_correction([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx(
        [0.06, 0.04, None, 0.06, 0.06]
    )
    assert holm_correction([0.6, 0.7]) == [1.0, 1.0]
    assert holm_correction([]) == []


def test_correction_makes_the_family_count() -> None:
    noise = {
        f"other {i}": {s: v + 0.001 * math.sin(7 * s + i) for s, v in CONCAT.items()}
        for i in range(9)
    }
    comparisons = {
        c.name: c
        for c in compare_to_reference({"concat": CONCAT, "better": BETTER, **noise}, "concat")
    }
    assert comparisons["better"].family == 10
    assert comparisons["better"].t_holm == pytest.approx(10 * comparisons["better"].t_p)
    assert comparisons["better"].verdict == "higher"
    assert {comparisons[name].verdict for name in noise} == {"noise"}


def test_unpaired_seeds_are_left_out() -> None:
    comparison = paired_comparison({0: 1.0, 1: 2.0, 7: 9.0}, {0: 0.5, 1: 1.0, 2: 3.0})
    assert (comparison.n, comparison.difference) == (2, pytest.approx(0.75))


@pytest.mark.parametrize(
    ("ours", "verdict", "reason"),
    [
        ({9: 1.0}, "untested", "no seed in common"),
        ({0: 0.6}, "untested", "one seed"),
        (dict(CONCAT), "equal", "equal in every seed"),
        ({k: v + 0.1 for k, v in CONCAT.items()}, "untested", "the same difference in every seed"),
        ({0: math.nan}, "untested", "no seed in common"),
    ],
)
def test_degenerate_comparisons_say_why(ours: dict[int, float], verdict: str, reason: str) -> None:
    (comparison,) = compare_to_reference({"concat": CONCAT, "other": ours}, "concat")
    assert comparison.verdict == verdict
    assert reason in comparison.reason
    assert not any(
        isinstance(v, float) and math.isnan(v)
        for v in (getattr(comparison, f.name) for f in fields(comparison))
    )
    assert "nan" not in describe_comparison(comparison, metric("accuracy")).lower()


def test_unknown_reference_is_named() -> None:
    with pytest.raises(ValueError, match="the reference must be one of the variants: a; got 'b'"):
        compare_to_reference({"a": CONCAT}, "b")


def test_results_do_not_depend_on_the_order_of_rows() -> None:
    rng = random.Random(0)
    scores = {name: {s: rng.random() for s in range(8)} for name in "abcd"}
    expected = {c.name: c for c in compare_to_reference(scores, "a")}
    ranks = rank_variants({n: {str(k): v for k, v in s.items()} for n, s in scores.items()})
    for _ in range(5):
        shuffled = {
            n: dict(rng.sample(list(s.items()), len(s)))
            for n, s in rng.sample(list(scores.items()), len(scores))
        }
        assert {c.name: c for c in compare_to_reference(shuffled, "a")} == expected
        assert (
            rank_variants({n: {str(k): v for k, v in s.items()} for n, s in shuffled.items()})
            == ranks
        )
        assert summarise(list(shuffled["b"].values())) == summarise(list(scores["b"].values()))


# Demsar 2006, table 6: AUC of C4.5 with and without pruning (cf) and minimal leaf size (m) on 14
# data sets.
DEMSAR = {
    "C4.5": [
        0.763,
        0.599,
        0.954,
        0.628,
        0.882,
        0.936,
        0.661,
        0.583,
        0.775,
        1.000,
        0.940,
        0.619,
        0.972,
        0.957,
    ],
    "C4.5+m": [
        0.768,
        0.591,
        0.971,
        0.661,
        0.888,
        0.931,
        0.668,
        0.583,
        0.838,
        1.000,
        0.962,
        0.666,
        0.981,
        0.978,
    ],
    "C4.5+cf": [
        0.771,
        0.590,
        0.968,
        0.654,
        0.886,
        0.916,
        0.609,
        0.563,
        0.866,
        1.000,
        0.965,
        0.614,
        0.9751,
        0.946,
    ],
    "C4.5+m+cf": [
        0.798,
        0.569,
        0.967,
        0.657,
        0.898,
        0.931,
        0.685,
        0.625,
        0.875,
        1.000,
        0.962,
        0.669,
        0.975,
        0.970,
    ],
}


def test_ranks_and_critical_difference_are_those_of_demsar() -> None:
    ranking = rank_variants(
        {name: {str(i): v for i, v in enumerate(values)} for name, values in DEMSAR.items()}
    )
    assert ranking.ranks == pytest.approx(
        {"C4.5+m": 2.000, "C4.5+m+cf": 1.964, "C4.5+cf": 2.893, "C4.5": 3.143}, abs=5e-4
    )
    assert ranking.critical_difference == pytest.approx(
        2.569 * math.sqrt(4 * 5 / (6 * 14)), abs=2e-3
    )  # 1.25 in the paper
    assert ranking.p == pytest.approx(stats.friedmanchisquare(*DEMSAR.values()).pvalue)
    assert ranking.groups == (("C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"),)


def test_critical_difference_separates_a_clear_winner() -> None:
    table = {
        name: {str(d): level + 0.001 * d for d in range(12)}
        for name, level in {"good": 0.9, "fair": 0.7, "poor": 0.5}.items()
    }
    ranking = rank_variants(table)
    assert list(ranking.ranks.items()) == [("good", 1.0), ("fair", 2.0), ("poor", 3.0)]
    # q(0.05, 3, inf) = 2.343; CD = 2.343 sqrt(3 * 4 / 72) = 0.957. Neighbours differ by 1: no
    # group.
    assert ranking.critical_difference == pytest.approx(0.957, abs=1e-3)
    assert ranking.groups == ()
    assert rank_variants(table, lower_is_better=True).ranks["poor"] == 1.0


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({}, "no variants"),
        ({"a": {"x": 1.0}}, "one variant"),
        ({"a": {"x": 1.0}, "b": {"y": 1.0}}, "no data set that every variant has"),
        ({"a": {"x": 1.0}, "b": {"x": 2.0}}, "one data set"),
        ({"a": {"x": 1.0, "y": 1.0}, "b": {"x": 1.0, "y": 1.0}}, "tie on every data set"),
        ({"a": {"x": 1.0, "y": 1.0}, "b": {"x": 2.0, "y": 1.0}}, "Friedman's test needs three"),
    ],
)
def test_ranking_without_a_test_says_why(table: dict[str, dict[str, float]], reason: str) -> None:
    ranking = rank_variants(table)
    assert ranking.p is None
    assert reason in ranking.reason


def test_no_critical_difference_where_no_test_has_found_a_difference() -> None:
    """Two variants on four data sets: Nemenyi's 0.98 would separate them, a sign test has p =
    0.125."""
    two = rank_variants({"a": dict.fromkeys("wxyz", 1.0), "b": dict.fromkeys("wxyz", 2.0)})
    assert (two.critical_difference, two.groups, two.ranks) == (None, (), {"b": 1.0, "a": 2.0})
    mixed = rank_variants(
        {
            "a": {"x": 1.0, "y": 2.0, "z": 3.0},
            "b": {"x": 2.0, "y": 3.0, "z": 1.0},
            "c": {"x": 3.0, "y": 1.0, "z": 2.0},
        }
    )
    assert mixed.p == pytest.approx(1.0)
    assert (mixed.critical_difference, mixed.groups) == (None, (("a", "b", "c"),))


def test_words_say_better_worse_and_noise() -> None:
    better, similar = compare_to_reference(
        {"concatenation": CONCAT, "confidence": BETTER, "gate": SIMILAR}, "concatenation"
    )
    assert describe_comparison(better, metric("balanced_accuracy")).startswith(
        "confidence is better than concatenation in balanced accuracy (+4.8 points"
    )
    assert "is worse than" in describe_comparison(better, metric("nll"))
    assert "not shown to differ" in describe_comparison(similar, metric("balanced_accuracy"))
    assert describe_whether_helps("fusion", better, metric("balanced_accuracy")).startswith(
        "Fusion helps here: "
    )
    assert describe_whether_helps("fusion", better, metric("nll")).startswith(
        "Fusion does harm here: "
    )
    assert describe_whether_helps("fusion", similar, metric("balanced_accuracy")).startswith(
        "5 seeds do not show whether fusion helps here: "
    )
    (same,) = compare_to_reference({"a": CONCAT, "b": dict(CONCAT)}, "a")
    assert (
        describe_whether_helps("having experts", same, metric("accuracy"))
        == "Having experts makes no difference here: b and a have the same accuracy in all 5 seeds."
    )


def test_a_difference_lost_to_the_correction_is_called_noise() -> None:
    lost = significance.Comparison(
        name="a",
        reference="b",
        n=5,
        difference=0.01,
        low=0.002,
        high=0.02,
        t_p=0.02,
        t_holm=0.12,
        family=6,
    )
    assert (
        "does not survive the correction for 6 comparisons, so not shown to differ"
        in describe_comparison(lost, metric("accuracy"))
    )
    never = describe_comparison(
        replace(lost, t_p=0.29, t_holm=0.58), metric("accuracy")
    )  # all seeds on one side, far apart
    assert "not shown to differ" in never
    assert "correction" not in never
    tiny = replace(lost, difference=-0.0002, low=-0.0004, high=-0.0001, t_holm=0.04)
    assert (
        "is worse than b in accuracy (less than 0.05 points, 95 % interval"
        in describe_comparison(tiny, metric("accuracy"))
    )


def test_a_note_says_what_few_seeds_cannot_show() -> None:
    assert "One seed" in seed_limit_note(1)
    assert "cannot go below p = 0.0625" in seed_limit_note(5)
    assert seed_limit_note(6) == ""
