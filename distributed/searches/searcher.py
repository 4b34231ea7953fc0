"""Which configuration to try next: samplers, and an OptunaSearch that survives early stops, NaN, failures and restarts."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.searcher import Searcher as RaySearcher

from distributed.searches.experiment import Experiment
from distributed.searches.records import SearchJob, SearchRecord
from distributed.searches.spaces import Space, ask, probe
from model.metrics.names import metric as metric_named


def _tpe(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    startup = max(4, min(10, trials // 3))
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=startup
    )


def _random(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _cmaes(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.CmaEsSampler(
        seed=seed, n_startup_trials=min(5, trials), warn_independent_sampling=False
    )


def _gp(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=max(4, min(10, trials // 3)), deterministic_objective=False
    )


def _nsga2(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, trials // 4)))


SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "cmaes": _cmaes,
    "gp": _gp,
    "nsga2": _nsga2,
}


def open_storage(url: str) -> BaseStorage:
    """A database by URL (sqlite:///F.db, postgresql://...), else a journal file by path."""
    if "://" in url and not url.startswith("journal://"):
        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:
            raise ValueError(
                f"--storage must be a database URL that opens, or the path of a journal file; got {url!r}: {error}"
            ) from None
    path = Path(url.removeprefix("journal://").removeprefix("journal:"))
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = optuna.storages.journal.JournalFileOpenLock(str(path))
    return optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
    )


def open_study(
    storage: BaseStorage, name: str, directions: list[str], sampler: str, seed: int, trials: int
) -> optuna.Study:
    """The study of that name, made where there is none; the sampler's seed moves on with the trials, so a restart repeats no draw."""
    words = [{"min": "minimize", "max": "maximize"}[d] for d in directions]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=words,
        load_if_exists=True,
        pruner=optuna.pruners.NopPruner(),
    )
    if [d.name.lower() for d in study.directions] != words:
        known = ", ".join(d.name.lower() for d in study.directions)
        raise ValueError(
            f"a study keeps its objectives; {name!r} in --storage has {known}, this search wants {', '.join(words)}"
        )
    if len(words) > 1 and sampler == "cmaes":
        raise ValueError(
            "--sampler cmaes takes one metric; with several use tpe, random, gp or nsga2"
        )
    study.sampler = SAMPLERS[sampler](seed + len(study.get_trials(deepcopy=False)), trials)
    return study


