"""Every option of a search. Light: `tune.py --help` reads this file."""

from __future__ import annotations

from dataclasses import dataclass

from model.declarations import option
from model.limits import MAX_SEED

SAMPLERS = ("prior", "tpe", "random", "cmaes", "gp", "nsga2")
STOPPERS = ("asha", "median", "hyperband", "none")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What to search, on which data, for how long. None stands for "not given".

    An option that is not given has the value that `otherwise` names; in a resumed search it has the
    value that the search began with.
    """

    data: str | None = option(
        None,
        "folder or URI made by ingest.py",
        metavar="SHARDS",
        otherwise="",
        shown="the built-in wafer data, with small settings",
    )
    space: str | None = option(
        None,
        "margins, experts, fusion, optimisation, full, or a Python file with one function",
        metavar="NAME",
        otherwise="full",
    )
    portfolio: str | None = option(
        None,
        "configurations of other kinds that are tried beside the starting point, or none",
        metavar="F.toml",
        otherwise="",
        shown="search_spaces/portfolio.toml",
    )
    learn_from: tuple[str, ...] | None = option(
        None,
        "finished searches on other data, whose best settings are tried too",
        metavar="EXPERIMENT",
        otherwise=(),
        shown="none",
    )
    trials: int | None = option(
        None,
        "configurations to try, the defaults and baselines among them",
        low=1,
        metavar="N",
        otherwise=20,
        shown="20; 16 for the built-in wafers",
    )
    concurrent: int | None = option(
        None,
        "trials at a time",
        low=0,
        metavar="C",
        otherwise=0,
        shown="as many as fit; twice that on a cluster",
    )
    workers: int | None = option(
        None,
        "training processes per trial, the same as --set scaling.workers=N",
        low=1,
        metavar="N",
        shown="1",
    )
    metric: str | None = option(
        None,
        "validation metric; several give a Pareto front, the first decides",
        metavar="M[,M2]",
        otherwise="balanced_accuracy",
    )
    time_budget: float | None = option(
        None,
        "seconds after which the search stops trying; replicates and test follow (with folds: the"
        " folds of the best are within them)",
        low=0,
        metavar="S",
        otherwise=0.0,
        shown="none",
    )
    storage: str | None = option(
        None,
        "Optuna storage: sqlite:///F.db, another database's URL or a journal file; a password is"
        " not stored: *** in its place stands for LONGTAIL_STORAGE_PASSWORD of the environment",
        metavar="URL",
        credentials=True,
        otherwise="",
        shown="study.journal in --out",
    )
    study: str | None = option(
        None,
        "name in --storage; searches of one name share what they learn",
        metavar="NAME",
        otherwise="search",
    )
    sampler: str | None = option(
        None,
        "how the next configuration is chosen; prior: near the starting point, and near the best"
        " so far",
        choices=SAMPLERS,
        otherwise="prior",
    )
    stopper: str | None = option(
        None,
        "how weak trials are stopped early, from a third of the epochs on",
        choices=STOPPERS,
        otherwise="",
        shown="asha; none for several metrics",
    )
    replicates: int | None = option(
        None,
        "fresh seeds on which the best trials and the starting point are run again, where there are"
        " no folds; baselines run once",
        low=0,
        metavar="R",
        otherwise=3,
        shown="3; 1 for the built-in wafers",
    )
    best: int | None = option(
        None,
        "how many of the best trials are run again, with fresh seeds or on all folds, beside the"
        " starting point",
        low=1,
        metavar="K",
        otherwise=3,
        shown="3; 1 for the built-in wafers",
    )
    folds: int | None = option(
        None,
        "cut training and validation rows into so many folds; the best configurations are trained"
        " on each and judged on all these rows; 1: the splits as they are",
        low=1,
        high=20,
        metavar="K",
        otherwise=0,
        shown="5 where a class has fewer than 20 validation rows, else 1; 1 with --replicates",
    )
    ensemble: int | None = option(
        None,
        "configurations that may answer together as EXPERIMENT/model; 1: the best alone, 0: no"
        " model",
        low=0,
        high=50,
        metavar="N",
        otherwise=10,
    )
    distil: bool | None = option(
        None,
        "train one network on the answers of that model, EXPERIMENT/distilled, which costs as much"
        " to use as a single one",
        otherwise=False,
        shown="",
    )
    corrupt: str | None = option(
        None,
        "in the end, also score the model and the baselines on test rows that are spoilt so, such"
        " as photo=noise:0.5 (kinds: noise, shuffle, missing)",
        metavar="SPEC",
        otherwise="",
        shown="none; map=noise:0.5 for the built-in wafers",
    )
    seed: int | None = option(
        None, "seed of the sampler and the trials", low=0, high=MAX_SEED, metavar="S", otherwise=0
    )
    config: str | None = option(
        None, "settings to start from", metavar="F.toml", otherwise="", shown="none"
    )
    set: tuple[str, ...] | None = option(
        None, "settings held fixed, by dotted name", metavar="K=V", otherwise=(), shown="none"
    )
    out: str | None = option(
        None,
        "folder or URI of the results",
        metavar="EXPERIMENT",
        shown="experiments/ and the time of day",
    )
    resume: bool = option(False, "go on with the search in --out, or extend it with more --trials")
    quick: bool | None = option(
        None, "a few tiny trials, to see that everything works", otherwise=False, shown=""
    )
