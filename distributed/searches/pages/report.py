"""The report of a search: its sections in the order in which they are read."""

from __future__ import annotations

import time
from dataclasses import dataclass

from distributed.reporting.figures import learning_curves
from distributed.reporting.page import Block, Bullets, Code, Figure, Section, Text
from distributed.searches.pages import tables
from distributed.searches.pages.figures import pareto
from distributed.searches.pages.importance import space_figures
from distributed.searches.pages.notes import SearchNotes
from distributed.searches.pages.searched_model import SearchedModel
from distributed.searches.pages.spoilt_table import EXAMPLES_NOTE, SpoiltRows
from distributed.searches.pages.trial_study import TRIAL
from distributed.searches.pages.verdict import seed_limits, short_title, verdict
from distributed.searches.state.records import SearchRecord, SettingValues, is_finite
from distributed.searches.state.standings import Standings
from model.metrics import names

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
LONG_TABLE = 30  # rows; a longer table of configurations is folded


@dataclass(frozen=True)
class Ending:
    """What a search ends with.

    model: once it is built. spoilt: how it fares where a modality is spoilt, where that was wanted.
    distilled: what the network that has learned from the model is; "" where there is none.
    """

    model: SearchedModel | None = None
    spoilt: SpoiltRows | None = None
    distilled: str = ""


def report_title(notes: SearchNotes, out: str) -> str:
    """Names the data set and the experiment. out: folder or URI of the experiment."""
    experiment = out.rstrip("/").rpartition("/")[2]
    return f"Search on {notes.data}: {experiment}" if notes.data else f"Search {experiment}"


def report_lead(standings: Standings, notes: SearchNotes) -> str:
    """The line below the report's title."""
    configurations = standings.log.configurations()
    metric = names.metric(standings.metric)
    parts = [f"{len(configurations)} configurations, decided by {metric.title} on validation"]
    if configurations:
        parts.insert(0, f"Begun on {_date(min(record.started for record in configurations))}")
    if notes.rows:
        parts.append(notes.rows)
    return "; ".join(parts)


def _date(seconds: float) -> str:
    """A day as 30 November 2026, whatever the language of this machine."""
    day = time.localtime(seconds)
    return f"{day.tm_mday} {MONTHS[day.tm_mon - 1]} {day.tm_year}"


def sections(
    standings: Standings,
    base: SettingValues,
    defaults: SettingValues,
    command: str,
    wall_seconds: float,
    notes: SearchNotes,
    ending: Ending,
) -> list[Section]:
    """All sections of the report.

    base: settings of the starting point that best.toml has.
    command: trains with the winner's settings.
    wall_seconds: of this process of the search.
    """
    return [
        Section("Best settings", best_settings(standings, base, defaults, command, notes)),
        Section("The model", model_section(standings, ending, notes)),
        Section("Where a modality is spoilt", spoilt_section(ending.spoilt)),
        Section("Trade-off", trade_off(standings)),
        Section("What matters", space_figures(standings)),
        Section("Learning curves", curves(standings)),
        Section("Trials", configurations(standings)),
        Section("Cost", [tables.cost_table(standings, wall_seconds)]),
        Section("How to read this", [Bullets(reading_notes(standings))]),
    ]


def best_settings(
    standings: Standings,
    base: SettingValues,
    defaults: SettingValues,
    command: str,
    notes: SearchNotes,
) -> list[Block]:
    """The verdict, the comparison, and the winner's settings."""
    blocks: list[Block] = [Text(verdict(standings))]
    if notes.resolution:
        blocks.append(Text(notes.resolution))
    if standings.winner() is not None:
        blocks += [
            tables.comparison_table(standings, notes.few_shot_val),
            tables.winner_settings_table(standings, base, defaults),
            Text("Train with these settings:"),
            Code(command),
        ]
        if notes.budget:
            blocks.append(Text(notes.budget))
    if note := seed_limits(standings):
        blocks.append(Text(note))
    return blocks


def model_section(standings: Standings, ending: Ending, notes: SearchNotes) -> list[Block]:
    """What the search ends with, how to use it, and its scores on the test split."""
    blocks: list[Block] = []
    if ending.model is not None:
        blocks += [Text(sentence) for sentence in ending.model.sentences()]
        blocks.append(Code(ending.model.predict_command()))
    if ending.distilled:
        blocks.append(Text(ending.distilled))
    test_scores = tables.test_table(standings, notes.few_shot_test)
    if test_scores.rows:
        blocks.append(test_scores)
    if ending.model is not None:
        blocks.append(ending.model.table())
    return blocks


