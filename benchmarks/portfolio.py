"""Chooses the portfolio of searches by trials over many data sets: search_spaces/portfolio.toml.

--make writes small data sets to begin with (benchmarks/portfolio_data.py). Candidates are
configurations with one kind of change, and draws of the prior sampler from the space `full`
(benchmarks/portfolio_candidates.py). Each is trained on every data set; --out keeps its answers,
and a later call trains only what is missing. A set of configurations is worth what the mean
answer of the defaults and of the set gains over the defaults alone: the log ratio of the
class-balanced log-loss on validation rows, on the mean over the data sets. Configurations are
added one by one, the most useful first, up to --most, as long as they gain LEAST_GAIN.

Judged on test rows, leaving one data set out at a time: what the configurations that the other data
sets choose are worth on this one, beside the portfolio in the file before, and beside as many seeds
of the defaults. Prints one JSON line; --write replaces the file.

Legend: V rows, C classes.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import command
from benchmarks.portfolio_candidates import (
    DEFAULTS,
    Settings,
    Trial,
    applies,
    as_toml,
    candidates,
    hand_written,
    seeds,
)
from benchmarks.portfolio_data import write_data_sets
from distributed.config import Config, flatten
from distributed.ensembles.building import stated_prior
from distributed.shards.manifest import read_manifest
from distributed.training.run import run_training
from distributed.training.spec import RunSpec
from model.decisions.calibration import row_weights
from model.decisions.selection import combine, log_losses
from model.member import Member, log_posterior

Losses = Mapping[str, Mapping[str, float]]

LEAST_GAIN = 0.003  # of the mean log ratio, for which a configuration is worth its training
SEEDS = 5  # of the defaults, for comparison


@dataclass(frozen=True)
class Answers:
    """A network's log probabilities at the uniform class prior, and the labels, of a split."""

    answers_VC: Tensor
    labels_V: Tensor

    def loss_with(self, others: Sequence[Answers]) -> float:
        """The class-balanced log-loss of the mean answer of this network and the others."""
        together_VC = combine(torch.stack([one.answers_VC for one in (self, *others)]))
        uniform_C = torch.full_like(together_VC[0], 1 / together_VC.shape[1])
        weights_V = row_weights(self.labels_V, uniform_C).to(together_VC.dtype)
        return float(log_losses(together_VC, self.labels_V) @ weights_V)


BySplit = Mapping[str, Answers]
Trials = Mapping[str, Mapping[str, BySplit]]  # by data set, then by configuration


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--data", nargs="*", default=[], help="folders of shards")
    parser.add_argument("--make", default="", help="folder that gets small data sets to use too")
    parser.add_argument("--out", required=True, help="folder of the trained networks' answers")
    parser.add_argument("--most", type=int, default=8, help="configurations of the portfolio")
    parser.add_argument("--set", nargs="*", default=[], help="settings of all trainings, K=V")
    parser.add_argument("--write", default="", help="the file that gets the portfolio")
    command.run(parser, measure)


def measure(args: argparse.Namespace, folder: str) -> dict[str, object]:
    torch.set_num_threads(1)
    trials, before = candidates(), hand_written()
    everything = {**trials, **before, **seeds(SEEDS)}
    fixed = dict(pair.split("=", 1) for pair in args.set)
    results: dict[str, dict[str, BySplit]] = {}
    made = write_data_sets(Path(args.make)) if args.make else []
    for location in [*args.data, *made]:
        name = Path(location).name
        results[name] = {}
        for label, trial in everything.items():
            same = next((other for other in results[name] if everything[other] == trial), None)
            if same is not None:
                results[name][label] = results[name][same]
            elif applies(trial, location):
                path = Path(args.out) / name / f"{label}.npz".replace(" ", "-")
                results[name][label] = answers_of(trial, location, fixed, path)
    chosen = choose(results, trials, args.most)
    if args.write:
        Path(args.write).write_text(as_toml({name: trials[name] for name in chosen}))
    return {
        "benchmark": "portfolio",
        "data": list(results),
        "candidates": len(trials),
        "chosen": chosen,
        "gain on validation": gains(results, chosen, "val"),
        "left out, on test": judge(results, trials, list(before), args.most),
    }


def answers_of(trial: Trial, shards: str, fixed: Mapping[str, str], path: Path) -> BySplit:
    """Trains a configuration, unless its answers are in the file already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {path}", file=sys.stderr, flush=True)
        spec = RunSpec(shards=shards, settings={**typed(fixed), **trial.settings})
        result = run_training(spec)
        saved = result.checkpoint(spec.config, read_manifest(shards))
        member = Member(saved.network, saved.calibration, stated_prior(saved), "", {})
        uniform_C = torch.full_like(member.prior_C, 1 / len(member.prior_C))
        content: dict[str, Any] = {}
        for split, scores in result.scores.items():
            answers_VC = log_posterior(member, scores.logits_NEC, uniform_C)
            content[f"{split}_answers"] = answers_VC.numpy()
            content[f"{split}_labels"] = scores.labels_N.numpy()
        np.savez_compressed(path, **content)
    with np.load(path) as stored:
        return {
            split: Answers(
                torch.from_numpy(stored[f"{split}_answers"]),
                torch.from_numpy(stored[f"{split}_labels"]),
            )
            for split in ("val", "test")
        }


def typed(assignments: Mapping[str, str]) -> Settings:
    """Settings of the command line with the types of the defaults."""
    defaults = flatten(Config())
    return {name: type(defaults[name])(value) for name, value in assignments.items()}


def gain(results: Trials, data: str, names: Collection[str], split: str) -> float:
    """By how much the log of the loss falls when these answer together with the defaults."""
    of_data = results[data]
    start = of_data[DEFAULTS][split]
    others = [of_data[name][split] for name in names if name in of_data]
    return math.log(start.loss_with([]) / start.loss_with(others))


def gains(results: Trials, names: Collection[str], split: str) -> dict[str, float]:
    return {data: round(gain(results, data, names, split), 4) for data in results}


def choose(results: Trials, trials: Collection[str], most: int) -> list[str]:
    """The names of the most useful configurations, one after another."""

    def worth(names: Sequence[str]) -> float:
        return statistics.fmean(gain(results, data, names, "val") for data in results)

    chosen: list[str] = []
    while len(chosen) < most:
        best = max((n for n in trials if n not in chosen), key=lambda n: worth([*chosen, n]))
        if worth([*chosen, best]) - worth(chosen) < LEAST_GAIN:
            break
        chosen.append(best)
    return chosen


def judge(
    results: Trials, trials: Collection[str], before: Collection[str], most: int
) -> dict[str, dict[str, object]]:
    """What the choice of all other data sets is worth on the test rows of each."""
    found: dict[str, dict[str, object]] = {}
    for data in results:
        others = {name: answers for name, answers in results.items() if name != data}
        if not others:
            continue
        chosen = choose(others, trials, most)
        same = [f"{DEFAULTS}, seed {seed}" for seed in range(1, SEEDS)]
        found[data] = {
            "chosen": round(gain(results, data, chosen, "test"), 4),
            "file before": round(gain(results, data, before, "test"), 4),
            f"{SEEDS} seeds": round(gain(results, data, same, "test"), 4),
            "configurations": len(chosen),
        }
    return found


if __name__ == "__main__":
    main()
