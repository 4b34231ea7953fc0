"""Hands work to Ray without loading torch in the driver: decoded data that is shared, and a search's trials."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from distributed.runtime import ray_session

if TYPE_CHECKING:
    from distributed.config import ScalingConfig

FRESH = 2.0  # seconds for which the cluster's size is taken as known


class TrialSlots:
    """Trials at a time: as many as were asked for, else as many as fit.

    On a cluster it is more than fit now, so that none of it waits for the driver and an autoscaler sees demand, also one whose only node is
    a head without CPUs. Trials with workers of their own hold a process each while they wait: of these, one more than fit.
    """

    def __init__(self, scaling: ScalingConfig, asked: int = 0, what: str = "a trial") -> None:
        self.needs = required_resources(scaling)
        self.asked, self.nested = asked, scaling.workers > 1
        self.joined = ray_session.in_cluster()
        self.seen, self.fit = time.monotonic(), count_that_fit(self.needs)
        if self.fit >= 1:
            if asked > self.fit and not self.joined:
                print(
                    f"--concurrent {asked}: {self.fit} fit on this machine at a time, the others wait for them",
                    file=sys.stderr,
                )
        elif self.joined:
            print(
                f"{what} takes {self._words(self.needs)} and no node has that yet: waiting for a node",
                file=sys.stderr,
                flush=True,
            )
        else:
            there = {name: _cluster_resources().get(name, 0) for name in self.needs}
            short = next(name for name, need in self.needs.items() if there[name] < need)
            raise ValueError(
                f"{what} must fit on this machine, which has {self._words(there)}; it takes {self._words(self.needs)}: "
                f"lower scaling.workers or scaling.{short.lower()}s_per_worker"
            )

    def __call__(self) -> int:
        if self.asked:
            return self.asked
        if not self.joined:
            return self.fit
        if time.monotonic() - self.seen > FRESH:
            self.seen, self.fit = time.monotonic(), count_that_fit(self.needs)
        return self.fit + 1 if self.nested else max(2, 2 * self.fit)

    @staticmethod
    def _words(amounts: dict[str, float]) -> str:
        return " and ".join(f"{amount:g} {name}" for name, amount in amounts.items())


def required_resources(scaling: ScalingConfig) -> dict[str, float]:
    """What a training takes of the cluster, all its workers together."""
    each = {"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}
    return {name: scaling.workers * amount for name, amount in each.items() if amount}


def count_that_fit(each: dict[str, float]) -> int:
    """How many trainings that need so much fit on the cluster at a time."""
    there = _cluster_resources()
    return min((int(there.get(name, 0) / need + 1e-9) for name, need in each.items()), default=1)


def check_fits(scaling: ScalingConfig, what: str) -> None:
    """Refuses what can never fit on a local Ray, where it would be waited for without a word."""
    TrialSlots(
        dataclasses.replace(scaling, workers=scaling.min_workers or scaling.workers), what=what
    )


def _cluster_resources() -> dict[str, float]:
    import ray  # seconds to load, and the first to call this has started it

    return ray.cluster_resources()  # type: ignore[no-any-return]
