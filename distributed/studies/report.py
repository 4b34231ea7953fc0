"""Writes a study's tables (Markdown, LaTeX, CSV), figures and report from its results."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from distributed.reporting import figures, files, tables
from distributed.reporting import page as report
from distributed.reporting.page import (
    Bullets,
    Code,
    Figure,
    Heading,
    Section,
    Text,
)
from distributed.reporting.significance import summarise
from distributed.reporting.tables import ReportTable
from distributed.reporting.verdicts import seed_limit_note
from distributed.runtime import storage
from distributed.runtime.storage import is_uri, join
from distributed.studies import claims as study_claims
from distributed.studies import figures as study_figures
from distributed.studies import tables as study_tables
from distributed.studies import views as study_stats
from distributed.studies.cells import DataSetCells
from distributed.studies.definition import Study
from distributed.studies.results import CellRow
from distributed.studies.views import ConditionView, name_of

MOST_LINES = 20
USED = {
    "train_rows": "training rows",
    "train_imbalance": "imbalance ratio",
    "test/rows": "test rows",
}
METHOD = (
    "Every number is of the test split; epochs, temperatures and thresholds were chosen on validation. Seeds vary weights, order and "
    "augmentation, and which rows a condition cuts or spoils, on one fixed split, so intervals and tests speak of training chance on this "
    "split, not of new data.",
    "Intervals are expanded percentile bootstrap intervals of the mean over seeds (95 %). Tests are paired by seed against the reference: "
    "t test and Wilcoxon's signed ranks, each corrected after Holm over the comparisons of one data set, condition and metric. `shown` "
    "follows the corrected t test at 5 %; inside the noise means that no difference is shown, not that there is none.",
    "Claims stand in the study file. What helps against the reference follows the corrected test of its table; against another variant, "
    "and within a limit, each claim is one planned comparison without correction. A claim `holds`, or does not, "
    "where the whole interval lies on one side of its limit.",
    "Hedges g is the mean paired difference over its standard deviation, corrected for few seeds.",
)


def write_report(
    folder: str,
    study: Study,
    plans: Mapping[str, DataSetCells],
    rows: Sequence[CellRow],
    command: str,
    *,
    pictures: bool = False,
) -> tuple[str, str, str]:
    """Writes all; returns the report's place, the main table for a terminal, and why there are no PNG pictures, if asked for and none."""
    seen = study_stats.condition_views(study, plans, rows)
    main = main_table(study, seen)
    for ending, content in (
        ("md", tables.to_markdown(main)),
        ("tex", tables.to_latex(main, f"tab:{study.name}")),
        (
            "csv",
            tables.to_csv(
                study_tables.tidy_table(
                    [*seen, *study_stats.mean_views(seen, plans)],
                    [*_metrics(study), "train_seconds"],
                )
            ),
        ),
    ):
        _put(folder, f"table.{ending}", content)
    sections = _named_apart(report_sections(study, plans, seen, main, rows, command))
    missing = _pictures(folder, sections) if pictures and not is_uri(folder) else ""
    title = f"Study: {study.title}"
    failed = sum(row["state"] == "failed" for row in rows)
    cells = f"{len(rows) - failed} of {sum(len(p.cells) for p in plans.values())} cells finished"
    lead = f"{', '.join(plans)}: {cells}{f', {failed} failed' if failed else ''}."
    _put(folder, "report.html", report.to_html(title, sections, lead=lead))
    _put(
        folder,
        "report.md",
        report.to_markdown(
            title, sections, lead=lead, folder=None if is_uri(folder) else Path(folder)
        ),
    )
    note = seeds_note(study, seen)
    return (
        join(folder, "report.html"),
        tables.to_text(_short(main)) + (f"\n\n{note}" if note else ""),
        missing,
    )


def _put(folder: str, name: str, content: str) -> None:
    storage.write_file(join(folder, name), files.redact_secrets(content).encode())


def _named_apart(sections: Sequence[Section]) -> list[Section]:
    """Figures whose file names would be one, as those of the data sets ham_1 and ham-1, get numbers."""
    taken: dict[str, int] = {}

    def own(block: report.Block) -> report.Block:
        if not isinstance(block, Figure) or not block.name:
            return block
        taken[block.name] = taken.get(block.name, 0) + 1
        return (
            block
            if taken[block.name] == 1
            else replace(block, name=f"{block.name}-{taken[block.name]}")
        )

    return [replace(s, blocks=[own(b) for b in s.blocks]) for s in sections]


