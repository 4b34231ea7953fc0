"""Facts about settings: defaults, file, command line in this order; errors name valid choices."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.config import (
    RENAMED,
    Config,
    apply_changes,
    changes_from_defaults,
    describe_settings,
    load_config,
    read_config_file,
    setting_fields,
    settings_file,
    to_toml,
)
from distributed.runtime.command import one_line
from distributed.training.requirements import check_training
from model.declarations import check
from model.schema import Schema
from tests.conftest import ROOT, run_command

TWO = Schema(classes=("a", "b"), counts=(8, 2))


def test_command_line_beats_file_beats_defaults(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text(
        "dim = 64\n[loss]\nmargin = 0.2\nspread_of_prior_strength = 1\n[optim]\nepochs = 7\n"
    )
    settings = load_config(file, ["loss.margin=0.4"])
    assert (
        settings.dim,
        settings.loss.margin,
        settings.loss.spread_of_prior_strength,
        settings.optim.epochs,
    ) == (
        64,
        0.4,
        1.0,
        7,
    )
    assert settings.optim.lr == Config().optim.lr


def test_toml_holds_the_differences_and_comes_back(tmp_path: Path) -> None:
    settings = load_config(
        sets=["fusion.kind=gate", "optim.compile=true", "dim=32", "data.modalities=a,b"]
    )
    file = tmp_path / "best.toml"
    file.write_text(to_toml(changes_from_defaults(settings)))
    assert load_config(file) == settings
    assert set(changes_from_defaults(settings)) == {
        "fusion.kind",
        "optim.compile",
        "dim",
        "data.modalities",
    }


@pytest.mark.parametrize(
    "name",
    [
        "flip-flop \U0001fa74",
        'a "quoted" one',
        "back\\slash\\",
        "two\nlines\r\n",
        "\ttab \x00\x1f\x7f\x85\u2028",
        "#end]=",
    ],
)
def test_class_names_of_any_characters_come_back_from_best_toml(name: str, tmp_path: Path) -> None:
    settings = apply_changes(Config(), {"optim.metric": f"recall/{name}", "optim.clip": 1e22})
    file = tmp_path / "best.toml"
    text = settings_file(changes_from_defaults(settings), f"trial 0003: recall of {name} 61 %")
    file.write_text(text, encoding="utf-8", newline="")
    assert load_config(file) == settings


def test_a_settings_file_that_is_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    changes = {"optim.lr": 0.00125, "fusion.kind": "gate", "dim": 128}
    text = settings_file(changes, "trial 0003: accuracy 61.0 %")
    file = tmp_path / "best.toml"
    for length in range(len(text)):
        file.write_text(text[:length])
        if length >= len(text) - 1:  # only the last line break is missing
            assert read_config_file(file) == changes
            continue
        with pytest.raises(ValueError, match=r"config must .*best\.toml"):
            read_config_file(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.margn=0.4", "got 'loss.margn'; did you mean loss.margin?"),
        ("nothing.here=1", "a setting must exist; got 'nothing.here'"),
        ("optim.epochs=many", "optim.epochs must be a whole number; got 'many'"),
        ("optim.epochs=2.5", "optim.epochs must be a whole number; got 2.5"),
        ("optim.compile=1", "optim.compile must be true or false; got 1"),
        ("optim.lr=NaN", "optim.lr must be a number"),
        ("optim.lr=1e999", "optim.lr must be a finite number, at least 0; got inf"),
        ("experts.count=9", "experts.count must be between 1 and 8; got 9"),
        ("optim.seed=-1", "optim.seed must be between 0 and 4294967295; got -1"),
        ("data.max_rows=99999999999999999999", "data.max_rows must be at most 9223372036854775807"),
        (
            "fusion.kind=sum",
            "fusion.kind must be one of mixture, confidence, uniform, gate, late, evidential;"
            " got 'sum'",
        ),
        ("fusion.temperature=0", "fusion.temperature must be at least 0.001"),
        ("optim.metric=balanced_acuracy", "optim.metric must be one of balanced_accuracy"),
        ("data.imbalance_ratio=0.5", "data.imbalance_ratio must be 0 (off) or at least 1; got 0.5"),
        ("scaling.min_workers=2", "scaling.min_workers must be at most scaling.workers=1; got 2"),
        (
            "image.encoder=vgg",
            "image.encoder must be one of auto, resnet, efficientnet_lite0, timm:NAME; got 'vgg'",
        ),
        ("margin", "--set takes KEY=VALUE; got 'margin'"),
    ],
)
def test_mistakes_name_the_rule_the_value_and_the_choices(change: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(sets=[change])
    assert message in one_line(caught.value)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_name_of_a_setting_is_answered_with_the_new_one(
    old: str, new: str, tmp_path: Path
) -> None:
    assert new in setting_fields()
    assert old not in setting_fields()
    line = f"^{re.escape(old)} is now {re.escape(new)}$"
    with pytest.raises(ValueError, match=line):
        load_config(sets=[f"{old}=1"])
    file = tmp_path / "old.toml"
    file.write_text(f"{old} = 1\n")
    with pytest.raises(ValueError, match=line):
        load_config(file)


def test_a_command_answers_an_old_name_of_a_setting_in_one_line() -> None:
    shown = run_command("distributed/train.py", "--set", "fusion.checked=false")
    assert shown.returncode == 2
    assert shown.stderr.strip() == "error: fusion.checked is now fusion.correct_on_validation"


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (
            ["image.weights=weights.pth"],
            "image.weights needs a timm encoder; got image.encoder=auto",
        ),
        (["loss.name=focal"], "loss.name=focal needs loss.focal_gamma above 0 (2 is usual)"),
        (
            ["stage.kind=tau", "fusion.kind=late"],
            "stage.kind=tau needs experts, which fusion.kind=late has not",
        ),
        (
            ["scaling.workers=11"],
            "every worker needs a training row; got scaling.workers=11 and 10 rows in use",
        ),
        (["scaling.workers=5", "data.max_rows=4"], "got scaling.workers=5 and 4 rows in use"),
        (["data.spoil_without=tone, fog"], "hide, turn; got 'fog'"),
        (["stage.kind=crt", "experts.classifier=etf"], "stage.kind=crt needs linear classifiers"),
    ],
)
def test_settings_at_odds_are_refused_before_a_training_begins(
    sets: list[str], message: str
) -> None:
    settings = load_config(sets=sets)  # no error: a model trained with them still loads
    with pytest.raises(ValueError) as caught:
        check_training(settings, TWO, 10)
    assert message in str(caught.value)


def test_settings_that_a_search_space_will_choose_are_not_checked_before() -> None:
    check_training(load_config(sets=["loss.name=focal"]), TWO, 10, undecided={"loss.focal_gamma"})
    with pytest.raises(ValueError, match=r"loss\.name=focal needs loss\.focal_gamma"):
        check_training(load_config(sets=["loss.name=focal"]), TWO, 10, undecided={"loss.margin"})


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must name a TOML file that exists"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ValueError, match="must be valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_every_setting_says_what_it_means_and_has_a_valid_default() -> None:
    check(Config())
    without_help = [
        name for name, field in setting_fields().items() if not field.metadata.get("help")
    ]
    assert not without_help
    described = describe_settings()
    assert all(name in described for name in setting_fields())


SCRIPTS = ["ingest", "train", "tune", "ablate", "evaluate", "predict"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_complete_and_loads_neither_ray_nor_torch(script: str) -> None:
    shown = run_command(f"distributed/{script}.py", "--help")
    assert shown.returncode == 0
    assert "--" in shown.stdout
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "try:\n"
        f"    importlib.import_module('distributed.{script}').main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = ('ray', 'torch', 'pandas', 'optuna')\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "LOADED []" in loaded


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_mistake_is_one_line_and_exit_code_2(script: str) -> None:
    shown = run_command(f"distributed/{script}.py", "--no-such-option")
    assert shown.returncode == 2
    assert len(shown.stderr.strip().splitlines()) == 1
    assert "Traceback" not in shown.stderr
