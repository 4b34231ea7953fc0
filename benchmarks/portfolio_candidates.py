"""The configurations that benchmarks/portfolio.py chooses from, and the file that it writes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from distributed.config import Config, apply_changes, flatten
from distributed.searches.choosing.portfolio import has_pretrained_encoder, read_portfolio
from distributed.searches.choosing.samplers import Surroundings, open_study
from distributed.searches.choosing.spaces import ask, load_space
from distributed.searches.state.records import SettingValue
from distributed.shards.manifest import read_manifest

Settings = dict[str, SettingValue]

DEFAULTS = "defaults"
DRAWS = 8  # of the prior sampler

NEEDS_PRETRAINED: dict[str, Settings] = {
    "top layers trained": {"image.trainable": "top"},
    "image encoder from scratch": {"image.encoder": "resnet"},
}
CANDIDATES: dict[str, Settings] = {
    "gated fusion, sampling by square roots": {"fusion.kind": "gate", "data.sampler": "sqrt"},
    "confidence fusion, wide experts": {
        "fusion.kind": "confidence",
        "experts.count": 5,
        "experts.hidden": 256,
    },
    "small and regularised": {
        "dim": 48,
        "experts.count": 1,
        "table.width": 48,
        "fusion.modality_dropout": 0.2,
        "optim.weight_decay": 0.2,
    },
    "plain concatenation": {"fusion.kind": "uniform"},
    "late fusion": {"fusion.kind": "late"},
    "evidential fusion": {"fusion.kind": "evidential"},
    "balanced sampling": {"data.sampler": "balanced"},
    "blended records": {"loss.mix": "mixup"},
    "large step": {"optim.lr": 6e-3},
    "small step, small batches": {"optim.lr": 1e-3, "data.batch_size": 32},
    "wide": {"dim": 160, "table.width": 160},
}
NEEDS_IMAGES: dict[str, Settings] = {
    "without augmentation": {"data.flip": "none", "data.shift": 0.0, "data.rotate": 0.0},
}


@dataclass(frozen=True)
class Trial:
    """A configuration: changes to the defaults.

    needs: as in portfolio.toml. name: in the file, where it is not the one it has here.
    """

    settings: Settings
    needs: str = ""
    name: str = ""


def candidates() -> dict[str, Trial]:
    """All configurations that may be chosen, by name."""
    defaults = flatten(Config())
    found = {name: Trial(settings, "pretrained") for name, settings in NEEDS_PRETRAINED.items()}
    found |= {name: Trial(settings) for name, settings in CANDIDATES.items()}
    found |= {name: Trial(settings, "image") for name, settings in NEEDS_IMAGES.items()}
    space = load_space("full")
    surroundings = Surroundings(
        ask=functools.partial(ask, space, pins={}), start=defaults, smooth_metric="balanced_nll"
    )
    study = open_study(
        optuna.storages.InMemoryStorage(), "draws", ["max"], "prior", 0, DRAWS, surroundings
    )
    for number in range(DRAWS):
        settings = ask(space, study.ask(), {})
        changes = {name: value for name, value in settings.items() if defaults[name] != value}
        listed = ", ".join(f"{name} {_short(value)}" for name, value in changes.items())
        found[f"draw {number}"] = Trial(changes, name=f"drawn: {listed}")
    return found


def hand_written() -> dict[str, Trial]:
    """The portfolio that is in the file now, under names of its own."""
    return {
        f"before: {entry['name']}": Trial(dict(entry["set"]), entry.get("needs", ""))
        for entry in read_portfolio()
    }


def seeds(count: int) -> dict[str, Trial]:
    """The defaults, the first one under their own name, with so many seeds."""
    others = {f"{DEFAULTS}, seed {seed}": Trial({"optim.seed": seed}) for seed in range(1, count)}
    return {DEFAULTS: Trial({}), **others}


def applies(trial: Trial, shards: str) -> bool:
    """Whether a configuration can be trained on the data and changes anything there."""
    schema = read_manifest(shards).schema
    if trial.needs == "pretrained" and not has_pretrained_encoder(schema, Config()):
        return False
    if trial.needs == "image" and not schema.images:
        return False
    return len(schema.modalities) > 1 or not any(n.startswith("fusion.") for n in trial.settings)


HEAD = """\
# Configurations that a search tries beside its starting point, because networks of another kind
# make other mistakes: alone they may be weaker, in the model that a search ends with they count.
# Chosen by trials over many data sets: benchmarks/portfolio.py, docs/results/search.md.
#
# name: for people. needs: "image", an image modality; "pretrained", one whose encoder is pretrained
# under the starting point's settings; without it, any data. most_epochs: no more than the starting
# point has.
# set: changes to the starting point. A configuration that changes nothing is left out.
"""
MOST_EPOCHS = {"top layers trained": 8, "image encoder from scratch": 15}


def as_toml(chosen: Mapping[str, Trial]) -> str:
    """The content of the portfolio's file."""
    parts = [HEAD]
    for name, trial in chosen.items():
        lines = ["[[configurations]]", f'name = "{trial.name or name}"']
        if trial.needs:
            lines.append(f'needs = "{trial.needs}"')
        if name in MOST_EPOCHS:
            lines.append(f"most_epochs = {MOST_EPOCHS[name]}")
        values = ", ".join(f'"{k}" = {_toml_value(v)}' for k, v in trial.settings.items())
        parts.append("\n".join([*lines, f"set = {{ {values} }}", ""]))
    apply_all(chosen)
    return "\n".join(parts)


def apply_all(chosen: Mapping[str, Trial]) -> None:
    """Raises ValueError where a configuration has settings that do not exist."""
    for trial in chosen.values():
        apply_changes(Config(), trial.settings)


def _toml_value(value: SettingValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    text = _short(value)
    is_whole = isinstance(value, float) and not set(text) & {".", "e"}
    return f"{text}.0" if is_whole else text


def _short(value: SettingValue) -> str:
    """A value in few digits, for people and for the file."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
