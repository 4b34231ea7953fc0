"""What one run trains and where its files go, as plain values. No torch is loaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from distributed.config import Config, apply_changes

SECONDS_BETWEEN_STATES = 5.0  # of a trial, whose epochs may take less time than writing a state


@dataclass(frozen=True, kw_only=True)
class StateFiles:
    """Where a run keeps its resumable states and how often it writes one."""

    folder: str  # a folder or a URI
    seconds_between: float = 0.0  # 0 writes a state after every epoch
    restart_if_of_another_run: bool = False  # warn and start anew instead of raising an error


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training: its data, its settings, and which files it leaves.

    settings: by dotted name, the ones that differ from the defaults.
    out: folder or URI that gets the checkpoint, the history, the metrics and the TensorBoard
        events; empty for a run that leaves none of them.
    resume: continue from the newest saved state, if there is one.
    test: score the finished network on the test split.
    page: write the page and the model card of the run, where it leaves files.
    states: None keeps the states in `out`, one an epoch, if there is an `out`.
    """

    shards: str
    settings: Mapping[str, object] = field(default_factory=dict)
    out: str = ""
    resume: bool = False
    test: bool = True
    page: bool = False
    states: StateFiles | None = None

    @property
    def config(self) -> Config:
        """All settings."""
        return apply_changes(Config(), self.settings)

    @property
    def state_files(self) -> StateFiles | None:
        """Where this run keeps its states; None where it keeps none."""
        if self.states is None and self.out:
            return StateFiles(folder=state_folder(self.out))
        return self.states


def state_folder(out: str) -> str:
    """Where a run keeps its resumable states."""
    return f"{out}/state"


def resumable_spec(
    shards: str, settings: Mapping[str, object], folder: str, *, test: bool, states: str = ""
) -> RunSpec:
    """A trial or a study's training, which continues from what an earlier process left.

    With several workers it is a whole run in `folder`, from which its results are read. In one
    process it leaves its states only.

    states: where one process keeps them; empty for `folder`. With no folder it keeps none.
    """
    spec = RunSpec(shards=shards, settings=settings, resume=True, test=test)
    if spec.config.scaling.workers > 1:
        every_epoch = StateFiles(folder=state_folder(folder), restart_if_of_another_run=True)
        return replace(spec, out=folder, states=every_epoch)
    states = states or folder
    return replace(spec, states=resumable_states(states) if states else None)


def resumable_states(folder: str) -> StateFiles:
    """States of a trial or of a study's training: every few seconds, and never a reason to fail."""
    return StateFiles(
        folder=folder,
        seconds_between=SECONDS_BETWEEN_STATES,
        restart_if_of_another_run=True,
    )
