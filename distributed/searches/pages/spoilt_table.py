"""How the model and the baselines fare where a modality is spoilt: a table, and two rows in words.

The numbers were computed by searches/spoilt_rows.py on the test split, after all decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed.reporting.tables import CellContent, ReportTable, TableCell
from distributed.runtime.storage import DamagedFile, join, read_json_object
from distributed.searches.pages.verdict import title
from distributed.searches.records import MODEL_FOLDER, SPOILT_FILE
from distributed.searches.standings import Standings
from model.metrics import names

METRIC = "balanced_accuracy"
KINDS = {
    "noise": "noise",
    "shuffle": "those of other records",
    "missing": "missing",
}


@dataclass(frozen=True)
class SpoiltRows:
    """What the search found, on test rows of which a modality is spoilt.

    content: as spoilt.json has it. titles: of the runs, by name. winner: name of its run.
    """

    content: Mapping[str, Any]
    titles: Mapping[str, str]
    winner: str

    def condition(self) -> str:
        """What is spoilt, in words: the map of 50 % of the rows is noise."""
        words = []
        for term in self.content["corrupt"].split(","):
            modality, _, rest = term.strip().partition("=")
            kind, _, share = rest.partition(":")
            rows = f"{100 * float(share):.0f} % of the rows" if share else "all rows"
            is_noise = "is" if kind != "shuffle" else "are"
            words.append(f"{modality} of {rows} {is_noise} {KINDS.get(kind, kind)}")
        return " and ".join(words)

    def table(self) -> ReportTable:
        """Balanced accuracy of every run, on the rows as they are and spoilt."""
        metric = names.metric(METRIC)
        runs = self.content["runs"]
        best = max(run["scores"]["spoilt"][METRIC] for run in runs)
        rows: list[tuple[CellContent, ...]] = []
        for run in sorted(runs, key=lambda run: -run["scores"]["spoilt"][METRIC]):
            before, after = (run["scores"][c][METRIC] for c in ("untouched", "spoilt"))
            is_best = after == best
            rows.append(
                (
                    TableCell(text=self._title(run["title"]), strong=is_best),
                    TableCell(text=metric.text(before), value=before),
                    TableCell(text=metric.text(after), value=after, strong=is_best),
                )
            )
        return ReportTable(
            columns=("answered by", "rows as they are", "with the spoilt ones"),
            rows=rows,
            caption=f"{metric.title.capitalize()} on the {self.content['rows']:,} test rows"
            f" where {self.condition()}",
        )

    def sentences(self) -> list[str]:
        """Two predictions in words: what each modality says, how much it is trusted, the answer."""
        found = []
        for example in self.content["examples"]:
            spoilt = self.content["corrupt"].partition("=")[0].strip()
            state = f"its {spoilt} is spoilt" if example["spoilt"] else "nothing is spoilt"
            voices = [_voice(voice) for voice in example["modalities"]]
            sentence = (
                f"Row {example['id']}, in truth {example['truth']} ({state}):"
                f" {'; '.join(voices)}. The model answers {_said(example['model'])}"
            )
            if example["plain"]:
                sentence += f", plain concatenation {_said(example['plain'])}"
            found.append(f"{sentence}.")
        return found

    def _title(self, run: str) -> str:
        text = self.titles.get(run, run)
        return f"{text} (winner)" if run == self.winner else text


def _voice(voice: Mapping[str, Any]) -> str:
    if not voice["present"]:
        return f"{voice['name']} is missing"
    return f"{voice['name']} says {_said(voice)}, trusted {100 * voice['weight']:.0f} %"


def _said(answer: Mapping[str, Any]) -> str:
    return f"{answer['says']} ({100 * answer['probability']:.0f} %)"


def spoilt_rows(standings: Standings, out: str) -> SpoiltRows | None:
    """Returns the scores on spoilt rows of the experiment `out`; None before they are known."""
    if not standings.log.of_kind("spoilt"):
        return None
    try:
        content = read_json_object(join(out, MODEL_FOLDER, SPOILT_FILE))
    except (FileNotFoundError, DamagedFile):
        return None
    winner = standings.winner()
    return SpoiltRows(
        content=content,
        titles={name: title(record) for name, record in standings.log.records.items()},
        winner="" if winner is None else winner.record.name,
    )
