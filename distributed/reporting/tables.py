"""One table, many forms: HTML, Markdown, LaTeX and CSV from the same cells."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A cell whose text differs from its value: `63.2 ± 0.4` sorts as 63.2. strong marks the best of a column."""

    text: str
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Columns and rows; cells are text, numbers, None (shown empty) or TableCell. Text is the users' and is escaped in every form."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    folded: bool = False  # shown closed in HTML: long listings

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (
                f"a row of {len(row)} cells in a table of {len(self.columns)} columns"
            )


def format_number(value: float, digits: int = 4) -> str:
    """A number as a reader wants it: four significant digits, no exponent where it can be avoided."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.{digits}g}"


def cell_text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, TableCell):
        return cell.text
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return format_number(cell) if isinstance(cell, int | float) else str(cell)


def _value(cell: Any) -> float | None:
    if isinstance(cell, TableCell):
        return cell.value
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


def _strong(cell: Any) -> bool:
    return isinstance(cell, TableCell) and cell.strong


def to_html(table: ReportTable) -> str:
    kinds = [' class="words"' if w else "" for w in _words(table)]
    heads = "".join(
        f'<th scope="col"{k}><button type="button">{html.escape(c)}</button></th>'
        for c, k in zip(table.columns, kinds)
    )
    body = "\n".join("<tr>" + "".join(map(_html_cell, row, kinds)) + "</tr>" for row in table.rows)
    caption = f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    found = f'<div class="scroll"><table class="sortable">{caption}<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    if not table.folded:
        return found
    return f"<details><summary>{html.escape(table.caption or 'Table')} ({len(table.rows)} rows)</summary>{found}</details>"


def _words(table: ReportTable) -> list[bool]:
    """Which columns hold nothing but text: these are set to the left, numbers to the right."""
    return [
        all(c is None or isinstance(c, str) for c in column) for column in zip(*table.rows)
    ] or [False] * len(table.columns)


def _html_cell(cell: Any, kind: str) -> str:
    shown, value = html.escape(cell_text(cell)), _value(cell)
    sort = f' data-value="{value!r}"' if value is not None and math.isfinite(value) else ""
    if kind and len(shown) > 40:
        kind = ' class="words long"'
    return f"<td{sort}{kind}>{f'<strong>{shown}</strong>' if _strong(cell) else shown}</td>"


def escape_markdown(words: str) -> str:
    """Users' text that must not turn into Markdown or HTML."""
    plain = re.sub(
        r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(words.split())
    )  # few_shot needs no backslash
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def to_markdown(table: ReportTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [
        [
            f"**{escape_markdown(cell_text(c))}**" if _strong(c) else escape_markdown(cell_text(c))
            for c in row
        ]
        for row in table.rows
    ]
    rule = ["---" if words or i == 0 else "---:" for i, words in enumerate(_words(table))]
    lines = [line([escape_markdown(c) for c in table.columns]), line(rule), *map(line, rows)]
    return (f"{escape_markdown(table.caption)}\n\n" if table.caption else "") + "\n".join(lines)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "<": "$<$",
    ">": "$>$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "×": r"$\times$",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def escape_latex(words: str) -> str:
    return "".join(_TEX.get(c, c) for c in " ".join(words.split()))


def to_latex(table: ReportTable, label: str = "") -> str:
    """A booktabs table float; needs \\usepackage{booktabs}."""

    def line(cells: Sequence[str]) -> str:
        first = (
            "{}" if cells[0].startswith(("[", "*")) else ""
        )  # else an option of the line break before it
        return first + " & ".join(cells) + r" \\"

    rows = [
        line(
            [
                rf"\textbf{{{escape_latex(cell_text(c))}}}"
                if _strong(c)
                else escape_latex(cell_text(c))
                for c in row
            ]
        )
        for row in table.rows
    ]
    head = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escape_latex(table.caption)}}}"] if table.caption else []),
        *([rf"\label{{{re.sub('[^A-Za-z0-9:.-]+', '-', label)}}}"] if label else []),
        rf"\begin{{tabular}}{{{''.join('l' if words or i == 0 else 'r' for i, words in enumerate(_words(table)))}}}",
        r"\toprule",
        line([escape_latex(c) for c in table.columns]),
        r"\midrule",
    ]
    return "\n".join([*head, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def to_csv(table: ReportTable) -> str:
    """Values at full precision; a cell without a value as its text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.columns)
    for row in table.rows:
        writer.writerow(
            [
                cell_text(c) if _value(c) is None else repr(c if isinstance(c, int) else _value(c))
                for c in row
            ]
        )
    return out.getvalue()


def to_text(table: ReportTable) -> str:
    """Aligned columns for a terminal."""
    rows = [[cell_text(c) for c in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(table.columns, *rows)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))
        ).rstrip()

    return "\n".join([line(table.columns), "  ".join("-" * w for w in widths), *map(line, rows)])
