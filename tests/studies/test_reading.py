"""What a study file may contain, and what the shipped ones do."""

from __future__ import annotations

import pytest

from distributed.runtime.command import one_line
from distributed.studies.planning import study_cells
from distributed.studies.reading import read_study, study_names
from tests.studies.study_tools import (
    data_sets,
    parsed,
)

CLAIM = '[[variants]]\nname = "a"\n[[claims]]\ntext = "x"\nvariant = "a"\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "a study needs at least one"),
        (
            'variant = "x"',
            "the study has an unknown key: variant; did you mean 'variants'? valid: title",
        ),
        ("[[variants]]\nset = { dim = 8 }", "entry needs a name"),
        (
            '[[variants]]\nname = "a"\nsets = 1',
            "variant 'a' has an unknown key: sets; did you mean 'set'? valid: name, set, model,",
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
            "a setting must exist; got 'fusion.knd'; did you mean fusion.kind",
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
            '[[variants]]\nname = "a"\nset = { dim = 8 }\n'
            '[[conditions]]\nname = "c"\nset = { dim = 16 }',
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
    text = """[[variants]]
name = "a"
[[conditions]]
name = "clean"
[[conditions]]
name = "c"
set = { data.corrupt = "sound=noise" }
"""
    own = parsed(text)
    clean = study_cells(own, data_sets("set"), 1, {}, conditions="clean")["set"]
    assert {c.condition for c in clean.cells} == {"clean"}
    with pytest.raises(ValueError, match="valid: image, table"):
        study_cells(own, data_sets("set"), 1, {}, conditions="clean,c")


def test_an_unknown_study_lists_the_shipped_ones() -> None:
    with pytest.raises(
        ValueError,
        match="did you mean 'fusion'.*valid: experts, fusion, .*, missing, paper, sabotage, shift",
    ):
        read_study("fusoin")


def test_variants_are_chosen_by_names_that_may_hold_commas() -> None:
    fusion = read_study("fusion")
    requested = "gate, confidence, cross-fitted, shrunk, checked,only image"
    chosen = study_cells(fusion, data_sets("set"), 1, {}, requested)["set"]
    assert {v.name for v in chosen.variants} == {
        fusion.reference,
        "gate",
        "confidence, cross-fitted, shrunk, checked",
        "only image",
    }
    assert {c.variant for c in chosen.cells} == {v.name for v in chosen.variants}
    with pytest.raises(
        ValueError,
        match="variants must name variants of the study; got 'shrunk'; valid: 'concatenation', ",
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
