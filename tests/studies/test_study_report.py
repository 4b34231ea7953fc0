"""Facts about what a study's report shows: words, tables, tests, figures and TensorBoard runs, from results whose truth is known."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from distributed.reporting.page import Figure
from distributed.reporting.tables import ReportTable, cell_text
from distributed.reporting.verdicts import format_signed
from distributed.studies import board
from distributed.studies.figures import (
    axis_figures,
    forest_figures,
    rank_over_data_sets,
    score_figures,
)
from distributed.studies.report import collect_data, number_equal_names, report_sections
from distributed.studies.results import Results
from distributed.studies.state import StudyState
from distributed.studies.tables import (
    confidence_table,
    main_table,
    score_table,
    significance_table,
)
from distributed.studies.views import ConditionView, condition_views, mean_views
from tests.studies.study_tools import (
    EVIL,
    LEVELS,
    TWO,
    data_sets,
    done,
    invented,
    opened,
    record,
)


def against(text: str, variant: str, metric: str = "balanced_accuracy") -> str:
    return f'[[claims]]\ntext = "{text}"\nvariant = "{variant}"\nagainst = "concatenation"\nmetric = "{metric}"'


def test_the_report_says_what_is_shown(tmp_path: Path) -> None:
    text = f"""
    title = "Title {EVIL}"
    reference = "concatenation"
    {TWO}
    [[variants]]
    name = "late"
    set = {{ fusion.kind = "late" }}
    [[variants]]
    name = "gate {EVIL}"
    set = {{ fusion.kind = "gate" }}
    {against("fusion", "confidence")}
    {against("late fusion", "late", "few_shot_accuracy")}
    [[claims]]
    text = "{{modality}} weighs little"
    variant = "confidence"
    metric = "weight/{{modality}}"
    at_most = 0.1
    [[variants]]
    name = "only {{modality}}"
    each = "modality"
    set = {{ data.modalities = "{{modality}}" }}
    {against("{modality} alone", "only {modality}")}
    """
    state = opened(tmp_path, text.replace("\n    ", "\n"))
    alone = {"only image": 0.4, "only table": 0.5}
    invented(
        state,
        {"concatenation": 0.5, "confidence": 0.55, "late": 0.5, f"gate {EVIL}": 0.4, **alone},
        failing=(f"gate {EVIL}", 3),
    )
    report = state.write_report()
    page, words = Path(report.path).read_text(), (tmp_path / "report.md").read_text()
    assert (
        "Fusion helps here: confidence is better than concatenation in balanced accuracy (+5."
        in words
    )
    assert "Late fusion does not help here as far as 5 seeds can show" in words
    assert "Image alone does harm here: only image is worse than concatenation" in words
    assert "Table alone does not help here" in words
    assert "| image weighs little | 0.050 | 0.050 to 0.050 | 5 | holds |" in words
    assert "| table weighs little | 0.950 | 0.950 to 0.950 | 5 | does not hold |" in words
    assert "With 4 seeds the Wilcoxon test cannot go below p = 0.125" in words  # one of five failed
    assert "Failed cells" in words
    assert EVIL not in page.replace("&lt;script&gt;alert(1)&lt;/script&gt;", "")
    assert "<script>alert" not in page
    assert "<script>alert" not in words
    assert len(page) < 2_500_000
    assert "concatenation" in report.table
    tex = (tmp_path / "table.tex").read_text()
    assert r"\begin{tabular}" in tex
    assert tex.count(r"\\") == 7
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    best = {r["variant"]: float(r["mean"]) for r in rows if r["metric"] == "balanced_accuracy"}
    assert best["confidence"] == pytest.approx(
        np.mean(
            [r.metrics["test/balanced_accuracy"] for r in state.rows() if r.variant == "confidence"]
        )
    )


def test_one_variant_with_one_seed_does_not_speak_for_the_others(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO, seeds=5)
    invented(state, LEVELS)
    more = opened(
        tmp_path, TWO + '[[variants]]\nname = "late"\nset = { fusion.kind = "late" }\n', seeds=5
    )
    outcome = done(**{"test/balanced_accuracy": 0.5, "test/few_shot_accuracy": 0.3})
    record(more, more.remaining()[0], [outcome])
    more.write_report()
    words = (tmp_path / "report.md").read_text()
    assert "With 5 seeds the Wilcoxon test cannot go below" in words
    assert "One seed: means only" not in words
    assert "not tested: one seed in common" in words


def test_tables_do_not_depend_on_the_order_in_which_cells_finish(tmp_path: Path) -> None:
    pages = []
    for name, order in (("a", 1), ("b", -1)):
        state = opened(tmp_path / "source", TWO)
        invented(state, LEVELS)
        other = opened(tmp_path / name, TWO)
        for row in list(state.results.rows.values())[::order]:
            other.results.add([row])
        other.write_report()
        pages.append((tmp_path / name / "report.md").read_text())
    assert pages[0] == pages[1]


def test_several_data_sets_are_ranked_and_averaged(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO, "one", "other", "third")
    invented(state, LEVELS)
    state.write_report()
    words = (tmp_path / "report.md").read_text()
    assert (
        "Mean ranks over 3 data sets, under the first condition of each (1 is the best): confidence 1.00, concatenation 2.00."
        in words
    )
    assert "mean of 3 data sets" in words
    assert "| one | concatenation | 5 |" in words


def test_a_report_of_nothing_says_so(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO)
    state.write_report()
    words = (tmp_path / "report.md").read_text()
    assert "No cell has finished yet" in words
    assert "10 cells have not run yet" in words
    invented(state, LEVELS, failing=("concatenation", 0))
    one = opened(tmp_path, TWO, seeds=1)
    one.write_report()
    assert "nan" not in (tmp_path / "report.md").read_text().lower().replace("nan <", "").replace(
        "nan &lt;", ""
    )


def test_a_study_can_live_under_a_uri(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/deep/study"
    state = opened(Path("unused"), TWO, seeds=2)
    state.folder = state.results.folder = uri
    history = [{"epoch": 1, "loss": 1.0, "val/balanced_accuracy": 0.5}]
    for training in state.remaining():
        outcome = done(**{"test/balanced_accuracy": 0.5, "train_seconds": 1.0})
        record(state, training, [outcome for _ in training.cells], history)
    assert state.write_report(pictures=True).path == f"{uri}/report.html"
    folder = tmp_path / "deep/study"
    assert {p.name for p in folder.iterdir()} == {
        *(
            "results.csv",
            "report.html",
            "report.md",
            "study.json",
            "table.csv",
            "table.md",
            "table.tex",
            "tensorboard",
        )
    }
    assert len(list(folder.rglob("events.*"))) == 4
    assert len(Results.load(uri).rows) == 4


# The numbers

THREE = TWO + '[[variants]]\nname = "late"\nset = { fusion.kind = "late" }\n'
FAR = {"concatenation": 0.5, "confidence": 0.55, "late": 0.498}


def filled(
    tmp_path: Path, text: str, levels: dict[str, float], *names: str, **more: Any
) -> tuple[StudyState, list[ConditionView]]:
    state = opened(tmp_path, text, *names)
    invented(state, levels, **more)
    return state, condition_views(state.study, state.planned, state.rows())


def values(
    state: StudyState, variant: str, metric: str = "balanced_accuracy", **where: Any
) -> np.ndarray:
    """By seed, straight from the results."""
    rows = [
        r
        for r in state.rows()
        if r.variant == variant and all(getattr(r, k) == v for k, v in where.items())
    ]
    return np.array([r.metrics[f"test/{metric}"] for r in sorted(rows, key=lambda r: r.seed)])


def by_column(table: ReportTable, row: int) -> dict[str, str]:
    return dict(zip(table.columns, map(cell_text, table.rows[row]), strict=True))


def test_every_p_and_difference_stands_in_its_own_column(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, THREE, FAR)
    gaps = {
        name: values(state, name) - values(state, "concatenation")
        for name in ("confidence", "late")
    }
    t = {name: stats.ttest_1samp(g, 0).pvalue for name, g in gaps.items()}
    w = {name: stats.wilcoxon(g).pvalue for name, g in gaps.items()}
    small, large = sorted(t, key=t.__getitem__)
    holm = {small: 2 * t[small], large: max(2 * t[small], t[large])}
    tests = significance_table(seen, "balanced_accuracy", "")
    main = main_table(state.study, seen)
    tail = values(state, "confidence", "few_shot_accuracy") - values(
        state, "concatenation", "few_shot_accuracy"
    )
    for i, name in enumerate(("confidence", "late")):
        found, short = by_column(tests, i), by_column(main, i + 1)
        assert (found["variant"], short["variant"]) == (name, name)
        assert found["difference"] == format_signed(100 * gaps[name].mean())
        assert float(found["t p"].replace("< 0.001", "0")) == pytest.approx(t[name], abs=1e-3)
        assert float(found["Holm"].replace("< 0.001", "0")) == pytest.approx(holm[name], abs=1e-3)
        assert float(found["Wilcoxon p"]) == pytest.approx(w[name], abs=1e-3)
        assert short["difference"].startswith(format_signed(100 * gaps[name].mean()))
        assert float(short["Holm p"].replace("< 0.001", "0")) == pytest.approx(holm[name], abs=1e-3)
    assert by_column(main, 1)["few-shot accuracy: difference"].startswith(
        format_signed(100 * tail.mean())
    )
    alike = main_table(replace(state.study, tail="balanced_accuracy"), seen)
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


def test_a_claim_against_the_reference_speaks_by_the_corrected_test(tmp_path: Path) -> None:
    crowd = "".join(
        f'[[variants]]\nname = "n{i}"\nset = {{ experts.count = {i} }}\n' for i in range(2, 9)
    )
    claim = '[[claims]]\ntext = "it"\nvariant = "confidence"\nagainst = "concatenation"\nmetric = "balanced_accuracy"\n'
    levels = {**LEVELS, **{f"n{i}": 0.5 for i in range(2, 9)}}
    for name, variants, word in (
        ("alone", TWO, "It helps here"),
        ("crowd", TWO + crowd, "It does not help here as far as"),
    ):
        state, _ = filled(tmp_path / name, variants + claim, levels)
        base = values(state, "concatenation")
        for row in state.results.rows.values():
            if row.variant == "confidence":
                row.metrics["test/balanced_accuracy"] = (
                    base[row.seed] + (0.010, 0.020, 0.005, 0.015, 0.001)[row.seed]
                )  # p = 0.04
        state.write_report()
        words = (tmp_path / name / "report.md").read_text()
        assert word in words
        assert ("Balanced accuracy. Better: confidence" in words) == (name == "alone"), (
            "the summary and the claim must say the same"
        )


def test_the_mean_over_data_sets_is_one_and_names_the_only_image_alike(tmp_path: Path) -> None:
    text = (
        TWO
        + '[[variants]]\nname = "only {modality}"\neach = "modality"\nset = { data.modalities = "{modality}" }\n'
    )
    state = opened(tmp_path, text, sets=[*data_sets("one"), *data_sets("other", image="map")])
    invented(state, {**LEVELS, "only image": 0.4, "only map": 0.4, "only table": 0.3})
    seen = condition_views(state.study, state.planned, state.rows())
    (mean,) = mean_views(seen, state.planned)
    assert mean.variants == ("concatenation", "confidence", "only the image", "only the table")
    both = (values(state, "only image", data="one") + values(state, "only map", data="other")) / 2
    assert list(mean.scores("balanced_accuracy")["only the image"].values()) == pytest.approx(
        list(both)
    )
    (under,) = mean_views(
        [replace(v, study=replace(v.study, reference="only image")) for v in seen], state.planned
    )
    assert [c.reference for c in under.comparisons("balanced_accuracy")] == ["only the image"] * 3
    ranking = rank_over_data_sets(state.study, state.planned, seen).ranking
    assert ranking.ranks == {
        "confidence": 1.0,
        "concatenation": 2.0,
        "only the image": 3.0,
        "only the table": 4.0,
    }


def test_the_best_is_bold_where_it_is_the_best(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, THREE, {**FAR, "late": 0.4})
    for row in state.results.rows.values():
        row.metrics["test/worst_recall"] = 0.0
    table = score_table(seen, ["balanced_accuracy", "worst_recall", "weight/image"], "")
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
    words = (tmp_path / "report.md").read_text()
    assert "| data | condition | training rows | imbalance ratio | test rows |" in words
    assert "| set | clean | 300 | 12.5 | 19 |" in words


def test_confidences_stand_beside_the_truth(tmp_path: Path) -> None:
    said = {"predicted": 0.6, "used": 0.5, "true": 0.4, "rank_correlation": 0.25, "weight": 0.3}
    facts = {
        f"test/confidence/image/{group}/{fact}": v
        for group in ("all", "few")
        for fact, v in said.items()
    }
    _, seen = filled(tmp_path, TWO, LEVELS, also=facts)
    table = confidence_table(seen)
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
        ]
        for name in ("concatenation", "confidence")
        for group in ("all", "few")
    ]


def report_of(state: StudyState, folder: Path) -> str:
    state.write_report()
    return (folder / "report.md").read_text()


LIMIT = '[[claims]]\ntext = "it"\nvariant = "confidence"\nagainst = "concatenation"\nmetric = "balanced_accuracy"\nat_least = 0.02\n'


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
    state, seen = filled(tmp_path, text, LEVELS | {"late": 0.5}, *names)
    low = {"concatenation": 0.5, "confidence": 0.4, "late": 0.6}
    noise = np.random.default_rng(0)
    for row in state.results.rows.values():
        row.metrics["test/nll"] = low[row.variant] + noise.normal(0, 0.004)
    words = report_of(state, tmp_path)
    assert "It helps here: confidence is better than concatenation in NLL" in words
    assert "NLL. Better: confidence (−0.1" in words
    assert "Worse: late" in words.replace("worse", "Worse")
    assert "confidence 1.00, concatenation 2.00, late 3.00" in words
    (table,) = [b for b in [score_table(seen[:1], ["nll"], "")] if isinstance(b, ReportTable)]
    assert [getattr(row[2], "strong", False) for row in table.rows] == [False, True, False]
    (forest, *_) = forest_figures(state.study, seen, "nll")
    assert {t.name: list(t.y) for t in forest.figure.data} == {
        "better": ["confidence"],
        "worse": ["late"],
    }


def test_a_cut_report_keeps_what_was_run_before_and_says_that_it_is_cut(tmp_path: Path) -> None:
    """Else whoever asks for one variant after many were run escapes the correction over them."""
    invented(opened(tmp_path, THREE), FAR)
    again = opened(tmp_path, THREE, variants="confidence")
    assert again.remaining() == []
    words = report_of(again, tmp_path)
    assert "late" in words.split("## Results")[1]
    assert "cut down" not in words
    fresh = opened(tmp_path / "fresh", THREE, variants="confidence")
    invented(fresh, FAR)
    assert {r.variant for r in fresh.rows()} == {"concatenation", "confidence"}
    assert (
        "The study is cut down to 2 of its 3 variants: tests are corrected over what is shown here only."
        in report_of(fresh, tmp_path / "fresh")
    )


def test_what_some_data_set_lacks_is_left_out_of_ranks_and_means_by_name(tmp_path: Path) -> None:
    hard = '[[conditions]]\nname = "clean"\n[[conditions]]\nname = "hard"\ntest = { corrupt = "image=noise" }\n'
    state, _ = filled(tmp_path, THREE + hard, FAR, "one", "other", "third")
    for row in state.results.rows.values():
        if (row.data, row.variant, row.condition) == ("third", "late", "clean"):
            row.state, row.reason = "failed", "x"
    words = report_of(state, tmp_path)
    assert (
        "under the first condition of each (1 is the best): confidence 1.00, concatenation 2.00."
        in words
    )
    assert "Not ranked, since some data set has no result of it there: late." in words
    assert "Not in the means, since some data set has no result of it: late under clean." in words
    for row in state.results.rows.values():
        if (row.data, row.condition) == ("other", "clean"):
            row.state, row.reason = "failed", "x"
    words = report_of(state, tmp_path)
    assert "No ranks over data sets" in words
    assert "Means over data sets under: hard." in words
    assert "everything under clean" in words


def test_a_claim_that_cannot_be_measured_says_so(tmp_path: Path) -> None:
    claims = (
        against("it", "confidence")
        + "\n"
        + LIMIT.replace("balanced_accuracy", "recall/typo")
        + against("itself", "only {modality}")
    )
    alone = '\n[[variants]]\nname = "only {modality}"\neach = "modality"\nset = { data.modalities = "{modality}" }\n'
    text = (
        TWO
        + alone
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
    words = report_of(state, tmp_path)
    assert "It is not measured: no result of confidence and only image in MCC." in words
    assert "| not measured: no result of confidence and concatenation in recall of typo |" in words
    assert "concatenation has no result in balanced accuracy: nothing is compared with it." in words
    assert "Wilcoxon test cannot" not in words


def test_a_claim_over_modalities_leaves_out_the_one_against_itself(tmp_path: Path) -> None:
    alone = '[[variants]]\nname = "only {modality}"\neach = "modality"\nset = { data.modalities = "{modality}" }\n'
    claim = against("{modality}", "only {modality}").replace("concatenation", "only image")
    state, _ = filled(
        tmp_path, TWO + alone + claim, {**LEVELS, "only image": 0.4, "only table": 0.3}
    )
    words = report_of(state, tmp_path)
    assert "Table does harm here: only table is worse than only image" in words
    assert "Image does" not in words


def test_the_guard_is_counted_over_all_cells_that_weigh_experts(tmp_path: Path) -> None:
    text = TWO + '[[variants]]\nname = "stability"\ntest = { aggregation = "stability" }\n'
    state, _ = filled(tmp_path, text, {**LEVELS, "stability": 0.5})
    for row in state.results.rows.values():
        row.metrics["test/fell_back"] = float(row.variant == "stability" and row.seed == 2)
        row.note = "too few rows" if row.metrics["test/fell_back"] else ""
    assert (
        "Test-time aggregation fell back to uniform weights: stability in 1 of 5 cells."
        in report_of(state, tmp_path)
    )


def test_a_single_modality_is_not_asked_to_weigh_little(tmp_path: Path) -> None:
    claim = '[[claims]]\ntext = "light"\nvariant = "confidence"\nmetric = "weight/{modality}"\nat_most = 0.1\n'
    (data,) = data_sets("set")
    data.manifest.schema = data.manifest.schema.keep(["table"])
    state = opened(tmp_path, TWO + claim, sets=[data])
    invented(state, LEVELS)
    assert "light" not in report_of(state, tmp_path)


# The figures

RATIOS = (
    TWO
    + """
