"""Studies with invented results, for tests of what is made of results."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from distributed.reporting.tables import ReportTable, cell_text
from distributed.studies.definition import Study
from distributed.studies.planning import study_cells
from distributed.studies.reading import parse_study
from distributed.studies.results import CellOutcome, TrainingOutcome
from distributed.studies.state import StudyState, Training
from distributed.studies.views import ConditionView, condition_views
from model.schema import Image, Numeric, Schema, Table

EVIL = "<script>alert(1)</script> | _x_"
TWO = """[[variants]]
name = "concatenation"
set = { fusion.kind = "uniform" }
[[variants]]
name = "confidence"
"""
ONLY_ONE = """[[variants]]
name = "only {modality}"
each = "modality"
set = { data.modalities = "{modality}" }
"""
LEVELS = {"concatenation": 0.5, "confidence": 0.55, "renamed": 0.0}
THREE = TWO + '[[variants]]\nname = "late"\nset = { fusion.kind = "late" }\n'
FAR = {"concatenation": 0.5, "confidence": 0.55, "late": 0.498}
NOISE = TWO + "".join(
    f"""
[[conditions]]
name = "{{modality}} noise {share}"
each = "modality"
test = {{ corrupt = "{{modality}}=noise:{share}" }}
axis = "share of {{modality}} that is noise"
at = {share}
"""
    for share in (0.25, 0.5)
)
TINY = """dim = 16
image = { width = 4 }
table = { width = 16, embedding_size = 4 }
experts = { hidden = 16 }
optim = { epochs = 2, lr = 0.01 }
"""


def parsed(text: str) -> Study:
    return parse_study(tomllib.loads(text), "own")


def data_sets(*names: str, image: str = "image") -> list[Any]:
    """Data sets without rows: an image, a table with one column, two classes."""
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
    """The study of this text on data sets of these names; extra: settings of every cell."""
    sets, study = sets or data_sets(*(names or ("set",))), parsed(text)
    return StudyState.open(
        str(folder),
        study,
        study_cells(study, sets, seeds, extra, variants),
        {data.name: data.digest for data in sets},
        resume=resume,
        command="python distributed/ablate.py",
    )


def done(**metrics: float) -> CellOutcome:
    return CellOutcome(state="done", metrics=metrics)


def failed(reason: str) -> CellOutcome:
    return CellOutcome(state="failed", reason=reason)


def record(
    state: StudyState,
    training: Training,
    outcomes: list[CellOutcome],
    history: list[dict[str, float]] | None = None,
) -> str:
    outcome = TrainingOutcome(cells=outcomes, history=history or [])
    return state.record(training, outcome)


def invented(
    state: StudyState,
    level: dict[str, float],
    tail: float = -0.2,
    failing: tuple[str, int] = ("", 0),
    also: dict[str, float] | None = None,
) -> None:
    """Fills every cell with invented results: level of the variant, noise of the seed and the cell.

    failing: the variant and the seed of cells that fail. also: metrics of every row.
    """
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.01, 99)
    for training in state.remaining():
        outcomes = []
        for data, cell in training.cells:
            value = (
                level[cell.variant]
                + 0.1 * (data == "other")
                + seeds[cell.seed]
                + rng.normal(0, 0.004)
            )
            differences = {"balanced_accuracy": 0, "few_shot_accuracy": tail, "accuracy": 0.1}
            scores = {f"test/{m}": float(value + d) for m, d in differences.items()}
            weight = 0.05 + 0.4 * (cell.variant == "concatenation")
            weights = {"test/weight/image": weight, "test/weight/table": 1 - weight}
            metrics = {**scores, **weights, "train_seconds": 1.0, **(also or {})}
            outcomes.append(
                failed(f"NaN {EVIL}") if (cell.variant, cell.seed) == failing else done(**metrics)
            )
        record(state, training, outcomes)


def filled(
    tmp_path: Path, text: str, levels: dict[str, float], *names: str, **more: Any
) -> tuple[StudyState, list[ConditionView]]:
    state = opened(tmp_path, text, *names)
    invented(state, levels, **more)
    return state, condition_views(state.study, state.planned, state.rows())


def values(
    state: StudyState, variant: str, metric: str = "balanced_accuracy", **where: Any
) -> np.ndarray:
    """By seed, straight from the results."""
    rows = [
        r
        for r in state.rows()
        if r.variant == variant and all(getattr(r, k) == v for k, v in where.items())
    ]
    return np.array([r.metrics[f"test/{metric}"] for r in sorted(rows, key=lambda r: r.seed)])


def by_column(table: ReportTable, row: int) -> dict[str, str]:
    return dict(zip(table.columns, map(cell_text, table.rows[row]), strict=True))


def against(text: str, variant: str, metric: str = "balanced_accuracy") -> str:
    """A claim that the variant differs from the reference."""
    keys = {"text": text, "variant": variant, "against": "concatenation", "metric": metric}
    return "[[claims]]\n" + "\n".join(f'{key} = "{value}"' for key, value in keys.items())


def report_of(state: StudyState, folder: Path) -> str:
    state.write_report()
    return (folder / "report.md").read_text()
