"""Facts about studies: what a file may say, which cells it makes, what a resume runs, what the report shows, and real runs of it all."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distributed import ablate
from distributed.config import Config
from distributed.inference import shifts
from distributed.runtime.command import one_line
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import read_manifest, write_manifest
from distributed.shards.memory import load_splits
from distributed.studies import boosting
from distributed.studies.cell_runs import run_cells
from distributed.studies.cells import cells_for_data_set
from distributed.studies.definition import Cell
from distributed.studies.planning import study_cells
from distributed.studies.reading import dotted_names, read_study, study_names
from distributed.studies.results import CellOutcome, CellRow, Results, finite_metrics
from distributed.studies.schedule import cache_settings, decoding_key, run_trainings
from distributed.studies.state import Training
from distributed.training import loop, run, states
from distributed.training.exchange import Exchange
from distributed.training.run import open_split
from distributed.training.spec import RunSpec
from distributed.training.states import States
from model.fusion import novelty
from tests.conftest import ROOT, run_command
from tests.studies.study_tools import (
    EVIL,
    LEVELS,
    TWO,
    data_sets,
    done,
    failed,
    invented,
    opened,
    parsed,
    record,
)

TINY = "dim = 16\nimage = { width = 4 }\ntable = { width = 16, embedding_size = 4 }\nexperts = { hidden = 16 }\noptim = { epochs = 2, lr = 0.01 }\n"
OWN = f"""
title = "A small study"
question = "Does it run?"
reference = "concatenation"
[set]
{TINY}
[[variants]]
name = "concatenation"
set = {{ fusion.kind = "uniform" }}
[[variants]]
name = "confidence"
[[variants]]
name = "boosting"
model = "boosting"
[[conditions]]
name = "clean"
[[conditions]]
name = "map is noise at test"
test = {{ corrupt = "map=noise" }}
[[claims]]
text = "fusion"
variant = "confidence"
against = "concatenation"
metric = "balanced_accuracy"
"""


# The file

CLAIM = '[[variants]]\nname = "a"\n[[claims]]\ntext = "x"\nvariant = "a"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "a study needs at least one"),
        ('variant = "x"', "the study has an unknown key: variant; valid: title"),
        ("[[variants]]\nset = { dim = 8 }", "entry needs a name"),
        (
            '[[variants]]\nname = "a"\nsets = 1',
            "variant 'a' has an unknown key: sets; valid: name, set, model, test, each, grid",
        ),
        ('[[variants]]\nname = "a"\nset = 1', "set must be a table"),
        (
            '[[variants]]\nname = "a"\nmodel = "forest"',
            "model must be one of network, boosting; got 'forest'",
        ),
        ('[[variants]]\nname = "a"\neach = "class"', "each must be 'modality'; got 'class'"),
        ('[[variants]]\nname = "a"\ngrid = { dim = 8 }', "grid.dim must be a list"),
        (
            '[[variants]]\nname = "a"\ntest = { shift = "sideways-3" }',
            "test.shift must be uniform, forward-K",
        ),
        (
            '[[variants]]\nname = "a"\ntest = { aggregation = "vote" }',
            "test.aggregation must be one of uniform, stability, prior; got 'vote'",
        ),
        (
            '[[variants]]\nname = "a"\ntest = { unfamiliar = "true" }',
            "test.unfamiliar must be trusted, or left out; got 'true'",
        ),
        (
            '[[variants]]\nname = "a"\ntest = { split = "val" }',
            "test takes text for corrupt, shift, aggregation, unfamiliar; got split",
        ),
        (
            '[[variants]]\nname = "a"\n[[conditions]]\nname = "c"\nat = [1]',
            "at must be a number or text; got [1] in condition 'c'",
        ),
        (
            'seeds = 0\n[[variants]]\nname = "a"',
            "seeds must be a whole number of at least 1; got 0",
        ),
        (
            '[[variants]]\nname = "a"\n[[claims]]\ntext = "x"\nvariant = "a"\nmetric = "accuracy"',
            "a claim needs against, at_least or at_most",
        ),
        (
            CLAIM + 'metric = "acuracy"\nat_least = 0.1',
            "claim 'x': metric must be one of balanced_accuracy",
        ),
        (
            CLAIM + 'metric = "accuracy"\nat_least = "0.02"',
            "at_least must be a number; got '0.02' in claim 'x'",
        ),
        (
            CLAIM + 'metric = "accuracy"\nat_least = 0.1\nconditions = "clean"',
            "conditions must be a list of names; got 'clean'",
        ),
        (
            CLAIM + 'metric = "accuracy"\nagainst = "a"',
            "a claim must compare two variants; got 'a' twice in claim 'x'",
        ),
        (CLAIM + 'metric = "accuracy"\nagainst = ""', "a claim needs against, at_least or at_most"),
        ('metric = "acuracy"\n[[variants]]\nname = "a"', "metric must be one of balanced_accuracy"),
    ],
)
def test_a_mistake_in_a_study_is_one_clear_error(text: str, error: str) -> None:
    with pytest.raises(ValueError) as raised:
        parsed(text)
    assert error in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            '[[variants]]\nname = "a"\nset = { fusion.knd = "late" }',
            "a setting must exist; got 'fusion.knd'; valid: fusion.kind",
        ),
        ('[[variants]]\nname = "a"\nset = { fusion.kind = "loud" }', "fusion.kind must be one of"),
        (
            'reference = "b"\n[[variants]]\nname = "a"',
            "reference must be one of the variants: a; got 'b'",
        ),
        (
            '[[variants]]\nname = "a"\n[[variants]]\nname = "a"',
            "every variant needs its own name; got 'a'",
        ),
        (
            '[[variants]]\nname = "a"\nset = { data.corrupt = "{thing}=noise" }',
            "a placeholder must be",
        ),
        ('[[variants]]\nname = "a"\ntest = { corrupt = "{thing}=noise" }', "a placeholder must be"),
        ('[[variants]]\nname = "a"\nset = { data.corrupt = "sound=noise" }', "valid: image, table"),
        (
            '[[variants]]\nname = "a"\nset = { dim = 8 }\n[[conditions]]\nname = "c"\nset = { dim = 16 }',
            "must not set the same thing; got dim",
        ),
        (
            CLAIM + 'metric = "accuracy"\nagainst = "b"',
            "the claim 'x' must name a variant of the study: 'a'; got 'b'",
        ),
        (
            CLAIM + 'metric = "accuracy"\nat_least = 0.1\nconditions = ["b"]',
            "the claim 'x' must name a condition of the study: 'clean'; got 'b'",
        ),
    ],
)
def test_a_mistake_that_shows_on_the_data_is_one_clear_error(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=".") as raised:
        study_cells(parsed(text), data_sets("set"), 2, {})
    assert error in str(raised.value)


def test_what_is_not_chosen_need_not_fit_the_data() -> None:
    text = '[[variants]]\nname = "a"\n[[conditions]]\nname = "clean"\n[[conditions]]\nname = "c"\nset = { data.corrupt = "sound=noise" }'
    own = parsed(text)
    clean = study_cells(own, data_sets("set"), 1, {}, conditions="clean")["set"]
    assert {c.condition for c in clean.cells} == {"clean"}
    with pytest.raises(ValueError, match="valid: image, table"):
        study_cells(own, data_sets("set"), 1, {}, conditions="clean,c")


def test_an_unknown_study_lists_the_shipped_ones() -> None:
    with pytest.raises(
        ValueError,
        match="did you mean 'fusion'.*shipped: experts, fusion, .*, missing, paper, sabotage, shift",
    ):
        read_study("fusoin")


def test_variants_are_chosen_by_names_that_may_hold_commas() -> None:
    fusion = read_study("fusion")
    asked = "gate, confidence, cross-fitted, shrunk, checked,only image"
    chosen = study_cells(fusion, data_sets("set"), 1, {}, asked)["set"]
    assert {v.name for v in chosen.variants} == {
        fusion.reference,
        "gate",
        "confidence, cross-fitted, shrunk, checked",
        "only image",
    }
    assert {c.variant for c in chosen.cells} == {v.name for v in chosen.variants}
    with pytest.raises(
        ValueError,
        match="variants must name variants of the study: 'concatenation', .*; got 'shrunk'",
    ) as raised:
        study_cells(fusion, data_sets("set"), 1, {}, "gate,shrunk")
    assert one_line(raised.value).startswith("--variants must name variants")


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_fits_its_data(name: str) -> None:
    plans = study_cells(read_study(name), data_sets("set"), 2, {})
    assert plans["set"].cells
    assert not plans["set"].left_out
    claimed = {c.variant for c in read_study(name).claims}
    assert claimed <= {v.name for v in plans["set"].variants}


def test_studies_share_what_need_not_be_trained_twice() -> None:
    plan = study_cells(read_study("shift"), data_sets("set"), 1, {})["set"]
    assert (len(plan.cells), len({c.training_key("d") for c in plan.cells})) == (35, 2)
    plan = study_cells(read_study("sabotage"), data_sets("set"), 1, {})["set"]
    alone = {
        c.training_key("d")
        for c in plan.cells
        if c.variant == "without it" and c.settings["data.modalities"] == "table"
    }
    assert len(alone) == 1  # whatever happens to an image that is not used


# The cells

NOISY = """
[[conditions]]
name = "clean"
[[conditions]]
name = "{modality} is noise"
each = "modality"
set = { data.corrupt = "{modality}=noise" }
"""


def test_placeholders_and_grids_make_the_cells() -> None:
    text = """
    [[variants]]
    name = "only {modality}"
    each = "modality"
    set = { data.modalities = "{modality}" }
    [[variants]]
    name = "{experts.count} experts"
    grid = { experts.count = [1, 3] }
    [[variants]]
    name = "others"
    set = { data.modalities = "{others}" }
    [[conditions]]
    name = "shared"
    set = { data.corrupt = "{shares=missing}" }
    """
    plan = cells_for_data_set(
        dataclasses.replace(parsed(text + NOISY), reference="1 experts"),
        ["image", "table"],
        ["table"],
        1,
    )
    made = {(c.variant, c.condition): c.settings for c in plan.cells}
    assert len(made) == 4 * 4 + 2  # `others` only where a modality is named
    assert made["3 experts", "clean"] == {"experts.count": 3, "optim.seed": 0}
    assert made["others", "image is noise"] == {
        "data.corrupt": "",
        "data.modalities": "table",
        "optim.seed": 0,
    }
    assert made["only image", "image is noise"]["data.corrupt"] == "image=noise"
    assert made["only table", "image is noise"]["data.corrupt"] == ""
    assert (
        made["1 experts", "shared"]["data.corrupt"] == "image=missing:0.3333,table=missing:0.3333"
    )


SPACED = """
[[variants]]
name = "whole"
[[variants]]
name = "only table"
set = { data.modalities = " table" }
[[conditions]]
name = "some are missing"
set = { data.corrupt = "image=missing:0.3, table = missing:0.3" }
test = { corrupt = "image=noise, table=noise" }
"""
BOUND = """
[[variants]]
name = "whole"
[[variants]]
name = "lacks it at test"
test = { corrupt = "{modality}=missing" }
[[variants]]
name = "by stability"
set = { inference.aggregation = "stability" }
"""


def test_spaces_after_commas_lose_no_corruption() -> None:
    plan = cells_for_data_set(parsed(SPACED), ["image", "table"], ["table"], 1)
    whole, alone = plan.cells
    assert (alone.settings["data.corrupt"], alone.test) == (
        "table = missing:0.3",
        {"corrupt": "table=noise"},
    )
    assert whole.settings["data.corrupt"].count("missing") == 2


def test_what_a_variant_tests_is_filled_by_its_condition_and_weighing_needs_no_training() -> None:
    plan = cells_for_data_set(parsed(BOUND + NOISY), ["image", "table"], ["table"], 1)
    found = {(c.variant, c.condition): c for c in plan.cells}
    assert ("lacks it at test", "clean") not in found
    assert found["lacks it at test", "image is noise"].test == {"corrupt": "image=missing"}
    plain, weighed = found["whole", "clean"], found["by stability", "clean"]
    assert (plain.test, weighed.test) == ({}, {"aggregation": "stability"})
    assert plain.training_key("d") == weighed.training_key("d")


def test_boosting_is_left_out_with_a_reason_where_there_is_no_table() -> None:
    plan = cells_for_data_set(
        parsed('[[variants]]\nname = "a"\n[[variants]]\nname = "trees"\nmodel = "boosting"'),
        ["image"],
        [],
        1,
    )
    assert {c.variant for c in plan.cells} == {"a"}
    assert plan.left_out == ("trees: the data set has no table",)


def test_boosting_keeps_the_tables_of_a_condition_on_modalities_and_is_left_out_without_one() -> (
    None
):
    text = (
        TWO
        + '[[variants]]\nname = "boosting"\nmodel = "boosting"\n[[conditions]]\nname = "{modality}"\neach = "modality"\n'
    )
    text += 'set = { data.modalities = "{modality}" }\n[[conditions]]\nname = "both"\nset = { data.modalities = "image,table" }\n'
    plan = study_cells(parsed(text), data_sets("set"), 1, {})["set"]
    kept = {c.condition: c.settings["data.modalities"] for c in plan.cells if c.model == "boosting"}
    assert kept == {"table": "table", "both": "table"}
    assert plan.left_out == ("boosting under image: no table is left to gradient boosting",)


def test_a_key_follows_what_is_run_not_what_it_is_called() -> None:
    cell = Cell(
        variant="a",
        condition="c",
        seed=0,
        model="network",
        settings={"fusion.kind": "late", "optim.seed": 0},
        test={},
    )
    same = dataclasses.replace(
        cell,
        variant="b",
        condition="d",
        settings={"optim.seed": 0, "fusion.kind": "late", "dim": 128},
    )
    assert same.key("d") == cell.key("d")  # dim has its default
    others = [
        {"settings": {**cell.settings, "dim": 64}},
        {"settings": {**cell.settings, "optim.seed": 1}},
        {"test": {"shift": "uniform"}},
    ]
    assert (
        len(
            {
                cell.key("d"),
                cell.key("other data"),
                *(dataclasses.replace(cell, **o).key("d") for o in others),
            }
        )
        == 5
    )
    tested = dataclasses.replace(cell, test={"shift": "uniform"})
    assert tested.training_key("d") == cell.training_key("d")
    trees = [
        dataclasses.replace(cell, model="boosting", settings={"optim.seed": 0, "dim": d})
        for d in (8, 16)
    ]
    assert trees[0].key("d") == trees[1].key("d")  # the network's settings do not matter to trees


# Results and resuming


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
        match=r"none of its 6 cells is of these settings and this version; repeat the command in .*study.json",
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


# Test conditions


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("uniform", [4, 4, 4]),
        ("forward-4", [16, 8, 4]),
        ("backward-4", [1, 2, 4]),
        ("", [40, 20, 4]),
    ],
)
def test_a_shift_takes_the_largest_subset_of_its_shape(kind: str, sizes: list[int]) -> None:
    labels = np.repeat([0, 1, 2], [40, 20, 4])
    rows = shifts.shifted_rows(labels, np.array([400, 200, 40]), kind, seed=0)
    assert np.bincount(labels[rows]).tolist() == sizes
    assert (np.diff(rows) > 0).all()
    if kind:
        assert (
            shifts.shifted_rows(labels, np.array([400, 200, 40]), kind, seed=1).tolist()
            != rows.tolist()
        )


def test_a_shift_follows_the_training_order_not_the_test_order() -> None:
    labels = np.repeat([0, 1], [10, 10])
    rows = shifts.shifted_rows(labels, np.array([5, 500]), "forward-5", seed=0)
    assert np.bincount(labels[rows]).tolist() == [2, 10]


@pytest.mark.parametrize(
    "kind", ["forward", "forward-0.5", "sideways-2", "uniform-2", "backward-x", "forward-nan"]
)
def test_an_unknown_shift_is_refused(kind: str) -> None:
    with pytest.raises(
        ValueError, match="a test distribution must be uniform, forward-K or backward-K"
    ):
        shifts.shifted_rows(np.array([0, 1]), np.array([1, 1]), kind, seed=0)


def group(*tests: dict[str, str], **settings: Any) -> list[Cell]:
    small = dotted_names(tomllib.loads(TINY))
    return [
        Cell(
            variant="v",
            condition=str(t),
            seed=0,
            model="network",
            settings={**small, "optim.seed": 0, **settings},
            test=t,
        )
        for t in tests
    ]


def run_outcomes(*args: Any, **options: Any) -> tuple[list[CellOutcome], list[dict[str, float]]]:
    outcome = run_cells(*args, **options)
    return outcome.cells, outcome.history


def test_one_training_is_scored_under_every_test_condition(wafer_shards: str) -> None:
    tests = [
        {},
        {"corrupt": "map=missing"},
        {"shift": "uniform"},
        {"aggregation": "prior"},
        {"corrupt": "sound=noise"},
    ]
    rows, history = run_outcomes(
        wafer_shards, group(*tests), load_splits(wafer_shards, Config(), SPLITS)
    )
    assert [r.state for r in rows] == ["done"] * 4 + ["failed"]
    assert "valid: map, table" in rows[4].reason
    assert [h["epoch"] for h in history] == [1, 2]
    assert len({r.metrics["train_seconds"] for r in rows[:4]}) == 1
    assert rows[1].metrics["test/weight/map"] == 0
    assert rows[0].metrics["test/weight/map"] > 0
    assert rows[2].metrics["test/rows"] < rows[3].metrics["test/rows"]
    assert sum(rows[3].metrics[f"test/expert_weight/{e}"] for e in (1, 2, 3)) == pytest.approx(1)
    assert rows[0].metrics["val/balanced_accuracy"] == rows[2].metrics["val/balanced_accuracy"]


def test_rows_say_what_they_rest_on_and_the_rarest_are_the_same_at_every_ratio(
    wafer_shards: str,
) -> None:
    schema = read_manifest(wafer_shards).schema
    rarest = sorted(range(9), key=lambda c: (-schema.counts[c], c))[6:]
    found = [
        run_outcomes(wafer_shards, group({}, **{"data.imbalance_ratio": r}))[0][0] for r in (0, 4)
    ]
    for row in found:
        assert row.metrics["test/rarest_accuracy"] == pytest.approx(
            np.mean([row.metrics[f"test/recall/{schema.classes[c]}"] for c in rarest])
        )
    whole, cut = found
    assert whole.metrics["train_rows"] == sum(schema.counts)
    assert whole.metrics["train_imbalance"] == pytest.approx(
        max(schema.counts) / min(schema.counts)
    )
    assert cut.metrics["train_rows"] < whole.metrics["train_rows"]
    assert cut.metrics["train_imbalance"] == pytest.approx(4, rel=0.3)
    assert whole.metrics["test/rows"] == read_manifest(wafer_shards).rows["test"]


def test_confidences_are_held_against_the_truth_where_they_were_taught(wafer_shards: str) -> None:
    tests = ({}, {"unfamiliar": "trusted"})
    taught, _ = run_outcomes(wafer_shards, group(*tests))
    raw, _ = run_outcomes(
        wafer_shards, group({}, **{"fusion.shrinkage": 0, "fusion.correct_on_validation": False})
    )
    untaught, _ = run_outcomes(
        wafer_shards, group(*tests, **{"fusion.confidence_weight": 0, "fusion.kind": "uniform"})
    )
    for row in taught:
        for shot in ("all", "few"):
            assert 0 < row.metrics[f"test/confidence/map/{shot}/predicted"] < 1
            assert 0 < row.metrics[f"test/confidence/map/{shot}/true"] < 1
            assert 0 < row.metrics[f"test/confidence/map/{shot}/used"] < 1
            assert 0 <= row.metrics[f"test/confidence/map/{shot}/weight"] <= 1
        assert -1 <= row.metrics["test/confidence/map/all/rank_correlation"] <= 1
    for row, same in ((raw[0], True), (taught[0], False)):
        said, used = (
            row.metrics[f"test/confidence/map/few/{fact}"] for fact in ("predicted", "used")
        )
        assert (said == pytest.approx(used)) == same, "shrinkage is what lies between them"
    assert not [name for row in untaught for name in row.metrics if "confidence" in name]


def test_going_by_the_unfamiliar_is_what_training_without_it_gives(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty, "MIN_VALIDATION_ROWS", 30)  # this data set is small
    noise, trusted = {"corrupt": "map=noise"}, {"unfamiliar": "trusted"}
    settings = {"optim.epochs": 8, "image.width": 16, "dim": 64}
    (trusting, wary), _ = run_outcomes(wafer_shards, group(noise | trusted, noise, **settings))
    (without,), _ = run_outcomes(
        wafer_shards, group(noise, **settings, **{"fusion.reject_unfamiliar": False})
    )
    scored = [
        {n: v for n, v in row.metrics.items() if n.startswith("test/")}
        for row in (trusting, wary, without)
    ]
    assert scored[0] == scored[2]
    assert scored[1]["test/weight/map"] < scored[0]["test/weight/map"]


def test_a_diverging_cell_fails_alone_with_its_reason(wafer_shards: str) -> None:
    rows, _ = run_outcomes(
        wafer_shards, group({}, **{"optim.lr": 1e30, "optim.clip": 0.0, "optim.name": "sgd"})
    )
    assert rows[0].state == "failed"
    assert "is not finite at step" in rows[0].reason


def test_a_killed_cell_goes_on_from_its_last_state(
    wafer_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "finish_run", killed)  # after the last epoch
        with pytest.raises(KeyboardInterrupt):
            run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir())
    monkeypatch.setattr(loop, "train_epoch", killed)  # nothing is trained twice
    rows, history = run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert (rows[0].state, [epoch["epoch"] for epoch in history]) == ("done", [1, 2])
    again, _ = run_outcomes(wafer_shards, group({}), folder=str(tmp_path / "run"))
    assert again == rows, "a driver killed before it has the rows asks for them again"


def test_a_state_of_another_version_is_trained_anew(
    wafer_shards: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else every --resume of the study would fail again."""
    States(str(tmp_path)).save(1, {"epoch": 1})
    monkeypatch.setattr(states, "WEIGHTS_FORMAT", states.WEIGHTS_FORMAT + 1)
    rows, history = run_outcomes(wafer_shards, group({}), folder=str(tmp_path))
    assert (rows[0].state, [epoch["epoch"] for epoch in history]) == ("done", [1, 2])
    assert "this training starts anew" in capsys.readouterr().err


