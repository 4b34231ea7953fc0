"""Numbers in text as people write them: 1.234,56, 1 234.5, 12.3 %, €12.30, 12 kg, (12.5).

The cells of a column are taken apart first, without a decision which mark is the decimal one. The
format of the whole column then gives each cell its number, or none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

POINT, COMMA = ".", ","
MARK_NAMES = {POINT: "points", COMMA: "commas"}
THOUSANDS_NAMES = {POINT: "thousands commas", COMMA: "thousands dots"}  # by the decimal mark
PARENTHESES_NAME = "negative in parentheses"
UNIT_NAME = "unit "

# Blanks and apostrophes between groups of three digits can only mean thousands.
BLANK = "[ \u00a0\u2009\u202f]"
APOSTROPHE = "['’]"
CURRENCY = r"^(?:[A-Z]{0,3}\p{Sc}|USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN)?$"
UNIT = r"^(?:[\p{L}\p{Sc}%‰°/][\p{L}\p{Sc}%‰°/²³]{0,15})?$"
# The classes of characters are wide, because RE2 is slow where large ones are repeated.
AFFIX = r"[^\d\s.,'’()+\-−]*"
DIGIT_RUN = r"[\d.,'’ \x{a0}\x{2009}\x{202f}]*\d[.,]?"
CELL = (
    rf"^(?P<open>\()?(?P<sign>[+\-−])?{BLANK}?(?P<before>{AFFIX}){BLANK}?(?P<inner_sign>[+\-−])?"
    rf"(?P<digits>{DIGIT_RUN})(?P<exponent>[eE][+-]?\d+)?{BLANK}?(?P<after>{AFFIX})(?P<close>\))?$"
)
GROUPS = "|".join(rf"[1-9]\d{{0,2}}(?:{mark}\d{{3}})+" for mark in (BLANK, APOSTROPHE))
DIGITS = {
    POINT: rf"^(?:\d+|[1-9]\d{{0,2}}(?:,\d{{3}})+|{GROUPS})?(?:\.\d*)?$",
    COMMA: rf"^(?:\d+|[1-9]\d{{0,2}}(?:\.\d{{3}})+|{GROUPS})?(?:,\d*)?$",
}
# 1.234 may be a decimal or thousands; so may 1,234.
UNCLEAR_POINT = r"^[+-]?[1-9]\d{0,2}\.\d{3}$"


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written.

    decimal: the decimal mark, POINT or COMMA. thousands: whether the other one groups thousands.
    parentheses: whether (12.5) is -12.5. unit: what each number has before or after it.
    """

    decimal: str = POINT
    thousands: bool = False
    parentheses: bool = False
    unit: str = ""

    @property
    def name(self) -> str:
        """The format as text, which schema.json keeps."""
        parts = [f"decimal {MARK_NAMES[self.decimal]}"]
        if self.thousands:
            parts.append(THOUSANDS_NAMES[self.decimal])
        if self.parentheses:
            parts.append(PARENTHESES_NAME)
        if self.unit:
            parts.append(UNIT_NAME + self.unit)
        return ", ".join(parts)

    @classmethod
    def from_name(cls, name: str) -> NumberFormat | None:
        """Returns the format of a name; None where it is the name of no format."""
        for decimal, mark in MARK_NAMES.items():
            match = re.fullmatch(
                rf"decimal {mark}(?P<thousands>, {THOUSANDS_NAMES[decimal]})?"
                rf"(?P<parentheses>, {PARENTHESES_NAME})?(?:, {UNIT_NAME}(?P<unit>.+))?",
                name,
            )
            if match:
                groups = match.groupdict()
                return cls(
                    decimal,
                    bool(groups["thousands"]),
                    bool(groups["parentheses"]),
                    groups["unit"] or "",
                )
        return None

    def read(self, text: pa.Array) -> FloatArray:
        """Returns the numbers of words, NaN where a word is none in this format."""
        encoded = text.dictionary_encode()
        values = np.append(self.select(take_apart(encoded.dictionary)), np.nan)
        places = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        numbers: FloatArray = values[places]
        return numbers

    def select(self, cells: WrittenNumbers) -> FloatArray:
        """Returns the numbers of cells in this format, NaN where a cell is none."""
        values = cells.comma if self.decimal == COMMA else cells.point
        wrong = cells.units != self.unit
        if not self.parentheses:
            wrong |= cells.parentheses
        if not self.thousands:
            wrong |= cells.has_point if self.decimal == COMMA else cells.has_comma
            if self.decimal == COMMA and not self.unit:
                # Without any other mark than a point it can only be the decimal one.
                values = np.where(cells.only_point & ~cells.has_comma, cells.point, values)
                wrong &= ~(cells.only_point & ~cells.has_comma)
        return np.where(wrong, np.nan, values)


