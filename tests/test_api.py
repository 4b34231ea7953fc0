"""Facts about the Python interface: names load on use, and no script hides a function."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from types import ModuleType

import pytest

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


@pytest.mark.parametrize("name", sorted(distributed.EXPORTS))
def test_every_public_name_is_there_and_says_what_it_does(name: str) -> None:
    value = getattr(distributed, name)
    assert value is getattr(importlib.import_module(distributed.EXPORTS[name]), name)
    text = value.__doc__ or ""
    assert text.strip()
    assert not text.startswith(f"{name}("), "a docstring of its own, not the one of dataclass"


def test_editors_and_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "distributed" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    listed = {alias.asname: node.module for node in imports for alias in node.names}
    assert listed == distributed.EXPORTS


@pytest.mark.parametrize("name", ["ingest", "evaluate", "predict"])
def test_a_script_of_the_same_name_does_not_hide_the_function(name: str) -> None:
    module = script(name)
    assert isinstance(module, ModuleType)
    assert sys.modules[f"distributed.{name}"] is module
    for _ in range(2):  # the first use imports the function, the second finds it
        function = getattr(distributed, name)
        assert callable(function)
        assert function.__module__ == distributed.EXPORTS[name]
    importlib.reload(module)
    assert callable(getattr(distributed, name))