def test_boosting_has_every_training_row_once(
    wafer_shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, columns = [], boosting.table_columns

    def counted(source: Any) -> Any:
        cells, labels = columns(source)
        seen.append(len(labels))
        return cells, labels

    monkeypatch.setattr(boosting, "table_columns", counted)
    boosting.run_boosting(
        wafer_shards,
        {"data.modalities": "table", "data.sampler": "balanced", "data.batch_size": 512},
    )
    assert seen[0] == read_manifest(wafer_shards).rows["train"]


def test_boosting_learns_though_columns_have_no_value_in_training(wafer_shards: str) -> None:
    (found,) = boosting.run_boosting(
        wafer_shards,
        {"data.modalities": "table", "data.corrupt": "table=missing", "data.max_rows": 100},
    )
    assert found.test["balanced_accuracy"] == pytest.approx(1 / 9)


def test_boosting_learns_from_the_table_of_the_same_rows(wafer_shards: str) -> None:
    found, noisy = boosting.run_boosting(
        wafer_shards, {"data.modalities": "table"}, corruptions=("", "table=noise")
    )
    job = RunSpec(shards=wafer_shards, settings={"data.modalities": "table"})
    models = boosting.fit_classifiers(
        open_split(job, "train", Exchange(), None, train=False), seed=0
    )
    val = boosting.metrics_by_size(models, open_split(job, "val", Exchange(), None))
    assert found.val["balanced_accuracy"] == max(m["balanced_accuracy"] for m in val.values()), (
        "its size is the best on validation"
    )
    assert found.test["balanced_accuracy"] > 0.2  # nine classes
    (trained_on_noise,) = boosting.run_boosting(
        wafer_shards, {"data.modalities": "table", "data.corrupt": "table=noise"}
    )
    assert noisy.val == found.val
    for worse in (noisy, trained_on_noise):
        assert worse.test["balanced_accuracy"] < found.test["balanced_accuracy"]


# The command


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["--study", "nothing"],
            "--study must be a shipped study or a TOML file that exists; got 'nothing'",
        ),
        ([], "the following arguments are required: --study"),
        (["--study", "paper", "--seeds", "0"], "--seeds must be at least 1; got 0"),
        (["--study", "paper", "--data", "/nowhere"], "a SHARDS folder must exist; got '/nowhere'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(words: list[str], error: str) -> None:
    done = run_command("distributed/ablate.py", *words)
    assert done.returncode == 2
    assert error in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_study_needs_test_rows(wafer_shards: str, tmp_path: Path) -> None:
    manifest = read_manifest(wafer_shards)
    write_manifest(dataclasses.replace(manifest, rows={**manifest.rows, "test": 0}), str(tmp_path))
    with pytest.raises(ValueError, match="data must have test rows, .* has none") as raised:
        ablate.main(["--study", "paper", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert one_line(raised.value).startswith("--data must have test rows, ")


def test_a_folder_that_cannot_be_made_is_one_clear_error(wafer_shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (
        str(tmp_path / "file"),
        str(tmp_path / "file/x"),
        f"file://{tmp_path}/file/x",
        "/proc/nothing",
    ):
        with pytest.raises(
            ValueError,
            match=rf"^out must be a folder or URI that can be read and written; got '{out}'",
        ):
            ablate.main(["--study", "paper", "--data", wafer_shards, "--out", out])


def test_a_training_that_fits_nowhere_is_refused(tmp_path: Path, ray_local: None) -> None:
    state = opened(tmp_path, TWO, seeds=1, **{"scaling.workers": 4})
    with pytest.raises(
        ValueError,
        match=r"a training must fit on this machine, which has 2 CPU; it takes 4 CPU: lower scaling.workers",
    ):
        run_trainings(state, state.remaining(), {})


def test_a_study_runs_and_is_extended(wafer_shards: str, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "out"
    own.write_text(OWN)
    command = [
        "distributed/ablate.py",
        "--study",
        str(own),
        "--data",
        wafer_shards,
        "--out",
        str(out),
    ]
    done = run_command(*command, "--seeds", "1")
    assert done.returncode == 0, done.stderr
    assert (
        "6 cells, 0 done; 3 trainings to run" in done.stdout
    )  # trees do not see the map, so its noise costs them nothing
    assert {p.name for p in out.iterdir()} >= {
        "results.csv",
        "table.md",
        "table.tex",
        "table.csv",
        "report.html",
        "report.md",
        "study.json",
    }
    runs = {
        str(p.parent.relative_to(out / "tensorboard"))
        for p in (out / "tensorboard").rglob("events.*")
    }
    variants = ("concatenation", "confidence", "boosting")
    assert runs == {
        f"{place}{name}/seed-0" for place in ("", "map-is-noise-at-test/") for name in variants
    }
    again = run_command(*command, "--seeds", "1")
    assert again.returncode == 2
    assert "add --resume" in again.stderr
    before = Results.load(str(out)).rows
    more = run_command(*command, "--seeds", "2", "--resume")
    assert more.returncode == 0, more.stderr
    assert "12 cells, 6 done; 3 trainings to run" in more.stdout
    after = Results.load(str(out)).rows
    assert {place: after[place] for place in before} == before
    assert len(after) == 12


@pytest.mark.slow
def test_sigterm_leaves_a_study_that_resumes(wafer_shards: str, tmp_path: Path) -> None:
    own, out = tmp_path / "own.toml", tmp_path / "out"
    own.write_text(OWN)
    words = ["--study", str(own), "--data", wafer_shards, "--out", str(out), "--seeds", "4"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "distributed/ablate.py"), *words],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        limit = time.monotonic() + 240
        while (
            time.monotonic() < limit
            and process.poll() is None
            and len(Results.load(str(out)).rows) < 3
        ):
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        log.seek(0)
        assert b"add --resume to the same command" in log.read()
    kept = Results.load(str(out)).rows
    assert 3 <= len(kept) < 24
    assert (out / "report.html").exists()
    done = run_command("distributed/ablate.py", *words, "--resume")
    assert done.returncode == 0, done.stderr
    finished = Results.load(str(out)).rows
    assert len(finished) == 24
    assert {place: finished[place] for place in kept} == kept
