"""Choices that an options module declares, since it must stay light, are those of the code.

The code that carries a choice out imports torch, Ray, Optuna or Pillow.
"""

from __future__ import annotations

from dataclasses import fields

from distributed.config.settings import OPTIMISERS
from distributed.ingestion.options import IngestOptions
from distributed.raw.images import FITS
from distributed.searches import options, samplers, stoppers
from model.learning import optimisers


def test_the_declared_choices_are_those_of_the_code() -> None:
    fit = next(field for field in fields(IngestOptions) if field.name == "fit")
    declared = {
        "optim.name": OPTIMISERS,
        "sampler": options.SAMPLERS,
        "stopper": options.STOPPERS,
        "fit": fit.metadata["choices"],
    }
    carried_out = {
        "optim.name": tuple(optimisers.OPTIMISERS),
        "sampler": tuple(samplers.SAMPLERS),
        "stopper": tuple(stoppers.STOPPERS),
        "fit": FITS,
    }
    assert declared == carried_out
