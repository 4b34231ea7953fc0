"""How many trainings fit on the Ray cluster at a time. No torch is loaded here."""

from __future__ import annotations

import dataclasses
import sys
import time

import ray

from distributed.config import ScalingConfig
from distributed.runtime import ray_session

SECONDS_BETWEEN_COUNTS = 2.0  # for which the size of the cluster is taken as unchanged


class TrialSlots:
    """The number of trials to run at a time: the requested number, else as many as fit.

    On a cluster that others started it is more than fit now, so that no resource waits for the
    driver and an autoscaler notices the demand, even where the only node is a head without CPUs.
    Trials with workers of their own hold a process each while they wait: of these, one more.
    """

    def __init__(self, scaling: ScalingConfig, requested: int = 0, what: str = "a trial") -> None:
        """requested: 0 for as many as fit. what: names a trial in messages."""
        self.resources = required_resources(scaling)
        self.requested, self.has_workers = requested, scaling.workers > 1
        self.in_cluster = ray_session.in_cluster()
        _check_resources(self.resources, what)
        self._count()
        if requested > self.fitting >= 1 and not self.in_cluster:
            print(
                f"--concurrent {requested}: {self.fitting} fit on this machine at a time, "
                "the others wait for them",
                file=sys.stderr,
            )

    def __call__(self) -> int:
        """The number of trials at this moment."""
        if self.requested:
            return self.requested
        if not self.in_cluster:
            return self.fitting
        if time.monotonic() - self.counted > SECONDS_BETWEEN_COUNTS:
            self._count()
        return self.fitting + 1 if self.has_workers else max(2, 2 * self.fitting)

    def _count(self) -> None:
        self.counted, self.fitting = time.monotonic(), count_that_fit(self.resources)


def required_resources(scaling: ScalingConfig) -> dict[str, float]:
    """The resources of one training, all its workers together."""
    per_worker = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    return {name: scaling.workers * amount for name, amount in per_worker.items() if amount}


def count_that_fit(resources: dict[str, float]) -> int:
    """How many trainings that take so much fit on the whole cluster at a time."""
    available = cluster_resources()
    counts = (
        int(available.get(name, 0) / amount + 1e-9)  # thirds of a GPU add up to a little less
        for name, amount in resources.items()
    )
    return min(counts, default=1)


def check_fits(scaling: ScalingConfig, what: str) -> None:
    """Raises ValueError for a training that never fits on a local Ray, which would wait silently.

    On a cluster, which may grow, it prints that it waits. An elastic training can start with its
    smallest number of workers.
    """
    smallest = dataclasses.replace(scaling, workers=scaling.min_workers or scaling.workers)
    _check_resources(required_resources(smallest), what)


def _check_resources(resources: dict[str, float], what: str) -> None:
    """Does the work of check_fits for a training that takes these resources."""
    if count_that_fit(resources) >= 1:
        return
    if ray_session.in_cluster():
        print(
            f"{what} takes {_listed(resources)} and no node has that yet: waiting for a node",
            file=sys.stderr,
            flush=True,
        )
        return
    cluster = cluster_resources()
    available = {name: cluster.get(name, 0) for name in resources}
    short = next(name for name, amount in resources.items() if available[name] < amount)
    raise ValueError(
        f"{what} must fit on this machine, which has {_listed(available)}; it takes "
        f"{_listed(resources)}: lower scaling.workers or scaling.{short.lower()}s_per_worker"
    )


def cluster_resources() -> dict[str, float]:
    """CPUs, GPUs and more of all nodes, used or not."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _listed(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
