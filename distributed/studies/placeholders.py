"""Placeholders in a study file: {modality}, {others}, {shares=KIND} and the names of a grid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from distributed.studies.definition import Settings

PLACEHOLDER = re.compile(r"\{([\w.]+(?:=\w+)?)\}")
Meanings = Mapping[str, object]  # what each placeholder stands for


def modality_placeholders(modality: str, modalities: Sequence[str]) -> dict[str, str]:
    """The modality and the other ones, as far as there are any."""
    others = ",".join(m for m in modalities if m != modality)
    named = {"modality": modality, "others": others} if modality else {}
    return {name: value for name, value in named.items() if value}


def placeholder_meanings(modality: str, modalities: Sequence[str]) -> dict[str, object]:
    """What all placeholders stand for; {shares=KIND} gives every modality its own share of rows."""
    share = round(1 / (len(modalities) + 1), 4)
    meanings: dict[str, object] = {
        f"shares={kind}": ",".join(f"{m}={kind}:{share}" for m in modalities)
        for kind in ("noise", "shuffle", "missing")
    }
    return meanings | modality_placeholders(modality, modalities)


def fill_text(text: str, meanings: Meanings) -> str:
    """The text with every placeholder replaced that has a meaning."""
    return PLACEHOLDER.sub(lambda match: str(meanings.get(match[1], match[0])), text)


def fill_all(settings: Settings, meanings: Meanings) -> Settings:
    """The settings with the placeholders in their texts replaced."""
    return {
        name: fill_text(value, meanings) if isinstance(value, str) else value
        for name, value in settings.items()
    }
