"""The import rules: folders in one order, no circles, nobody imports a script, few lazy imports.

Every import counts, also one inside a function. Those under TYPE_CHECKING do not exist at run time
and may form circles within a folder.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPTS = {
    "ingest",
    "train",
    "tune",
    "ablate",
    "evaluate",
    "predict",
    "serve",
    "export",
    "describe",
}
INDEPENDENT = {"runtime", "reporting"}  # these import no other folder, but for REDACTION
REDACTION = "distributed.runtime.redaction"  # reports have no secrets
ORDER = (
    "config",
    "shards",
    "raw",
    "ingestion",
    "wafers",
    "training",
    "ensembles",
    "inference",
    "serving",
    "searches",
    "studies",
    "presets",
    "reference",  # a module: the page of all options, for the script describe.py only
)
INSIDE_FUNCTIONS = 25  # imports inside functions of distributed/, at most


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
    """Returns the ids of the nodes under `if TYPE_CHECKING`."""
    blocks = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and isinstance(n.test, ast.Name) and n.test.id == "TYPE_CHECKING"
    ]
    return {id(inner) for block in blocks for inner in ast.walk(block)}


def imported(path: Path, types: bool = False) -> set[str]:
    """Returns every module that a file names in an import, inside functions too.

    types: those under TYPE_CHECKING as well.
    """
    tree = ast.parse(path.read_text())
    hidden = set() if types else type_only(tree)
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules() else node.module for name in inner}
    return names


def top_packages(path: Path) -> set[str]:
    """Returns the top-level packages that a file imports."""
    return {name.split(".")[0] for name in imported(path, types=True)}


def folder_of(module: str) -> str:
    """Returns the folder of a module in distributed/, the script's name for a script, else ""."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "distributed" else ""


@pytest.mark.parametrize("path", files("model"), ids=module_of)
def test_model_imports_no_ray_pandas_optuna_or_distributed(path: Path) -> None:
    assert not top_packages(path) & {
        "ray",
        "pandas",
        "optuna",
        "distributed",
        "search_spaces",
        "pyarrow",
    }


@pytest.mark.parametrize("path", files("search_spaces"), ids=module_of)
def test_search_spaces_import_optuna_only(path: Path) -> None:
    foreign = top_packages(path) - set(sys.stdlib_module_names) - {"optuna", "search_spaces"}
    assert not foreign


@pytest.mark.parametrize(
    "path",
    [p for p in files("distributed") if folder_of(module_of(p)) not in SCRIPTS | {""}],
    ids=module_of,
)
def test_folders_import_only_what_comes_before_them(path: Path) -> None:
    own = folder_of(module_of(path))
    others = {
        folder_of(name)
        for name in imported(path, types=True)
        if name.startswith("distributed.") and not (own == "reporting" and name == REDACTION)
    } - {own}
    earlier = (
        set()
        if own in INDEPENDENT
        else {*INDEPENDENT, *ORDER[: ORDER.index(own)]}
        - ({"searches"} if own == "studies" else set())
    )
    assert not others - earlier, f"{own} may import {sorted(earlier)}"
    if own in INDEPENDENT:
        models = {name for name in imported(path, types=True) if name.split(".")[0] == "model"}
        assert not models - ({"model.metrics.names"} if own == "reporting" else set())


@pytest.mark.parametrize(
    "path",
    [p for folder in ("distributed", "benchmarks", "cluster") for p in files(folder)],
    ids=module_of,
)
def test_nobody_imports_a_script(path: Path) -> None:
    # `from distributed import ingest` is the function of the API.
    scripts = {f"distributed.{name}" for name in SCRIPTS}
    tree = ast.parse(path.read_text())
    named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not named & scripts


def test_no_module_imports_itself_by_way_of_others() -> None:
    imports_of = {
        module_of(path): imported(path) & modules()
        for folder in ("distributed", "model")
        for path in files(folder)
    }
    lazy = {"distributed", "model"}  # the packages' own lists of names, which load on use
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module in done or module in lazy:
            return
        for other in sorted(imports_of.get(module, ())):
            visit(other, (*path, module))
        done.add(module)

    for module in imports_of:
        visit(module, ())


def lazy_imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Returns the imports inside functions, in the order of their lines."""
    tree = ast.parse(path.read_text())
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    by_line = {
        node.lineno: node
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return [by_line[line] for line in sorted(by_line)]


def unexplained(path: Path) -> list[int]:
    """Returns the lines of imports inside functions without a comment that gives the reason.

    The comment is at the end of the import, or above it and the imports directly before it.
    """
    lines = path.read_text().splitlines()
    explained: set[int] = set()  # last lines of imports
    missing = []
    for node in lazy_imports(path):
        last = node.end_lineno or node.lineno
        own = lines[node.lineno - 1 : last]
        above = node.lineno - 1
        if (
            any("#" in line for line in own)
            or lines[above - 1].strip().startswith("#")
            or above in explained
        ):
            explained.add(last)
        else:
            missing.append(node.lineno)
    return missing


def test_imports_inside_functions_are_few() -> None:
    counts = {module_of(path): len(lazy_imports(path)) for path in files("distributed")}
    assert sum(counts.values()) <= INSIDE_FUNCTIONS, {m: n for m, n in counts.items() if n}


@pytest.mark.parametrize("path", files("distributed"), ids=module_of)
def test_an_import_inside_a_function_has_its_reason_beside_it(path: Path) -> None:
    assert not unexplained(path)


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


def test_the_gpu_benchmark_imports_where_there_is_little_but_torch() -> None:
    absent = ("ray", "pandas", "pyarrow", "optuna", "sklearn", "rich", "plotly", "jinja2", "PIL")
    code = (
        f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from benchmarks import gpu\nprint(*gpu.ENCODERS, *gpu.PROCESSES)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["resnet", "efficientnet_lite0", "1", "2", "4"], done.stderr


def test_a_process_that_only_decodes_does_not_load_torch(wafer_shards: str) -> None:
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from distributed.shards import sharing\n"
        f"arrays = sharing.decode_splits({wafer_shards!r}, {{}}, ('val',))\n"
        "print(len(arrays['val']['labels']) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr
