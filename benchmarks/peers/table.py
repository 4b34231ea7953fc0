"""Prints the results of run.py as Markdown: a table for each data set, mean ± standard deviation
over the seeds."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import command
from benchmarks.peers.run import OURS, read_records
from benchmarks.peers.scoring import METRICS
from model.metrics.names import METRICS as NAMED

NAMES = {
    "ludwig": "Ludwig",
    "autogluon-tabular": "AutoGluon, table alone",
    "autogluon-mm": "AutoGluon, pictures and table",
    OURS: "**this project**",
}
# How the decisions of a run were made, beside its own ones, and what that is called.
READINGS = {
    "as_is": "",
    "divided_by_shares": ", probabilities divided by the classes' shares",
    "training_prior": ", decided at the training prior",
}
COSTS = {"cpu_seconds": "CPU s", "peak_memory_mib": "peak MiB"}
Record = dict[str, Any]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("results", type=Path, metavar="F.json")
    records = read_records(parser.parse_args().results)
    for data in dict.fromkeys(record["data"] for record in records):
        print(f"`{data}`\n")
        print("\n".join(table([r for r in records if r["data"] == data])), end="\n\n")


def table(records: list[Record]) -> list[str]:
    """Returns the lines of the table of one data set."""
    titles = ["program", "seeds", *(NAMED[name].heading for name in METRICS), *COSTS.values()]
    lines = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    for peer, name in NAMES.items():
        of_peer = [record for record in records if record["peer"] == peer]
        for variant in dict.fromkeys(record["variant"] for record in of_peer):
            runs = [record for record in of_peer if record["variant"] == variant]
            for reading, suffix in READINGS.items():
                # A variant with a remedy of its own is not given a second one.
                if reading in runs[0]["scores"] and not (
                    reading == "divided_by_shares" and not variant.startswith("plain")
                ):
                    lines.append(line(f"{name}, {variant}{suffix}", runs, reading))
    return lines


def line(title: str, runs: list[Record], reading: str) -> str:
    """Returns one line: the metrics and the costs of some runs."""
    cells = [title, str(len(runs))]
    for name in METRICS:
        values = [run["scores"][reading].get(name) for run in runs]
        metric = NAMED[name]
        cells.append(spread([metric.scale * v for v in values if v is not None], metric.digits))
    cells += [spread([run["costs"][name] for run in runs], 0) for name in COSTS]
    return f"| {' | '.join(cells)} |"


def spread(values: list[float], digits: int) -> str:
    """Returns mean ± standard deviation; the value alone if there is one."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
