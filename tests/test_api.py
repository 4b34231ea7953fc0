"""Facts about the Python interface: names load on use, and no script hides a function."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import distributed
from tests.conftest import ROOT, script


def test_the_package_lists_its_public_names() -> None:
    assert set(distributed.EXPORTS) <= set(dir(distributed))
    assert distributed.__all__ == sorted(distributed.EXPORTS)


def test_import_loads_nothing_heavy_and_unknown_names_are_refused() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import distributed\n"
        "heavy = {'ray', 'torch', 'pandas', 'pyarrow', 'optuna'} & set(sys.modules)\n"
        "print(sorted(heavy), hasattr(distributed, 'no_such_name'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[] False\n"


def test_a_script_of_the_same_name_does_not_hide_the_function() -> None:
    module = script("ingest")
    assert isinstance(module, ModuleType)
    assert sys.modules["distributed.ingest"] is module
    for _ in range(2):  # the first use imports the function, the second finds it
        assert callable(distributed.ingest)
        assert distributed.ingest.__module__ == "distributed.ingestion.pipeline"
    importlib.reload(module)
    assert callable(distributed.ingest)
