"""The Python interface: for every command a function that takes its options and returns a result.

    from distributed import FitOptions, fit, load
    result = fit(FitOptions(data="shards", out="runs/first"))
    model = load("runs/first")

A name is imported when it is first used, so that `import distributed` costs nothing and the --help
of a command stays fast.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed.config import Config as Config
    from distributed.inference.batches.batch_prediction import predict as predict
    from distributed.inference.evaluating.evaluation import evaluate as evaluate
    from distributed.inference.evaluating.leaderboard import leaderboard as leaderboard
    from distributed.inference.exporting.driver import export as export
    from distributed.inference.loaded import load as load
    from distributed.inference.options import EvaluateOptions as EvaluateOptions
    from distributed.inference.options import ExportOptions as ExportOptions
    from distributed.inference.options import PredictOptions as PredictOptions
    from distributed.ingestion.options import IngestOptions as IngestOptions
    from distributed.ingestion.pipeline import ingest as ingest
    from distributed.presets.driver import fit as fit
    from distributed.searches.driver import search as search
    from distributed.searches.options import SearchOptions as SearchOptions
    from distributed.serving.driver import serve as serve
    from distributed.serving.options import ServeOptions as ServeOptions
    from distributed.shards.opened import Shards as Shards
    from distributed.studies.driver import study as study
    from distributed.studies.options import StudyOptions as StudyOptions
    from distributed.training.options import FitOptions as FitOptions

# The module that defines each public name. The list above repeats it for editors and type checkers.
EXPORTS = {
    "Config": "distributed.config",
    "EvaluateOptions": "distributed.inference.options",
    "ExportOptions": "distributed.inference.options",
    "FitOptions": "distributed.training.options",
    "IngestOptions": "distributed.ingestion.options",
    "PredictOptions": "distributed.inference.options",
    "SearchOptions": "distributed.searches.options",
    "ServeOptions": "distributed.serving.options",
    "Shards": "distributed.shards.opened",
    "StudyOptions": "distributed.studies.options",
    "evaluate": "distributed.inference.evaluating.evaluation",
    "export": "distributed.inference.exporting.driver",
    "fit": "distributed.presets.driver",
    "ingest": "distributed.ingestion.pipeline",
    "leaderboard": "distributed.inference.evaluating.leaderboard",
    "load": "distributed.inference.loaded",
    "predict": "distributed.inference.batches.batch_prediction",
    "search": "distributed.searches.driver",
    "serve": "distributed.serving.driver",
    "study": "distributed.studies.driver",
}
__all__ = sorted(EXPORTS)


def __getattr__(name: str) -> object:
    """Imports a public name on its first use."""
    if name not in EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *EXPORTS})


class _Package(ModuleType):
    """Keeps public names from being replaced by scripts of the same name.

    Python stores an imported submodule as an attribute of its package: `import distributed.ingest`
    imports the script ingest.py and would put that module in the place of the function
    `distributed.ingest`. Code that needs the script as a module calls
    importlib.import_module("distributed.ingest").
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in EXPORTS and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
