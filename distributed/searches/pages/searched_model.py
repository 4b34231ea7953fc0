"""The model that a search ends with, as its terminal and its report describe it."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.reporting.tables import CellContent, ReportTable, TableCell
from distributed.runtime import shell
from distributed.runtime.storage import DamagedFile, join, read_json_object
from distributed.searches.pages.verdict import short_title
from distributed.searches.state.model_files import DESCRIPTION_FILE, MODEL_FOLDER
from distributed.searches.state.records import SearchRecord, configuration_of
from distributed.searches.state.standings import Standings
from model.metrics import names


@dataclass(frozen=True)
class SearchedModel:
    """A model that was built of the runs of a search.

    location: its folder. strategy: how the networks were chosen.
    gain: by how much its class-balanced log-loss is lower than that of the best single network on
        validation rows that neither was chosen on. error: the standard error of that.
    counts: how often each run counts. parameters: of all networks together.
    """

    location: str
    strategy: str
    gain: float
    error: float
    parameters: int
    counts: dict[str, int]
    runs: dict[str, SearchRecord]

    def sentences(self) -> list[str]:
        """What the model is, what it gains, and what it costs."""
        place = shell.shown_location(self.location)
        if len(self.counts) == 1:
            (name,) = self.counts
            return [
                f"{place} holds a trained model, ready for use: {self._title(name)} alone. Several"
                " runs together were not better than it on validation rows that neither was"
                " chosen on."
            ]
        of = {configuration_of(name) for name in self.counts}
        if len(of) == 1:
            return [
                f"{place} holds a trained model, ready for use: {self._title(*of)}, trained on"
                f" {len(self.counts)} folds, whose networks answer together. Several configurations"
                " together were not better on held-out rows that neither was chosen on."
            ]
        metric, count = names.metric("balanced_nll"), len(self.counts)
        return [
            f"{place} holds a trained model, ready for use. Its answer is the mean of the answers"
            f" of {count} runs of this search ({self.strategy}).",
            f"On validation rows that had no part in choosing them, its {metric.title} is lower by"
            f" {metric.value(self.gain)} ± {metric.value(self.error)} (standard error) than that of"
            f" the best single run. A prediction takes the time of all {count}; what a frozen image"
            " encoder gives is computed once.",
        ]

    def predict_command(self) -> str:
        """The command that predicts new rows with the model."""
        return shell.script_command(
            "distributed/predict.py",
            *("--checkpoint", shell.shown_location(self.location)),
            *("--data", "NEW.csv", "--out", "predictions"),
        )

    def table(self) -> ReportTable:
        """The runs that the model is made of."""
        metric = names.metric("balanced_nll")
        total = sum(self.counts.values())
        rows: list[tuple[CellContent, ...]] = []
        for name, count in self.counts.items():
            score = self.runs[name].value(metric.name) if name in self.runs else None
            rows.append(
                (
                    self._title(name),
                    TableCell(text=metric.value(score), value=score),
                    TableCell(text=f"{100 * count / total:.0f} %", value=count / total),
                )
            )
        return ReportTable(
            columns=("run", f"{metric.title} on validation", "share of the answer"),
            rows=rows,
            caption=f"What the model is made of ({self.parameters:,} parameters)",
        )

    def _title(self, name: str) -> str:
        record = self.runs.get(name)
        if record is None:
            return name
        seed = f", seed {record.job.seed}" if record.job.seed is not None else ""
        fold = f", fold {record.job.fold + 1}" if record.job.kind == "fold" else ""
        named = record.job.label
        return f"{short_title(record) if named else f'trial {record.job.of or name}'}{seed}{fold}"


def searched_model(standings: Standings, out: str) -> SearchedModel | None:
    """Returns the model of the experiment `out`; None before it is built."""
    if standings.model() is None:
        return None
    location = join(out, MODEL_FOLDER)
    try:
        found = read_json_object(join(location, DESCRIPTION_FILE))
    except (FileNotFoundError, DamagedFile):
        return None
    return SearchedModel(
        location=location,
        strategy=found["strategy"],
        gain=found["gain"],
        error=found["gain_error"],
        parameters=found["parameters"],
        counts={member["name"]: member["count"] for member in found["members"]},
        runs=dict(standings.log.records),
    )
