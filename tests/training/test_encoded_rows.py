"""Rows that are encoded once give what they give when they are encoded in every pass."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from distributed.config import load_config
from distributed.training import encoded_rows
from distributed.training.encoded_rows import encode_once
from distributed.training.scoring import Evaluator
from model.encoders.image import ImageEncoder
from model.network import Network
from tests.training import toy


def small_network() -> Network:
    torch.manual_seed(0)
    config = load_config(sets=toy.SMALL)
    return Network(toy.schema(), config.model)


def rows() -> toy.Toy:
    return toy.Toy(toy.records(absent=0.2), 24, train=False)


def test_scores_are_the_same_and_no_picture_is_seen_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, evaluator = small_network(), Evaluator(torch.device("cpu"))
    expected = evaluator.score(network, rows())
    encoded = encode_once(evaluator, network, rows())

    def seen_again(*_: object) -> None:
        raise AssertionError("a picture is encoded a second time")

    monkeypatch.setattr(ImageEncoder, "forward", seen_again)
    found = evaluator.score(network, encoded)
    for entry in dataclasses.fields(found):
        ours, theirs = getattr(found, entry.name), getattr(expected, entry.name)
        assert ours is theirs or torch.equal(ours.nan_to_num(), theirs.nan_to_num()), entry.name


def test_more_rows_than_memory_should_hold_are_left_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoded_rows, "MOST_ROWS", 10)
    source = rows()
    assert encode_once(Evaluator(torch.device("cpu")), small_network(), source) is source
