"""Search spaces: every draw is valid, a setting is asked for when it acts, own files load."""

from __future__ import annotations

import optuna
import pytest

from distributed.config import Config, apply_changes, flatten, setting_fields
from distributed.searches.choosing import spaces
from distributed.searches.choosing.baselines import BASELINES
from model.config import WITHOUT_EXPERTS

optuna.logging.set_verbosity(optuna.logging.ERROR)
DEFAULTS = flatten(Config())


def draws(space: spaces.Space, count: int = 300) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [spaces.ask(space, study.ask()) for _ in range(count)]


@pytest.mark.parametrize("name", spaces.SPACES)
def test_every_draw_is_a_valid_configuration(name: str) -> None:
    for settings in draws(spaces.SPACES[name]):
        assert set(settings) <= set(setting_fields())
        config = flatten(apply_changes(Config(), settings))
        assert {k: config[k] for k in settings} == settings


@pytest.mark.parametrize("name", spaces.SPACES)
def test_the_defaults_are_a_point_of_every_space(name: str) -> None:
    settings = spaces.probe(spaces.SPACES[name], DEFAULTS)
    assert settings
    assert all(DEFAULTS[k] == v for k, v in settings.items())


def test_the_full_space_holds_the_nested_baselines() -> None:
    for label, changes in BASELINES.items():
        settings = spaces.probe(spaces.SPACES["full"], {**DEFAULTS, **changes})
        assert settings is not None, label
        assert changes.items() <= settings.items()


# setting -> when it is asked for
CONDITIONS = {
    "margins": {
        "loss.scale": lambda s: s.get("loss.margin", 0) > 0,
        "loss.effective_beta": lambda s: s.get("loss.drw", 0) > 0,
        "loss.focal_gamma": lambda s: s.get("loss.name") == "focal",
        "loss.average_prior_strength": lambda s: s.get("loss.name") == "prior",
    },
    "experts": {
        "loss.spread_of_prior_strength": lambda s: s["experts.count"] > 1,
        "loss.diversity": lambda s: s["experts.count"] > 1,
    },
    "fusion": {
        "fusion.score": lambda s: s["fusion.kind"] in ("confidence", "late"),
        "fusion.half_weight_at": lambda s: s.get("fusion.score") == "surplus",
        "fusion.temperature": lambda s: s["fusion.kind"] in ("mixture", "confidence", "late"),
        "fusion.subset_weight": lambda s: s["fusion.kind"] == "mixture",
        "fusion.trust_weight": lambda s: s["fusion.kind"] == "mixture",
        "fusion.folds": lambda s: s["fusion.kind"] in ("confidence", "late"),
        "fusion.shrinkage": lambda s: s["fusion.kind"] in ("confidence", "late"),
        "fusion.normalise": lambda s: s["fusion.kind"] in ("confidence", "gate"),
    },
    "optimisation": {
        "optim.sam_rho": lambda s: s["optim.name"] != "adamw",
        "loss.mix_alpha": lambda s: s["loss.mix"] != "none",
    },
}
CONDITIONS["full"] = {
    **CONDITIONS["margins"],
    **CONDITIONS["fusion"],
    "loss.name": lambda s: s["fusion.kind"] != "late",
    "loss.margin": lambda s: s["fusion.kind"] not in WITHOUT_EXPERTS,
    "experts.count": lambda s: s["fusion.kind"] not in WITHOUT_EXPERTS,
    "loss.spread_of_prior_strength": lambda s: (
        s.get("experts.count", 1) > 1 and s["loss.name"] == "prior"
    ),
    "loss.diversity": lambda s: s.get("experts.count", 1) > 1,
}


@pytest.mark.parametrize("name", spaces.SPACES)
def test_a_setting_is_asked_for_exactly_when_it_acts(name: str) -> None:
    drawn = draws(spaces.SPACES[name])
    for setting, acts in CONDITIONS[name].items():
        is_asked = [setting in s for s in drawn]
        assert is_asked == [acts(s) for s in drawn], setting
        assert any(is_asked), setting
        assert not all(is_asked), setting


def test_a_pinned_setting_is_never_sampled() -> None:
    study = optuna.create_study()
    trial = study.ask()
    settings = spaces.ask(spaces.SPACES["margins"], trial, {"loss.margin": 0.0})
    assert settings["loss.margin"] == 0.0
    assert "loss.scale" not in settings
    assert "loss.margin" not in trial.params


def test_probe_says_what_a_space_cannot_express() -> None:
    assert (
        spaces.probe(spaces.SPACES["margins"], {**DEFAULTS, "loss.average_prior_strength": 3.5})
        is None
    )
    assert spaces.probe(spaces.SPACES["experts"], {**DEFAULTS, "experts.hidden": 100}) is None


def test_own_space_by_path(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def anything(trial):\n"
        "    trial.suggest_float('optim.lr', 1e-3, 1e-2)\n"
        "    return {'optim.epochs': 2}\n"
    )
    settings = spaces.ask(spaces.load_space(str(path)), optuna.create_study().ask())
    assert settings["optim.epochs"] == 2
    assert 1e-3 <= settings["optim.lr"] <= 1e-2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "one public function"),
        ("def a(t): pass\ndef b(t): pass\n", "holds 2"),
        ("def a(:\n", "a Python file that loads"),
    ],
)
def test_a_wrong_space_file_is_one_clear_error(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        spaces.load_space(str(path))


def test_a_suggest_method_that_would_not_be_recorded_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"a space must ask by suggest_float \(step, log\), .*; got suggest_loguniform",
    ):
        spaces.setting_names(lambda trial: trial.suggest_loguniform("optim.lr", 1e-4, 1e-2))


def test_an_unknown_space_names_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match=r"got 'foo'; valid: margins, experts, fusion, optimisation, full$"
    ):
        spaces.load_space("foo")