def spoilt_section(spoilt: SpoiltRows | None) -> list[Block]:
    """What spoilt rows cost whom, and two rows in detail."""
    if spoilt is None:
        return []
    blocks: list[Block] = [Text(spoilt.conclusion()), spoilt.table()]
    if spoilt.examples():
        blocks.append(Text(EXAMPLES_NOTE))
        blocks += [example.table() for example in spoilt.examples()]
    return blocks


def configurations(standings: Standings) -> list[Block]:
    """Every configuration, and the failed runs."""
    ended = [r for r in standings.log.configurations() if r.state != "running"]
    blocks: list[Block] = []
    if ended:
        folded = len(ended) > LONG_TABLE
        blocks.append(tables.configurations_table(standings, short=True, folded=folded))
    failures = tables.failures_table(standings)
    if failures.rows:
        blocks.append(failures)
    return blocks


def reading_notes(standings: Standings) -> list[str]:
    """What a reader must know of splits, early stops and replicates."""
    when = "read once, after all decisions"
    if standings.was_extended_after_test():
        when = "read by the winner before the search was extended, and by a later winner again"
    test = "The test split was not read."
    if standings.tests():
        test = f"The test split is for the winner and the model only; it was {when}."
        if standings.log.of_kind("spoilt"):
            test += " The table of spoilt rows was made after that, and decided nothing."
    folds = (
        f"Training and validation rows were cut into {standings.folds} folds. Every configuration"
        " was trained without the rows of the first one and judged on these; those that could still"
        " be among the best went on to other folds, and are ranked by their answers for all rows"
        " that were held out. The first fold has also chosen who went on, so the best score is"
        " still biased a little upwards; the test split is not."
    )
    replicates = (
        "No replicates: the leader was picked among single runs, so its score is biased upwards."
        " Add --replicates 3."
    )
    if standings.replicates:
        seeds = f"{standings.replicates} fresh seed{'s' * (standings.replicates > 1)}"
        replicates = (
            f"The leading {standings.best} trials and the starting point were trained again with"
            f" {seeds}; they are ranked by the mean of these, here and in TensorBoard, so that"
            " being picked for one lucky run counts for nothing. The best of several means is still"
            " biased a little upwards; the test split is not. The baselines have one run each: that"
            " is no evidence of a difference, they rank behind, and they cannot win."
        )
    if standings.folds > 1:
        replicates = folds
    return [
        f"Every decision was made on the validation split. {test}",
        "A configuration that was stopped early has the score of the epoch at which it was"
        " stopped, and no rank.",
        replicates,
    ]


def trade_off(standings: Standings) -> list[Block]:
    """The first two of several metrics against each other, with the Pareto front."""
    rows = [
        {TRIAL: short_title(r), **{m: r.metrics.get(m) for m in standings.metrics}}
        for r in standings.finished()
    ]
    if len(standings.metrics) < 2 or not rows:
        return []
    first, second = (names.metric(name) for name in standings.metrics[:2])
    among_all = ""
    if len(standings.metrics) > 2:
        among_all = f"; over all {len(standings.metrics)} metrics none beats"
    front = ", ".join(r.name for r in standings.front())
    caption = (
        f"{first.title} against {second.title}; no configuration beats those on the line in"
        f" both{among_all}: {front}."
    )
    figure = pareto(rows, first, second)
    return [Figure(figure=figure, caption=caption, name="pareto")]


def curves(standings: Standings) -> list[Block]:
    """The validation score of every configuration over its epochs."""
    metric, winner = names.metric(standings.metric), standings.winner()
    histories = {
        _curve_name(record): [
            (entry["epoch"], entry[metric.name])
            for entry in record.history
            if is_finite(entry.get(metric.name))
        ]
        for record in standings.log.configurations()
    }
    histories = {name: points for name, points in histories.items() if points}
    if not histories:
        return []
    best = "" if winner is None else _curve_name(winner.record)
    stopped = {_curve_name(r) for r in standings.log.configurations() if r.state == "stopped"}
    figure = learning_curves(histories, metric, best=best, stopped=stopped)
    caption = (
        f"{metric.title[0].upper()}{metric.title[1:]} on validation, of every configuration over"
        " its epochs; the dotted lines were stopped early. A line is the configuration's first run."
    )
    return [Figure(figure=figure, caption=caption, name="curves")]


def _curve_name(record: SearchRecord) -> str:
    return short_title(record)
