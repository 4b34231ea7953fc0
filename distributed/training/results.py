"""What a finished run returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distributed.config import Config
from distributed.runtime.storage import join, read_json_object, write_file
from distributed.shards.manifest import Manifest
from distributed.training.checkpoint import Checkpoint
from distributed.training.scoring import Scores
from model.decisions.calibration import Calibration
from model.decisions.guard import ValidationRows
from model.fusion.cross_modal import CrossModalModel
from model.network import Network

METRICS_FILE = "metrics.json"  # in the folder of a run, written when it is finished


def read_metrics(location: str) -> dict[str, Any]:
    """What metrics.json holds of a run or of a search's model, wherever its checkpoint was named.

    location: the folder of the run or of the search, or that of its checkpoint. Raises OSError
    where there is no such file, and DamagedFile.
    """
    run = location.rstrip("/").removesuffix("/checkpoint")
    try:
        return read_json_object(join(run, METRICS_FILE))
    except FileNotFoundError:
        return read_json_object(join(run, "model", METRICS_FILE))


def write_metrics(location: str, content: Mapping[str, object]) -> None:
    """Writes metrics.json into the folder of a run or of a search's model."""
    write_file(join(location, METRICS_FILE), json.dumps(content, indent=1).encode())


@dataclass(frozen=True, kw_only=True)
class RunMetrics:
    """The metrics of a finished run.

    val, test: by metric name, of calibrated predictions; test is None where it was not scored.
    cpu_seconds: processor time of the training epochs, of all workers; None in files of earlier
        versions.
    data_share: share of the training time that was spent waiting for batches.
    calibration: why the calibration is less than a full one; empty where it is not.
    screening: how many columns of wide tables are used; empty where it is all of them.
    """

    val: dict[str, float]
    test: dict[str, float] | None
    train_seconds: float
    rows_per_second: float
    data_share: float
    epochs: int
    best_epoch: int
    calibration: str
    cpu_seconds: float | None = None
    screening: str = ""

    @property
    def splits(self) -> dict[str, dict[str, float]]:
        """The metrics of each split that was scored, by the name of the split."""
        return {"val": self.val} if self.test is None else {"val": self.val, "test": self.test}

    def as_dict(self) -> dict[str, object]:
        """The metrics as metrics.json has them."""
        values = asdict(self)
        if self.test is None:
            del values["test"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> RunMetrics:
        """The metrics in the content of metrics.json."""
        return cls(**{"test": None, **values})  # type: ignore[arg-type]  # the same names


@dataclass(kw_only=True)
class RunResult:
    """A trained, calibrated network and its metrics.

    history: the metrics of every epoch.
    scores: what the network gives the rows of each split that was scored.
    validation: raw expert logits of labelled validation rows, for the guards at test time.
    cross_modal: predicts each modality from the others, learned on validation; only of runs
        that leave a checkpoint.
    """

    network: Network
    calibration: Calibration
    metrics: RunMetrics
    history: list[dict[str, float]]
    scores: Mapping[str, Scores]
    validation: ValidationRows | None = None
    cross_modal: CrossModalModel | None = None

    def checkpoint(self, config: Config, manifest: Manifest) -> Checkpoint:
        """What evaluation and prediction need of the run."""
        return Checkpoint(
            network=self.network,
            config=config,
            manifest=manifest,
            calibration=self.calibration,
            validation=self.validation,
            cross_modal=self.cross_modal,
        )
