"""Which cells a study has on a data set, and when two of them have the same results."""

from __future__ import annotations

import dataclasses

from distributed.studies.cells import cells_for_data_set
from distributed.studies.definition import Cell
from distributed.studies.planning import study_cells
from tests.studies.study_tools import (
    TWO,
    data_sets,
    parsed,
)

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
    settings = {(c.variant, c.condition): c.settings for c in plan.cells}
    assert len(settings) == 4 * 4 + 2  # `others` only where a modality is named
    assert settings["3 experts", "clean"] == {"experts.count": 3, "optim.seed": 0}
    assert settings["others", "image is noise"] == {
        "data.corrupt": "",
        "data.modalities": "table",
        "optim.seed": 0,
    }
    assert settings["only image", "image is noise"]["data.corrupt"] == "image=noise"
    assert settings["only table", "image is noise"]["data.corrupt"] == ""
    assert (
        settings["1 experts", "shared"]["data.corrupt"]
        == "image=missing:0.3333,table=missing:0.3333"
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
    cells = {(c.variant, c.condition): c for c in plan.cells}
    assert ("lacks it at test", "clean") not in cells
    assert cells["lacks it at test", "image is noise"].test == {"corrupt": "image=missing"}
    plain, weighed = cells["whole", "clean"], cells["by stability", "clean"]
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
        + """[[variants]]
name = "boosting"
model = "boosting"
[[conditions]]
name = "{modality}"
each = "modality"
set = { data.modalities = "{modality}" }
[[conditions]]
name = "both"
set = { data.modalities = "image,table" }
"""
    )
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
