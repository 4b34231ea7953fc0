"""What may stand in the place of a piece of code: the kinds of faults that mutants have."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any

BOUNDARY: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}

TYPES = {"bool", "bytes", "dict", "float", "int", "list", "str", "tuple"}
# The order of their arguments makes no difference, or they only fail with another one.
UNORDERED = {"min", "max", "minimum", "maximum", "isinstance"}


def replacements(node: ast.AST, is_condition: bool) -> Iterator[ast.AST]:
    """Yields the nodes that may stand in the place of a node."""
    if is_condition:
        yield from _negated(node)
    for kind, changed in CHANGES.items():
        if isinstance(node, kind):
            yield from changed(node)


def called_name(function: ast.expr) -> str:
    """Returns the last word of a called function's name."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _negated(test: Any) -> Iterator[ast.AST]:
    """A condition turned round; comparisons and `not` have changes of their own."""
    simple_comparison = isinstance(test, ast.Compare) and len(test.ops) == 1
    if not simple_comparison and not isinstance(test, ast.UnaryOp | ast.Constant):
        yield ast.UnaryOp(ast.Not(), copy.deepcopy(test))


def _compare(node: ast.Compare) -> Iterator[ast.AST]:
    for i, operator in enumerate(node.ops):
        for table in (BOUNDARY, OPPOSITE):
            if type(operator) in table:
                new = copy.deepcopy(node)
                new.ops[i] = table[type(operator)]()
                yield new


def _boolean(node: ast.BoolOp) -> Iterator[ast.AST]:
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield ast.BoolOp(other, copy.deepcopy(node.values))


def _unary(node: ast.UnaryOp) -> Iterator[ast.AST]:
    """The operand without its `not`, `-` or `~`."""
    yield copy.deepcopy(node.operand)


def _arithmetic(node: ast.BinOp) -> Iterator[ast.AST]:
    whole = not (_is_text(node.left) or _is_text(node.right) or _is_type_union(node))
    if type(node.op) in ARITHMETIC and whole:
        new = copy.deepcopy(node)
        new.op = ARITHMETIC[type(node.op)]()
        yield new


def _is_text(node: ast.expr) -> bool:
    """Whether another operator than + could not even be computed."""
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _is_type_union(node: ast.BinOp) -> bool:
    """Whether it is a type such as `int | str`, for which only | has a meaning."""
    names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return isinstance(node.op, ast.BitOr) and bool(names & TYPES)


def _augmented(node: ast.AugAssign) -> Iterator[ast.AST]:
    if type(node.op) in ARITHMETIC and not _is_text(node.value):
        new = copy.deepcopy(node)
        new.op = ARITHMETIC[type(node.op)]()
        yield new
    yield ast.Pass()


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant("XX" + value)
    elif isinstance(value, bytes):
        yield ast.Constant(b"XX" + value)


def _formatted(node: ast.JoinedStr) -> Iterator[ast.AST]:
    for i, part in enumerate(node.values):
        if isinstance(part, ast.Constant):
            new = copy.deepcopy(node)
            new.values[i] = ast.Constant(f"XX{part.value}")
            yield new
            return


def _call(node: ast.Call) -> Iterator[ast.AST]:
    """The call with its first two arguments swapped."""
    starred = any(isinstance(argument, ast.Starred) for argument in node.args[:2])
    if len(node.args) < 2 or starred or called_name(node.func) in UNORDERED:
        return
    if ast.dump(node.args[0]) != ast.dump(node.args[1]):
        new = copy.deepcopy(node)
        new.args[0], new.args[1] = new.args[1], new.args[0]
        yield new


def _statement(node: ast.Expr) -> Iterator[ast.AST]:
    if isinstance(node.value, ast.Call):
        yield ast.Pass()


def _removed(node: ast.AST) -> Iterator[ast.AST]:
    yield ast.Pass()


def _assignment(node: ast.Assign) -> Iterator[ast.AST]:
    """Without an assignment to a plain name the code would only break."""
    if not any(isinstance(target, ast.Name | ast.Tuple) for target in node.targets):
        yield ast.Pass()


def _returned(node: ast.Return) -> Iterator[ast.AST]:
    if node.value is None:
        yield ast.Pass()
    elif not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))


def _handler(node: ast.ExceptHandler) -> Iterator[ast.AST]:
    """The handler without one of the errors that it names."""
    if isinstance(node.type, ast.Tuple):
        for i in range(len(node.type.elts)):
            new = copy.deepcopy(node)
            assert isinstance(new.type, ast.Tuple)
            del new.type.elts[i]
            yield new


def _break(node: ast.Break) -> Iterator[ast.AST]:
    yield ast.Continue()


def _continue(node: ast.Continue) -> Iterator[ast.AST]:
    yield ast.Break()


CHANGES: dict[type[ast.AST], Callable[[Any], Iterator[ast.AST]]] = {
    ast.Compare: _compare,
    ast.BoolOp: _boolean,
    ast.UnaryOp: _unary,
    ast.BinOp: _arithmetic,
    ast.AugAssign: _augmented,
    ast.Constant: _constant,
    ast.JoinedStr: _formatted,
    ast.Call: _call,
    ast.Expr: _statement,
    ast.Raise: _removed,
    ast.Delete: _removed,
    ast.Assign: _assignment,
    ast.Return: _returned,
    ast.ExceptHandler: _handler,
    ast.Break: _break,
    ast.Continue: _continue,
}
