"""Reads and checks a matrix of the costs of decisions: what it costs to decide d where t is true.

Legend: C classes.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from distributed.runtime.errors import OptionError
from distributed.runtime.storage import read_file
from model.schema import join_names

if TYPE_CHECKING:
    import pandas as pd

CostMatrix: TypeAlias = tuple[tuple[float, ...], ...]  # [true class][decided class]
# A file, a frame with the true classes as index, or {true class: {decided class: cost}}.
Costs: TypeAlias = "str | pd.DataFrame | Mapping[str, Mapping[str, float]]"
RULE = (
    "cost must be a table with a row for every true class and a column for every decided class, "
    "the names of the true classes in its first column"
)


def cost_matrix(costs: Costs, classes: Sequence[str]) -> CostMatrix:
    """Returns the costs in the order of the classes, whatever they are given as."""
    if isinstance(costs, str):
        return read_costs(costs, classes)
    if not isinstance(costs, Mapping):  # a frame
        costs = {
            str(true): {str(decided): cost for decided, cost in row.items()}
            for true, row in costs.to_dict("index").items()
        }
    return _ordered(costs, classes, "it")


def read_costs(path: str, classes: Sequence[str]) -> CostMatrix:
    """Returns the cost matrix of a CSV file."""
    try:
        text = read_file(path).decode("utf-8-sig")
    except OSError:
        raise OptionError(
            f"cost must name a CSV file that exists and can be read; got {path!r}", "cost"
        ) from None
    except UnicodeDecodeError as error:
        raise OptionError(f"cost must be a CSV file in UTF-8; {path}: {error}", "cost") from None
    try:
        header, *lines = [line for line in csv.reader(io.StringIO(text), strict=True) if any(line)]
    except (ValueError, csv.Error) as error:
        problem = error if isinstance(error, csv.Error) else "it is empty"
        raise OptionError(f"{RULE}; {path}: {problem}", "cost") from None
    for line in lines:
        if len(line) != len(header):
            raise OptionError(
                f"{RULE}; {path}: the row {line[0]!r} has {len(line)} cells instead of "
                f"{len(header)}",
                "cost",
            )
    rows = [line[0] for line in lines]
    repeated = [name for name in rows if rows.count(name) > 1]
    if repeated:
        raise OptionError(f"{RULE}; {path}: the row {repeated[0]!r} is there twice", "cost")
    names = [name.strip() for name in header[1:]]
    costs = {line[0].strip(): dict(zip(names, line[1:], strict=True)) for line in lines}
    return _ordered(costs, classes, path)


def _ordered(
    costs: Mapping[str, Mapping[str, object]], classes: Sequence[str], source: str
) -> CostMatrix:
    """Returns the costs in the order of the classes; raises OptionError where one is missing."""
    named = {str(name): row for name, row in costs.items()}
    for kind, names in (("row", list(named)), *(("column", list(row)) for row in named.values())):
        texts = [str(name) for name in names]
        missing = [name for name in classes if name not in texts]
        unknown = [name for name in texts if name not in classes]
        if missing or unknown:
            what = f"lacks the {kind} {join_names(missing)}" if missing else ""
            more = f"has a {kind} for {join_names(unknown)}, which is no class" if unknown else ""
            raise OptionError(
                f"{RULE}; {source} {' and '.join(part for part in (what, more) if part)}; "
                f"classes: {join_names(classes)}",
                "cost",
            )
    return tuple(
        tuple(_cost(named[true][decided], true, decided) for decided in classes) for true in classes
    )


def _cost(cell: object, true: str, decided: str) -> float:
    try:
        cost = float(cell)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        cost = math.nan
    if not math.isfinite(cost):
        raise OptionError(
            f"cost must be a finite number for every pair of classes; got {cell!r} for deciding "
            f"{decided} where {true} is true",
            "cost",
        )
    return cost
