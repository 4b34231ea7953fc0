"""The search: its wall time, its cost for each trial, and its best against random search.

wall_over_ideal: wall time of `tune.py --trials 20` with start-up and imports, over the runs' own
training seconds / cores. Target 1.25.
overhead_seconds: from one trial's end to the next one's first line on the same actor, in steady
state, with trials that do nothing.
gain: best of TPE minus best of random search at the same number of trials, each best run again with
fresh seeds, paired over search seeds. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import analytic, command
from distributed.reporting.significance import paired_comparison
from distributed.runtime.ray_session import start_ray
from distributed.searches.choosing.samplers import open_study
from distributed.searches.choosing.stoppers import STOPPERS
from distributed.searches.driver import search
from distributed.searches.jobs import tuner
from distributed.searches.jobs.planner import Planner
from distributed.searches.jobs.searcher import Searcher
from distributed.searches.options import SearchOptions
from distributed.searches.state.records import SearchLog
from distributed.searches.state.standings import Standings
from distributed.searches.state.study_storage import open_storage

TUNE = Path(__file__).resolve().parents[1] / "distributed" / "tune.py"
METRIC = "balanced_accuracy"


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        help="searches of each kind; 0 leaves the comparison with random search out",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=2,
        help="fresh seeds on which each search's best is run again",
    )
    parser.add_argument("--data", help="SHARDS; without it the built-in wafers")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    result: dict[str, object] = {
        "benchmark": "search",
        "trials": args.trials,
        "cores": len(os.sched_getaffinity(0)),
        **wall_time(args, Path(folder)),
        **trial_overhead(Path(folder)),
    }
    print(result, file=sys.stderr, flush=True)  # the comparison takes a quarter of an hour
    if args.seeds:
        result |= gain_over_random(args, Path(folder))
    return result


def wall_time(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Runs one search as a user starts it, and compares it with the training in it.

    It has the project's own number of epochs, on all rows, not those of the demo.
    """
    out = folder / "wall"
    command = [sys.executable, str(TUNE), "--out", str(out), "--trials", str(args.trials)]
    command += ["--replicates", "0", *(["--data", args.data] if args.data else [])]
    command += ["--set", "optim.epochs=20", "data.max_rows=0"]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - started
    runs = SearchLog(out).of_kind("search", "named")
    training = sum(run.metrics.get("train_seconds") or 0.0 for run in runs)
    cores = len(os.sched_getaffinity(0))
    return {
        "wall_seconds": round(seconds, 1),
        "training_seconds": round(training, 1),
        "stopped_early": sum(run.state == "stopped" for run in runs),
        "wall_over_ideal": round(seconds / (training / cores), 3),
    }


def trial_overhead(folder: Path, trials: int = 60) -> dict[str, object]:
    """Returns the seconds that a trial costs when it does nothing, once the actors have started."""
    start_ray(temp_dir=str(folder / "ray"), nested=True)
    standings = Standings(SearchLog(folder / "overhead"), [METRIC])
    storage = open_storage(str(folder / "overhead" / "study.journal"))
    cores = len(os.sched_getaffinity(0))
    searcher = Searcher(
        open_study(storage, "x", ["max"], "tpe", 0, trials),
        analytic.space,
        Planner(standings, test=False),
        trials=trials,
        slots=lambda: cores,
        owner="me",
    )
    tuner.run(
        searcher,
        analytic.trainable,
        STOPPERS["none"]("max", analytic.EPOCHS),
        tuner.TrialProcess({"CPU": 1}),
    )
    ends = sorted(r.started + r.seconds for r in standings.log.records.values())
    steady = ends[2 * cores :]
    return {"overhead_seconds": round((steady[-1] - steady[0]) / (len(steady) - 1) * cores, 3)}


def gain_over_random(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Compares both samplers from the same seeds with the same budget."""
    best: dict[str, dict[object, float]] = {"tpe": {}, "random": {}}
    for seed in range(args.seeds):
        for sampler, scores in best.items():
            options = SearchOptions(
                data=args.data,
                out=str(folder / f"{sampler}-{seed}"),
                trials=args.trials,
                replicates=args.replicates,
                best=1,
                seed=seed,
                sampler=sampler,
            )
            with contextlib.redirect_stdout(sys.stderr):
                standings = search(options).comparison
            leader = standings.finished()[0]  # the defaults, where nothing finished better
            scores[seed] = standings.standing(leader).score(METRIC)
    gain = paired_comparison(best["tpe"], best["random"], name="tpe", against="random")
    return {
        "tpe_best": round(statistics.mean(best["tpe"].values()), 4),
        "random_best": round(statistics.mean(best["random"].values()), 4),
        "gain": None if gain.difference is None else round(gain.difference, 4),
        "gain_interval": [gain.low, gain.high],
        "seeds": args.seeds,
    }


if __name__ == "__main__":
    main()