[[conditions]]
name = "ratio {data.imbalance_ratio}"
grid = { data.imbalance_ratio = [100, 10, 1] }
axis = "imbalance"
at = "{data.imbalance_ratio}"
"""
)
NOISE = TWO + "".join(
    f"""
[[conditions]]
name = "{{modality}} noise {share}"
each = "modality"
test = {{ corrupt = "{{modality}}=noise:{share}" }}
axis = "share of {{modality}} that is noise"
at = {share}
"""
    for share in (0.25, 0.5)
)
SHIFTS = TWO + "".join(
    f"""
[[conditions]]
name = "{kind}"
test = {{ shift = "{kind}" }}
axis = "test distribution"
at = "{kind}"
"""
    for kind in ("forward-10", "uniform", "backward-10")
)


def drawn(figures: list[Figure], name: str) -> dict[str, list[tuple[Any, float]]]:
    """{trace: its points} of the one figure of that name."""
    (figure,) = (f.figure for f in figures if f.name == name)
    return {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}


def test_accuracy_is_drawn_against_imbalance(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, RATIOS, LEVELS)
    lines = drawn(
        axis_figures(state.study, state.planned, seen),
        "curve-balanced-accuracy-set-imbalance",
    )
    assert lines.keys() == {"concatenation", "confidence"}
    for name, points in lines.items():
        assert [x for x, _ in points] == [100, 10, 1]
        for x, y in points:
            assert y == pytest.approx(100 * values(state, name, condition=f"ratio {x:g}").mean())


def test_the_weight_is_drawn_against_corruption(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, NOISE, LEVELS)
    for row in state.results.rows.values():
        row.metrics["test/weight/image"] = {"image noise 0.25": 0.3, "image noise 0.5": 0.1}.get(
            row.condition, 0.5
        )
    figures = axis_figures(state.study, state.planned, seen)
    lines = drawn(figures, "weight-image-set-share of image that is noise".replace(" ", "-"))
    assert lines["confidence"] == [(0.25, pytest.approx(0.3)), (0.5, pytest.approx(0.1))]


def test_the_experts_weights_are_drawn_against_the_test_distribution(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, SHIFTS, LEVELS)
    for row in state.results.rows.values():
        row.metrics["test/expert_weight/1"] = {
            "forward-10": 0.8,
            "uniform": 0.5,
            "backward-10": 0.2,
        }[row.condition]
        row.metrics["test/expert_weight/2"] = 1 - row.metrics["test/expert_weight/1"]
    lines = drawn(
        axis_figures(state.study, state.planned, seen),
        "experts-set-test-distribution-confidence",
    )
    assert [y for _, y in lines["expert 1"]] == pytest.approx([0.8, 0.5, 0.2])
    assert [y for _, y in lines["expert 2"]] == pytest.approx([0.2, 0.5, 0.8])


def test_forests_shots_and_seeds_show_the_numbers_of_the_tables(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, THREE, FAR)
    for row in state.results.rows.values():
        row.metrics["test/many_shot_accuracy"], row.metrics["test/medium_shot_accuracy"] = 0.9, 0.6
    (forest,) = forest_figures(state.study, seen, "balanced_accuracy")
    points = {y: x for trace in forest.figure.data for x, y in zip(trace.x, trace.y, strict=True)}
    for name in ("confidence", "late"):
        assert points[name] == pytest.approx(
            100 * (values(state, name) - values(state, "concatenation")).mean()
        )
    figures = score_figures(state.study, seen)
    bars = drawn(figures, "shots-set")
    few = 100 * values(state, "late", "few_shot_accuracy").mean()
    assert bars["late"] == [
        ("many", pytest.approx(90)),
        ("medium", pytest.approx(60)),
        ("few", pytest.approx(few)),
    ]
    dots = drawn(figures, "seeds-set")["one seed"]
    assert sorted(y for y, name in dots if name == "late") == pytest.approx(
        sorted(100 * values(state, "late"))
    )


def test_pictures_of_data_sets_with_like_names_have_files_of_their_own(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, TWO, LEVELS, "ham_1", "ham-1")
    data = collect_data(state.study, state.planned, state.rows(), "")
    sections = number_equal_names(report_sections(data, main_table(state.study, seen)))
    names = [b.name for s in sections for b in s.blocks if isinstance(b, Figure)]
    assert len(names) == len(set(names)) > 4


def test_every_data_set_has_its_forests_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    state, seen = filled(tmp_path, RATIOS, LEVELS, "one", "other", "third")
    names = [f.name for f in forest_figures(state.study, seen, "few_shot_accuracy")]
    assert {
        f"forest-few-shot-accuracy-{name}-ratio-100" for name in ("one", "other", "third")
    } <= set(names)
    state.write_report()
    assert "Drawn are 6 of 9 data sets and conditions." in (tmp_path / "report.md").read_text()


# TensorBoard


def test_seeds_fold_and_every_variant_has_its_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    twin = '[[variants]]\nname = "trusting"\ntest = { unfamiliar = "trusted" }\n'  # shares the training of `confidence`
    state = opened(tmp_path, TWO + twin, seeds=2)
    history = [{"epoch": 1.0, "loss": 1.0, "val/balanced_accuracy": 0.5}]
    level = {"concatenation": 0.1, "confidence": 0.2, "trusting": 0.3}
    for training in state.remaining():
        outcomes = [
            done(**{"test/balanced_accuracy": level[cell.variant]}) for _, cell in training.cells
        ]
        record(state, training, outcomes, history)
    found: dict[str, dict[str, float]] = {}
    for place in sorted((tmp_path / "tensorboard").rglob("seed-*")):
        events = EventAccumulator(str(place))
        events.Reload()
        content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        name = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.group_name
        found.setdefault(name, {})[place.name] = events.Scalars("final/test/balanced_accuracy")[
            0
        ].value
    assert found == {
        f"set, clean, {name}": {"seed-0": pytest.approx(value), "seed-1": pytest.approx(value)}
        for name, value in {"concatenation": 0.1, "confidence": 0.2, "trusting": 0.3}.items()
    }
    assert board.SHOWN[0] == "balanced_accuracy"


def test_what_differs_at_test_only_and_gradient_boosting_have_runs_too(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    boosting = '[[variants]]\nname = "boosting"\nmodel = "boosting"\n'
    state = opened(tmp_path, TWO + boosting + NOISE.removeprefix(TWO), seeds=1)
    history = [{"epoch": e, "loss": 1.0} for e in (1.0, 2.0)]
    for training in state.remaining():
        outcomes = [done(**{"test/balanced_accuracy": 0.5}) for _ in training.cells]
        if training.first.variant == "confidence":
            outcomes[-1] = replace(outcomes[-1], state="failed", reason="x")
        epochs = [] if training.first.model == "boosting" else history
        record(state, training, outcomes, epochs)
    curves, scores = {}, {}
    for place in sorted((tmp_path / "tensorboard").rglob("seed-*")):
        events = EventAccumulator(str(place))
        events.Reload()
        name = str(place.relative_to(tmp_path / "tensorboard"))
        curves[name] = "loss" in str(events.Tags()["scalars"])
        scores[name] = [(e.step, e.value) for e in events.Scalars("final/test/balanced_accuracy")]
    conditions = [
        f"{modality}-noise-0-{share}" for modality in ("image", "table") for share in (25, 5)
    ]
    assert scores.keys() == {
        f"{c}/{v}/seed-0" for c in conditions for v in ("boosting", "concatenation", "confidence")
    } - {"table-noise-0-5/confidence/seed-0"}
    assert [name for name, drawn in curves.items() if drawn] == [
        f"image-noise-0-25/{v}/seed-0" for v in ("concatenation", "confidence")
    ]
    assert scores["table-noise-0-5/boosting/seed-0"] == [(0, 0.5)]
    assert scores["table-noise-0-5/concatenation/seed-0"] == [(2, 0.5)]
