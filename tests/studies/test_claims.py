"""What the report says of the claims of a study."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distributed.reporting.tables import ReportTable
from distributed.studies.pages.figures import forest_figures
from distributed.studies.pages.tables import score_table
from tests.studies.study_tools import (
    LEVELS,
    ONLY_ONE,
    THREE,
    TWO,
    against,
    data_sets,
    filled,
    invented,
    opened,
    report_of,
    values,
)


def test_a_claim_against_the_reference_speaks_by_the_corrected_test(tmp_path: Path) -> None:
    crowd = "".join(
        f'[[variants]]\nname = "n{i}"\nset = {{ experts.count = {i} }}\n' for i in range(2, 9)
    )
    claim = against("it", "confidence") + "\n"
    levels = {**LEVELS, **{f"n{i}": 0.5 for i in range(2, 9)}}
    for name, variants, word in (
        ("alone", TWO, "It helps here"),
        ("crowd", TWO + crowd, "5 seeds do not show whether it helps here"),
    ):
        state, _ = filled(tmp_path / name, variants + claim, levels)
        base = values(state, "concatenation")
        for row in state.results.rows.values():
            if row.variant == "confidence":
                row.metrics["test/balanced_accuracy"] = (
                    base[row.seed] + (0.010, 0.020, 0.005, 0.015, 0.001)[row.seed]
                )  # p = 0.04
        state.write_report()
        page = (tmp_path / name / "report.md").read_text()
        assert word in page
        assert ("Balanced accuracy. Better: confidence" in page) == (name == "alone"), (
            "the summary and the claim must say the same"
        )


LIMIT = against("it", "confidence") + "\nat_least = 0.02\n"


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ((0.03, 0.031, 0.029, 0.03, 0.032), "holds"),
        ((0.03, 0.05, 0.01, 0.02, 0.04), "holds on the mean, the interval reaches past the limit"),
        (
            (0.01, 0.03, -0.01, 0.0, 0.02),
            "does not hold on the mean, the interval reaches past the limit",
        ),
        ((0.01, 0.011, 0.009, 0.01, 0.012), "does not hold"),
        ((0.03, 0.031, 0.032, 0.03), "holds on the mean, untested: 5 seeds and more can tell"),
        ((0.01, 0.011), "does not hold on the mean, untested: 5 seeds and more can tell"),
        ((0.03,), "holds on the mean, untested: one seed in common"),
    ],
)
def test_a_limit_is_kept_or_missed_by_the_whole_interval(
    tmp_path: Path, gaps: tuple[float, ...], verdict: str
) -> None:
    state = opened(tmp_path, TWO + LIMIT, seeds=len(gaps))
    invented(state, LEVELS)
    base = values(state, "concatenation")
    for row in state.results.rows.values():
        if row.variant == "confidence":
            row.metrics["test/balanced_accuracy"] = float(base[row.seed] + gaps[row.seed])
    assert f" {verdict} |" in report_of(state, tmp_path)


def test_what_is_low_is_good_where_lower_is_better(tmp_path: Path) -> None:
    text = f'metric = "nll"\n{THREE}{against("it", "confidence", "nll")}'
    names = ("one", "other", "third", "fourth")
    state, views = filled(tmp_path, text, LEVELS | {"late": 0.5}, *names)
    low = {"concatenation": 0.5, "confidence": 0.4, "late": 0.6}
    noise = np.random.default_rng(0)
    for row in state.results.rows.values():
        row.metrics["test/nll"] = low[row.variant] + noise.normal(0, 0.004)
    page = report_of(state, tmp_path)
    assert "It helps here: confidence is better than concatenation in NLL" in page
    assert "NLL. Better: confidence (−0.1" in page
    assert "Worse: late" in page.replace("worse", "Worse")
    assert "confidence 1.00, concatenation 2.00, late 3.00" in page
    (table,) = [b for b in [score_table(views[:1], ["nll"], "")] if isinstance(b, ReportTable)]
    assert [getattr(row[2], "strong", False) for row in table.rows] == [False, True, False]
    (forest, *_) = forest_figures(state.study, views, "nll")
    assert {t.name: list(t.y) for t in forest.figure.data} == {
        "better": ["confidence"],
        "worse": ["late"],
    }


def test_a_claim_that_cannot_be_measured_says_so(tmp_path: Path) -> None:
    claims = (
        against("it", "confidence")
        + "\n"
        + LIMIT.replace("balanced_accuracy", "recall/typo")
        + against("itself", "only {modality}")
    )
    text = (
        TWO
        + "\n"
        + ONLY_ONE
        + claims.replace(
            'against = "concatenation"\nmetric = "balanced_accuracy"',
            'against = "only image"\nmetric = "mcc"',
            1,
        )
    )
    state = opened(tmp_path, text)
    invented(state, {**LEVELS, "only image": 0.4, "only table": 0.3})
    for row in state.results.rows.values():
        if row.variant == "concatenation":
            row.state, row.reason = "failed", "x"
    page = report_of(state, tmp_path)
    assert "It is not measured: no result of confidence and only image in MCC." in page
    assert "| not measured: no result of confidence and concatenation in recall of typo |" in page
    assert "concatenation has no result in balanced accuracy: nothing is compared with it." in page
    assert "Wilcoxon test cannot" not in page


def test_a_claim_over_modalities_leaves_out_the_one_against_itself(tmp_path: Path) -> None:
    claim = against("{modality}", "only {modality}").replace("concatenation", "only image")
    state, _ = filled(
        tmp_path, TWO + ONLY_ONE + claim, {**LEVELS, "only image": 0.4, "only table": 0.3}
    )
    page = report_of(state, tmp_path)
    assert "Table does harm here: only table is worse than only image" in page
    assert "Image does" not in page


def test_a_single_modality_is_not_asked_to_weigh_little(tmp_path: Path) -> None:
    claim = """[[claims]]
text = "light"
variant = "confidence"
metric = "weight/{modality}"
at_most = 0.1
"""
    (data,) = data_sets("set")
    data.manifest.schema = data.manifest.schema.keep(["table"])
    state = opened(tmp_path, TWO + claim, sets=[data])
    invented(state, LEVELS)
    assert "light" not in report_of(state, tmp_path)
