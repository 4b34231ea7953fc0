"""The files beside the model that a search ends with, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

MODEL_FOLDER = "model"  # of an experiment
DISTILLED_FOLDER = "distilled"  # of an experiment
DESCRIPTION_FILE = "ensemble.json"  # in that folder: what the model is made of
SPOILT_FILE = "spoilt.json"  # in that folder: a SpoiltContent


class Answer(TypedDict):
    """A class with its probability."""

    says: str
    probability: float


class Voice(Answer):
    """What a modality of a row says alone, and how far the model trusts it there."""

    name: str
    present: bool
    weight: float


class ExampleRow(TypedDict):
    """A row that the model decides rightly. plain: the answer of plain concatenation, if any."""

    id: str
    spoilt: bool
    truth: str
    modalities: list[Voice]
    model: Answer
    plain: Answer | None


class RunScores(TypedDict):
    """A run by its name. scores: metrics of the rows `untouched` and `spoilt`."""

    title: str
    scores: Mapping[str, Mapping[str, float]]


class Lead(TypedDict):
    """By how much the model is above plain concatenation on spoilt rows, and its standard error."""

    difference: float
    error: float


class SpoiltContent(TypedDict):
    """Scores on test rows of which a modality is spoilt. corrupt: how, as data.corrupt has it."""

    corrupt: str
    rows: int
    runs: list[RunScores]
    lead: Lead | None
    examples: list[ExampleRow]
