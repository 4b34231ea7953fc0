"""Records every epoch of a run: its history, its TensorBoard events and its resumable state."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from distributed.runtime.storage import DamagedFile, read_json_objects, write_file
from distributed.training.optimisation.training_state import StateDict
from distributed.training.progress.board import RunBoard
from distributed.training.results import RunMetrics, write_metrics
from distributed.training.scoring import Scores
from distributed.training.spec import RunSpec
from distributed.training.states import states_of
from model.network import Network

Progress = Callable[[dict[str, float]], bool | None]


class EpochRecorder:
    """The loop's `report`: writes the history, TensorBoard and the state, then calls `progress`.

    The state is written after the other files. A killed run repeats the epochs after its last
    saved state, and their records are replaced; no epoch is ever missing.
    """

    def __init__(
        self, spec: RunSpec, network: Network, progress: Progress | None, is_leader: bool
    ) -> None:
        """Loads the newest saved state if the run resumes.

        progress: gets the metrics of every epoch; it may return True to end the training.
        is_leader: whether this process writes the files of all workers.
        """
        self.spec = spec
        self.progress = progress
        self.is_leader = is_leader
        self.epochs = spec.config.optim.epochs
        self.files = spec.state_files
        self.states = states_of(spec)
        self.state = self.states.load() if self.states and spec.resume else None
        self.history = list(self.state["history"]) if self.state else []
        first = 1 + (self.state["epoch"] if self.state else 0)
        self.board = RunBoard(spec.out, network, first) if spec.out and is_leader else None
        if self.board is not None and self.state is not None:
            self._restore_history()
        self.last_write = time.monotonic()

    def __call__(self, metrics: dict[str, float], state: StateDict, scores: Scores) -> bool | None:
        entry = {**metrics, "train_seconds": state["seconds"]}
        self.history.append(entry)
        if self.board is not None:
            self._write_history()
            self.board.epoch(metrics, scores)
        if self.is_leader:
            self._save_state(int(metrics["epoch"]), state)
        return self.progress(entry) if self.progress is not None else None

    def close(self, metrics: RunMetrics) -> None:
        """Writes metrics.json and ends the TensorBoard events, where the run leaves files."""
        if self.board is not None:
            assert self.spec.out is not None
            write_metrics(self.spec.out, metrics.as_dict())
            self.board.close(self.spec.config, metrics)

    def _restore_history(self) -> None:
        """Writes history.json as the state has it; says so where the file was damaged."""
        try:
            read_history(self.spec.out)
        except DamagedFile as error:
            print(f"warning: {error}; it is restored from the state", file=sys.stderr)
        self._write_history()

    def _write_history(self) -> None:
        write_file(history_file(self.spec.out), json.dumps(self.history).encode())

    def _save_state(self, epoch: int, state: StateDict) -> None:
        """Writes the state if it is time to; the last epoch's state always is."""
        if self.files is None or self.states is None:
            return
        waited = time.monotonic() - self.last_write
        if waited >= self.files.seconds_between or epoch == self.epochs:
            self.states.save(epoch, {**state, "history": self.history})
            self.last_write = time.monotonic()


def history_file(out: str) -> str:
    """The file in a run's folder that holds the metrics of every epoch."""
    return f"{out}/history.json"


def read_history(out: str) -> list[dict[str, float]]:
    """The metrics of every epoch of a run so far; nothing where it has none yet."""
    try:
        return read_json_objects(history_file(out))
    except FileNotFoundError:
        return []
