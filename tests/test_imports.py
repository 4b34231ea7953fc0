"""Imports point one way: entry points -> distributed library -> model; search_spaces knows Optuna only; model knows no Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENTRIES = {"ingest", "train", "tune", "ablate", "evaluate", "predict"}


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, lazy ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", files("model"), ids=lambda p: p.name)
def test_model_knows_no_ray_pandas_optuna_or_distributed(path: Path) -> None:
    assert not tops(path) & {"ray", "pandas", "optuna", "distributed", "search_spaces", "pyarrow"}


@pytest.mark.parametrize("path", files("search_spaces"), ids=lambda p: p.name)
def test_search_spaces_know_optuna_only(path: Path) -> None:
    foreign = tops(path) - set(sys.stdlib_module_names) - {"optuna", "search_spaces"}
    assert not foreign


@pytest.mark.parametrize("path", files("distributed"), ids=lambda p: p.name)
def test_the_library_does_not_import_entry_points(path: Path) -> None:
    entries = {name.split(".")[1] for name in imported(path) if name.startswith("distributed.")} & ENTRIES
    if path.stem in ENTRIES:
        entries.clear()
    if path.stem == "wafers":
        entries.discard("ingest")  # the example data set is ingested as any user's table
    assert not entries


def test_model_imports_where_ray_pandas_and_optuna_are_absent() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'pandas', 'optuna'): sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import pkgutil, importlib, model\n"
        "names = [m.name for m in pkgutil.iter_modules(model.__path__)]\n"
        "[importlib.import_module('model.' + n) for n in names]\n"
        "print(model.Network, len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Network" in done.stdout


def test_a_process_that_only_decodes_does_not_load_torch(wafer_shards: str) -> None:
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from distributed import jobs\n"
        f"arrays = jobs.decode({wafer_shards!r}, {{}}, ('val',))\n"
        "print(len(arrays['val']['labels']) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr
