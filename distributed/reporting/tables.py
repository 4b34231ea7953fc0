"""Tables of reports, and their Markdown, LaTeX, CSV and plain text; page.py makes the HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class TableCell:
    """A cell whose text differs from its value: `63.2 ± 0.4` sorts as 63.2.

    strong marks the best cell of a column.
    """

    text: str
    value: float | None = None
    strong: bool = False

    @property
    def is_finite(self) -> bool:
        return self.value is not None and math.isfinite(self.value)


CellContent = str | int | float | bool | TableCell | None


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Columns and rows of a table. Its text comes from users and is escaped in every form.

    A cell is text, a number, a truth value, None (shown empty) or a TableCell.
    """

    template: ClassVar[str] = "table"
    columns: tuple[str, ...]
    rows: Sequence[Sequence[CellContent]]
    caption: str = ""
    folded: bool = False  # closed in HTML until a click: for long listings

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), (
                f"a row of {len(row)} cells in a table of {len(self.columns)} columns"
            )

    def cells(self) -> list[list[TableCell]]:
        """Returns every cell with its text, its value and whether it is strong."""
        return [[as_cell(content) for content in row] for row in self.rows]

    def text_columns(self) -> list[bool]:
        """Returns for each column whether it holds only text, which is set to the left."""
        if not self.rows:
            return [False] * len(self.columns)
        return [all(map(_is_text, column)) for column in zip(*self.rows)]


def _is_text(content: CellContent) -> bool:
    if isinstance(content, TableCell):
        return content.value is None
    return content is None or isinstance(content, str)


def format_number(value: float, digits: int = 4) -> str:
    """Formats a number with so many significant digits, without an exponent where possible."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.{digits}g}"


def as_cell(content: CellContent) -> TableCell:
    """Returns the content of a cell as a TableCell."""
    if isinstance(content, TableCell):
        return content
    if content is None:
        return TableCell(text="")
    if isinstance(content, bool):
        return TableCell(text="yes" if content else "no")
    if isinstance(content, int | float):
        return TableCell(text=format_number(content), value=float(content))
    return TableCell(text=str(content))


def cell_text(content: CellContent) -> str:
    """Returns the text that a reader sees in a cell."""
    return as_cell(content).text


def escape_markdown(text: str) -> str:
    """Returns the text on one line and escaped, so that it does not turn into Markdown or HTML."""
    # An underscore inside a word (few_shot) needs no backslash.
    special = r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))"
    plain = re.sub(special, r"\\\1", " ".join(text.split()))
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def to_markdown(table: ReportTable) -> str:
    """Returns the table as Markdown, its caption in a paragraph before it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rows = [
        [f"**{escape_markdown(c.text)}**" if c.strong else escape_markdown(c.text) for c in row]
        for row in table.cells()
    ]
    rule = [
        "---" if is_text or i == 0 else "---:" for i, is_text in enumerate(table.text_columns())
    ]
    lines = [line([escape_markdown(c) for c in table.columns]), line(rule), *map(line, rows)]
    return (f"{escape_markdown(table.caption)}\n\n" if table.caption else "") + "\n".join(lines)


LATEX_ESCAPES = {
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


def escape_latex(text: str) -> str:
    """Returns the text on one line and escaped for LaTeX."""
    return "".join(LATEX_ESCAPES.get(c, c) for c in " ".join(text.split()))


def to_latex(table: ReportTable, label: str = "") -> str:
    r"""Returns the table as a LaTeX float, which needs \usepackage{booktabs}."""

    def line(cells: Sequence[str]) -> str:
        # After a line break, LaTeX would read a bracket or a star as an option of the break.
        guard = "{}" if cells[0].startswith(("[", "*")) else ""
        return guard + " & ".join(cells) + r" \\"

    rows = [
        line(
            [
                rf"\textbf{{{escape_latex(c.text)}}}" if c.strong else escape_latex(c.text)
                for c in row
            ]
        )
        for row in table.cells()
    ]
    alignment = "".join(
        "l" if is_text or i == 0 else "r" for i, is_text in enumerate(table.text_columns())
    )
    head = [r"\begin{table}", r"\centering"]
    if table.caption:
        head.append(rf"\caption{{{escape_latex(table.caption)}}}")
    if label:
        head.append(rf"\label{{{re.sub('[^A-Za-z0-9:.-]+', '-', label)}}}")
    head += [
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        line([escape_latex(c) for c in table.columns]),
        r"\midrule",
    ]
    return "\n".join([*head, *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


# A spreadsheet takes a text that begins like this for a formula, and may run it.
FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def to_csv_text(text: str) -> str:
    """Returns a text as every CSV file of this project holds it: never a formula.

    A text that begins with =, +, -, @, a tab or a line break, perhaps after apostrophes, gets an
    apostrophe before it, as spreadsheets mark text. A text that is a number is none of these.
    """
    return f"'{text}" if FORMULA.match(text) and not NUMBER.fullmatch(text) else text


def from_csv_text(text: str) -> str:
    """Returns the text that `to_csv_text` has written."""
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def csv_line(cells: Iterable[str]) -> str:
    """Returns the cells as a line of a CSV file, without formulas."""
    out = io.StringIO()
    # csv quotes a cell with a character of the line's end: so it must see both.
    csv.writer(out, lineterminator="\r\n").writerow(map(to_csv_text, cells))
    return out.getvalue().removesuffix("\r\n") + "\n"


def to_csv(table: ReportTable) -> str:
    """Returns the table as CSV: values at full precision, a cell without a value as its text."""
    rows = ([_csv_field(content) for content in row] for row in table.rows)
    return "".join(map(csv_line, (table.columns, *rows)))


def _csv_field(content: CellContent) -> str:
    if isinstance(content, int):
        return str(content)  # of a truth value True or False, as pandas writes it
    cell = as_cell(content)
    return cell.text if cell.value is None else repr(cell.value)


def to_text(table: ReportTable) -> str:
    """Returns the table as aligned columns for a terminal."""
    rows = [[cell.text for cell in row] for row in table.cells()]
    widths = [max(map(len, column)) for column in zip(table.columns, *rows)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(table.columns), "  ".join("-" * w for w in widths), *map(line, rows)])