@dataclass(frozen=True)
class WrittenNumbers:
    """Cells taken apart; the unit is "" and the numbers are NaN where a cell is no number.

    point, comma: the number where that is the decimal mark, NaN where it cannot be.
    has_point, has_comma: whether the digits have such a mark.
    """

    units: NDArray[np.object_]
    point: FloatArray
    comma: FloatArray
    parentheses: BoolArray
    has_point: BoolArray
    has_comma: BoolArray

    @property
    def are_numbers(self) -> BoolArray:
        return ~(np.isnan(self.point) & np.isnan(self.comma))

    @property
    def only_point(self) -> BoolArray:
        """Which cells are numbers only where the point is the decimal mark."""
        return ~np.isnan(self.point) & np.isnan(self.comma)

    @property
    def only_comma(self) -> BoolArray:
        return np.isnan(self.point) & ~np.isnan(self.comma)

    @property
    def unclear_comma(self) -> BoolArray:
        """Which cells are such as 1,234."""
        return self.has_comma & self.are_numbers & ~(self.only_point | self.only_comma)

    @property
    def unclear_point(self) -> BoolArray:
        """Which cells are such as 1.234."""
        return self.has_point & self.are_numbers & ~(self.only_point | self.only_comma)


def take_apart(words: pa.Array) -> WrittenNumbers:
    """Takes words apart into sign, digits and unit."""
    words = words.cast(pa.string())
    rows = len(words)
    units = np.full(rows, "", dtype=object)
    point, comma = np.full(rows, np.nan), np.full(rows, np.nan)
    flags = [np.zeros(rows, dtype=bool) for _ in range(3)]
    # The match alone is much quicker than taking apart.
    matched = _mask(pc.fill_null(pc.match_substring_regex(words, CELL), False))
    if matched.any():
        parsed = pc.extract_regex(words.filter(pa.array(matched)), CELL)
        parts = dict(zip(parsed.type.names, parsed.flatten(), strict=True))
        sign = _sign(parts)
        point[matched] = sign * _value(parts, POINT)
        comma[matched] = sign * _value(parts, COMMA)
        unit = pc.binary_join_element_wise(parts["before"], parts["after"], "")
        units[matched] = unit.to_numpy(zero_copy_only=False)
        flags[0][matched] = _mask(pc.not_equal(parts["open"], ""))
        for flag, mark in zip(flags[1:], (POINT, COMMA)):
            flag[matched] = _mask(pc.match_substring(parts["digits"], mark))
    return WrittenNumbers(units, point, comma, *flags)


def _mask(flags: pa.Array) -> BoolArray:
    return np.asarray(flags.to_numpy(zero_copy_only=False), dtype=bool)


def _sign(parts: dict[str, pa.Array]) -> FloatArray:
    """Returns 1 or -1 for each cell, NaN where what stands around the digits is no number's."""
    present = {name: _mask(pc.not_equal(parts[name], "")) for name in parts}
    negative = present["open"].copy()
    for name in ("sign", "inner_sign"):
        negative ^= _mask(pc.is_in(parts[name], value_set=pa.array(["-", "−"])))
    usable = (present["open"] == present["close"]) & ~(present["before"] & present["after"])
    for name, pattern in (("before", CURRENCY), ("after", UNIT)):
        if not present[name].any():  # nothing is valid too, and the patterns are slow to compile
            continue
        affixes = parts[name].dictionary_encode()  # a column has few
        valid = _mask(pc.match_substring_regex(affixes.dictionary, pattern))
        usable &= valid[affixes.indices.to_numpy()]
    return np.where(usable, np.where(negative, -1.0, 1.0), np.nan)


def _value(parts: dict[str, pa.Array], decimal: str) -> FloatArray:
    """Returns the digits of cells as numbers, by a decimal mark; NaN where that cannot be."""
    digits = parts["digits"]
    is_valid = pc.match_substring_regex(digits, DIGITS[decimal])
    other = COMMA if decimal == POINT else POINT
    plain = pc.replace_substring_regex(digits, rf"[{other}'’\s\x{{a0}}\x{{2009}}\x{{202f}}]", "")
    plain = pc.binary_join_element_wise(
        pc.replace_substring(plain, decimal, POINT), parts["exponent"], ""
    )
    numbers = pc.if_else(is_valid, plain, None).cast(pa.float64())
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
