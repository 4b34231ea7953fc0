"""The example at the top of model/__init__.py runs as it stands, and its loss falls."""

from __future__ import annotations

import textwrap

import pytest
import torch

import model


def example() -> str:
    """The indented block of the package's docstring."""
    lines = (model.__doc__ or "").splitlines()
    return textwrap.dedent(
        "\n".join(line for line in lines if line.startswith("    ") or not line)
    ).strip()


def test_the_example_of_the_package_trains_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(example(), "model/__init__.py", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    losses = [float(line.rpartition(" ")[2]) for line in printed]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]


def test_the_example_shows_public_names_only() -> None:
    imported = next(
        line for line in example().splitlines() if line.startswith("from model import ")
    )
    names = imported.removeprefix("from model import ").split(", ")
    assert set(names) <= set(model.EXPORTS)
