"""Names that a user may have meant: by their letters, and by what other programs call them."""

from __future__ import annotations

import pytest

from distributed.runtime import suggestions

MEANT = {
    "answers": ("label",),
    "batchsize": ("batch_size",),
    "budget": ("time_budget",),
    "checkpoint_path": ("checkpoint",),
    "class_prior": ("prior",),
    "columns_to_drop": ("drop",),
    "config_file": ("config",),
    "continue": ("resume",),
    "corruption": ("corrupt",),
    "csv": ("table", "data"),
    "destination": ("out",),
    "device": ("gpus", "gpus_per_worker", "gpus_per_actor"),
    "force": ("overwrite",),
    "group_by": ("group",),
    "ids": ("id",),
    "image_column": ("image",),
    "jobs": ("concurrent", "concurrency", "workers"),
    "n_seeds": ("seeds",),
    "n_trials": ("trials",),
    "num_workers": ("workers",),
    "objective": ("metric",),
    "random_seed": ("seed",),
    "scheduler": ("stopper",),
    "search_space": ("space",),
    "size": ("image_size",),
    "splits": ("split",),
}


@pytest.mark.parametrize(("word", "options"), MEANT.items())
def test_a_word_of_other_programs_means_options_of_these(
    word: str, options: tuple[str, ...]
) -> None:
    others = ["unrelated", *options]
    assert suggestions.options_by_meaning(word.replace("_", "-").title(), others) == [*options]
    assert suggestions.options_by_meaning(word, ["unrelated"]) == []


def test_every_line_of_the_synonyms_has_an_example_here() -> None:
    assert {words.split()[0] for words in suggestions.OPTION_SYNONYMS} == {*MEANT}


def test_another_spelling_of_an_option_is_that_option() -> None:
    options = ["label", "batch_size"]
    assert suggestions.options_by_meaning("Batch-Size", options) == ["batch_size"]
    assert suggestions.options_by_meaning("targets", options) == ["label"]
    assert suggestions.squashed("Learning-Rate_2") == "learningrate2"


def test_swapped_letters_are_closer_than_any_other_likeness() -> None:
    assert suggestions.close_names("lable", ["table", "label"]) == ["label"]
    assert suggestions.close_names("tables", ["table", "label"]) == ["table"]
    assert suggestions.close_names("xyz", ["table", "label"]) == []
    names = ["name_a", "name_b", "name_c", "name_d"]
    assert len(suggestions.close_names("name_", names)) == 3
    assert suggestions.close_names("imagesize", ["image size", "image_size"]) == ["image size"]


def test_the_beginning_of_a_name_is_enough_from_three_letters_on() -> None:
    options = ["time_budget", "trials"]
    assert suggestions.options_by_letters("tim", options) == ["time_budget"]
    assert suggestions.options_by_letters("tr", options) == []
    assert suggestions.options_by_letters("trails", options) == ["trials"]


def test_questions_and_lists_of_names() -> None:
    assert suggestions.did_you_mean([]) == ""
    assert suggestions.did_you_mean(["a", "b"]) == "did you mean a or b?"
    assert suggestions.valid_names("x", []) == "valid: there is none"
    assert suggestions.valid_names("lable", ["table", "label", "table"]) == (
        "did you mean 'label'? valid: table, label"
    )
    assert suggestions.valid_names("x", ["a,b", "c"]) == "valid: 'a,b', 'c'"
    names = [f"{number:03d}" for number in range(31)]
    assert suggestions.valid_names("x", names[:30]) == f"valid: {', '.join(names[:30])}"
    assert suggestions.valid_names("x", names) == f"valid: {', '.join(names[:30])} and 1 more"
