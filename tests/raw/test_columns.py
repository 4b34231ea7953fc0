"""Column types, statistics and cells; and the signs of a leak."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
import torch

from distributed.ingestion.leaks import crossing_groups, identical_images, label_leak
from distributed.raw import column_stats, columns, encoding
from distributed.raw.cells import as_numbers, as_text, canonical_spelling
from distributed.raw.columns import ColumnDecision
from distributed.raw.reading_choice import ReadingHints
from model.encoders.table import NumberEmbedding
from model.schema import Categorical, Numeric


def decided(
    values: object,
    forced: str = "",
    kind: pa.DataType | None = None,
    pieces: int = 1,
    hints: ReadingHints | None = None,
) -> ColumnDecision:
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    bounds = np.linspace(0, len(array), pieces + 1).astype(int)
    parts = []
    for low, high in zip(bounds[:-1], bounds[1:]):
        n = high - low
        parts.append(
            column_stats.column_stats(
                array.slice(low, n), np.arange(low, high) % 2, np.ones(n, dtype=bool)
            )
        )
    return columns.decide_column("x", column_stats.combine_stats(parts), forced, hints)


def test_numbers_have_their_mean_spread_and_quantiles_over_any_cut_into_blocks() -> None:
    values = np.random.default_rng(0).normal(1e6, 3, 1000)
    for pieces in (1, 7):
        column = decided(values, pieces=pieces).column
        assert isinstance(column, Numeric)
        single = values.astype(np.float32).astype(float)
        assert column.mean == pytest.approx(single.mean(), rel=1e-7)
        assert column.std == pytest.approx(single.std(), rel=1e-6)
        assert column.quantiles[0] == single.min()
        assert column.quantiles[-1] == single.max()
        assert list(column.quantiles) == sorted(set(column.quantiles))
        assert column.quantiles[len(column.quantiles) // 2] == pytest.approx(
            np.median(single), abs=0.2
        )


def test_missing_is_a_share_of_the_rows() -> None:
    column = decided([1.0, None, 2.5, float("nan"), 4.0] * 4).column
    assert isinstance(column, Numeric)
    assert column.missing == 0.4
    words = decided(["a", "", "NA", "b", None] * 4).column
    assert isinstance(words, Categorical)
    assert (words.vocabulary, words.missing) == (("a", "b"), 0.6)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", " 2.5", "-3e2", "4"] * 5, "number"),
        (["red", "blue"] * 10, "category"),
        (["None", "a"] * 10, "category"),
        ([True, False] * 10, "category"),
        ([3, 1, 2, 3] * 5, "number"),
        (["007", "012", "113", "007"] * 5, "category"),
        ([datetime.date(2020, 1, 1), datetime.date(2021, 1, 1)] * 10, "number"),
        (
            [
                datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
                datetime.datetime(2021, 1, 1, tzinfo=datetime.UTC),
            ]
            * 10,
            "number",
        ),
        ([datetime.timedelta(hours=1), datetime.timedelta(hours=2)] * 10, "number"),
    ],
)
def test_types_follow_from_the_values(values: list[object], kind: str) -> None:
    assert decided(values).kind == kind


def test_the_user_decides() -> None:
    assert decided([1, 2] * 10, "categorical").column == Categorical(
        name="x", vocabulary=("1", "2")
    )
    assert decided([1.0, 2.0, None] * 10, "categorical").column == Categorical(
        name="x", vocabulary=("1", "2"), missing=float(f"{1 / 3:.8g}")
    )
    forced = decided(["1", "2", "x"] * 10, "numeric")
    assert forced.kind == "number"
    assert "10 cells are no numbers" in forced.note
    assert decided([f"name {i}" for i in range(30)], "categorical").kind == "category"


@pytest.mark.parametrize(
    "values",
    [
        [7.1] * 30,
        ["0.1"] * 30,
        [1.7e9 + 1] * 30,
        [None] * 30,
        [""] * 30,
        ["?"] * 30,
        [7.1, None] * 15,
    ],
)
def test_what_the_user_decides_is_kept_though_constant_or_empty(values: list[object]) -> None:
    found = decided(values, "numeric", pieces=3)
    assert isinstance(found.column, Numeric)
    assert found.column.std == 1
    assert np.isfinite([found.column.mean, *found.column.quantiles]).all()
    cells = as_numbers(pa.array(values))[0].astype(np.float32)
    embedded_BND = NumberEmbedding((found.column,), "piecewise", 4)(torch.tensor(cells)[:, None])
    assert embedded_BND.isfinite().all()
    assert ("no training row has a value" in found.note) == bool(np.isnan(cells).all())
    there = {canonical_spelling(str(v)) for v in values if v}
    category = decided([v and str(v) for v in values], "categorical").column
    assert isinstance(category, Categorical)
    assert set(category.vocabulary) == there


def test_whole_numbers_are_told_before_they_become_float32() -> None:
    rng = np.random.default_rng(0)
    assert not column_stats.column_stats(
        pa.array([2.0**23 + 0.5, 2e9 + 0.25]), np.zeros(2, dtype=int), np.ones(2, dtype=bool)
    ).numbers.whole
    close = decided(2.5e7 + 100 * rng.random(300))
    assert close.kind == "number"
    assert (
        close.note
        == "kept to about 2: values of this size have no more digits here; subtract an offset"
    )
    seconds = decided(1.7e9 + rng.integers(0, 50, 300))  # all of them one float32
    assert "kept to about 128" in seconds.note
    for plain in (
        rng.normal(1e6, 30, 300),
        [0, 1] * 20,
        ["5"] * 97 + ["?"] * 3,
        1.7e9 + rng.integers(0, 10**6, 300),
    ):
        assert "kept to" not in decided(plain).note


def test_mixed_columns_are_numeric_from_95_percent_on() -> None:
    mostly = decided(["1", "2"] * 48 + ["?"] * 4)
    assert mostly.kind == "number"
    assert mostly.note == "4 cells are no numbers: missing (such as '?')"
    half = decided(["1", "2", "low", "high"] * 10)
    assert (half.kind, half.note) == ("category", "mixed: 20 of 40 cells are numbers")


def test_a_column_without_one_finite_value_is_dropped_for_what_it_is() -> None:
    assert decided([1e300] * 20).note == "none of its 20 values is finite as float32"
    assert decided([None] * 20).note == "no training row has a value"


def test_a_column_kept_as_numbers_that_are_none_is_warned_of() -> None:
    kept = decided(["low", "high"] * 10, "numeric")
    assert kept.kind == "number"
    assert (
        kept.warning
        == "x: --numeric keeps it though no cell of a training row is a number, such as 'low'"
    )
    assert not decided([None] * 20, "numeric").warning


def test_infinite_and_too_large_numbers_are_missing_and_counted() -> None:
    for values in ([1.0, 2.0, float("inf"), 1e300] * 10, ["1", "2", "-inf", "1e300"] * 10):
        found = decided(values)
        assert isinstance(found.column, Numeric)
        assert "20 infinite" in found.note
        assert found.column.missing == 0.5
        assert max(found.column.quantiles) == 2
        cells = encoding.encode_column(pa.array(values), found.column)[0].to_pylist()
        assert cells[:4] == [1.0, 2.0, None, None]


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (["a"] * 20, "constant"),
        ([7.5] * 20, "constant"),
        ([None] * 20, "no training row has a value"),
        (["", "NA"] * 10, "no training row has a value"),
        ([float("nan")] * 20, "no training row has a value"),
        ([float("inf")] * 20, "none of its 20 values is finite as float32"),
        ([f"id{i}" for i in range(20)], "every value is different"),
        (list(range(1000, 1200)), "numbers the rows"),
        ([str(i) for i in range(200)], "numbers the rows"),
        ([7 * i for i in range(200)], "numbers the rows"),
    ],
)
def test_columns_that_tell_nothing_are_dropped_with_a_note(values: list[object], note: str) -> None:
    found = decided(values)
    assert found.column is None
    assert note in found.note


def test_measurements_that_all_differ_are_no_ids() -> None:
    assert decided(np.random.default_rng(0).normal(size=200)).kind == "number"


def test_what_looks_like_an_id_or_a_split_is_kept_with_a_warning() -> None:
    for values in (
        [1000 * i for i in range(200)],
        [f"p{i % 180}" for i in range(200)],
        ["train", "val", "Test"] * 20,
    ):
        found = decided(values)
        assert found.column is not None
        assert "--drop it" in found.warning


def test_one_value_and_gaps_is_a_category_of_one() -> None:
    assert decided([5.0, None] * 10).column == Categorical(name="x", vocabulary=("5",), missing=0.5)


def test_thousands_of_values_keep_the_most_frequent() -> None:
    values = [f"v{i % 3000}" for i in range(6000)] + ["often"] * 5
    found = decided(values)
    assert isinstance(found.column, Categorical)
    assert len(found.column.vocabulary) == columns.MAX_VOCABULARY
    assert found.column.vocabulary[0] == "often"
    assert "1000 most frequent of 3001" in found.note
    unseen = encoding.encode_column(pa.array(["often", "v999999", None]), found.column)[
        0
    ].to_pylist()
    assert unseen == [0, columns.MAX_VOCABULARY, -1]


def test_a_block_with_more_values_than_are_counted_still_shows_an_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(column_stats, "MAX_COUNTED", 50)
    ids = decided([f"id{i}" for i in range(400)], pieces=3)
    assert ids.column is None
    often = decided([f"v{i % 200}" for i in range(400)], pieces=2)
    assert often.kind == "category"


def test_vocabulary_is_by_frequency_then_name() -> None:
    column = decided(["b", "c", "a", "c"] * 3).column
    assert isinstance(column, Categorical)
    assert column.vocabulary == ("c", "a", "b")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_text_is_encoded_alike(kind: pa.DataType) -> None:
    column = Categorical(name="x", vocabulary=("a", "b"))
    array = pa.chunked_array(
        [pa.array(["a", " b", None]).cast(pa.string()), pa.array(["", "z"])]
    ).cast(kind)
    assert encoding.encode_column(array, column)[0].to_pylist() == [0, 1, -1, -1, 2]


def test_numbers_as_categories_match_whether_they_come_as_integers_floats_or_text() -> None:
    column = Categorical(name="x", vocabulary=("1", "2"))
    for array in (pa.array([1, 2, None]), pa.array([1.0, 2.0, None]), pa.array(["1", "2", ""])):
        assert encoding.encode_column(array, column)[0].to_pylist() == [0, 1, -1]


def pairs(values: list[object], labels: list[int]) -> pa.Table:
    counted = column_stats.column_stats(
        pa.array(values), np.array(labels), np.zeros(len(labels), dtype=bool)
    )
    assert counted.table is not None
    return counted.table


LABELS = [0] * 70 + [1] * 20 + [2] * 10


def test_a_copy_of_the_label_is_a_leak() -> None:
    assert "determines the label" in label_leak("x", pairs([f"name{c}" for c in LABELS], LABELS), 3)
    assert "determines the label" in label_leak("x", pairs([float(c) for c in LABELS], LABELS), 3)
    finer = [f"{c}-{i % 2}" for i, c in enumerate(LABELS)]
    assert "determines the label" in label_leak("x", pairs(finer, LABELS), 3)


def test_a_column_that_is_missing_by_class_is_a_leak() -> None:
    labels = [0] * 50 + [1] * 50
    assert "determines the label" in label_leak("x", pairs([None] * 50 + ["seen"] * 50, labels), 2)


def test_all_different_values_and_honest_columns_are_none() -> None:
    rng = np.random.default_rng(0)
    assert label_leak("x", pairs([f"id{i}" for i in range(100)], LABELS), 3) == ""
    assert label_leak("x", pairs(rng.choice(["a", "b", "c"], 100).tolist(), LABELS), 3) == ""
    good_feature = [c if rng.random() < 0.8 else int(rng.integers(3)) for c in LABELS]
    assert label_leak("x", pairs(good_feature, LABELS), 3) == ""


def test_a_value_of_one_class_only_is_said_when_it_covers_many_rows() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400).tolist()
    values = [
        ("follow-up" if rng.random() < 0.9 else "histology") if c == 0 else "histology"
        for c in labels
    ]
    assert "occurs with one label only" in label_leak("x", pairs(values, labels), 3)


def test_groups_and_images_on_both_sides_are_counted() -> None:
    split = np.array([0, 1, 0, 2, -1, 0])
    assert crossing_groups(np.array([5, 5, 6, 7, 6, 6]), split).startswith(
        "1 groups (2 rows) cross"
    )
    assert crossing_groups(np.array([5, 4, 6, 7, 7, 6]), split) == ""
    digests = pa.chunked_array([pa.array([1, 1, 2, 3, 3, None], pa.uint64())])
    lines = identical_images("x", digests, split, np.array([0, 1, 0, 0, 0, 0]))
    assert lines[0].startswith(
        "x: 1 identical images (2 rows) are in several splits; 1 of them in val or"
        " test with a twin in train"
    )
    assert lines[1].startswith("x: 1 identical images (2 rows) are in several labels")
    assert (
        identical_images(
            "x",
            pa.chunked_array([pa.array([1, 4, 2, 3, 3, None], pa.uint64())]),
            split,
            np.zeros(6, int),
        )
        == []
    )


YES = [True, False, None, True]


@pytest.mark.parametrize(
    "words",
    [["True", "False", "", "True"], ["true", "false", "", "true"], ["TRUE", "FALSE", "", "TRUE"]],
)
def test_booleans_are_the_same_category_as_text_and_as_a_type_whichever_was_trained(
    words: list[str],
) -> None:
    text, typed = decided(words * 5).column, decided(YES * 5).column
    assert text == typed == Categorical(name="x", vocabulary=("True", "False"), missing=0.25)
    for trained in (
        text,
        typed,
        Categorical(name="x", vocabulary=("true", "false")),
    ):  # the last as older shards have it
        for cells in (words, YES):
            assert encoding.encode_column(pa.array(cells), trained)[0].to_pylist() == [0, 1, -1, 0]


@pytest.mark.parametrize(
    "trained",
    [["1.0", "2.0", "", "10.0"], ["1", "2", "", "10"], [1.0, 2.0, None, 10.0], [1, 2, None, 10]],
)
def test_whole_numbers_are_the_same_category_from_every_kind_of_table(
    trained: list[object],
) -> None:
    column = decided(trained * 5, "categorical").column
    assert isinstance(column, Categorical)
    assert column.vocabulary == ("1", "10", "2")
    for cells in (["1.0", "2.00", "", "10"], [1.0, 2.0, float("nan"), 10.0], [1, 2, None, 10]):
        for each in (
            column,
            Categorical(name="x", vocabulary=("1.0", "10.0", "2.0")),
        ):  # the last as older shards have it
            assert encoding.encode_column(pa.array(cells), each)[0].to_pylist() == [0, 2, -1, 1]
    words = ["1.5", "01.0", "1.0.0", "v1.0", ".0", "-1.0"]
    assert (
        as_text(pa.array(words)).to_pylist()
        == [canonical_spelling(w) for w in words]
        == [*words[:5], "-1"]
    )


def test_a_category_of_times_needs_no_zone_that_arrow_knows() -> None:
    cells = pa.array([0, 3600], pa.timestamp("s", "UTC+02:00"))
    assert as_text(cells).to_pylist() == ["1970-01-01 00:00:00Z", "1970-01-01 01:00:00Z"]


@pytest.mark.parametrize("numbers", ["piecewise", "linear", "periodic"])
@pytest.mark.parametrize(
    ("share", "code"), [(0.05, 999999999.0), (0.01, 1e12), (0.02, 9.97e36), (0.001, -1e20)]
)
def test_a_code_for_missing_that_dwarfs_the_others_does_not_make_them_one(
    share: float, code: float, numbers: str
) -> None:
    rng = np.random.default_rng(0)
    values = np.where(rng.random(3000) < share, code, rng.normal(25, 5, 3000))
    found = decided(values)
    assert isinstance(found.column, Numeric)
    assert found.warning.startswith(f"x: a few values such as {code:g} dwarf the others")
    torch.manual_seed(0)  # four ReLUs of a periodic embedding may all be dead at the start
    embedded_BND = NumberEmbedding((found.column,), numbers, 4)(
        torch.tensor(values, dtype=torch.float32)[:, None]
    )
    assert len(embedded_BND.flatten(1).unique(dim=0)) > 2500
    assert embedded_BND.abs().max() < 200


def test_columns_without_such_a_code_are_told_nothing() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(25, 5, 3000),
        np.r_[rng.normal(25, 5, 3000), -99999.0],
        rng.lognormal(0, 3, 3000),
        [0.0] * 500 + [1e9],
    ):
        assert not decided(values).warning


@pytest.mark.parametrize("numbers", ["piecewise", "linear", "periodic"])
def test_the_unit_of_a_column_does_not_matter(numbers: str) -> None:
    values = np.random.default_rng(0).normal(3, 1, 500)

    def embedded(scale: float) -> torch.Tensor:
        torch.manual_seed(0)
        column = decided(values * scale).column
        assert isinstance(column, Numeric)
        return NumberEmbedding((column,), numbers, 4)(
            torch.tensor(values * scale, dtype=torch.float32)[:, None]
        )

    for scale in (1e-30, 1e-13, 1e12):
        torch.testing.assert_close(embedded(scale), embedded(1.0), atol=1e-4, rtol=1e-3)


def test_booleans_that_must_be_numbers_are_0_and_1_as_text_too() -> None:
    for cells, other in ((["True", "False"], [True, False]), ([True, False], ["True", "False"])):
        found = decided(cells * 10, "numeric")
        assert isinstance(found.column, Numeric)
        assert encoding.encode_column(pa.array(other), found.column, found.reading)[
            0
        ].to_pylist() == [1, 0]


SEEN = [
    datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2021, 3, 1, 12, 30, tzinfo=datetime.UTC),
]
SEEN_TEXT = ["2020-01-01", "2021-03-01 14:30:00.000+02:00"]


def test_dates_as_text_are_the_seconds_of_a_timestamp_whichever_was_trained() -> None:
    seconds = np.float32([when.timestamp() for when in SEEN]).tolist()
    typed, text = decided(SEEN * 10), decided(SEEN_TEXT * 10, pieces=3)
    assert typed.column == text.column
    assert (typed.reading, text.reading, text.note) == (
        "dates",
        "dates",
        "dates: seconds since 1970",
    )
    for found in (typed, text):
        assert isinstance(found.column, Numeric)
        for cells in (SEEN, SEEN_TEXT):
            assert (
                encoding.encode_column(pa.array(cells), found.column, found.reading)[0].to_pylist()
                == seconds
            )
        odd = encoding.encode_column(
            pa.array(["2020-02-31", "soon", "1969-12-31", "5"]), found.column, found.reading
        )[0]
        assert odd.to_pylist() == [None, None, -86400, 5]


def test_a_few_dates_among_numbers_or_words_make_no_column_of_dates() -> None:
    mostly = decided(["1", "2"] * 48 + ["2020-01-01"] * 4)
    assert mostly.reading == ""
    assert mostly.note == "4 cells are no numbers: missing (such as '2020-01-01')"
    assert decided(["red", "blue", "2020-01-01"] * 10).kind == "category"


def test_nanoseconds_are_read() -> None:
    for kind in (pa.timestamp("ns"), pa.duration("ns"), pa.time64("ns")):
        found = decided(pa.array([1_500_000_001, 3_000_000_000] * 10, pa.int64()).cast(kind))
        assert isinstance(found.column, Numeric)
        assert (found.column.quantiles[0], found.column.quantiles[-1]) == (1.5, 3.0)


def test_decimal_commas_are_numbers_over_any_cut_into_blocks() -> None:
    values = np.random.default_rng(0).normal(3, 10, 200).round(2)
    plain = decided(values)
    for pieces in (1, 7):
        found = decided([str(v).replace(".", ",") for v in values], pieces=pieces)
        assert found.column == plain.column
        assert (found.reading, found.note.split(":")[0]) == ("decimal commas", "decimal commas")
    assert isinstance(found.column, Numeric)
    cells = encoding.encode_column(
        pa.array(["-3,5", "2.25", "1e2", "1.234,5", ""]), found.column, found.reading
    )[0]
    assert cells.to_pylist() == [-3.5, 2.25, 100, None, None]
