"""What a search says of rows with a spoilt modality: who loses how much, and if that is chance."""

from __future__ import annotations

from typing import Any

import pytest

from distributed.searches.pages.report import spoilt_section
from distributed.searches.pages.spoilt_table import EXAMPLES_NOTE, SpoiltRows


def run(title: str, untouched: float, spoilt: float) -> dict[str, Any]:
    scores = {"untouched": untouched, "spoilt": spoilt}
    return {
        "title": title,
        "scores": {name: {"balanced_accuracy": value} for name, value in scores.items()},
    }


def voice(name: str, says: str, present: bool = True) -> dict[str, Any]:
    return {"name": name, "present": present, "says": says, "probability": 0.35, "weight": 0.28}


EXAMPLES: list[dict[str, Any]] = [
    {
        "id": "W07",
        "spoilt": True,
        "truth": "donut",
        "modalities": [voice("map", "random"), voice("table", "edge-loc")],
        "model": {"says": "donut", "probability": 0.39},
        "plain": {"says": "near-full", "probability": 0.34},
    },
    {
        "id": "W16",
        "spoilt": False,
        "truth": "scratch",
        "modalities": [voice("map", "scratch"), voice("table", "none", present=False)],
        "model": {"says": "scratch", "probability": 0.48},
        "plain": None,
    },
]


def found(
    corrupt: str = "map=noise:0.5", lead: dict[str, float] | None = None, plain: str = "0001"
) -> SpoiltRows:
    runs = [
        run("0001", 0.672, 0.474),
        run("0000", 0.651, 0.541),
        run("table-alone", 0.496, 0.496),
        run("the model", 0.673, 0.549),
    ]
    titles = {"0000": "the starting point", "0001": "plain concatenation"}
    content = {"corrupt": corrupt, "rows": 5000, "runs": runs, "examples": EXAMPLES, "lead": lead}
    return SpoiltRows(content, {**titles, "table-alone": "the table alone"}, "0000", plain)


def test_the_table_begins_with_the_best_on_spoilt_rows_and_has_the_change() -> None:
    table = found().table()
    assert table.caption == (
        "Balanced accuracy on 5,000 test rows: as they are, and with the map of 50 % of the rows"
        " replaced by noise"
    )
    texts = [[cell.text for cell in row] for row in table.cells()]
    assert texts == [
        ["the model", "67.3 %", "54.9 %", "−12.4"],
        ["the starting point (best settings, first run)", "65.1 %", "54.1 %", "−11.0"],
        ["the table alone", "49.6 %", "49.6 %", "0.0"],
        ["plain concatenation", "67.2 %", "47.4 %", "−19.8"],
    ]


FALLS = (
    "With the map of 50 % of the rows replaced by noise, plain concatenation loses 19.8 points and"
    " has 47.4 %, the model loses 12.4 points and has 54.9 %."
)


@pytest.mark.parametrize(
    ("difference", "error", "said"),
    [
        (0.075, 0.02, "The model is better there (+7.5 points, 95 % interval over these rows +3.6"),
        (0.075, 0.05, "not shown to be better (+7.5 points, 95 % interval over these rows −2.3 to"),
        (-0.075, 0.02, "the model is worse than plain concatenation (−7.5 points"),
    ],
)
def test_the_conclusion_says_whether_it_is_chance(
    difference: float, error: float, said: str
) -> None:
    text = found(lead={"difference": difference, "error": error}).conclusion()
    assert text.startswith(FALLS)
    assert said in text
    assert text.endswith("One run of the best settings, as plain concatenation is one, has 54.1 %.")
    assert found().conclusion() == FALLS, "an experiment of an earlier version has no interval"


def test_without_plain_concatenation_the_model_stands_alone() -> None:
    assert found(plain="").conclusion() == (
        "With the map of 50 % of the rows replaced by noise, the model loses 12.4 points and has"
        " 54.9 %."
    )


@pytest.mark.parametrize(
    ("corrupt", "condition", "state"),
    [
        ("map=missing", "the map of every row taken away", "its map taken away"),
        (
            "map=shuffle:0.2,table=noise:0.1",
            "the map of 20 % of the rows exchanged for that of another row and the table of 10 %"
            " of the rows replaced by noise",
            "spoilt",
        ),
    ],
)
def test_every_corruption_is_put_into_words(corrupt: str, condition: str, state: str) -> None:
    spoilt = found(corrupt)
    assert spoilt.condition() == condition
    assert spoilt.examples()[0].caption() == f"Row W07, in truth donut, {state}"


def test_a_row_in_words_and_as_a_table() -> None:
    first, second = found().examples()
    assert first.sentence() == (
        "Row W07, in truth donut, its map replaced by noise: the map says random (35 %), trusted"
        " 28 %; the table says edge-loc (35 %), trusted 28 %. The model answers donut (39 %), plain"
        " concatenation near-full (34 %)."
    )
    assert second.sentence() == (
        "Row W16, in truth scratch, as it is: the map says scratch (35 %), trusted 28 %; the table"
        " is missing. The model answers scratch (48 %)."
    )
    assert [[cell.text for cell in row] for row in first.table().cells()] == [
        ["map alone", "random", "35 %", "28 %"],
        ["table alone", "edge-loc", "35 %", "28 %"],
        ["plain concatenation", "near-full (wrong)", "34 %", ""],
        ["the model", "donut (right)", "39 %", ""],
    ]
    assert [cell.text for cell in second.table().cells()[1]] == ["table alone", "missing", "", ""]


def test_the_section_says_how_the_rows_were_picked() -> None:
    texts = [getattr(block, "text", "") for block in spoilt_section(found())]
    assert EXAMPLES_NOTE in texts
    assert spoilt_section(None) == []
