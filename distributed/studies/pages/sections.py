"""The sections of a study's report that say what its results show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distributed.reporting.page import Block, Bullets, Heading, Text
from distributed.reporting.ranking import Ranking
from distributed.reporting.verdicts import seed_limit_note
from distributed.studies.cells import DataSetCells
from distributed.studies.claims import (
    ClaimResult,
    claim_sentences,
    claim_table,
    comparison_lines,
)
from distributed.studies.definition import Study
from distributed.studies.pages.figures import forest_figures, rank_over_data_sets
from distributed.studies.pages.tables import (
    confidence_facts,
    confidence_table,
    main_table,
    score_table,
    significance_table,
)
from distributed.studies.views import ConditionView, missing_from_means
from model.metrics import names

MAX_COMPARISON_LINES = 20


def conclusion_blocks(
    study: Study,
    planned: Mapping[str, DataSetCells],
    views: Sequence[ConditionView],
    claims: Sequence[ClaimResult],
) -> list[Block]:
    """The question, what the claims came to, and who differs from the reference.

    views: of the data sets and of their means.
    """
    comparisons = [
        line
        for metric in dict.fromkeys((study.metric, study.tail))
        for line in comparison_lines(views, metric)
    ]
    left_out = len(comparisons) - MAX_COMPARISON_LINES
    if left_out > 0:
        comparisons = [
            *comparisons[:MAX_COMPARISON_LINES],
            f"{left_out} more such lines are left out; the tables below have all.",
        ]
    blocks: list[Block] = []
    if cut := _cut_note(planned):
        blocks.append(Text(cut))
    if study.question:
        blocks.append(Text(study.question))
    if sentences := claim_sentences(claims, views):
        blocks.append(Bullets(sentences))
    if limits := claim_table(claims, views):
        blocks.append(limits)
    if comparisons:
        blocks += [Heading(f"Against {study.reference}"), Bullets(comparisons)]
    if note := few_seeds_note(study, views):
        blocks.append(Text(note))
    return blocks


def few_seeds_note(study: Study, views: Sequence[ConditionView]) -> str:
    """What the tests cannot show with so few seeds; empty if there is nothing to say."""
    seeds = [mean.n for view in views for mean in view.means(study.metric).values()]
    # A variant with a single finished seed is untested, which its own rows say.
    fewest = min((n for n in seeds if n > 1), default=1)
    families = [c.family for view in views for c in view.comparisons(study.metric)]
    return seed_limit_note(fewest, max(families)) if families else ""


def _cut_note(planned: Mapping[str, DataSetCells]) -> str:
    """What --variants or --conditions left out of the study, unless it has earlier results."""
    parts = list(planned.values())
    whole = [part.whole or part for part in parts]
    variants = {v.name for part in parts for v in part.variants}
    all_variants = {v.name for part in whole for v in part.variants}
    conditions = {c.name for part in parts for c in part.conditions}
    all_conditions = {c.name for part in whole for c in part.conditions}
    cuts = []
    if len(variants) < len(all_variants):
        cuts.append(f"{len(variants)} of its {len(all_variants)} variants")
    if len(conditions) < len(all_conditions):
        cuts.append(f"{len(conditions)} of its {len(all_conditions)} conditions")
    if not cuts:
        return ""
    return (
        f"The study is cut down to {' and '.join(cuts)}: "
        "tests are corrected over what is shown here only."
    )


def reference_blocks(study: Study, views: Sequence[ConditionView], metric: str) -> list[Block]:
    """The tests of one metric against the reference, and their forests."""
    title = names.metric(metric).title
    caption = f"Differences to {study.reference} in {title}, paired over seeds."
    table = significance_table(views, metric, caption)
    if not table.rows:
        return []
    forests = forest_figures(study, views, metric)
    blocks: list[Block] = [Heading(title), table, *forests]
    if 0 < len(forests) < len(views):
        drawn = f"Drawn are {len(forests)} of {len(views)} data sets and conditions."
        blocks.append(Text(drawn))
    return blocks


def data_set_blocks(
    study: Study,
    planned: Mapping[str, DataSetCells],
    views: Sequence[ConditionView],
    means: Sequence[ConditionView],
) -> list[Block]:
    """Ranks and means over data sets, and what they leave out."""
    ranked = rank_over_data_sets(study, planned, views)
    blocks: list[Block] = [Text(ranking_text(ranked.ranking))]
    if ranked.left_out:
        variants = ", ".join(ranked.left_out)
        reason = "Not ranked, since some data set has no result of it there"
        blocks.append(Text(f"{reason}: {variants}."))
    blocks += ranked.figures
    if means:
        conditions = ", ".join(view.condition for view in means)
        blocks.append(Text(f"Means over data sets under: {conditions}."))
    if missing := missing_from_means(means, planned):
        reason = "Not in the means, since some data set has no result of it"
        blocks.append(Text(f"{reason}: {'; '.join(missing)}."))
    if means:
        title = names.metric(study.metric).title
        caption = (
            f"Differences to {study.reference} in the mean {title} over data sets, "
            "paired over seeds."
        )
        blocks += [
            main_table(study, means),
            significance_table(means, study.metric, caption),
            *forest_figures(study, means, study.metric),
        ]
    return blocks


def ranking_text(ranking: Ranking) -> str:
    """The mean ranks, their test, and which variants it does not tell apart."""
    if not ranking.ranks:
        return f"No ranks over data sets: {ranking.reason}."
    order = ", ".join(f"{variant} {rank:.2f}" for variant, rank in ranking.ranks.items())
    sentences = [
        f"Mean ranks over {ranking.data_sets} data sets, "
        f"under the first condition of each (1 is the best): {order}."
    ]
    if ranking.p is not None:
        sentences.append(f"Friedman's test: p = {ranking.p:.3g}.")
    if ranking.critical_difference is not None:
        sentences.append(f"Critical difference (Nemenyi, 5 %): {ranking.critical_difference:.2f}.")
    if ranking.groups:
        groups = "; ".join(", ".join(group) for group in ranking.groups)
        sentences.append(f"Not told apart: {groups}.")
    if ranking.reason:
        sentences.append(f"Note: {ranking.reason}.")
    return " ".join(sentences)


def weight_blocks(views: Sequence[ConditionView]) -> list[Block]:
    """Fusion weights, confidences and the shares of rows unlike training, by modality."""
    metrics = {
        metric
        for view in views
        for metric in view.test_metrics("weight", "confidence", "unfamiliar")
    }
    facts = {fact for view in views for fact in confidence_facts(view)}
    blocks: list[Block] = []
    if metrics:
        caption = (
            "Mean fusion weight of each modality; where present, "
            "its mean confidence and the share of rows unlike training."
        )
        blocks.append(score_table(views, sorted(metrics - facts), caption))
    if facts:
        blocks.append(confidence_table(views))
    return blocks
