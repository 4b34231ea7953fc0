"""What early epochs say of the end of a run: by which score, and when, weak trials may be stopped.

Reads searches that ran without a stopper (tune.py --stopper none). For every score, at a third, a
half and two thirds of the epochs, over the trials of a search:
final_loss, final_metric: Spearman correlation with the class-balanced NLL and with the search's
metric on validation at the end; 1 is the same order, better with better.
loss_lost, metric_lost: what is lost by halving: the best of all trials less the best of the half
that the score keeps. chance_...: the same, where the half is drawn at random.
score_over_N is the mean over the last N epochs so far. Prints one JSON line; values are means over
the searches.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scipy.stats import spearmanr

from benchmarks import command
from distributed.searches.state.records import SearchLog, SearchRecord, is_finite
from model.metrics import names

LOSS = "balanced_nll"
PROXIES = (LOSS, "nll", "macro_auroc")  # beside the search's own metric
MEANS = (1, 3)  # epochs over which a score is averaged
SHARES = {"third": 1 / 3, "half": 1 / 2, "two thirds": 2 / 3}  # of the epochs
MIN_TRIALS = 4
Curve = Sequence[Mapping[str, float]]


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("searches", nargs="+", metavar="EXPERIMENT", help="folders of searches")
    parser.add_argument("--metric", help="instead of the metric of each search")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    tables, trials = [], 0
    for place in args.searches:
        metric = args.metric or metric_of(Path(place))
        whole = whole_runs(SearchLog(place).configurations(), metric)
        if len(whole) < MIN_TRIALS:
            print(f"{place}: {len(whole)} whole runs are too few", file=sys.stderr)
            continue
        trials += len(whole)
        tables.append(compare(whole, metric))
    result = {"benchmark": "stopping", "searches": len(tables), "trials": trials, **merge(tables)}
    print(as_text(result), file=sys.stderr)
    return result


def metric_of(folder: Path) -> str:
    """The metric that decides in a search."""
    options = json.loads((folder / "experiment.json").read_text())["options"]
    return str(options["metric"]).partition(",")[0]


def whole_runs(records: Sequence[SearchRecord], metric: str) -> list[SearchRecord]:
    """The runs that ended by themselves and have a curve and both final scores."""
    return [
        record
        for record in records
        if record.state == "complete"
        and len(record.history) == record.epoch > 1
        and all(is_finite(record.metrics.get(name)) for name in (metric, LOSS))
    ]


def gain(name: str, value: float) -> float:
    """The value with the sign that makes larger ones better."""
    return -value if names.metric(name).lower_is_better else value


def early_score(curve: Curve, name: str, share: float, epochs: int) -> float:
    """The score after a share of the epochs, as a mean over the last `epochs`; larger is better."""
    end = max(1, math.ceil(share * len(curve) - 1e-9))
    values = [entry[name] for entry in curve[max(0, end - epochs) : end] if name in entry]
    return gain(name, statistics.mean(values)) if values else math.nan


def compare(records: Sequence[SearchRecord], metric: str) -> dict[str, dict[str, float]]:
    """What each score says at each time, by `score at time`."""
    finals = {name: [gain(name, r.value(name)) for r in records] for name in (LOSS, metric)}
    chance = {
        "chance_loss_lost": lost_by_chance(finals[LOSS]),
        "chance_metric_lost": lost_by_chance(finals[metric]),
    }
    table: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys((metric, *PROXIES)):
        for epochs in MEANS:
            title = "metric" if name == metric else name
            title += f"_over_{epochs}" if epochs > 1 else ""
            for when, share in SHARES.items():
                scores = [early_score(r.history, name, share, epochs) for r in records]
                if not all(map(math.isfinite, scores)):
                    continue
                table[f"{title} at {when}"] = {
                    "final_loss": correlation(scores, finals[LOSS]),
                    "final_metric": correlation(scores, finals[metric]),
                    "loss_lost": lost_by_halving(scores, finals[LOSS]),
                    "metric_lost": lost_by_halving(scores, finals[metric]),
                    **chance,
                }
    return table


def correlation(scores: Sequence[float], finals: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where all scores, or all finals, are equal."""
    if len(set(scores)) < 2 or len(set(finals)) < 2:
        return 0.0
    return float(spearmanr(scores, finals).statistic)


def lost_by_halving(scores: Sequence[float], finals: Sequence[float]) -> float:
    """The best of all less the best of the half with the highest scores; of ties the earlier."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    kept = order[: math.ceil(len(order) / 2)]
    return max(finals) - max(finals[k] for k in kept)


def lost_by_chance(finals: Sequence[float]) -> float:
    """What is lost on the mean where the half that goes on is drawn at random."""
    ordered = sorted(finals, reverse=True)
    kept = math.ceil(len(ordered) / 2)
    # The best one that is kept is the one at place k, if all before it are not.
    halves = math.comb(len(ordered), kept)
    shares = [math.comb(len(ordered) - k - 1, kept - 1) / halves for k in range(len(ordered))]
    return ordered[0] - sum(share * value for share, value in zip(shares, ordered))


def merge(tables: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The means over the searches, of the scores that all of them have."""
    if not tables:
        return {}
    shared = [title for title in tables[0] if all(title in table for table in tables)]
    return {
        title: {
            column: round(statistics.mean(table[title][column] for table in tables), 4)
            for column in tables[0][title]
        }
        for title in shared
    }


def as_text(result: Mapping[str, object]) -> str:
    """The table for a reader, one score at one time a line."""
    lines = [
        f"{'score':32}{'final loss':>12}{'final metric':>14}{'loss lost':>11}{'metric lost':>13}"
    ]
    for title, row in result.items():
        if isinstance(row, dict):
            lines.append(
                f"{title:32}{row['final_loss']:12.2f}{row['final_metric']:14.2f}"
                f"{row['loss_lost']:11.4f}{row['metric_lost']:13.4f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
