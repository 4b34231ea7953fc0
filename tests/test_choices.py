"""Choices that an options module declares, since it must stay light, are those of the code.

The code that carries a choice out imports torch, Ray, Optuna or Pillow.
"""

from __future__ import annotations

from dataclasses import fields

from distributed.config.settings import OPTIMISERS
from distributed.searches import options
from distributed.searches.choosing import samplers, stoppers
from distributed.searches.recorded import RecordedOptions
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


def test_a_search_records_every_option_but_where_it_is_and_whether_it_resumes() -> None:
    declared = {field.name for field in fields(options.SearchOptions)}
    kept = set(RecordedOptions.__annotations__)
    assert kept == declared - {"out", "resume", "workers"}  # workers is kept as a setting
