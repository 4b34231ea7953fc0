"""The model that a search ends with, as its terminal and its report describe it."""

from __future__ import annotations

from dataclasses import dataclass

from distributed.reporting.tables import ReportTable
from distributed.runtime import shell
from distributed.runtime.storage import DamagedFile, join, read_json_object
from distributed.searches.pages.verdict import title
from distributed.searches.records import DESCRIPTION_FILE, MODEL_FOLDER, SearchRecord
from distributed.searches.standings import Standings
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

    def sentence(self) -> str:
        """What the model is, and what it gains and costs, in one or two sentences."""
        place = shell.shown_location(self.location)
        if len(self.counts) == 1:
            (name,) = self.counts
            return (
                f"{place} holds one network, {self._title(name)}: several together were not better"
                " than it by more than the error of the comparison."
            )
        metric = names.metric("balanced_nll")
        return (
            f"{place} holds {len(self.counts)} networks that answer together ({self.strategy}):"
            f" on validation rows that they were not chosen on, {metric.title} is lower by"
            f" {metric.value(self.gain)} ± {metric.value(self.error)} than that of the best single"
            f" network. A prediction costs as much as {len(self.counts)} networks,"
            " less what their image encoders share."
        )

    def table(self) -> ReportTable:
        """The runs that the model is made of."""
        metric = names.metric("balanced_nll")
        total = sum(self.counts.values())
        rows = [
            (
                self._title(name),
                metric.value(self.runs[name].value(metric.name)) if name in self.runs else "-",
                f"{100 * count / total:.0f} %",
            )
            for name, count in self.counts.items()
        ]
        return ReportTable(
            columns=("network", f"{metric.title} on validation", "share of the answer"),
            rows=rows,
            caption=f"What the model is made of ({self.parameters:,} parameters)",
        )

    def _title(self, name: str) -> str:
        record = self.runs.get(name)
        if record is None:
            return name
        seed = f", seed {record.job.seed}" if record.job.seed is not None else ""
        named = record.job.label
        return f"{title(record) if named else f'trial {record.job.of or name}'}{seed}"


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