def _pictures(folder: str, sections: Sequence[Section]) -> str:
    """PNG files of all named figures, as far as kaleido is there."""
    named = {
        Path(folder) / "figures" / f"{b.name}.png": b.figure
        for s in sections
        for b in s.blocks
        if isinstance(b, Figure) and b.name
    }
    return figures.save_png_files(named) if named else ""


def main_table(study: Study, seen: Sequence[ConditionView]) -> ReportTable:
    """Scores of every variant with the difference to the reference in the main metric and in that of the tail."""
    metrics = _metrics(study)
    caption = f"{study.title}: mean ± standard deviation over seeds, test split; differences to {study.reference}, paired; best means bold."
    base = study_tables.score_table(seen, metrics, caption)
    first, at = study_tables.difference_columns(seen, study.metric), base.columns.index("seeds") + 2
    tail = (
        ((), [[]] * len(base.rows))
        if study.tail == study.metric
        else study_tables.difference_columns(seen, study.tail, f"{name_of(study.tail)}: ")
    )
    rows = [
        [*row[:at], *first[1][i], row[at], *tail[1][i], *row[at + 1 :]]
        for i, row in enumerate(base.rows)
    ]
    return replace(
        base,
        columns=(
            *base.columns[:at],
            *first[0],
            base.columns[at],
            *tail[0],
            *base.columns[at + 1 :],
        ),
        rows=rows,
    )


def _metrics(study: Study) -> list[str]:
    return list(dict.fromkeys((study.metric, study.tail, *study_tables.SCORE_METRICS)))


def _short(main: ReportTable) -> ReportTable:
    """What fits on a terminal: the first columns of the main table."""
    last = main.columns.index("seeds") + 7
    return replace(main, columns=main.columns[:last], rows=[row[:last] for row in main.rows])


def report_sections(
    study: Study,
    plans: Mapping[str, DataSetCells],
    seen: Sequence[ConditionView],
    main: ReportTable,
    rows: Sequence[CellRow],
    command: str,
) -> list[Section]:
    if not seen:
        waiting = Text("No cell has finished yet.")
        return [
            Section("What is shown", [waiting]),
            Section("What failed", _failures(plans, rows)),
            Section("How it was made", _made(command)),
        ]
    means = study_stats.mean_views(seen, plans)
    tail = [] if study.tail == study.metric else [study.tail]
    return [
        Section("What is shown", _shown(study, plans, [*seen, *means])),
        Section("Results", [main, *study_figures.score_figures(study, seen)]),
        Section(
            "Against the reference",
            [b for m in (study.metric, *tail) for b in _against(study, seen, m)],
        ),
        Section("Over data sets", _over_sets(study, plans, seen, means) if len(plans) > 1 else []),
        Section("Along the conditions", study_figures.axis_figures(study, plans, seen)),
        Section("Fusion weights", _weights(seen)),
        Section("What failed or was left out", _failures(plans, rows)),
        Section(
            "How it was made",
            [
                *_made(command),
                *_rows_used(seen),
                Heading("Variants"),
                _variants(plans),
                _cost(seen),
                _all_cells(study, rows),
            ],
        ),
    ]


def _shown(
    study: Study, plans: Mapping[str, DataSetCells], seen: Sequence[ConditionView]
) -> list[report.Block]:
    """The question, what its claims came to, then who differs from the reference, a line a data set and condition where these are few."""
    lines, limits = study_claims.answers(study, plans, seen)
    metrics = dict.fromkeys((study.metric, study.tail))
    against = [line for m in metrics for line in study_claims.comparison_lines(seen, m)]
    if len(against) > MOST_LINES:
        against = [
            *against[:MOST_LINES],
            f"{len(against) - MOST_LINES} more such lines are left out; the tables below have all.",
        ]
    note, cut = seeds_note(study, seen), _cut(plans)
    return [
        *([Text(cut)] if cut else []),
        *([Text(study.question)] if study.question else []),
        *([Bullets(lines)] if lines else []),
        *([limits] if limits else []),
        *([Heading(f"Against {study.reference}"), Bullets(against)] if against else []),
        *([Text(note)] if note else []),
    ]


