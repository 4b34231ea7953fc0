"""A study called from Python: its options, its result and the command that repeats it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import distributed
from distributed.runtime.errors import OptionError
from distributed.studies.data_sets import open_data_sets
from distributed.studies.driver import command_of
from distributed.studies.options import StudyOptions
from distributed.studies.planning import study_cells
from distributed.studies.reading import read_study
from distributed.studies.state import StudyState
from tests.conftest import ROOT
from tests.studies.study_tools import LEVELS, TWO, against, invented


def finished_study(folder: Path, shards: str) -> StudyOptions:
    """The options that resume a study of which every cell has an invented result."""
    file = folder / "own.toml"
    file.write_text(TWO + against("fusion", "confidence"))
    options = StudyOptions(
        study=str(file), data=(shards,), seeds=5, out=str(folder / "out"), resume=True
    )
    study = read_study(options.study)
    (data,) = open_data_sets(options.data)
    state = StudyState.open(
        str(options.out),
        study,
        study_cells(study, [data], 5, {}),
        {data.name: data.digest},
        resume=False,
        command="",
    )
    state.write_description()  # study.json, which every study with results has
    invented(state, LEVELS)
    return options


def test_a_finished_study_is_reported_without_training(
    wafer_shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = finished_study(tmp_path, wafer_shards)
    result = distributed.study(options)
    assert len(result.rows) == 10
    assert not result.failed
    (claim,) = result.claims
    assert claim.outcome.startswith("Fusion helps here: confidence is better than concatenation")
    result.show()
    printed = capsys.readouterr().out
    assert "10 cells, 10 done; 0 trainings to run" in printed
    assert f"report      {options.out}/report.html" in printed


def test_a_plan_writes_nothing(
    wafer_shards: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = StudyOptions(study="fusion", data=(wafer_shards,), seeds=1, out=str(out), plan=True)
    result = distributed.study(options)
    assert (result.rows, result.report, result.claims) == ([], None, [])
    result.show()
    printed = capsys.readouterr().out
    assert "  clean  concatenation  seed 0\n" in printed
    assert not out.exists()


def test_the_command_repeats_the_options() -> None:
    options = StudyOptions(
        study="paper",
        data=("one set", "other"),
        seeds=3,
        resume=True,
        set=("optim.epochs=2", "dim=8"),
        variants="gate,late",
    )
    assert command_of(options).endswith(
        "python distributed/ablate.py --study paper --data 'one set' --data other --seeds 3 "
        "--resume --set optim.epochs=2 dim=8 --variants gate,late"
    )


def test_a_mistake_names_the_option() -> None:
    with pytest.raises(OptionError, match="seeds must be at least 1; got 0"):
        distributed.study(StudyOptions(study="paper", seeds=0))


def test_the_driver_of_a_study_does_not_load_torch(wafer_shards: str, tmp_path: Path) -> None:
    options = finished_study(tmp_path, wafer_shards)
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "import distributed\n"
        f"distributed.study(distributed.{options!r})\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
