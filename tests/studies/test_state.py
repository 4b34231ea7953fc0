"""The results of a study on disk, and what a resumed study still has to run."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

import pytest

from distributed.runtime.command import one_line
from distributed.studies.definition import Cell
from distributed.studies.results import CellRow, Results, finite_metrics
from distributed.studies.schedule import cache_settings, decoding_key
from distributed.studies.state import Training
from tests.mistakes import mistake
from tests.studies.study_tools import (
    EVIL,
    LEVELS,
    TWO,
    done,
    failed,
    invented,
    opened,
    record,
)


def test_results_come_back_exactly_and_in_one_order(tmp_path: Path) -> None:
    rows = [
        CellRow(
            data="d",
            variant=EVIL,
            condition="c,\n",
            seed=seed,
            state="done",
            key=f"0{seed}",
            metrics={"test/x": seed / 3},
        )
        for seed in (2, 0, 1)
    ]
    results = Results(str(tmp_path))
    results.add(rows)
    assert Results.load(str(tmp_path)).rows == results.rows
    text = (tmp_path / "results.csv").read_text()
    other = Results(str(tmp_path / "other"))
    for row in rows[::-1]:
        other.add([row])
    assert (tmp_path / "other/results.csv").read_text() == text
    assert [r["seed"] for r in csv.DictReader(io.StringIO(text))] == ["0", "1", "2"]


def test_a_damaged_table_of_results_is_named(tmp_path: Path) -> None:
    results = Results(str(tmp_path))
    for seed in (0, 1):
        row = CellRow(
            data="d",
            variant="v",
            condition="c",
            seed=seed,
            state="done",
            key=f"k{seed}",
            metrics={"test/x": 0.125},
        )
        results.add([row])
    path = tmp_path / "results.csv"
    whole = path.read_bytes()
    ends_of_rows = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length in ends_of_rows:  # the cells of the other rows run again
            assert len(Results.load(str(tmp_path)).rows) == ends_of_rows.index(length)
            continue
        with mistake(f"^{path} is damaged: "):
            Results.load(str(tmp_path))
    for junk in (b"\x00\xff", whole.replace(b",0,done", b",zero,done"), b"a,b\n1,2\n"):
        path.write_bytes(junk)
        with mistake(f"^{path} is damaged: "):
            Results.load(str(tmp_path))


def test_results_hold_no_formula_and_come_back(tmp_path: Path) -> None:
    texts = {"data": "=1+1", "variant": "@x", "condition": "'+1", "key": "k", "reason": "-a\n=b"}
    row = CellRow(**texts, seed=0, state="failed", note="\r=1", other={"=more": "=HYPERLINK()"})
    results = Results(str(tmp_path))
    results.add([row])
    assert Results.load(str(tmp_path)).rows == results.rows
    with (tmp_path / "results.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell.startswith(("=", "+", "-", "@", "\r")) for cell in cells)


def test_only_finite_numbers_become_columns() -> None:
    assert finite_metrics({"test": {"a": 1, "b": float("nan")}, "reason": "x", "n": 2.0}) == {
        "test/a": 1.0,
        "n": 2.0,
    }


def test_resume_runs_what_is_missing_failed_or_changed(tmp_path: Path) -> None:
    state = opened(tmp_path, TWO, seeds=3)
    invented(state, LEVELS, failing=("confidence", 1))
    left = opened(tmp_path, TWO, seeds=3).remaining()
    assert [[(c.variant, c.seed) for _, c in training.cells] for training in left] == [
        [("confidence", 1)]
    ]
    extended = opened(tmp_path, TWO, seeds=4).remaining()
    assert sorted((c.variant, c.seed) for training in extended for _, c in training.cells) == [
        ("concatenation", 3),
        ("confidence", 1),
        ("confidence", 3),
    ]
    with pytest.raises(ValueError) as raised:
        opened(tmp_path, TWO, resume=False)
    message = "--out must be a new folder, or add --resume to keep its 6 cells"
    assert one_line(raised.value).startswith(message)


def test_a_changed_cell_is_run_anew_and_the_old_one_is_kept(tmp_path: Path) -> None:
    invented(opened(tmp_path, TWO, seeds=3), LEVELS)
    changed = TWO.replace('name = "confidence"', 'name = "confidence"\nset = { dim = 64 }')
    state = opened(tmp_path, changed, seeds=3)
    assert {c.variant for training in state.remaining() for _, c in training.cells} == {
        "confidence"
    }
    assert {r.variant for r in state.rows()} == {"concatenation"}
    invented(state, LEVELS)
    assert opened(tmp_path, changed, seeds=3).remaining() == []
    back = opened(tmp_path, TWO, seeds=3)
    assert back.remaining() == []
    assert len(back.results.rows) == 9
    assert len(back.rows()) == 6


def test_a_resume_that_would_keep_nothing_is_a_mistake(tmp_path: Path) -> None:
    invented(opened(tmp_path, TWO, seeds=3), LEVELS)
    with pytest.raises(
        ValueError,
        match="none of its 6 cells is of these settings and this version; "
        "repeat the command in .*study.json",
    ):
        opened(tmp_path, TWO, seeds=3, **{"optim.epochs": 3})


def test_trainings_share_decoded_rows_only_where_they_keep_them_alike() -> None:
    cell = Cell(
        variant="a",
        condition="clean",
        seed=0,
        model="network",
        settings={"data.modalities": "image"},
        test={},
    )
    others = [{"data.cache": "stream"}, {"data.cache": "auto", "data.memory_share": 0.1}]
    cells = [
        cell,
        dataclasses.replace(cell, settings={}),
        *(dataclasses.replace(cell, settings=s) for s in others),
    ]
    keys = [decoding_key(Training("key", [("set", each)])) for each in cells]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert cache_settings(cells[2]) == {"data.cache": "stream"}


@pytest.mark.parametrize(("workers", "left"), [(1, []), (2, ["checkpoint"])])
def test_a_training_keeps_its_state_until_its_rows_are_on_disk(
    tmp_path: Path, workers: int, left: list[str]
) -> None:
    state = opened(tmp_path, TWO, seeds=1, **{"scaling.workers": workers})
    failing, finished = state.remaining()
    for training in (failing, finished):
        for kind in ("state", "checkpoint")[:workers]:
            (Path(state.run_folder(training)) / kind).mkdir(parents=True)
    record(state, failing, [failed("test rows")])
    record(state, finished, [done()])
    kept = Path(state.run_folder(failing)) / "state"
    assert kept.exists(), "the training itself may be whole"
    assert [p.name for p in Path(state.run_folder(finished)).glob("*")] == left


def test_whole_seeds_come_first(tmp_path: Path) -> None:
    seeds = [training.first.seed for training in opened(tmp_path, TWO, seeds=3).remaining()]
    assert seeds == sorted(seeds)


def test_a_renamed_variant_keeps_its_results(tmp_path: Path) -> None:
    invented(opened(tmp_path, TWO, seeds=2), LEVELS)
    state = opened(tmp_path, TWO.replace('"confidence"', '"renamed"'), seeds=2)
    assert state.remaining() == []
    assert {r.variant for r in state.rows()} == {"concatenation", "renamed"}
