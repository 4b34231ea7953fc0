"""Scores the answers of a peer as those of this project are scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from model.metrics.metrics import compute_metrics

METRICS = (
    "balanced_accuracy",
    "macro_f1",
    "few_shot_accuracy",
    "accuracy",
    "balanced_nll",
)
# Decisions alone: the same at another prior.
OF_DECISIONS = METRICS[:-1]
Scores = dict[str, dict[str, float]]


def score_peer(tables: Path, answers: Path) -> Scores:
    """Returns the metrics of the test rows: `as_is`, and with its probabilities divided by the
    classes' shares of the training rows (`divided_by_shares`), a remedy that costs nothing."""
    description: dict[str, Any] = json.loads((tables / "description.json").read_text())
    classes = description["classes"]
    names = pd.read_parquet(tables / "test.parquet")[description["label"]]
    labels_N = torch.tensor([classes.index(name) for name in names])
    counts_C = torch.tensor(description["counts"])
    as_is_NC = torch.from_numpy(np.load(answers / "probabilities.npy"))
    divided_NC = as_is_NC / counts_C
    divided_NC = divided_NC / divided_NC.sum(1, keepdim=True)
    return {
        name: compute_metrics(probabilities_NC, labels_N, counts_C, classes, names=METRICS)
        for name, probabilities_NC in (("as_is", as_is_NC), ("divided_by_shares", divided_NC))
    }


def score_ours(run: Path) -> Scores:
    """Returns the metrics that a training here has written of the test rows."""
    test = json.loads((run / "metrics.json").read_text())["test"]
    return {
        "as_is": {name: test[name] for name in METRICS},
        "training_prior": {name: test[f"training_prior/{name}"] for name in OF_DECISIONS},
    }
