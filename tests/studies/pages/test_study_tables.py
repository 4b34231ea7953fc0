"""The tables of a study against numbers computed from its results in another way."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from distributed.reporting.verdicts import format_signed
from distributed.studies.pages.figures import rank_over_data_sets
from distributed.studies.pages.tables import (
    confidence_table,
    main_table,
    score_table,
    significance_table,
)
from distributed.studies.views import condition_views, mean_views
from tests.studies.study_tools import (
    FAR,
    LEVELS,
    ONLY_ONE,
    THREE,
    TWO,
    by_column,
    data_sets,
    filled,
    invented,
    opened,
    values,
)


def test_every_p_and_difference_stands_in_its_own_column(tmp_path: Path) -> None:
    state, views = filled(tmp_path, THREE, FAR)
    gaps = {
        name: values(state, name) - values(state, "concatenation")
        for name in ("confidence", "late")
    }
    t = {name: stats.ttest_1samp(g, 0).pvalue for name, g in gaps.items()}
    w = {name: stats.wilcoxon(g).pvalue for name, g in gaps.items()}
    small, large = sorted(t, key=t.__getitem__)
    holm = {small: 2 * t[small], large: max(2 * t[small], t[large])}
    tests = significance_table(views, "balanced_accuracy", "")
    main = main_table(state.study, views)
    tail = values(state, "confidence", "few_shot_accuracy") - values(
        state, "concatenation", "few_shot_accuracy"
    )
    for i, name in enumerate(("confidence", "late")):
        results, short = by_column(tests, i), by_column(main, i + 1)
        assert (results["variant"], short["variant"]) == (name, name)
        assert results["difference"] == format_signed(100 * gaps[name].mean())
        assert float(results["t p"].replace("< 0.001", "0")) == pytest.approx(t[name], abs=1e-3)
        assert float(results["Holm"].replace("< 0.001", "0")) == pytest.approx(holm[name], abs=1e-3)
        assert float(results["Wilcoxon p"]) == pytest.approx(w[name], abs=1e-3)
        assert short["difference"].startswith(format_signed(100 * gaps[name].mean()))
        assert float(short["Holm p"].replace("< 0.001", "0")) == pytest.approx(holm[name], abs=1e-3)
    assert by_column(main, 1)["few-shot accuracy: difference"].startswith(
        format_signed(100 * tail.mean())
    )
    alike = main_table(replace(state.study, tail="balanced_accuracy"), views)
    assert (len(set(alike.columns)), len(alike.columns)) == (
        len(alike.columns),
        len(main.columns) - 2,
    )


def test_the_table_for_programs_has_everything_once(tmp_path: Path) -> None:
    state, _ = filled(tmp_path, THREE, FAR)
    state.write_report()
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    (row,) = (r for r in rows if (r["variant"], r["metric"]) == ("confidence", "balanced_accuracy"))
    gap = values(state, "confidence") - values(state, "concatenation")
    assert (row["seeds"], row["reference"], row["condition"]) == ("5", "concatenation", "clean")
    assert float(row["mean"]) == pytest.approx(values(state, "confidence").mean())
    assert float(row["sd"]) == pytest.approx(values(state, "confidence").std(ddof=1))
    assert float(row["difference"]) == pytest.approx(gap.mean())
    assert float(row["t_p"]) == pytest.approx(stats.ttest_1samp(gap, 0).pvalue)
    assert float(row["difference_low"]) < gap.mean() < float(row["difference_high"])
    assert len(
        {tuple(r[k] for k in ("data", "condition", "variant", "metric")) for r in rows}
    ) == len(rows)


def test_the_mean_over_data_sets_is_one_and_names_the_only_image_alike(tmp_path: Path) -> None:
    text = TWO + ONLY_ONE
    state = opened(tmp_path, text, sets=[*data_sets("one"), *data_sets("other", image="map")])
    invented(state, {**LEVELS, "only image": 0.4, "only map": 0.4, "only table": 0.3})
    views = condition_views(state.study, state.planned, state.rows())
    (mean,) = mean_views(views, state.planned)
    assert mean.variants == ("concatenation", "confidence", "only the image", "only the table")
    both = (values(state, "only image", data="one") + values(state, "only map", data="other")) / 2
    assert list(mean.scores("balanced_accuracy")["only the image"].values()) == pytest.approx(
        list(both)
    )
    (under,) = mean_views(
        [replace(v, study=replace(v.study, reference="only image")) for v in views], state.planned
    )
    assert [c.reference for c in under.comparisons("balanced_accuracy")] == ["only the image"] * 3
    ranking = rank_over_data_sets(state.study, state.planned, views).ranking
    assert ranking.ranks == {
        "confidence": 1.0,
        "concatenation": 2.0,
        "only the image": 3.0,
        "only the table": 4.0,
    }


def test_the_best_is_bold_where_it_is_the_best(tmp_path: Path) -> None:
    state, views = filled(tmp_path, THREE, {**FAR, "late": 0.4})
    for row in state.results.rows.values():
        row.metrics["test/worst_recall"] = 0.0
    table = score_table(views, ["balanced_accuracy", "worst_recall", "weight/image"], "")
    assert [[getattr(cell, "strong", False) for cell in row[2:]] for row in table.rows] == [
        [False] * 3,
        [True, False, False],
        [False] * 3,
    ]


def test_the_report_says_what_the_results_rest_on(tmp_path: Path) -> None:
    state, _ = filled(
        tmp_path,
        TWO,
        LEVELS,
        also={"train_rows": 300.0, "train_imbalance": 12.5, "test/rows": 19.0},
    )
    state.write_report()
    page = (tmp_path / "report.md").read_text()
    assert "| data | condition | training rows | imbalance ratio | test rows |" in page
    assert "| set | clean | 300 | 12.5 | 19 |" in page


def test_confidences_stand_beside_the_truth(tmp_path: Path) -> None:
    predicted = {
        "predicted": 0.6,
        "used": 0.5,
        "true": 0.4,
        "rank_correlation": 0.25,
        "weight": 0.3,
        "weight_spread": 0.2,
        "weight_correlation": 0.15,
    }
    facts = {
        f"test/confidence/image/{group}/{fact}": v
        for group in ("all", "few")
        for fact, v in predicted.items()
    }
    _, views = filled(tmp_path, TWO, LEVELS, also=facts)
    table = confidence_table(views)
    assert [list(by_column(table, i).values()) for i in range(4)] == [
        [
            name,
            "image",
            group,
            "0.600 ± 0.000",
            "0.500 ± 0.000",
            "0.400 ± 0.000",
            "0.250 ± 0.000",
            "0.300 ± 0.000",
            "0.200 ± 0.000",
            "0.150 ± 0.000",
        ]
        for name in ("concatenation", "confidence")
        for group in ("all", "few")
    ]