def seeds_note(study: Study, seen: Sequence[ConditionView]) -> str:
    """What so few seeds cannot show."""
    seeds = [s.n for v in seen for s in v.means(study.metric).values()]
    several = min(
        (n for n in seeds if n > 1), default=1
    )  # a variant with one finished seed is untested, and its rows say so
    families = [c.family for v in seen for c in v.comparisons(study.metric)]
    return seed_limit_note(several, max(families)) if families else ""


def _cut(plans: Mapping[str, DataSetCells]) -> str:
    """What of the study is not in this report, because --variants or --conditions left it out and it has no result from another time."""
    said = []
    for kind in ("variants", "conditions"):
        whole, here = (
            {
                c.name
                for p in plans.values()
                for c in getattr(p.whole if of and p.whole else p, kind)
            }
            for of in (True, False)
        )
        if len(here) < len(whole):
            said.append(f"{len(here)} of its {len(whole)} {kind}")
    return (
        f"The study is cut down to {' and '.join(said)}: tests are corrected over what is shown here only."
        if said
        else ""
    )


def _against(study: Study, seen: Sequence[ConditionView], metric: str) -> list[report.Block]:
    table = study_tables.significance_table(
        seen, metric, f"Differences to {study.reference} in {name_of(metric)}, paired over seeds."
    )
    if not table.rows:
        return []
    drawn = study_figures.forest_figures(study, seen, metric)
    left = (
        [Text(f"Drawn are {len(drawn)} of {len(seen)} data sets and conditions.")]
        if 0 < len(drawn) < len(seen)
        else []
    )
    return [Heading(name_of(metric)), table, *drawn, *left]


def _over_sets(
    study: Study,
    plans: Mapping[str, DataSetCells],
    seen: Sequence[ConditionView],
    means: Sequence[ConditionView],
) -> list[report.Block]:
    """Ranks and means over data sets, and what they leave out."""
    ranking, unranked, rank_figures = study_figures.rank_over_data_sets(study, plans, seen)
    missing = study_stats.left_out_of_means(means, plans)
    return [
        Text(ranking_text(ranking)),
        *(
            [
                Text(
                    f"Not ranked, since some data set has no result of it there: {', '.join(unranked)}."
                )
            ]
            if unranked
            else []
        ),
        *rank_figures,
        *(
            [Text(f"Means over data sets under: {', '.join(v.condition for v in means)}.")]
            if means
            else []
        ),
        *(
            [
                Text(
                    f"Not in the means, since some data set has no result of it: {'; '.join(missing)}."
                )
            ]
            if missing
            else []
        ),
        *_means(study, means),
    ]


def _means(study: Study, means: Sequence[ConditionView]) -> list[report.Block]:
    """Tests of the mean over data sets."""
    caption = f"Differences to {study.reference} in the mean {name_of(study.metric)} over data sets, paired over seeds."
    if not means:
        return []
    return [
        main_table(study, means),
        study_tables.significance_table(means, study.metric, caption),
        *study_figures.forest_figures(study, means, study.metric),
    ]


def ranking_text(ranking: object) -> str:
    from distributed.reporting.ranking import Ranking

    assert isinstance(ranking, Ranking)
    if not ranking.ranks:
        return f"No ranks over data sets: {ranking.reason}."
    order = ", ".join(f"{name} {r:.2f}" for name, r in ranking.ranks.items())
    test = "" if ranking.p is None else f" Friedman's test: p = {ranking.p:.3g}."
    reach = (
        ""
        if ranking.critical_difference is None
        else f" Critical difference (Nemenyi, 5 %): {ranking.critical_difference:.2f}."
    )
    alike = (
        ""
        if not ranking.groups
        else " Not told apart: " + "; ".join(", ".join(g) for g in ranking.groups) + "."
    )
    note = f" Note: {ranking.reason}." if ranking.reason else ""
    return f"Mean ranks over {ranking.data_sets} data sets, under the first condition of each (1 is the best): {order}.{test}{reach}{alike}{note}"


def _weights(seen: Sequence[ConditionView]) -> list[report.Block]:
    wanted = ("test/weight/", "test/confidence/", "test/unfamiliar/")
    metrics = sorted(
        {n.removeprefix("test/") for v in seen for r in v.rows for n in r if n.startswith(wanted)}
    )
    facts = [m for m in metrics if m.count("/") == 3]
    found: list[report.Block] = []
    if metrics:
        caption = "Mean fusion weight of each modality; where present, its mean confidence and the share of rows unlike training."
        found.append(
            study_tables.score_table(seen, [m for m in metrics if m not in facts], caption)
        )
    return [*found, study_tables.confidence_table(seen)] if facts else found


