"""The mutants of a source file: copies of its code with one small fault each (changes.py).

Left out is what cannot change behaviour: docstrings, annotations, the text of messages, `__repr__`,
decorators, assertions of the code itself and names that exist for the type checker only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from tests.mutation.changes import called_name, replacements

CONTROL = -1  # the number of a mutant without a fault, which its tests must let pass
SHOWN = 100  # characters of an expression in a mutant's name, at most

LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "warn"}
TYPE_CALLS = {"TypeVar", "ParamSpec", "NewType"}


@dataclass(frozen=True)
class Mutant:
    """One fault in one file.

    name: the file, the function and the change; it survives changes elsewhere in the file.
    number: the position among the mutants of the file.
    lines: the first and the last line of the changed expression or statement.
    statement: those of the statement around it, without the block below a compound one.
    at_import: whether the changed code runs when the module is imported.
    """

    file: str
    name: str
    number: int
    lines: tuple[int, int]
    statement: tuple[int, int]
    at_import: bool


@dataclass(frozen=True)
class Place:
    """A node of the syntax tree that can be replaced, and where it stands."""

    parent: ast.AST
    field: str
    index: int | None  # in the list that the field holds
    function: str  # its qualified name; "" outside functions
    at_import: bool
    statement: tuple[int, int]

    @property
    def node(self) -> ast.AST:
        value = getattr(self.parent, self.field)
        node: ast.AST = value if self.index is None else value[self.index]
        return node

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def mutants(root: Path, file: str) -> list[Mutant]:
    """Returns all mutants of a file, in the order of its code."""
    found = []
    for number, (place, new) in enumerate(_changes(ast.parse((root / file).read_text()))):
        old: Any = place.node
        name = f"{file} {place.function or 'module'}: {_described(old, new)}{_around(place)}"
        lines = old.lineno, old.end_lineno
        found.append(Mutant(file, name, number, lines, place.statement, place.at_import))
    return found


def compiled(root: Path, mutant: Mutant) -> CodeType:
    """Returns the code of the mutant's file with its fault; a control has none."""
    tree = ast.parse((root / mutant.file).read_text())
    if mutant.number != CONTROL:
        place, new = list(_changes(tree))[mutant.number]
        ast.copy_location(new, place.node)
        place.put(new)
        ast.fix_missing_locations(tree)
    return compile(tree, str(root / mutant.file), "exec", dont_inherit=True)


def _described(old: ast.AST, new: ast.AST) -> str:
    before = _short(old)
    return f"`{before}` removed" if isinstance(new, ast.Pass) else f"`{before}` -> `{_short(new)}`"


def _around(place: Place) -> str:
    """Returns where a constant stands: its value alone would say little."""
    plain = isinstance(place.node, ast.Constant) and not isinstance(place.parent, ast.arguments)
    return f" in `{_short(place.parent)}`" if plain else ""


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _changes(tree: ast.Module) -> Iterator[tuple[Place, ast.AST]]:
    """Yields every place with every node that may stand there instead."""
    for place in list(_places(tree, "", True, False, (1, 1))):
        for new in replacements(place.node, place.field in ("test", "ifs")):
            yield place, new


def _places(
    parent: ast.AST, function: str, at_import: bool, in_message: bool, statement: tuple[int, int]
) -> Iterator[Place]:
    """Yields the places below a node, without those whose change cannot matter."""
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "format_spec"):
            continue
        in_body = field == "body" and isinstance(parent, ast.FunctionDef | ast.Lambda)
        inside = at_import and not in_body
        for index, node in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(node, ast.AST) or _cannot_matter(node):
                continue
            own = _own_lines(node) if isinstance(node, ast.stmt) else statement
            message = in_message or _is_message(node)
            if message and _is_text(node):
                continue
            part_of_text = isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant)
            if isinstance(node, ast.expr | ast.stmt | ast.ExceptHandler) and not part_of_text:
                yield Place(parent, field, index, function, inside, own)
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            name = f"{function}.{node.name}".lstrip(".") if named else function
            yield from _places(node, name, inside, message, own)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _own_lines(node: ast.stmt) -> tuple[int, int]:
    """Returns the lines of a statement; of a compound one those before its block."""
    body = getattr(node, "body", None)
    last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
    return node.lineno, max(last, node.lineno)


def _cannot_matter(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring, or the dots of a protocol
    if isinstance(node, ast.FunctionDef) and node.name == "__repr__":
        return True
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.annotation, ast.Name) and node.annotation.id == "TypeAlias"
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        return called_name(node.value.func) in TYPE_CALLS
    return False


def _is_message(node: ast.AST) -> bool:
    """Whether text below this node is for people to read: an error's, a print's or a log's."""
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = called_name(node.func)
    return name in {"print", *LOG_METHODS} or name.endswith(("Error", "Failure"))
