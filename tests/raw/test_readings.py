"""Numbers and dates as people write them: one reading of a whole column, no guess, the same for new
rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from distributed.raw.cells import as_numbers
from distributed.raw.columns import ColumnDecision
from distributed.raw.encoding import encode_column
from distributed.raw.number_formats import COMMA, POINT, NumberFormat
from distributed.raw.reading_choice import ReadingHints
from model.schema import Numeric
from tests.raw.test_columns import decided

POINTS = ReadingHints(decimal="point")
COMMAS = ReadingHints(decimal="comma")


def spread(*cells: str, rows: int = 30) -> list[str]:
    """The cells, repeated."""
    return [cells[i % len(cells)] for i in range(rows)]


def numbers_of(decision: ColumnDecision, cells: list[str]) -> list[float | None]:
    """The shard column of new cells."""
    assert isinstance(decision.column, Numeric)
    encoded, _ = encode_column(pa.array(cells), decision.column, decision.reading)
    return [None if cell is None else round(cell, 4) for cell in encoded.to_pylist()]


@pytest.mark.parametrize(
    ("cells", "numbers", "reading"),
    [
        (["1.234,56", "7,5", "900"], [1234.56, 7.5, 900], "decimal commas, thousands dots"),
        (["1,234.56", "7.5", "900"], [1234.56, 7.5, 900], "decimal points, thousands commas"),
        (["1 234,56", "7,5"], [1234.56, 7.5], "decimal commas"),
        (["1\u202f234,56", "1'234,5"], [1234.56, 1234.5], "decimal commas"),
        (["1,234", "2.5"], [1234, 2.5], "decimal points, thousands commas"),
        (["1.234", "2,5"], [1234, 2.5], "decimal commas, thousands dots"),
        (["1.234.567", "1.000"], [1234567, 1000], "decimal commas, thousands dots"),
        (["12.3%", "7 %"], [12.3, 7], "decimal points, unit %"),
        (["€12.30", "-€5", "€-7"], [12.3, -5, -7], "decimal points, unit €"),
        (["12,30 €", "1.200 €"], [12.3, 1200], "decimal commas, thousands dots, unit €"),
        (["$1,200", "$1,200.50"], [1200, 1200.5], "decimal points, thousands commas, unit $"),
        (["USD 12", "USD 7.5"], [12, 7.5], "decimal points, unit USD"),
        (["12 kg", "7kg"], [12, 7], "decimal points, unit kg"),
        (["1,5 mg/dl", "2 mg/dl"], [1.5, 2], "decimal commas, unit mg/dl"),
        (["(12.5)", "7.25"], [-12.5, 7.25], "decimal points, negative in parentheses"),
        (["−5", "7.5"], [-5, 7.5], "decimal points"),
        (["2024/12/25", "2024.04.03"], [1735084800, 1712102400], "dates"),
        (["25/12/2024", "3/4/2024"], [1735084800, 1712102400], "dates, day first"),
        (["12/25/2024", "4/3/2024"], [1735084800, 1712102400], "dates, month first"),
        (["25.12.2024 14:30", "03.04.2024"], [1735137000, 1712102400], "dates, day first"),
        (["12/25/2024 2:30 PM", "4/3/2024"], [1735137000, 1712102400], "dates, month first"),
    ],
)
@pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.large_string())])
def test_a_column_of_one_reading_is_read_and_its_note_says_so(
    cells: list[str], numbers: list[float], reading: str, kind: pa.DataType
) -> None:
    for pieces in (1, 7):
        found = decided(spread(*cells), kind=kind, pieces=pieces)
        assert (found.reading, found.warning) == (reading, "")
        assert found.note.startswith(f"{reading}: ")
        assert isinstance(found.column, Numeric)
        mean = np.mean([numbers[i % len(numbers)] for i in range(30)])
        assert found.column.mean == pytest.approx(mean, rel=1e-6)
    values = as_numbers(pa.array(cells), found.reading)[0]
    assert values.tolist() == numbers


def test_all_different_numbers_are_no_ids() -> None:
    for cells in (
        [f"1.{i:03},56" for i in range(200)],
        [f"{i} kg" for i in range(200)],
        [f"{i % 28 + 1}/{i % 12 + 1}/{1900 + i}" for i in range(200)],
    ):
        found = decided(cells)
        assert (found.kind, found.warning) == ("number", "")
    several = decided([f"{i} {'kg' if i % 2 else 'g'}" for i in range(200)])
    note = "numbers in several units (g, kg): write one unit (--categorical keeps it)"
    assert (several.column, several.note) == (None, note)
    assert decided([f"{i}{'abcdefgh'[i % 8]}" for i in range(200)]).note.endswith(
        "an id, not a feature (--categorical keeps it)"
    )


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["1,234", "12,500", "7"], "cells such as '1,234' may be thousands or decimals: --decimal"),
        (["1,234 kg", "7 kg"], "cells such as '1,234 kg' may be thousands or decimals: --decimal"),
        (["1,234", "1.500"], "cells such as '1,234' may be thousands or decimals: --decimal"),
        (
            ["3/4/2024", "11/12/2024"],
            "dates such as '3/4/2024' may have the day or the month first",
        ),
        (["25/4/2024", "4/25/2024"], "dates such as '25/4/2024' and '4/25/2024' have the day"),
        (["1.234,5", "2.25"], "cells such as '2.25' and '1.234,5' have different decimal marks"),
        (["2,5", "2.25", "1.234"], "cells such as '2.25' and '2,5' have different decimal marks"),
        (["2,5 kg", "2.25 kg"], "cells such as '2.25 kg' and '2,5 kg' have different decimal"),
    ],
)
def test_what_has_several_meanings_is_no_guess(cells: list[str], problem: str) -> None:
    found = decided(spread(*cells), pieces=4)
    assert found.column is None
    assert found.note.startswith(problem)
    assert decided(spread(*cells), "categorical").kind == "category"
    forced = decided(spread(*cells), "numeric")
    assert forced.kind == "number"
    assert forced.note or forced.warning


@pytest.mark.parametrize(
    ("cells", "hints", "numbers"),
    [
        (["1,234", "7"], POINTS, [1234, 7]),
        (["1,234", "7"], COMMAS, [1.234, 7]),
        (["1,234", "7"], ReadingHints(semicolons=True), [1.234, 7]),
        (["1.234", "7"], ReadingHints(), [1.234, 7]),
        (["1.234", "7"], COMMAS, [1234, 7]),
        (["1,234 kg", "7 kg"], COMMAS, [1.234, 7]),
        (["1,234", "1.500"], COMMAS, [1.234, 1500]),
        (["3/4/2024", "4/3/2024"], ReadingHints(dates="day-first"), [1712102400, 1709510400]),
        (["3/4/2024", "4/3/2024"], ReadingHints(dates="month-first"), [1709510400, 1712102400]),
        (["2.25", "7"], COMMAS, [2.25, 7]),
        (["3/25/2024"], ReadingHints(dates="day-first"), [1711324800]),
    ],
)
def test_the_option_decides_where_the_cells_do_not(
    cells: list[str], hints: ReadingHints, numbers: list[float]
) -> None:
    found = decided(spread(*cells, "" if len(cells) == 1 else cells[0]), "numeric", hints=hints)
    assert found.kind == "number"
    assert as_numbers(pa.array(cells), found.reading)[0].tolist() == numbers


def test_decimals_that_may_be_thousands_are_warned_of_in_a_table_of_semicolons() -> None:
    semicolons = ReadingHints(semicolons=True)
    warning = decided(spread("1.234", "950"), hints=semicolons, pieces=3).warning
    assert warning == (
        "x: cells such as '1.234' are read as decimals: --decimal comma reads them as thousands"
    )
    assert not decided(spread("1.234", "9.5"), hints=semicolons).warning
    assert not decided(spread("1.234", "950")).warning


def test_new_cells_are_read_as_the_training_cells_or_not_at_all() -> None:
    thousands = decided(spread("1.234,56", "7,5"))
    assert numbers_of(thousands, ["2.345,00", "2.345", "12", "2,345.00"]) == [2345, 2345, 12, None]
    commas = decided(spread("12,5", "7,25"))
    cells = ["1,234", "1.234", "2.25", "1.234,5"]
    assert numbers_of(commas, cells) == [1.234, None, 2.25, None]
    plain = decided(spread("12.5", "7.25"))
    assert numbers_of(plain, ["1.234", "1,234", "3,5", "12 kg"]) == [1.234, None, None, None]
    kilos = decided(spread("12.5 kg", "7 kg"))
    assert numbers_of(kilos, ["3 kg", "3 g", "3", "1,234 kg"]) == [3, None, None, None]
    day_first = decided(spread("25/12/2024", "1/2/2024"))
    assert numbers_of(day_first, ["3/4/2024", "12/25/2024", "5"]) == [1712102400, None, None]
    typed, unread = encode_column(pa.array([0.123, None]), kilos.column, kilos.reading)
    assert (typed.null_count, unread) == (2, 1)


def test_one_decimal_comma_in_another_block_does_not_make_thousands_of_decimals() -> None:
    cells = ["2.25"] * 20 + ["3,5"] * 20
    found = decided(cells, pieces=2)
    assert found.reading == "decimal commas"
    assert found.column == decided(cells[::-1], pieces=1).column
    assert numbers_of(found, ["2.25", "3,5"]) == [2.25, 3.5]
    typo = decided(["1.234"] * 10 + ["2.25"] * 80 + ["3,5"])
    assert numbers_of(typo, ["1.234", "2.25", "3,5"]) == [1.234, 2.25, None]
    assert "1 cells are no numbers: missing (such as '3,5')" in typo.note
    late = decided(["1.234"] * 20 + ["7,5"] * 20, pieces=2)
    assert numbers_of(late, ["1.234", "7,5"]) == [1234, 7.5]
    assert isinstance(late.column, Numeric)
    assert late.column.mean == pytest.approx(620.75)


def test_the_user_s_numeric_reads_the_most_frequent_reading_and_says_what_is_left() -> None:
    found = decided(spread("12 kg", "7 kg", "heavy"), "numeric")
    assert found.reading == "decimal points, unit kg"
    assert "10 cells are no numbers: missing (such as 'heavy')" in found.note
    rare = decided(spread("12 kg", "heavy", "light", "7 kg", "light"), "numeric", pieces=2)
    assert rare.reading == "decimal points, unit kg"
    unclear = decided(spread("1,234", "12,500"), "numeric")
    assert unclear.warning == (
        "x: cells such as '1,234' may be thousands or decimals: "
        "--decimal point or --decimal comma says which"
    )


def test_free_text_is_called_so() -> None:
    words = ["the", "skin", "is", "red", "and", "warm", "since", "monday"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 6)) for _ in range(100)]
    found = decided([*texts, *texts[:30]])
    assert found.column is None
    assert found.note == "free text, which is not read (--categorical keeps it)"
    assert decided(texts, "categorical").kind == "category"
    assert decided(spread("not at all", "now and then", "all the time")).kind == "category"


@pytest.mark.parametrize("cells", [["M4", "M8"], ["5-9", "10-14"], ["v1.0", "v2.0"], ["12:30"]])
def test_codes_and_ranges_are_no_numbers(cells: list[str]) -> None:
    assert decided(spread(*cells, "other")).kind == "category"


def test_the_name_of_a_format_says_all_of_it() -> None:
    for decimal in (POINT, COMMA):
        for thousands in (False, True):
            for parentheses in (False, True):
                for unit in ("", "kg", "mg/dl", "€", "unit"):
                    found = NumberFormat(decimal, thousands, parentheses, unit)
                    assert NumberFormat.from_name(found.name) == found
    assert NumberFormat.from_name("dates, day first") is None
