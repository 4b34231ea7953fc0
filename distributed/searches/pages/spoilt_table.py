"""How the model and the baselines fare where a modality is spoilt: a table, and two rows in detail.

The numbers were computed by searches/jobs/spoilt_rows.py on the test split, after all decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from distributed.reporting.tables import CellContent, ReportTable, TableCell
from distributed.reporting.verdicts import format_signed
from distributed.runtime.storage import DamagedFile, join, read_json_object
from distributed.searches.pages.verdict import short_title
from distributed.searches.resolution import NORMAL_95
from distributed.searches.state.model_files import (
    MODEL_FOLDER,
    SPOILT_FILE,
    Answer,
    ExampleRow,
    SpoiltContent,
    Voice,
)
from distributed.searches.state.standings import Standings
from model.metrics import names

METRIC = "balanced_accuracy"
MODEL = "the model"
KINDS = {
    "noise": "replaced by noise",
    "shuffle": "exchanged for that of another row",
    "missing": "taken away",
}
EXAMPLES_NOTE = (
    "Two of these rows in detail: what each modality says alone, and how far the model trusts it."
    " They were picked because the model is right on them, the first one rather where plain"
    " concatenation is wrong: they show how an answer comes about, not how often it is right."
)


@dataclass(frozen=True)
class Example:
    """A row in detail.

    content: as spoilt.json has it. state: what was done to the row, in words.
    """

    content: ExampleRow
    state: str

    def caption(self) -> str:
        return f"Row {self.content['id']}, in truth {self.content['truth']}, {self.state}"

    def sentence(self) -> str:
        """What each modality says, how far it is trusted, and the answers."""
        voices = [_voice(voice) for voice in self.content["modalities"]]
        answers = f"The model answers {_said(self.content['model'])}"
        if self.content["plain"]:
            answers += f", plain concatenation {_said(self.content['plain'])}"
        return f"{self.caption()}: {'; '.join(voices)}. {answers}."

    def table(self) -> ReportTable:
        """The same as a table."""
        rows: list[tuple[CellContent, ...]] = []
        for voice in self.content["modalities"]:
            name = f"{voice['name']} alone"
            if voice["present"]:
                rows.append(
                    (name, voice["says"], *map(_share, (voice["probability"], voice["weight"])))
                )
            else:
                rows.append((name, "missing", None, None))
        answers = {"plain concatenation": self.content["plain"], MODEL: self.content["model"]}
        for name, answer in answers.items():
            if answer:
                is_right = answer["says"] == self.content["truth"]
                says = f"{answer['says']} ({'right' if is_right else 'wrong'})"
                strong = name == MODEL
                rows.append(
                    (
                        TableCell(text=name, strong=strong),
                        TableCell(text=says, strong=strong),
                        _share(answer["probability"]),
                        None,
                    )
                )
        columns = ("who", "says", "probability", "trusted")
        return ReportTable(columns=columns, rows=rows, caption=self.caption())


@dataclass(frozen=True)
class SpoiltRows:
    """What the search found, on test rows of which a modality is spoilt.

    content: as spoilt.json has it. titles: of the runs, by name. winner: name of the run of the
    best settings. plain: name of the run of plain concatenation, if there is one.
    """

    content: SpoiltContent
    titles: Mapping[str, str]
    winner: str
    plain: str

    def condition(self) -> str:
        """What is spoilt, in words: the map of 50 % of the rows replaced by noise."""
        words = []
        for term in self.content["corrupt"].split(","):
            modality, _, rest = term.strip().partition("=")
            kind, _, share = rest.partition(":")
            rows = f"{100 * float(share):.0f} % of the rows" if share else "every row"
            words.append(f"the {modality} of {rows} {KINDS.get(kind, kind)}")
        return " and ".join(words)

    def conclusion(self) -> str:
        """What spoilt rows cost plain concatenation and the model, and whether that is chance."""
        text = f"With {self.condition()}, "
        if self.plain not in self._scores():
            return f"{text}{self._fall(MODEL)}."
        text += f"{self._fall(self.plain)}, {self._fall(MODEL)}."
        lead = self.content.get("lead")
        if lead is None:
            return text
        metric = names.metric(METRIC)
        margin = NORMAL_95 * lead["error"]
        amount = f"{format_signed(metric.scale * lead['difference'], metric.digits)}"
        low, high = (
            format_signed(metric.scale * (lead["difference"] + sign * margin), metric.digits)
            for sign in (-1, 1)
        )
        gap = f"{amount} {metric.difference_unit}, 95 % interval over these rows {low} to {high}"
        if lead["difference"] > margin:
            text += (
                f" The model is better there ({gap}): for every row it weighs how far each modality"
                " is to be trusted, and goes by the others where one is broken."
            )
        elif lead["difference"] < -margin:
            text += f" Here the model is worse than plain concatenation ({gap})."
        else:
            text += f" Here the model is not shown to be better ({gap})."
        if self.winner in self._scores() and self.winner != self.plain:
            one = metric.text(self._scores()[self.winner][1])
            text += f" One run of the best settings, as plain concatenation is one, has {one}."
        return text

    def table(self) -> ReportTable:
        """Balanced accuracy of every run, on the rows as they are and spoilt."""
        metric, scores = names.metric(METRIC), self._scores()
        rows: list[tuple[CellContent, ...]] = []
        best = max(after for _, after in scores.values())
        for run, (before, after) in sorted(scores.items(), key=lambda item: -item[1][1]):
            change = metric.scale * (after - before)
            is_best = after == best
            rows.append(
                (
                    TableCell(text=self._title(run), strong=is_best),
                    TableCell(text=metric.text(before), value=before),
                    TableCell(text=metric.text(after), value=after, strong=is_best),
                    TableCell(text=format_signed(change, metric.digits), value=change),
                )
            )
        return ReportTable(
            columns=("answered by", "as they are", "spoilt", "change"),
            rows=rows,
            caption=f"{metric.title.capitalize()} on {self.content['rows']:,} test rows: as they"
            f" are, and with {self.condition()}",
        )

    def examples(self) -> list[Example]:
        """Two rows in detail, one of them spoilt."""
        spoilt = self.content["corrupt"].partition("=")[0].strip()
        kind = self.content["corrupt"].partition("=")[2].partition(":")[0]
        done = f"its {spoilt} {KINDS.get(kind, kind)}"
        if "," in self.content["corrupt"]:
            done = "spoilt"
        return [
            Example(content, done if content["spoilt"] else "as it is")
            for content in self.content["examples"]
        ]

    def _scores(self) -> dict[str, tuple[float, float]]:
        """Balanced accuracy of every run, on the rows as they are and spoilt."""
        return {
            run["title"]: (run["scores"]["untouched"][METRIC], run["scores"]["spoilt"][METRIC])
            for run in self.content["runs"]
        }

    def _fall(self, run: str) -> str:
        metric, (before, after) = names.metric(METRIC), self._scores()[run]
        amount = f"{metric.scale * abs(after - before):.{metric.digits}f} {metric.difference_unit}"
        verb = "loses" if after < before else "gains"
        return f"{self.titles.get(run, run)} {verb} {amount} and has {metric.text(after)}"

    def _title(self, run: str) -> str:
        text = self.titles.get(run, run)
        return f"{text} (best settings, first run)" if run == self.winner else text


def _voice(voice: Voice) -> str:
    if not voice["present"]:
        return f"the {voice['name']} is missing"
    return f"the {voice['name']} says {_said(voice)}, trusted {100 * voice['weight']:.0f} %"


def _said(answer: Answer) -> str:
    return f"{answer['says']} ({100 * answer['probability']:.0f} %)"


def _share(value: float) -> TableCell:
    return TableCell(text=f"{100 * value:.0f} %", value=value)


def spoilt_rows(standings: Standings, out: str) -> SpoiltRows | None:
    """Returns the scores on spoilt rows of the experiment `out`; None before they are known."""
    ended = [r for r in standings.log.of_kind("spoilt") if r.state == "complete"]
    if not ended:
        return None
    try:
        content = cast(SpoiltContent, read_json_object(join(out, MODEL_FOLDER, SPOILT_FILE)))
    except (FileNotFoundError, DamagedFile):
        return None
    winner = standings.winner()
    return SpoiltRows(
        content=content,
        titles={name: short_title(record) for name, record in standings.log.records.items()},
        winner="" if winner is None else winner.record.name,
        plain=max(ended, key=lambda record: record.started).job.plain,
    )
