"""What a search gives on the test split: its winner and its model, against the defaults.

Each arm has the same number of trainings, on one data set, repeated with other seeds of the search
(not the same time: networks of the portfolio may take longer; the seconds are reported):

  prior, tpe, random: tune.py with that sampler, without fresh seeds, on the fixed split
  folds: as prior, and then the best two and the defaults on up to five folds, which are more
    trainings
  longer: as prior, with --longer times as many trainings, about as many as `folds` has
  seeds: the defaults with other seeds only, a training each

For an arm `winner` is the single configuration that the search recommends (the mean of its networks
where it has several), `model` its EXPERIMENT/model, `distilled` the network of --distil, and
`defaults` the mean of the single networks of the arm `seeds`. Reported are the means of the metrics
of the test split, and the paired differences over the seeds of the search. Searches go on where an
earlier call was stopped (--out). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from distributed.config import Config, flatten
from distributed.reporting.significance import paired_comparison
from distributed.searches.jobs.ensembling import score_split
from distributed.searches.state.records import TRAINED, SearchLog
from distributed.searches.state.standings import Standings
from distributed.shards.manifest import read_manifest
from distributed.training.checkpoint import load_checkpoint
from distributed.wafers.default import resolve_shards

TUNE = Path(__file__).resolve().parents[1] / "distributed" / "tune.py"
METRICS = ("balanced_accuracy", "balanced_nll", "few_shot_accuracy", "macro_auroc", "macro_f1")
ARMS: dict[str, list[str]] = {
    "prior": ["--sampler", "prior"],
    "seeds": ["--sampler", "random", "--stopper", "none", "--portfolio", "none"],
    "tpe": ["--sampler", "tpe"],
    "random": ["--sampler", "random"],
    "folds": ["--sampler", "prior", "--best", "2"],
    "longer": ["--sampler", "prior"],
}
FOLDS = {"folds": 5}  # of an arm; the others have the fixed split
SEEDS_SPACE = 'def space(trial):\n    trial.suggest_int("optim.seed", 0, 2**31 - 1)\n'

Scores = Mapping[str, float]  # of the test split, by metric


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", default="", help="SHARDS; without it the built-in wafers")
    parser.add_argument("--arms", nargs="+", default=["prior", "seeds"], choices=ARMS)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--longer", type=float, default=1.75, help="trials of the arm longer")
    parser.add_argument("--distil", action="store_true", help="also distil each arm's model")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each arm")
    parser.add_argument("--out", required=True, help="folder of the searches; it goes on with them")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="K=V", help="settings of the runs"
    )
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    space = Path(args.out) / "seeds.py"  # a search that is resumed keeps its space
    space.parent.mkdir(parents=True, exist_ok=True)
    space.write_text(SEEDS_SPACE)
    found: dict[str, list[Scores]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for arm in args.arms:
            out = Path(args.out) / f"{arm}-{seed}"
            run_search(args, arm, seed, out, str(space))
            seconds.setdefault(arm, []).append(training_seconds(out))
            for name, scores in scores_of(args, arm, out).items():
                found.setdefault(name, []).append(scores)
            print({name: scores[-1] for name, scores in found.items()}, file=sys.stderr, flush=True)
    return {
        "benchmark": "search_gain",
        "data": Path(args.data).name or "wafers",
        "trials": args.trials,
        "seeds": args.seeds,
        "set": args.set,
        "training seconds": {arm: round(statistics.fmean(of)) for arm, of in seconds.items()},
        "mean": {name: means(scores) for name, scores in found.items()},
        "against defaults": against("defaults", found),
        "against seeds model": against("seeds model", found),
    }


def run_search(args: argparse.Namespace, arm: str, seed: int, out: Path, seeds_space: str) -> None:
    """Runs a search of one arm to its end, or goes on with it."""
    if (out / "model" / "tested").exists():
        return
    trials = round(args.trials * (args.longer if arm == "longer" else 1))
    words = [sys.executable, str(TUNE), "--out", str(out), "--trials", str(trials)]
    words += ["--replicates", "0", "--folds", str(FOLDS.get(arm, 1)), "--seed", str(seed)]
    words += [*ARMS[arm], *(["--distil"] if args.distil and arm != "seeds" else [])]
    words += ["--data", args.data] if args.data else []
    words += ["--space", seeds_space] if arm == "seeds" else []
    words += ["--resume"] if (out / "experiment.json").exists() else []
    settings = [*args.set, *(without_baselines(args.data) if arm == "seeds" else [])]
    words += ["--set", *settings] if settings else []
    subprocess.run(words, check=True, stdout=sys.stderr)
    (out / "model" / "tested").touch()


def without_baselines(data: str) -> list[str]:
    """The settings of the defaults that baselines would change: held fixed, they leave none."""
    modalities = read_manifest(resolve_shards(data)).schema.modalities
    names = ("fusion.kind", "experts.count", "loss.average_prior_strength")
    defaults = flatten(Config())
    fixed = [f"{name}={defaults[name]}" for name in names]
    return [*fixed, f"data.modalities={','.join(modalities)}"]


def training_seconds(out: Path) -> float:
    """The seconds of all trainings of a search together."""
    runs = SearchLog(out).of_kind(*TRAINED)
    return sum(run.metrics.get("train_seconds") or 0.0 for run in runs)


def scores_of(args: argparse.Namespace, arm: str, out: Path) -> dict[str, Scores]:
    """The test metrics of an arm's winner and model, of `seeds` also of its single networks."""
    standings = Standings(
        SearchLog(out), ["balanced_accuracy"], ensemble=1, folds=FOLDS.get(arm, 1)
    )
    model = standings.model_test()
    assert model is not None, out
    found = {f"{arm} model": chosen(model.metrics)}
    if arm == "seeds":
        singles = [single_scores(args, path) for path in sorted(out.glob("trials/*/checkpoint"))]
        assert singles, out
        return {**found, "defaults": means(singles)}
    found[f"{arm} winner"] = means([chosen(run.metrics) for run in standings.tests()])
    distilled = standings.distilled_test()
    if distilled is not None:
        found[f"{arm} distilled"] = chosen(distilled.metrics)
    return found


def single_scores(args: argparse.Namespace, folder: Path) -> Scores:
    """The test metrics of one network of the defaults."""
    shards = resolve_shards(args.data)
    return chosen(score_split(load_checkpoint(str(folder)), shards, "test"))


def chosen(metrics: Mapping[str, float | None]) -> Scores:
    return {name: float(metrics.get(name) or 0.0) for name in METRICS}


def means(scores: Sequence[Scores]) -> Scores:
    return {name: statistics.fmean(s[name] for s in scores) for name in METRICS}


def against(reference: str, found: Mapping[str, list[Scores]]) -> dict[str, object]:
    """The paired difference of every other result from one, with its interval and p."""
    if reference not in found:
        return {}
    result: dict[str, object] = {}
    for name, scores in found.items():
        if name == reference:
            continue
        for metric in METRICS:
            pair: list[dict[Hashable, float]] = [
                {seed: one[metric] for seed, one in enumerate(some)}
                for some in (scores, found[reference])
            ]
            compared = paired_comparison(pair[0], pair[1])
            result[f"{name}: {metric}"] = {
                "difference": compared.difference,
                "low": compared.low,
                "high": compared.high,
                "p": compared.t_p,
            }
    return result


if __name__ == "__main__":
    main()
