"""The portfolio: configurations of other kinds that a search tries beside its starting point."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from distributed import config
from distributed.runtime.errors import OptionError
from distributed.runtime.storage import join, read_file
from distributed.searches.state.records import (
    CONFIGURATIONS,
    RECORDS_FILE,
    SMOOTH_METRIC,
    SearchJob,
    SettingValue,
    SettingValues,
    is_finite,
    parse_records,
)
from model.encoders.choice import choose_encoder
from model.schema import Schema

SHIPPED = Path(__file__).resolve().parents[3] / "search_spaces" / "portfolio.toml"
NONE = "none"
LEARNED = 3  # configurations of each other search
KEYS = ("name", "needs", "most_epochs", "set")
NEEDS = ("pretrained", "image")


class Configuration(TypedDict, total=False):
    """A [[configurations]] entry of the file, as it stands there."""

    name: str
    needs: str
    most_epochs: int
    set: dict[str, SettingValue]


def portfolio_jobs(
    location: str, start: config.Config, pins: SettingValues, schema: Schema
) -> list[SearchJob]:
    """Returns the configurations that apply to this data and change the starting point.

    location: a file; "" for the shipped one, "none" for no configurations.
    pins: settings held fixed. schema: of the modalities in use.
    """
    if location == NONE:
        return []
    before = config.flatten(start)
    jobs = []
    for entry in read_portfolio(location):
        if entry.get("needs") == "pretrained" and not has_pretrained_encoder(schema, start):
            continue
        if entry.get("needs") == "image" and not schema.images:
            continue
        if len(schema.modalities) < 2 and any(name.startswith("fusion.") for name in entry["set"]):
            continue
        settings = {k: v for k, v in entry["set"].items() if before[k] != v}
        if not settings or settings.keys() & pins.keys():
            continue
        most = entry.get("most_epochs", start.optim.epochs)
        if most < start.optim.epochs and "optim.epochs" not in pins:
            settings["optim.epochs"] = most
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", entry["name"])
        jobs.append(SearchJob(name=name, kind="portfolio", label=entry["name"], settings=settings))
    return jobs


def learned_jobs(
    experiments: Sequence[str], start: config.Config, pins: SettingValues
) -> list[SearchJob]:
    """Returns the best configurations of other searches, as changes to the starting point.

    experiments: their folders or URIs. What a search has found is compared by class-balanced
    log-loss, as for its model.
    """
    before, jobs = config.flatten(start), list[SearchJob]()
    for number, location in enumerate(experiments, start=1):
        known = [job.settings for job in jobs]
        found = 0
        for settings in best_settings(location):
            changes = {
                name: value
                for name, value in settings.items()
                if name in before and name not in pins and before[name] != value
            }
            if changes and changes not in known and found < LEARNED:
                found += 1
                name = f"learned-{number}-{found}"
                label = f"best {found} of {location.rstrip('/').rpartition('/')[2]}"
                jobs.append(SearchJob(name=name, kind="portfolio", label=label, settings=changes))
    return jobs


def best_settings(location: str) -> list[SettingValues]:
    """Returns the settings of a search's finished trials, those of the lowest loss first."""
    rule = "learn_from must name folders of finished searches"
    try:
        content = read_file(join(location, RECORDS_FILE))
    except OSError:
        raise OptionError(f"{rule}; {location!r} has no {RECORDS_FILE}", "learn_from") from None
    records = [r for r in parse_records(content) if r.job.kind in CONFIGURATIONS]
    complete = [
        r
        for r in records
        if r.state == "complete" and r.job.settings and not r.job.method and not r.job.is_baseline
    ]
    scored = [r for r in complete if is_finite(r.metrics.get(SMOOTH_METRIC))]
    if not scored:
        raise OptionError(f"{rule}; {location!r} has no trial that has finished", "learn_from")
    return [r.job.settings for r in sorted(scored, key=lambda r: r.value(SMOOTH_METRIC))]


def has_pretrained_encoder(schema: Schema, start: config.Config) -> bool:
    """Whether an image modality has a pretrained encoder under the starting point's settings."""
    return any(choose_encoder(image, start.image) != "resnet" for image in schema.images)


def read_portfolio(location: str = "") -> list[Configuration]:
    """Returns the entries of a portfolio file, checked; "" for the shipped one."""
    path = Path(location) if location else SHIPPED
    rule = f"portfolio must be a TOML file of [[configurations]], or {NONE}"
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))["configurations"]
    except FileNotFoundError:
        raise OptionError(f"{rule}; got {location!r}", "portfolio") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
        raise OptionError(f"{rule}; {path}: {error}", "portfolio") from None
    for entry in entries:
        unknown = sorted(entry.keys() - set(KEYS))
        if unknown or not entry.get("name") or not entry.get("set"):
            raise OptionError(
                f"{rule} with name and set, and maybe needs and most_epochs; {path}:"
                f" {', '.join(unknown) or entry}",
                "portfolio",
            )
        if entry.get("needs", NEEDS[0]) not in NEEDS:
            raise OptionError(
                f"{rule}; needs is one of {', '.join(NEEDS)}, or left out; got {entry['needs']!r}",
                "portfolio",
            )
        try:
            config.apply_changes(config.Config(), entry["set"])
        except ValueError as error:
            raise OptionError(f"{rule}; {entry['name']}: {error}", "portfolio") from None
    return list(entries)