class Searcher(OptunaSearch):
    """Hands out jobs: trials a killed driver left running, named configurations, new trials up to a budget, then what the experiment plans.

    The study and the experiment's records are the whole state, so a search, its resumption and its extension all start here in the same
    way. A trial that was running when the driver died goes on under its own number. Optuna hears PRUNED when a trial was stopped early,
    FAIL when it failed, nothing twice, and no value that is not finite. A budget of N counts every configuration, named ones included.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        experiment: Experiment,
        *,
        trials: int,
        concurrent: int | Callable[[], int],
        owner: str,
        pins: Mapping[str, Any] | None = None,
        named: Sequence[tuple[str, Mapping[str, Any]]] = (),
        outside: Sequence[SearchJob] = (),
        test: bool = True,
        time_budget: float = 0.0,
    ) -> None:
        RaySearcher.__init__(self, metric="value", mode=metric_named(experiment.metric).direction)
        self.study, self.space, self.experiment = study, space, experiment
        self.trials, self.concurrent, self.owner, self.pins, self.test = (
            trials,
            concurrent,
            owner,
            dict(pins or {}),
            test,
        )
        self.deadline = time.monotonic() + time_budget if time_budget else math.inf
        self.interrupted = (
            False  # trials that end from now on are left as running, for the next start
        )
        self.jobs: dict[str, SearchJob] = {}  # in flight, by Tune's trial id
        self._trials: dict[str, optuna.Trial] = {}  # theirs in Optuna, for those of the search
        self._adopted: list[optuna.Trial] = []
        self._waiting: list[str] = []  # labels that Optuna has been given and nobody has run
        self._recover()
        labels = (
            {r.job.label for r in experiment.configurations()}
            | {t.user_attrs.get("label") for t in self._adopted}
            | {*self._waiting}
        )
        self._named = [(label, values) for label, values in named if label not in labels]
        self._outside = [job for job in outside if job.name not in experiment.records]
        self.asked += len(experiment.of_kind("named"))

    def _recover(self) -> None:
        """Takes back this search's own trials that Optuna still thinks are running, and those that ended without a record."""
        told = self.experiment.told()
        mine = [
            t
            for t in self.study.get_trials(deepcopy=False)
            if t.user_attrs.get("owner") == self.owner
        ]
        for frozen in mine:
            if frozen.state == TrialState.RUNNING:
                trial = optuna.Trial(self.study, frozen._trial_id)
                if (name := _name(trial)) in told:  # killed between our record and Optuna's
                    self._tell(trial, *told[name])
                else:
                    self._adopted.append(trial)
            elif (
                frozen.state == TrialState.WAITING
            ):  # killed before it was asked for; whoever asks next gets it
                self._waiting.append(str(frozen.user_attrs.get("label", "")))
            elif frozen.state.is_finished() and _name(frozen) not in told:
                self._rebuild(frozen)
        self.asked = len(mine) - len(self._waiting)

    def _rebuild(self, frozen: optuna.trial.FrozenTrial) -> None:
        """The record of a finished trial, lost with the driver or its machine, from what Optuna knows of it."""
        metrics = self.experiment.metrics
        settings = probe(self.space, frozen.params, self.pins) or dict(frozen.params)
        label = str(frozen.user_attrs.get("label", ""))
        steps = [
            {"epoch": step, metrics[0]: value}
            for step, value in sorted(frozen.intermediate_values.items())
        ]
        state = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped"}.get(
            frozen.state, "failed"
        )
        last = {metrics[0]: steps[-1][metrics[0]]} if steps else {}
        values = dict(zip(metrics, frozen.values)) if state == "complete" else last
        begun = frozen.datetime_start.timestamp() if frozen.datetime_start else 0.0
        took = frozen.duration.total_seconds() if frozen.duration else 0.0
        reason = "its record was lost with the driver" if state == "failed" else ""
        job = SearchJob(
            name=_name(frozen), kind="search", label=label, settings=settings, number=frozen.number
        )
        self.experiment.put(
            SearchRecord(
                job,
                state,
                reason,
                int(steps[-1]["epoch"]) if steps else 0,
                0,
                values,
                steps,
                begun,
                took,
            )
        )

    # What OptunaSearch does in its constructor, and what Tune would pickle, comes from the study instead.
    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        return True

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).write_text(json.dumps({"study": self.study.study_name}))

    def restore(self, checkpoint_path: str) -> None:
        pass

    def __reduce__(self) -> Any:
        return (
            object,
            (),
        )  # Tune pickles what it is given for a restore of its own, which is not used here

    def __deepcopy__(self, memo: Any) -> Searcher:
        return self

    @property
    def searching(self) -> bool:
        """Whether the time budget still allows trials of the search."""
        return time.monotonic() < self.deadline

    def suggest(self, trial_id: str) -> Any:
        room = (
            self.concurrent() if callable(self.concurrent) else self.concurrent
        )  # a cluster grows and shrinks
        if self.interrupted or len(self.jobs) >= room:
            return None
        job = self._next(trial_id)
        if not isinstance(job, SearchJob):
            return RaySearcher.FINISHED if job == "finished" else None
        self.jobs[trial_id] = job
        self.experiment.start(job)
        return job.to_dict()

    def _next(self, trial_id: str) -> SearchJob | str | None:
        if self.searching and self._adopted:
            return self._job(trial_id, self._adopted.pop(0))
        if self.searching and self.asked < self.trials:
            self.asked += 1
            if not self._named and self._outside:
                return self._outside.pop(0)
            if self._named:
                label, values = self._named.pop(0)
                self.study.enqueue_trial(
                    dict(values), user_attrs={"owner": self.owner, "label": label}
                )
            return self._job(trial_id, self.study.ask())
        waiting = any(job.kind in ("search", "named") for job in self.jobs.values())
        return self.experiment.plan(searching=waiting, test=self.test)

    def _job(self, trial_id: str, trial: optuna.Trial) -> SearchJob:
        self._trials[trial_id] = trial
        if (
            trial.user_attrs.get("owner") != self.owner
        ):  # none, or another search's on the same storage that we were given
            trial.set_user_attr("owner", self.owner)
        label = str(trial.user_attrs.get("label", ""))
        return SearchJob(
            name=_name(trial),
            kind="search",
            label=label,
            settings=ask(self.space, trial, self.pins),
            number=trial.number,
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self.jobs and trial_id in self._trials:
            self._report(self._trials[trial_id], result)

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> None:
        value, epoch = result.get("value"), result.get("epoch")
        if len(self.experiment.metrics) > 1 or not _finite(value) or epoch is None:
            return  # Optuna takes no intermediate values of several objectives
        if (
            epoch not in trial.storage.get_trial(trial._trial_id).intermediate_values
        ):  # a resumed trial repeats an epoch
            trial.report(float(value), int(epoch))  # type: ignore[arg-type]

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        result = result or {}
        if trial_id not in self.jobs or (self.interrupted and not result.get("final")):
            return
        job, trial = self.jobs.pop(trial_id), self._trials.get(trial_id)
        metrics = {
            k.removeprefix("metrics/"): v for k, v in result.items() if k.startswith("metrics/")
        }
        values = [metrics.get(name) for name in self.experiment.metrics]
        state, reason = "stopped", str(result.get("failed", ""))
        if error or reason:
            state, reason = "failed", reason or "its process died"
        elif result.get("final"):
            wrong = [n for n, v in zip(self.experiment.metrics, values) if not _finite(v)]
            state, reason = (
                ("failed", f"{', '.join(wrong)} is not a number") if wrong else ("complete", "")
            )
        elif trial is not None:
            self._report(trial, result)
        self.experiment.end(job.name, state, metrics, reason)
        if trial is not None:
            self._tell(trial, state, values)

    def _tell(self, trial: optuna.Trial, state: str, values: list[Any]) -> None:
        if trial.storage.get_trial(trial._trial_id).state.is_finished():
            return
        word = {
            "complete": TrialState.COMPLETE,
            "stopped": TrialState.PRUNED,
            "failed": TrialState.FAIL,
        }[state]
        self.study.tell(
            trial, [float(v) for v in values] if state == "complete" else None, state=word
        )


def _name(trial: optuna.Trial | optuna.trial.FrozenTrial) -> str:
    return f"{trial.number:04d}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
