"""Tables and sentences as plain text that fits the terminal, without colours."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from distributed.reporting.tables import ReportTable

MOST_COLUMNS = 100  # longer lines are hard to read
NARROWEST = 12  # characters of a column
GAP = "  "  # before every column


def line_width() -> int:
    """Characters of a line: those of the terminal, 80 where the text goes to a file."""
    return min(MOST_COLUMNS, shutil.get_terminal_size((80, 24)).columns)


def print_text(text: str, *, indent: str = "") -> None:
    """Prints a paragraph in lines that fit; a path or a long word stays whole."""
    print("\n".join(_wrap(text, line_width(), indent)))


def print_note(text: str) -> None:
    """Prints a sentence on stderr: in lines that fit a terminal, on one line of a log."""
    lines = _wrap(text, line_width()) if sys.stderr.isatty() else [text]
    print("\n".join(lines), file=sys.stderr)


def print_table(table: ReportTable) -> None:
    """Prints a table below its caption: columns aligned, long cells on several lines."""
    print()
    print_text(table.caption)
    print("\n".join(table_lines(table, line_width())))


def table_lines(table: ReportTable, width: int) -> list[str]:
    """The lines of a table that is at most so wide, where words are not longer."""
    rows = [[cell.text for cell in row] for row in table.cells()]
    # Numbers are set to the right, unless some have a note in brackets behind them.
    is_left = [
        i == 0 or is_text or any("(" in row[i] for row in rows)
        for i, is_text in enumerate(table.text_columns())
    ]
    heads = [len(column) for column in table.columns]
    content = [max((len(row[i]) for row in rows), default=0) for i in range(len(heads))]
    widths = [max(pair) for pair in zip(heads, content)]
    if _total(widths) > width:  # heads are broken before cells are
        narrowed = [max(min(head, NARROWEST), cells) for head, cells in zip(heads, content)]
        widths = _fit(narrowed, width)
    lines = []
    for row in [table.columns, *rows]:
        cells = [_wrap(text, w) for text, w in zip(row, widths)]
        for i in range(max(map(len, cells))):
            parts = [cell[i] if i < len(cell) else "" for cell in cells]
            aligned = [
                part.ljust(w) if left else part.rjust(w)
                for part, w, left in zip(parts, widths, is_left)
            ]
            lines.append(f"{GAP}{GAP.join(aligned)}".rstrip())
    return lines


def _fit(widths: Sequence[int], width: int) -> list[int]:
    """The widths of the columns, the widest ones narrowed until all fit into the width."""
    fitting = list(widths)
    while _total(fitting) > width and max(fitting) > NARROWEST:
        fitting[fitting.index(max(fitting))] -= 1
    return fitting


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * len(widths)


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]
