"""Everything that changes while a network trains, and how it is saved and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from distributed.config import Config
from distributed.training.exchange import Exchange
from model.batch import Batch
from model.learning.label_trust import LabelTrust
from model.learning.optimisers import load_optimiser_state
from model.learning.teacher import Teacher
from model.learning.weight_average import WeightAverage
from model.network import Network
from model.outputs import Outputs


class BestEpoch(TypedDict):
    """The best epoch so far, with its weights.

    score: larger is better. first_epoch: the first epoch with this score.
    """

    epoch: int
    score: float
    first_epoch: int
    weights: dict[str, Tensor]


class StateDict(TypedDict, total=False):
    """A saved state, of plain values and tensors only."""

    network: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimiser: dict[str, Any]  # as torch.optim returns it
    best: BestEpoch
    epoch: int
    step: int
    seconds: float
    cpu_seconds: float  # older states lack them
    rows: int
    data_seconds: float
    history: list[dict[str, float]]  # the metrics of every epoch so far


@dataclass
class TrainingState:
    """A training: its fixed parts and what changes. `state_dict` holds what a resumed run needs.

    forward: the network as the training step calls it: compiled, or wrapped for several workers.
    steps: planned optimiser steps of the whole run.
    teacher: whose answers the network learns beside the labels, if there is one.
    trust: how much the training rows count in this epoch, where their labels are doubted.
    average: running average of the weights, where optim.ema asks for one; averaging: updates it.
    epoch, step: how many epochs and optimiser steps are done.
    seconds: time in training epochs, without the evaluations. cpu_seconds: processor time in them,
        of all workers.
    data_seconds: the part of `seconds` that was spent waiting for batches.
    """

    config: Config
    network: Network
    forward: Callable[[Batch], Outputs]
    optimiser: torch.optim.Optimizer
    exchange: Exchange
    device: torch.device
    steps: int
    average: Network | None = None
    averaging: WeightAverage | None = None
    teacher: Teacher | None = None
    trust: LabelTrust | None = None
    epoch: int = 0
    step: int = 0
    best: BestEpoch | None = None
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    rows: int = 0
    data_seconds: float = 0.0

    @property
    def evaluated(self) -> Network:
        """The weights that are evaluated and saved: their running average where there is one."""
        return self.network if self.average is None else self.average

    @property
    def best_epoch(self) -> BestEpoch:
        """The best epoch of a run that has finished at least one."""
        assert self.best is not None
        return self.best

    @property
    def rows_per_second(self) -> float:
        return self.rows / max(self.seconds, 1e-9)

    def state_dict(self) -> StateDict:
        """What a resumed run needs. Tensors are not copied."""
        state = StateDict(
            network=self.network.state_dict(),
            average=None if self.average is None else self.average.state_dict(),
            optimiser=self.optimiser.state_dict(),
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
            cpu_seconds=self.cpu_seconds,
            rows=self.rows,
            data_seconds=self.data_seconds,
        )
        if self.best is not None:
            state["best"] = self.best
        return state

    def load_state_dict(self, state: StateDict) -> None:
        """Continues from a saved state."""
        self.network.load_state_dict(state["network"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        load_optimiser_state(self.optimiser, state["optimiser"])
        self.best = state.get("best") or None
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds, self.data_seconds = state["seconds"], state["data_seconds"]
        self.cpu_seconds = state.get("cpu_seconds", 0.0)
        self.rows = state["rows"]

    def remember(self, score: float) -> None:
        """Keeps the weights of the best epoch so far; a later one wins a tie: it trained longer.

        The best of the first epochs (optim.best_epoch_after) is kept only until a later epoch ends:
        with few rows of the rare classes, a high score before the learning rate has fallen is
        mostly luck.
        """
        optim = self.config.optim
        last_early = 0 if optim.patience else int(optim.best_epoch_after * optim.epochs)
        best = self.best
        if best is not None and not score >= best["score"]:  # also where the score is not a number
            best_is_early = best["epoch"] <= last_early < self.epoch
            if not best_is_early:
                return
        is_tie = best is not None and score == best["score"]
        self.best = BestEpoch(
            epoch=self.epoch,
            score=score,
            first_epoch=best["first_epoch"] if best is not None and is_tie else self.epoch,
            weights={
                name: tensor.detach().clone()
                for name, tensor in self.evaluated.state_dict().items()
            },
        )
