"""The packages rtdl_num_embeddings and tabm, loaded when they are needed, without scikit-learn.

The first one loads scikit-learn where there is one, which takes nearly as long as torch, for a
function that this code never calls (compute_bins, bins by decision trees).
"""

from __future__ import annotations

import importlib
import sys
from functools import cache
from types import ModuleType

SCIKIT_LEARN = "sklearn.tree"


@cache
def load_rtdl() -> ModuleType:
    """Returns the package, loaded while Python takes scikit-learn for missing."""
    if SCIKIT_LEARN in sys.modules:
        return importlib.import_module("rtdl_num_embeddings")
    # None is Python's mark of a missing module.
    sys.modules[SCIKIT_LEARN] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("rtdl_num_embeddings")
    finally:
        del sys.modules[SCIKIT_LEARN]


def load_tabm() -> ModuleType:
    """Returns the package tabm, which loads the other one."""
    load_rtdl()
    return importlib.import_module("tabm")
