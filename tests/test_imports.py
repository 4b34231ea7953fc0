"""The import rules of the house: wings in one order, no circles, nobody imports a script, imports inside functions are few.

Every import counts, also one inside a function; only those under TYPE_CHECKING do not exist at run time and may look ahead in a wing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = {"ingest", "train", "tune", "ablate", "evaluate", "predict", "describe"}
FREE = {"runtime", "reporting"}  # import no other wing
ORDER = (
    "config",
    "shards",
    "raw",
    "ingestion",
    "wafers",
    "training",
    "inference",
    "searches",
    "studies",
)
INSIDE_FUNCTIONS = (
    197  # imports inside functions of distributed/, at most: falls to 25 as the wings are rewritten
)


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def modules() -> frozenset[str]:
    return frozenset(
        module_of(path)
        for folder in ("distributed", "model", "search_spaces")
        for path in files(folder)
    )


def type_only(tree: ast.Module) -> set[int]:
    """The nodes under `if TYPE_CHECKING`."""
    blocks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"
    ]
    return {id(inner) for block in blocks for inner in ast.walk(block)}


def imported(path: Path, types: bool = False) -> set[str]:
    """Every module that a file names in an import, lazy ones too; those for types alone only where asked for."""
    tree = ast.parse(path.read_text())
    hidden = set() if types else type_only(tree)
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            own = {name if name in modules() else node.module for name in inner}
            found |= own
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path, types=True)}


def wing(module: str) -> str:
    """The wing of a module of distributed/; scripts and the package itself have none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "distributed" else ""


@pytest.mark.parametrize("path", files("model"), ids=module_of)
def test_model_knows_no_ray_pandas_optuna_or_distributed(path: Path) -> None:
    assert not tops(path) & {"ray", "pandas", "optuna", "distributed", "search_spaces", "pyarrow"}


@pytest.mark.parametrize("path", files("search_spaces"), ids=module_of)
def test_search_spaces_know_optuna_only(path: Path) -> None:
    foreign = tops(path) - set(sys.stdlib_module_names) - {"optuna", "search_spaces"}
    assert not foreign


@pytest.mark.parametrize(
    "path",
    [p for p in files("distributed") if wing(module_of(p)) not in SCRIPTS | {""}],
    ids=module_of,
)
def test_wings_import_only_what_comes_before_them(path: Path) -> None:
    own = wing(module_of(path))
    others = {
        wing(name) for name in imported(path, types=True) if name.startswith("distributed.")
    } - {own}
    earlier = (
        set()
        if own in FREE
        else {*FREE, *ORDER[: ORDER.index(own)]} - ({"searches"} if own == "studies" else set())
    )
    assert not others - earlier, f"{own} may import {sorted(earlier)}"
    if own in FREE:
        models = {name for name in imported(path, types=True) if name.split(".")[0] == "model"}
        assert not models - ({"model.metrics.names"} if own == "reporting" else set())


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {
        module_of(path): imported(path) & modules()
        for folder in ("distributed", "model")
        for path in files(folder)
    }
    lazy = {"distributed", "model"}  # the packages' own lists of names, which load on use
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module in done or module in lazy:
            return
        for other in sorted(arrows.get(module, ())):
            visit(other, (*way, module))
        done.add(module)

    for module in arrows:
        visit(module, ())


def lazy_imports(path: Path) -> list[int]:
    """The lines of imports inside functions, each of which needs a reason beside it."""
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sorted(
        {
            n.lineno
            for f in functions
            for n in ast.walk(f)
            if isinstance(n, ast.Import | ast.ImportFrom)
        }
    )


def test_imports_inside_functions_are_few() -> None:
    found = {path: lazy_imports(path) for path in files("distributed")}
    assert sum(len(lines) for lines in found.values()) <= INSIDE_FUNCTIONS, {
        module_of(p): len(n) for p, n in found.items() if n
    }


def test_model_imports_where_ray_pandas_and_optuna_are_absent() -> None:
    code = (
        "import sys\n"
        "for name in ('ray', 'pandas', 'optuna'): sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import pkgutil, importlib, model\n"
        "names = [m.name for m in pkgutil.walk_packages(model.__path__, 'model.')]\n"
        "[importlib.import_module(n) for n in names]\n"
        "print(model.Network, len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Network" in done.stdout


def test_a_process_that_only_decodes_does_not_load_torch(wafer_shards: str) -> None:
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from distributed.shards import sharing\n"
        f"arrays = sharing.decode_splits({wafer_shards!r}, {{}}, ('val',))\n"
        "print(len(arrays['val']['labels']) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr
