"""Studies with made-up results, for tests of what becomes of results."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from distributed.studies import definition as study
from distributed.studies.state import StudyState, study_cells
from model.schema import Image, Numeric, Schema, Table

EVIL = "<script>alert(1)</script> | _x_"
TWO = '[[variants]]\nname = "concatenation"\nset = { fusion.kind = "uniform" }\n[[variants]]\nname = "confidence"\n'
LEVELS = {"concatenation": 0.5, "confidence": 0.55, "renamed": 0.0}


def parsed(text: str) -> study.Study:
    return study.parse_study(tomllib.loads(text), "own")


def data_sets(*names: str, image: str = "image") -> list[Any]:
    schema = Schema(
        images=(Image(name=image, height=8, width=8),),
        tables=(Table(name="table", numeric=(Numeric(name="a"),)),),
        classes=("a", "b"),
        counts=(10, 5),
    )
    return [
        SimpleNamespace(name=name, digest=name, manifest=SimpleNamespace(schema=schema))
        for name in names
    ]


def opened(
    folder: Path,
    text: str,
    *names: str,
    seeds: int = 5,
    resume: bool = True,
    sets: list[Any] | None = None,
    variants: str | None = None,
    **extra: Any,
) -> StudyState:
    sets, own = sets or data_sets(*(names or ("set",))), parsed(text)
    plans = study_cells(own, sets, seeds, extra, variants)
    return StudyState.open(
        str(folder),
        own,
        plans,
        {d.name: d.digest for d in sets},
        resume=resume,
        command="python distributed/ablate.py",
    )


def invented(
    state: StudyState,
    level: dict[str, float],
    tail: float = -0.2,
    failed: tuple[str, int] = ("", 0),
    also: dict[str, float] | None = None,
) -> None:
    """Fills every cell from a made-up truth: level of the variant, noise of the seed, noise of the cell; `also` goes into every row."""
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.01, 99)
    for group in state.todo().values():
        rows = []
        for data, cell in group:
            value = (
                level[cell.variant]
                + 0.1 * (data == "other")
                + seeds[cell.seed]
                + rng.normal(0, 0.004)
            )
            scores = {
                f"test/{m}": float(value + d)
                for m, d in {
                    "balanced_accuracy": 0,
                    "few_shot_accuracy": tail,
                    "accuracy": 0.1,
                }.items()
            }
            weight = 0.05 + 0.4 * (cell.variant == "concatenation")
            scores |= {
                "test/weight/image": weight,
                "test/weight/table": 1 - weight,
                "train_seconds": 1.0,
                **(also or {}),
            }
            rows.append(
                {"state": "done", **scores}
                if (cell.variant, cell.seed) != failed
                else {"state": "failed", "reason": f"NaN {EVIL}"}
            )
        state.take(group, (rows, []))