def _failures(plans: Mapping[str, DataSetCells], rows: Sequence[CellRow]) -> list[report.Block]:
    failed = [
        [r["data"], r["variant"], r["condition"], r["seed"], r["reason"]]
        for r in rows
        if r["state"] == "failed"
    ]
    fell_back = _fell_back(plans, rows)
    notes = [
        [r["data"], r["variant"], r["condition"], r["seed"], r["note"]]
        for r in rows
        if r.get("note")
    ]
    left_out = list(
        dict.fromkeys(f"{data}: {reason}" for data, p in plans.items() for reason in p.left_out)
    )
    columns = ("data", "variant", "condition", "seed", "reason")
    missing = sum(len(p.cells) for p in plans.values()) - len(rows)
    return [
        *([Text(f"{missing} cells have not run yet; --resume runs them.")] if missing else []),
        *(
            [
                ReportTable(
                    columns=columns, rows=failed, caption="Failed cells; --resume runs them again."
                )
            ]
            if failed
            else []
        ),
        *([Bullets(left_out)] if left_out else []),
        *(
            [Text(f"Test-time aggregation fell back to uniform weights: {fell_back}.")]
            if fell_back
            else []
        ),
        *(
            [
                ReportTable(
                    columns=columns,
                    rows=notes,
                    caption="Notes of test-time aggregation.",
                    folded=True,
                )
            ]
            if notes
            else []
        ),
    ]


def _fell_back(plans: Mapping[str, DataSetCells], rows: Sequence[CellRow]) -> str:
    """How often each variant that weighs the experts at test time was refused by the guard, of how many cells."""
    weighing = {
        (d, c.variant, c.condition, c.seed)
        for d, p in plans.items()
        for c in p.cells
        if c.test.get("aggregation")
    }
    refused: dict[str, list[bool]] = {}
    for r in rows:
        if (
            r["state"] == "done"
            and (r["data"], r["variant"], r["condition"], r["seed"]) in weighing
        ):
            refused.setdefault(r["variant"], []).append(bool(r.get("test/fell_back")))
    return ", ".join(
        f"{name} in {sum(told)} of {len(told)} cells" for name, told in refused.items()
    )


def _made(command: str) -> list[report.Block]:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "ray", "scipy", "scikit-learn")
    )
    return [Code(command), *(Text(words) for words in METHOD), Text(f"Versions: {versions}.")]


def _rows_used(seen: Sequence[ConditionView]) -> list[report.Block]:
    """What a result rests on: rows of training and test, and how unequal the classes were."""
    found = []
    for view in seen:
        means = {
            name: summarise([r[name] for r in view.rows if isinstance(r.get(name), float)]).mean
            for name in USED
        }
        found.append(
            [
                view.data,
                view.condition,
                *(None if v is None else round(v, 1) for v in means.values()),
            ]
        )
    caption = "Rows used: in training, the largest class over the smallest there, in the test. Few test rows make single rows weigh much."
    return [ReportTable(columns=("data", "condition", *USED.values()), rows=found, caption=caption)]


def _variants(plans: Mapping[str, DataSetCells]) -> ReportTable:
    known = {v.name: v for p in plans.values() for v in p.variants}
    rows = []
    for v in known.values():
        changes = {**v.settings, **{f"test {k}": w for k, w in v.test.items()}}
        words = ", ".join(f"{k} = {w}" for k, w in changes.items()) or "the defaults"
        rows.append([v.name, "gradient boosting on the table" if v.model == "boosting" else words])
    return ReportTable(
        columns=("variant", "settings"), rows=rows, caption="What each variant changes."
    )


def _cost(seen: Sequence[ConditionView]) -> ReportTable:
    return study_tables.score_table(
        seen, ["train_seconds"], "Seconds of training, evaluation left out."
    )


def _all_cells(study: Study, rows: Sequence[CellRow]) -> ReportTable:
    metrics = (study.metric, study.tail)
    found = [
        [
            r["data"],
            r["condition"],
            r["variant"],
            r["seed"],
            r["state"],
            *(r.get(f"test/{m}") for m in metrics),
        ]
        for r in rows
    ]
    return ReportTable(
        columns=("data", "condition", "variant", "seed", "state", *map(name_of, metrics)),
        rows=found,
        caption="All cells",
        folded=True,
    )
