"""Choices that an options module declares, since it must stay light, are those of the code.

The code that carries a choice out imports torch, Ray, Optuna or Pillow.
"""

from __future__ import annotations

from distributed.config.settings import OPTIMISERS
from distributed.searches import options, samplers, stoppers
from model.learning import optimisers


def test_the_declared_choices_are_those_of_the_code() -> None:
    declared = {
        "optim.name": OPTIMISERS,
        "sampler": options.SAMPLERS,
        "stopper": options.STOPPERS,
    }
    carried_out = {
        "optim.name": tuple(optimisers.OPTIMISERS),
        "sampler": tuple(samplers.SAMPLERS),
        "stopper": tuple(stoppers.STOPPERS),
    }
    assert declared == carried_out
