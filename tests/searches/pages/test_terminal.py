"""What a search prints fits 80 columns, and loses no word by that."""

from __future__ import annotations

import pytest

from distributed.reporting.tables import ReportTable, TableCell
from distributed.searches.pages.terminal import print_note, print_text, table_lines

TABLE = ReportTable(
    columns=("configuration", "balanced accuracy on validation", "meaning"),
    rows=[
        ("plain concatenation: modalities count alike", TableCell(text="64.8 %", value=0.648), "a"),
        ("short", TableCell(text="9.1 %", value=0.091), "a long explanation of what this is for"),
    ],
)


def test_a_table_that_fits_has_one_line_a_row_and_numbers_to_the_right() -> None:
    head, first, second = table_lines(TABLE, 200)
    end = head.index("validation") + len("validation")
    assert first[:end].endswith("  64.8 %")
    assert second[:end].endswith("  9.1 %")
    assert second.startswith("  short ")


@pytest.mark.parametrize("width", [50, 64, 80])
def test_a_wide_table_is_broken_inside_its_cells(width: int) -> None:
    lines = table_lines(TABLE, width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for cell in (*TABLE.columns, *TABLE.rows[0][::2], *TABLE.rows[1][::2]):
        assert set(str(cell).split()) <= set(words)


def test_heads_are_broken_before_cells() -> None:
    table = ReportTable(columns=("a very long head of a column",), rows=[("a cell of its own",)])
    assert table_lines(table, 22) == ["  a very long head", "  of a column", "  a cell of its own"]


def test_numbers_with_notes_stay_in_line() -> None:
    rows = [
        ("x", TableCell(text="58.8 %", value=0.588)),
        ("y", TableCell(text="64.8 % (1 run)", value=0.648)),
    ]
    _, first, second = table_lines(ReportTable(columns=("who", "score"), rows=rows), 80)
    assert first.index("58.8 %") == second.index("64.8 %")


def test_a_sentence_is_broken_at_blanks_and_a_path_stays_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    path = "/a/long/path-with-hyphens/" + "x" * 60
    print_text(f"{path} holds a model of several runs that answer together")
    first, *others = capsys.readouterr().out.splitlines()
    assert first == path
    assert max(map(len, others)) <= 40


def test_a_note_in_a_log_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_note("word " * 40 + "end")
    assert capsys.readouterr().err.count("\n") == 1
