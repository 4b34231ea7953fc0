"""What runs a search under Ray Tune: its searcher and stopper, its pages, its clean-up."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection

from ray.tune.schedulers import TrialScheduler

from distributed import config
from distributed.runtime import lease
from distributed.runtime.errors import Failure, UnreadableData
from distributed.runtime.shell import resume_command
from distributed.runtime.signals import StopRequest, stop_requests
from distributed.runtime.storage import remove_folder
from distributed.searches.choosing import stoppers
from distributed.searches.choosing.samplers import Surroundings, open_study
from distributed.searches.choosing.spaces import ask
from distributed.searches.jobs import tuner
from distributed.searches.jobs.planner import Planner
from distributed.searches.jobs.searcher import DiskFull, Searcher
from distributed.searches.pages.live import SearchView
from distributed.searches.pages.writer import BackgroundWriter, PageWriter
from distributed.searches.setup import CheckedSearch
from distributed.searches.state.mirror import Mirror
from distributed.searches.state.standings import Standings
from distributed.searches.state.study_storage import open_storage
from distributed.shards.sharing import share_splits
from distributed.training.workers.capacity import TrialSlots
from model.metrics import names


def run(
    search: CheckedSearch,
    standings: Standings,
    mirror: Mirror,
    train_command: str,
    started: float,
) -> None:
    """Runs the trials, the replicates and the test, and writes the experiment's pages.

    train_command: for the report.
    started: when this process began to work on the search, on the monotonic clock.
    """
    setup = search.setup
    arrays = share_splits(setup.shards, setup.trained, ("train", "val"))  # runs in the background
    planner = Planner(
        standings,
        seed=setup.settings.optim.seed,
        test=search.has_test_rows,
        spoil=bool(setup.options["corrupt"]),
        distil=setup.options["distil"],
        validation=search.val_rows,
    )
    searcher = make_searcher(search, planner, mirror)
    trainable = tuner.make_trainable(
        shards=setup.shards,
        base=setup.trained,
        metrics=setup.metrics,
        folder=f"{mirror.out}/trials",
        arrays=arrays,
        ensemble=setup.options["ensemble"],
        corrupt=setup.options["corrupt"],
    )
    states = SavedStates(mirror.out, planner)
    pages = BackgroundWriter(PageWriter(search, standings, mirror, train_command, started).write)
    try:
        with (
            stop_requests(only_note=True) as request,
            SearchView(standings, setup.options["trials"]) as view,
        ):
            tuner.run(
                searcher,
                trainable,
                make_stopper(search, standings),
                trial_process(setup.settings.scaling),
                on_step=Monitor(standings, states, pages, view, mirror.out, request).step,
                request=request,
            )
    except (tuner.EveryTrialFailed, UnreadableData):
        pages.close()
        raise
    except DiskFull as error:
        command = resume_command("distributed/tune.py", mirror.out)
        raise Failure(f"{error}; make room, then go on with: {command}") from None
    states.remove_all()
    pages.close()


class Monitor:
    """Looks after the search between two events of Ray Tune's."""

    def __init__(
        self,
        standings: Standings,
        states: SavedStates,
        pages: BackgroundWriter,
        view: SearchView,
        out: str,
        request: StopRequest,
    ) -> None:
        self.log = standings.log
        self.states = states
        self.pages = pages
        self.view = view
        self.out = out
        self.request = request
        self.ended = len(self.log.ended())

    def step(self) -> None:
        """Updates the display, and after the end of a job the pages; ends both after a signal."""
        if lease.is_lost(self.out):  # the files are another process's
            return
        if self.request.received:
            # Now: Tune's clean-up follows and may take longer than this process is given.
            self.pages.close()
            self.view.close()
            command = resume_command("distributed/tune.py", self.out)
            print(f"stopping; go on with: {command}", file=sys.stderr, flush=True)
            return
        ended = len(self.log.ended())
        if ended != self.ended:
            self.ended = ended
            self.states.remove_unneeded()
            self.pages.wake()
        self.view.update()


class SavedStates:
    """The states and checkpoints below trials/, removed once no job will read them."""

    def __init__(self, out: str, planner: Planner) -> None:
        self.out, self.planner = out, planner
        self.removed: set[tuple[str, str]] = set()

    def remove_unneeded(self) -> None:
        """Removes all but the states that a test, and the checkpoints that the model may need."""
        self._remove("state", self.planner.needed_states())
        self._remove("checkpoint", self.planner.standings.kept_checkpoints())

    def remove_all(self) -> None:
        """Removes the states when nothing is left to run; an extension reads the checkpoints."""
        self._remove("state", set())
        self._remove("checkpoint", self.planner.standings.kept_checkpoints())

    def _remove(self, kind: str, needed: Collection[str]) -> None:
        for record in self.planner.log.ended():
            # A job that continues from another's state has none of its own.
            if record.name in needed or (record.name, kind) in self.removed or record.job.state:
                continue
            remove_folder(f"{self.out}/trials/{record.name}/{kind}")
            self.removed.add((record.name, kind))


def make_searcher(search: CheckedSearch, planner: Planner, mirror: Mirror) -> Searcher:
    """The searcher on Optuna's study: a journal in the experiment, or the storage of the user."""
    setup, options = search.setup, search.setup.options
    study = open_study(
        open_storage(search.storage or str(mirror.folder / "study.journal")),
        options["study"],
        [names.metric(name).direction for name in setup.metrics],
        options["sampler"],
        options["seed"],
        options["trials"],
        Surroundings(
            ask=functools.partial(ask, search.space, pins=setup.pins),
            start=config.flatten(setup.settings),
            smooth_metric=names.smooth_metric(setup.metrics[0]),
        ),
    )
    return Searcher(
        study,
        search.space,
        planner,
        trials=options["trials"],
        slots=TrialSlots(setup.settings.scaling, options["concurrent"]),
        owner=setup.owner,
        pins=setup.pins,
        named=search.starting_points.inside,
        outside=search.starting_points.outside,
        time_budget=options["time_budget"],
    )


def make_stopper(search: CheckedSearch, standings: Standings) -> TrialScheduler:
    """Returns the search's stopper; by default there is none for several metrics.

    A resumed search gives the stopper the epochs of its earlier trials.
    """
    setup = search.setup
    name = setup.options["stopper"] or ("asha" if len(setup.metrics) == 1 else "none")
    stopper = stoppers.make_stopper(name, standings.metric, setup.settings.optim.epochs)
    return stoppers.recall(stopper, standings.log.configurations(), standings.metric)


def trial_process(scaling: config.ScalingConfig) -> tuner.TrialProcess:
    """What Tune reserves for a trial, and whether it keeps the process for the next one.

    A trial with workers of its own reserves nothing, or it and its workers would wait for each
    other. Ray refuses an empty request, so such a trial asks for a byte of memory.
    """
    if scaling.workers > 1:
        return tuner.TrialProcess({"CPU": 0, "memory": 1}, reuse=False)
    resources = {"CPU": scaling.cpus_per_worker}
    if scaling.gpus_per_worker:
        resources["GPU"] = scaling.gpus_per_worker
    return tuner.TrialProcess(resources)
