"""A setting that does not exist is answered with the one that is meant, by meaning first."""

from __future__ import annotations

import pytest

from distributed.config import Config, apply_changes, setting_fields
from distributed.config.suggestions import SYNONYMS
from distributed.reference import COMMANDS
from distributed.runtime.suggestions import OPTION_SYNONYMS, close_names, valid_names


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("optim.learning_rate", "did you mean optim.lr?"),
        ("loss_name", "did you mean loss.name?"),
        ("lr", "did you mean optim.lr?"),
        ("LearningRate", "did you mean optim.lr?"),
        ("batch", "did you mean data.batch_size?"),
        ("batch_size", "did you mean data.batch_size or inference.batch_size?"),
        ("epochs", "did you mean optim.epochs or stage.epochs?"),
        ("stage.epoch", "did you mean stage.epochs or optim.epochs?"),
        ("dropout_rate", "did you mean fusion.modality_dropout or data.cell_dropout?"),
        ("optim.wd", "did you mean optim.weight_decay?"),
        ("num_experts", "did you mean experts.count?"),
        ("backbone", "did you mean image.encoder?"),
        ("tau", "did you mean stage.tau or fusion.temperature or loss.average_prior_strength?"),
        ("train.seed", "did you mean optim.seed?"),
        ("num_workers", "did you mean scaling.workers?"),
        ("gpus", "did you mean scaling.gpus_per_worker?"),
        ("los.margn", "did you mean loss.margin?"),
        ("dmi", "did you mean dim?"),
        ("stage.x", "valid: stage.kind, stage.epochs, stage.tau"),
        ("stage", "valid: stage.kind, stage.epochs, stage.tau"),
        (
            "nothing.here",
            "valid: those of data, image, table, fusion, experts, loss, optim, stage,",
        ),
    ],
)
def test_a_wrong_name_is_answered_with_what_is_meant(name: str, answer: str) -> None:
    with pytest.raises(ValueError) as caught:
        apply_changes(Config(), {name: 1})
    assert str(caught.value).startswith(f"a setting must exist; got {name!r}; {answer}")


def test_only_names_that_exist_are_suggested() -> None:
    settings = {name for names in SYNONYMS.values() for name in names}
    assert settings <= set(setting_fields())
    options = {name for names in OPTION_SYNONYMS.values() for name in names}
    declared = {field for kind in COMMANDS.values() for field in kind.__dataclass_fields__}
    assert options <= declared


def test_swapped_letters_come_before_similar_ones() -> None:
    assert close_names("lable", ["table", "label"]) == ["label"]


def test_a_list_of_valid_names_is_short_and_begins_with_what_is_close() -> None:
    columns = [f"column{i}" for i in range(400)] + ["diagnosis"]
    text = valid_names("Diagnosis", columns)
    assert text.startswith("did you mean 'diagnosis'? valid: column0, column1,")
    assert text.endswith("column29 and 371 more")
    assert valid_names("x", ["a", "b"]) == "valid: a, b"
