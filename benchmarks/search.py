"""The search: its wall time against the training it holds, its cost a trial, and its best against random search. Prints one JSON line.

wall_over_ideal: wall time of `tune.py --trials 20` with start-up and imports, over (the runs' own training seconds / cores). Target 1.25.
overhead_seconds: from one trial's end to the next one's first line on the same actor, in steady state, with trials that do nothing.
gain: best of TPE minus best of random search at the same number of trials, each best run again with fresh seeds, paired over search seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __package__ in (None, ""):
    sys.path[0] = str(ROOT)


def main() -> None:
    from benchmarks import command

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


def measure(args: argparse.Namespace, folder: str) -> dict[str, Any]:
    found = {
        "benchmark": "search",
        "trials": args.trials,
        "cores": len(os.sched_getaffinity(0)),
        **wall(args, Path(folder)),
    }
    found |= overhead(Path(folder))
    print(found, file=sys.stderr, flush=True)  # the comparison takes a quarter of an hour
    return found | (against_random(args, Path(folder)) if args.seeds else {})


def wall(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One search as a user starts it, with the project's own number of epochs on all rows."""
    from distributed.searches.records import SearchLog

    out = folder / "wall"
    data = ["--data", args.data] if args.data else []
    words = [
        sys.executable,
        str(ROOT / "distributed/tune.py"),
        "--out",
        str(out),
        "--trials",
        str(args.trials),
        "--replicates",
        "0",
        *data,
    ]
    words += [
        "--set",
        "optim.epochs=20",
        "data.max_rows=0",
    ]  # the project's own length of a run, not the demo's
    started = time.monotonic()
    subprocess.run(words, check=True, capture_output=True)
    seconds = time.monotonic() - started
    runs = SearchLog(out).of_kind("search", "named")
    training = sum(r.metrics.get("train_seconds", 0.0) for r in runs)
    cores = len(os.sched_getaffinity(0))
    return {
        "wall_seconds": round(seconds, 1),
        "training_seconds": round(training, 1),
        "stopped_early": sum(r.state == "stopped" for r in runs),
        "wall_over_ideal": round(seconds / (training / cores), 3),
    }


def overhead(folder: Path, trials: int = 60) -> dict[str, Any]:
    """Seconds a trial costs when it does nothing, once the actors are there."""
    from distributed.runtime import ray_session
    from distributed.searches import tuner
    from distributed.searches.planner import Planner
    from distributed.searches.records import SearchLog
    from distributed.searches.samplers import open_storage, open_study
    from distributed.searches.searcher import Searcher
    from distributed.searches.standings import Standings
    from distributed.searches.stoppers import STOPPERS
    from tests.searches import analytic

    ray_session.start_ray(temp_dir=str(folder / "ray"), nested=True)
    standings = Standings(SearchLog(folder / "overhead"), ["balanced_accuracy"])
    study = open_study(
        open_storage(str(folder / "overhead" / "study.journal")),
        "x",
        ["max"],
        "tpe",
        0,
        trials,
    )
    cores = len(os.sched_getaffinity(0))
    searcher = Searcher(
        study,
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


def against_random(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both samplers from the same seeds with the same budget; nothing but the sampler differs."""
    from distributed import tune
    from distributed.reporting.significance import paired_comparison
    from distributed.searches.records import SearchLog
    from distributed.searches.standings import Standings

    data = ["--data", args.data] if args.data else []
    best: dict[str, dict[int, float]] = {"tpe": {}, "random": {}}
    for seed in range(args.seeds):
        for sampler, scores in best.items():
            out = folder / f"{sampler}-{seed}"
            words = [
                "--out",
                str(out),
                "--trials",
                str(args.trials),
                "--replicates",
                str(args.replicates),
                "--best",
                "1",
                "--seed",
                str(seed),
            ]
            with contextlib.redirect_stdout(io.StringIO()):
                tune.main([*words, "--sampler", sampler, *data])
            standings = Standings(
                SearchLog(out), ["balanced_accuracy"], replicates=args.replicates, best=1
            )
            leader = standings.finished()[0]  # the defaults, where nothing finished better
            scores[seed] = standings.standing(leader).score("balanced_accuracy")
    found = paired_comparison(best["tpe"], best["random"], name="tpe", against="random")
    return {
        "tpe_best": round(statistics.mean(best["tpe"].values()), 4),
        "random_best": round(statistics.mean(best["random"].values()), 4),
        "gain": None if found.difference is None else round(found.difference, 4),
        "gain_interval": [found.low, found.high],
        "seeds": args.seeds,
    }


if __name__ == "__main__":
    main()
