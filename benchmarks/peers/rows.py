"""What the scripts of all peers share: reading the tables and writing the answers.

These scripts run in the peers' own environments, where nothing of this project can be imported but
this file, which needs pandas and numpy only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LABEL = "label"


def arguments(description: str | None) -> argparse.Namespace:
    """Reads the command line that run.py gives to the script of a peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--tables", type=Path, required=True, help="folder of tables.write_tables")
    parser.add_argument("--variant", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the answers")
    return parser.parse_args()


def describe(tables: Path) -> dict[str, Any]:
    """Returns what the tables hold: classes, their training rows, and columns by kind."""
    description: dict[str, Any] = json.loads((tables / "description.json").read_text())
    return description


def read(tables: Path, split: str) -> pd.DataFrame:
    """Returns the rows of a split: features and the label."""
    return pd.read_parquet(tables / f"{split}.parquet")


def balancing_weights(description: Mapping[str, Any]) -> dict[str, float]:
    """Returns a weight for each class: the inverse of its training rows, 1 for the mean row."""
    counts = description["counts"]
    even = sum(counts) / len(counts)
    return {name: even / n for name, n in zip(description["classes"], counts)}


def write_answers(
    out: Path,
    probabilities: pd.DataFrame,
    description: Mapping[str, Any],
    settings: Mapping[str, object],
) -> None:
    """Writes the class probabilities of the test rows and what the peer was told.

    probabilities: a column for each class by its name; a class that the peer does not know has 0.
    """
    columns = [
        probabilities[name] if name in probabilities else np.zeros(len(probabilities))
        for name in description["classes"]
    ]
    np.save(out / "probabilities.npy", np.stack([np.asarray(c, np.float64) for c in columns], 1))
    (out / "settings.json").write_text(json.dumps(settings, default=str))
