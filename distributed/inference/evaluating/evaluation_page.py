"""The page of an evaluation, `evaluate.py --report`: that of a run, for the rows evaluated."""

from __future__ import annotations

from distributed.inference.evaluating.scored_split import ScoredSplit
from distributed.inference.options import EvaluateOptions
from distributed.inference.weighing import FixedAggregation
from distributed.reporting.page import Block, Section
from distributed.training.checkpoint import Checkpoint
from distributed.training.pages.gallery import build_galleries
from distributed.training.pages.reliance import (
    decide_outputs,
    importance_figure,
    importance_on_page,
    labelled_sample,
    robustness_table,
)
from distributed.training.pages.report import RunReport, write_page
from distributed.training.pages.splits import Decider, page_split
from distributed.training.priors import mean_class_prior
from model.explaining.robustness import robustness
from model.metrics.names import metric

SECONDS = 5.0  # for the explanations


def write_evaluation_page(
    checkpoint: Checkpoint, options: EvaluateOptions, scored: ScoredSplit
) -> None:
    """Writes the page of an evaluation to options.report."""
    network = checkpoint.network
    fixed = FixedAggregation.from_estimate(scored.aggregation)
    trained_C = mean_class_prior(checkpoint)
    decider = Decider(
        lambda logits_NEC: fixed.probabilities(checkpoint, logits_NEC, trained_C),
        checkpoint.calibration.decide,
    )
    split = page_split(
        options.split, options.data, scored.split.source, scored.scores, network, decider
    )
    batch = labelled_sample(network, scored.split.source)
    blocks: list[Block] = []
    if batch is not None:
        decide, rows = decide_outputs(decider), split.title.capitalize()
        found = importance_on_page(network, batch, decide)
        blocks = [
            importance_figure(found, network.schema.column_count, rows),
            robustness_table(robustness(network, batch, decide), rows),
        ]
    accuracy = metric("balanced_accuracy")
    conditions = ", ".join(
        f"{name} {value}"
        for name in ("shift", "modalities", "corrupt", "prior", "aggregation")
        if (value := getattr(options, name))
    )
    write_page(
        options.report,
        RunReport(
            title=f"Evaluation on {split.title} rows",
            lead=(
                f"{options.checkpoint}; {options.data}; {len(scored.scores.labels_N):,} rows; "
                f"balanced accuracy {accuracy.text(split.metrics.get(accuracy.name))}"
                + (f"; {conditions}" if conditions else "")
            ),
            network=network,
            splits=[split],
            galleries=build_galleries(split, network, decider, SECONDS),
            extra=[Section("What the model goes by", blocks)],
            notes=[*scored.split.notes, *scored.notes],
        ),
    )
