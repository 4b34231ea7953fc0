"""A search of many trials on eight raylets that pretend to have a GPU each: is anything in the way?

The trials do nothing but wait, so that two cores suffice. Reported are

  busy: the share of the slots' time in which a trial ran, from the end of the start-up on
  seconds_between_trials: what a slot is idle between two trials
  driver_mb: memory of the driver after a quarter, half, three quarters and all of the trials
  report_seconds: of writing all pages, by the number of records
  report_exponent: of its growth with the number of records; 2 would be quadratic
  resume_seconds: from the records of the last number to the first job that is handed out

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import ray
from ray.cluster_utils import Cluster

from benchmarks import analytic, command
from distributed.searches.choosing.samplers import open_study
from distributed.searches.choosing.stoppers import STOPPERS
from distributed.searches.jobs import tuner
from distributed.searches.jobs.planner import Planner
from distributed.searches.jobs.searcher import Searcher
from distributed.searches.pages import tables
from distributed.searches.pages.importance import space_figures
from distributed.searches.pages.report import configurations, curves
from distributed.searches.state.records import SearchLog
from distributed.searches.state.standings import Standings
from distributed.searches.state.study_storage import open_storage

METRIC = "balanced_accuracy"
STARTED = 2  # trials of each slot that belong to the start-up


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--raylets", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of one of six epochs")
    parser.add_argument("--records", type=int, nargs="+", default=[125, 250, 500, 1000])
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
    try:
        for _ in range(args.raylets):
            cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80_000_000)
        ray.init(address=cluster.address, log_to_driver=False)
        result = run_trials(args, Path(folder) / "search")
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray does not type it
    return {
        "benchmark": "search_scale",
        "trials": args.trials,
        "raylets": args.raylets,
        "seconds_of_a_trial": analytic.EPOCHS * args.pause,
        **result,
        **many_records(args.records, Path(folder)),
    }


def make_searcher(folder: Path, trials: int, slots: int) -> Searcher:
    standings = Standings(SearchLog(folder), [METRIC])
    storage = open_storage(str(folder / "study.journal"))
    study = open_study(storage, "x", ["max"], "tpe", 0, trials)
    return Searcher(
        study,
        analytic.space,
        Planner(standings, test=False),
        trials=trials,
        slots=lambda: slots,
        owner="me",
    )


def run_trials(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Runs the trials; returns how busy the slots were and how much memory the driver took."""
    searcher = make_searcher(folder, args.trials, args.raylets)
    memory = list[float]()
    marks = [args.trials * quarter // 4 for quarter in (1, 2, 3)]

    def look() -> None:
        if len(memory) < len(marks) and len(searcher.log.ended()) >= marks[len(memory)]:
            memory.append(resident_megabytes())

    tuner.run(
        searcher,
        functools.partial(analytic.trainable, pause=args.pause),
        STOPPERS["none"]("max", analytic.EPOCHS),
        tuner.TrialProcess({"CPU": 1, "GPU": 1}),
        on_step=look,
    )
    memory.append(resident_megabytes())
    runs = sorted(searcher.log.records.values(), key=lambda r: r.started)
    steady = runs[STARTED * args.raylets :]
    first = min(r.started for r in steady)
    # The last trials leave slots idle because nothing is left.
    last = max(r.started for r in steady)
    busy = sum(min(r.started + r.seconds, last) - r.started for r in steady if r.started < last)
    earlier = runs[: STARTED * args.raylets]
    busy += sum(max(0.0, min(r.started + r.seconds, last) - first) for r in earlier)
    share = busy / (args.raylets * (last - first))
    idle = (1 - share) * args.raylets * (last - first) / len(steady)
    return {
        "busy": round(share, 3),
        "seconds_between_trials": round(idle, 3),
        "driver_mb": [round(value) for value in memory],
    }


def resident_megabytes() -> float:
    """The memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmRSS"))


def many_records(numbers: list[int], folder: Path) -> dict[str, object]:
    """Times the pages and a resume with many records."""
    seconds: dict[int, float] = {}
    for number in numbers:
        here = folder / str(number)
        write_records(here, number)
        standings = Standings(SearchLog(here), [METRIC])
        started = time.process_time()
        write_pages(standings)
        seconds[number] = time.process_time() - started
    first, last = numbers[0], numbers[-1]
    exponent = math.log(seconds[last] / seconds[first]) / math.log(last / first)
    started = time.perf_counter()
    searcher = make_searcher(folder / str(last), last + 1, 1)
    job = searcher.suggest("next")
    assert isinstance(job, dict), job
    resume = time.perf_counter() - started
    return {
        "report_seconds": {number: round(value, 2) for number, value in seconds.items()},
        "report_exponent": round(exponent, 2),
        "resume_seconds": round(resume, 2),
    }


def write_records(folder: Path, number: int) -> None:
    """Writes the records of a search that has ended, as many as that."""
    searcher = make_searcher(folder, number, number)
    for k in range(number):
        job: Any = searcher.suggest(f"t{k}")
        value = analytic.score(job["settings"])
        for epoch in range(1, analytic.EPOCHS + 1):
            at = {METRIC: value * epoch / analytic.EPOCHS}
            result: Any = {"epoch": epoch, "epochs": analytic.EPOCHS, "metrics": at}
            searcher.log.add_epoch(job["name"], result)
        searcher.on_trial_complete(f"t{k}", {"final": 1, f"metrics/{METRIC}": value})


def write_pages(standings: Standings) -> None:
    """Makes the parts of the report that grow with the number of records."""
    tables.comparison_table(standings)
    tables.configurations_table(standings)
    configurations(standings)
    curves(standings)
    space_figures(standings)


if __name__ == "__main__":
    main()
