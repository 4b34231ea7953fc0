"""The search algorithm as Ray Tune calls it: hands out jobs and tells Optuna how they ended."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search.searcher import Searcher as RaySearcher

from distributed.runtime.errors import Failure, UnreadableData, full_disk_message
from distributed.searches.choosing.spaces import Space, ask
from distributed.searches.jobs.planner import Done, Planner, Run, Step, Wait
from distributed.searches.state.records import CONFIGURATIONS, SearchJob, SettingValues, is_finite
from distributed.searches.state.recovery import (
    OPTUNA_STATES,
    objectives,
    rebuild_record,
    restore_trials,
    smooth_values,
    trial_name,
)
from model.metrics import names


class DiskFull(Failure):
    """A full disk has stopped the search; its trials are as running, for the next start."""


TRIALS_SHARE = 0.6  # of a time budget; the rest is for the contenders' other folds

# What a trial may report that stops the whole search, and fails no trial.
STOPS: dict[str, type[Exception]] = {"full_disk": DiskFull, "unreadable_data": UnreadableData}


class Searcher(RaySearcher):
    """Hands out jobs to Ray Tune: first trials that a killed driver left running, then baselines,
    then new trials up to a budget, then what the planner says.

    Optuna's study and the search's records are the whole state, so a search, its resumption and
    its extension all start here in the same way. A trial that was running when the driver died
    continues under its own number. Optuna is told PRUNED when a trial was stopped early, FAIL when
    it failed, nothing twice, and no value that is not finite.

    trials: budget of configurations; the starting point and the baselines count.
    slots: returns how many jobs may run at a time, which changes as a cluster grows and shrinks.
    owner: marks this search's trials in a study that several searches share.
    pins: settings held fixed.
    named: starting point and baselines that the space can express, by label.
    outside: baselines that it cannot express.
    time_budget: seconds from now after which no trial and no fold is started; 0 is without limit.
        Where there are folds, trials end before: TRIALS_SHARE.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        planner: Planner,
        *,
        trials: int,
        slots: Callable[[], int],
        owner: str,
        pins: SettingValues | None = None,
        named: Mapping[str, SettingValues] | None = None,
        outside: Sequence[SearchJob] = (),
        time_budget: float = 0.0,
    ) -> None:
        self.standings = planner.standings
        self.log = planner.log
        super().__init__(metric="value", mode=names.metric(self.standings.metric).direction)
        self.study = study
        self.space = space
        self.planner = planner
        self.trials = trials
        self.slots = slots
        self.owner = owner
        self.pins = dict(pins or {})
        self.deadline = time.monotonic() + time_budget if time_budget else math.inf
        self.trials_deadline = self.deadline
        if self.standings.folds > 1:
            self.trials_deadline -= (1 - TRIALS_SHARE) * time_budget
        self.interrupted = False  # trials that end from now on stay as running, for the next start
        self.stop_error: Exception | None = None  # why the search stops before its end
        self.jobs: dict[str, SearchJob] = {}  # the running ones, by Ray Tune's trial id
        self._optuna_trials: dict[str, optuna.Trial] = {}  # those of the search, by the same id
        self._left_running: list[optuna.Trial] = []
        self._left_waiting: list[str] = []  # labels of trials that Optuna was given and none ran
        self._recover()
        labels = {record.job.label for record in self.log.configurations()}
        labels |= {str(trial.user_attrs.get("label", "")) for trial in self._left_running}
        labels |= set(self._left_waiting)
        self._named = [
            (label, values) for label, values in (named or {}).items() if label not in labels
        ]
        self._outside = [job for job in outside if job.name not in self.log.records]
        self.started_trials += len(self.log.of_kind("named", "portfolio"))

    def _recover(self) -> None:
        """Compares the study with the records after a kill: finds trials that Optuna believes to
        be running, and writes the records of those that ended without one.
        """
        metrics = self.standings.metrics
        finished = {r.name: r for r in self.log.ended() if r.job.kind == "search"}
        restore_trials(self.study, finished.values(), self.space, self.pins, self.owner, metrics)
        trials = self.study.get_trials(deepcopy=False)
        own = [trial for trial in trials if trial.user_attrs.get("owner") == self.owner]
        for frozen in own:
            record = finished.get(trial_name(frozen))
            if frozen.state == TrialState.RUNNING:
                trial = optuna.Trial(self.study, frozen._trial_id)
                if record is None:
                    self._left_running.append(trial)
                else:  # the kill came after our record and before Optuna's
                    self._tell(trial, record.state, record.metrics)
            elif frozen.state == TrialState.WAITING:  # the next call of ask returns it
                self._left_waiting.append(str(frozen.user_attrs.get("label", "")))
            elif record is None:
                self.log.add(rebuild_record(frozen, self.space, self.pins, metrics))
        self.started_trials = len(own) - len(self._left_waiting)

    @property
    def searching(self) -> bool:
        """Whether the time budget still allows trials."""
        return time.monotonic() < self.trials_deadline

    @contextmanager
    def stopping_on_full_disk(self) -> Iterator[None]:
        """Notes a full disk that ends the block, so that the search stops and no trial fails.

        Tune would take the error for one of the trial that it works on.
        """
        try:
            yield
        except Exception as error:
            message = full_disk_message(error)
            if not message:
                raise
            self.stop(DiskFull(message))

    def stop(self, error: Exception) -> None:
        """Hands out no more jobs; those that run stay as running, for the next start."""
        self.stop_error = self.stop_error or error
        self.interrupted = True

    def suggest(  # type: ignore[override]  # Ray's FINISHED is text
        self, trial_id: str
    ) -> dict[str, object] | str | None:
        """The next job as a trial's configuration; None if it has to wait; FINISHED at the end."""
        if self.interrupted or len(self.jobs) >= self.slots():
            return None
        step: Step = Wait()
        with self.stopping_on_full_disk():
            step = self._next_step(trial_id)
        if isinstance(step, Done):
            return str(RaySearcher.FINISHED)
        if isinstance(step, Wait):
            return None
        self.jobs[trial_id] = step.job
        self.log.start(step.job)
        return step.job.to_dict()

    def _next_step(self, trial_id: str) -> Step:
        if self.searching and self._left_running:
            return Run(self._trial_job(trial_id, self._left_running.pop(0)))
        if self.searching and self.started_trials < self.trials:
            self.started_trials += 1
            if not self._named and self._outside:
                return Run(self._outside.pop(0))
            if self._named:
                label, values = self._named.pop(0)
                self.study.enqueue_trial(
                    dict(values), user_attrs={"owner": self.owner, "label": label}
                )
            return Run(self._trial_job(trial_id, self.study.ask()))
        trials_run = any(job.kind in CONFIGURATIONS for job in self.jobs.values())
        return self.planner.next_step(trials_run, racing=time.monotonic() < self.deadline)

    def _trial_job(self, trial_id: str, trial: optuna.Trial) -> SearchJob:
        """The job of an Optuna trial, with the settings that the space asks it for."""
        self._optuna_trials[trial_id] = trial
        # A new trial has no owner. One that another search has put on the waiting list of the same
        # study has that search as its owner, but is ours now.
        if trial.user_attrs.get("owner") != self.owner:
            trial.set_user_attr("owner", self.owner)
        return SearchJob(
            name=trial_name(trial),
            kind="search",
            label=str(trial.user_attrs.get("label", "")),
            settings=ask(self.space, trial, self.pins),
            number=trial.number,
        )

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Passes an epoch's value to Optuna."""
        if trial_id in self.jobs and trial_id in self._optuna_trials:
            with self.stopping_on_full_disk():
                self._report(self._optuna_trials[trial_id], result)

    def _report(self, trial: optuna.Trial, result: Mapping[str, Any]) -> None:
        value, epoch = result.get("value"), result.get("epoch")
        if len(self.standings.metrics) > 1 or not is_finite(value) or epoch is None:
            return  # Optuna takes no intermediate values of several objectives
        reported = trial.storage.get_trial(trial._trial_id).intermediate_values
        if epoch not in reported:  # a resumed trial may repeat an epoch
            trial.report(float(value), int(epoch))

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes how a job ended, in its record and in Optuna's study."""
        result = result or {}
        for name, kind in STOPS.items():
            if result.get(name):
                self.stop(kind(str(result[name])))
                return
        is_final = bool(result.get("final"))
        if trial_id not in self.jobs or (self.interrupted and not is_final):
            return
        job, trial = self.jobs.pop(trial_id), self._optuna_trials.get(trial_id)
        # Ray Tune flattens the results of a trial: metrics/accuracy.
        metrics = {
            name.removeprefix("metrics/"): value
            for name, value in result.items()
            if name.startswith("metrics/")
        }
        state, reason = self._outcome(result, metrics, error)
        with self.stopping_on_full_disk():
            if state == "stopped" and trial is not None:
                self._report(trial, result)
            self.log.finish(job.name, state, metrics, reason)
            if trial is not None:
                self._tell(trial, state, metrics)

    def _outcome(
        self, result: Mapping[str, Any], metrics: Mapping[str, Any], error: bool
    ) -> tuple[str, str]:
        """State and reason of a job that has ended. error: its process raised or died."""
        failure = str(result.get("failed", ""))
        if error or failure:
            return "failed", failure or "its process died"
        if not result.get("final"):
            return "stopped", ""
        undefined = [name for name in self.standings.metrics if not is_finite(metrics.get(name))]
        if undefined:
            return "failed", f"{', '.join(undefined)} is not a number"
        return "complete", ""

    def _tell(self, trial: optuna.Trial, state: str, metrics: Mapping[str, float | None]) -> None:
        """Ends a trial in Optuna's study, once, with what the prior sampler compares."""
        if trial.storage.get_trial(trial._trial_id).state.is_finished():
            return
        for name, value in smooth_values(self.standings.metric, metrics).items():
            trial.set_user_attr(name, value)
        values = objectives(self.standings.metrics, metrics) if state == "complete" else None
        self.study.tell(trial, values, state=OPTUNA_STATES[state])

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Accepts what Tune offers: space, metric and direction come from the study instead."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Writes the study's name only: Tune asks for a file, but the study itself is the state."""
        Path(checkpoint_path).write_text(json.dumps({"study": self.study.study_name}))

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: a search resumes from its study and its records."""

    def __reduce__(self) -> Any:
        # Tune pickles its searcher for a restore of its own, which is not used here.
        return object, ()

    def __deepcopy__(self, memo: Any) -> Searcher:
        return self
