"""Corruption: which rows a term changes and what they get, against the written definition."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from distributed.shards.corruption import apply_corruption, parse_corruption, row_keys
from distributed.shards.decode import Arrays
from model.schema import Categorical, Image, Numeric, Schema, Table

ROWS = 60
SCHEMA = Schema(
    images=(Image(name="photo", height=2, width=3), Image(name="xray", height=1, width=2)),
    tables=(
        Table(
            name="table",
            numeric=(Numeric(name="x", mean=5.0, std=2.0), Numeric(name="y", mean=-50.0)),
            categorical=(
                Categorical(name="c", vocabulary=("a", "b", "c")),
                Categorical(name="empty", vocabulary=()),
            ),
        ),
        Table(name="notes", categorical=(Categorical(name="d", vocabulary=("e", "f")),)),
    ),
    classes=("a", "b"),
    counts=(40, 20),
)


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(7)
    arrays: Arrays = {
        "images/photo": rng.integers(0, 256, (ROWS, 3, 2, 3)).astype(np.uint8),
        "images/xray": rng.integers(0, 256, (ROWS, 3, 1, 2)).astype(np.uint8),
        "numbers/table": rng.normal(size=(ROWS, 2)).astype(np.float32),
        "categories/table": rng.integers(0, 3, (ROWS, 2)).astype(np.int32),
        "numbers/notes": np.empty((ROWS, 0), np.float32),
        "categories/notes": rng.integers(0, 2, (ROWS, 1)).astype(np.int32),
        "present": rng.random((ROWS, 4)) < 0.8,
        "labels": rng.integers(-1, 2, ROWS).astype(np.int32),
        "ranks": np.arange(-1, ROWS - 1, dtype=np.int32),
    }
    for values in arrays.values():
        values.flags.writeable = False
    return arrays


def expected_key(label: int, rank: int, salt: str) -> int:
    """The output of splitmix64 for the state (label + 1) * 2^32 + rank + 1, xor the salt."""
    salt_bits = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "little")
    x = (((label + 1 << 32) + rank + 1) ^ salt_bits) + 0x9E3779B97F4A7C15 & (1 << 64) - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & (1 << 64) - 1
    x = (x ^ x >> 27) * 0x94D049BB133111EB & (1 << 64) - 1
    return x ^ x >> 31


def keys_of(arrays: Arrays, salt: str) -> list[int]:
    pairs = zip(arrays["labels"].tolist(), arrays["ranks"].tolist())
    return [expected_key(label, rank, salt) for label, rank in pairs]


def rows_in(arrays: Arrays, salt: str, low: float, share: float) -> list[int]:
    """The rows whose key lies in the range, which goes on at 0 beyond 1."""
    places = [key / 2**64 for key in keys_of(arrays, salt)]
    return [row for row, place in enumerate(places) if (place - low) % 1.0 < share]


def changed_rows(before: Arrays, after: Arrays, name: str) -> list[int]:
    differs = (before[name] != after[name]).reshape(ROWS, -1).any(1)
    return np.flatnonzero(differs).tolist()


def test_the_keys_are_those_of_splitmix64(arrays: Arrays) -> None:
    keys = row_keys(arrays["labels"], arrays["ranks"], "3/val")
    assert keys.tolist() == keys_of(arrays, "3/val")


def test_terms_stand_one_after_another_on_the_circle() -> None:
    terms = parse_corruption(" photo=noise:0.75, ,table=missing:0.5,xray=shuffle ", SCHEMA)
    assert [(t.modality, t.kind, t.low, t.share) for t in terms] == [
        ("photo", "noise", 0.0, 0.75),
        ("table", "missing", 0.75, 0.5),
        ("xray", "shuffle", 0.25, 1.0),
    ]
    assert parse_corruption("photo=noise:1", SCHEMA)[0].share == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo", "with a modality of the data set; got 'photo'; valid: photo, xray, table, notes"),
        ("a=noise", "with a modality of the data set; got 'a=noise'; valid: photo, xray, table, "),
        ("photo=blur:1", "with a known kind; got 'photo=blur:1'; valid: noise, shuffle, missing"),
        ("photo=noise:0", "with a fraction above 0 and at most 1; got 'photo=noise:0'"),
        ("photo=noise:1.1", "with a fraction above 0 and at most 1; got 'photo=noise:1.1'"),
        ("photo=noise:", "with a fraction above 0 and at most 1; got 'photo=noise:'"),
        ("photo=noise:nan", "with a fraction above 0 and at most 1; got 'photo=noise:nan'"),
    ],
)
def test_a_mistake_names_the_rule_the_term_and_what_is_valid(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_corruption(text, SCHEMA)
    expected = f"a corruption must be MODALITY=KIND[:FRACTION] {message}"
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(("first", "low"), [(0.3, 0.3), (0.8, 0.8)])
def test_a_term_takes_the_rows_of_its_range(arrays: Arrays, first: float, low: float) -> None:
    text = f"photo=missing:{first},notes=missing:0.4"
    after = apply_corruption(arrays, text, SCHEMA, seed=3, split="val")
    expected = arrays["present"].copy()
    expected[rows_in(arrays, "3/val", 0.0, first), 0] = False
    expected[rows_in(arrays, "3/val", low, 0.4), 3] = False
    np.testing.assert_array_equal(after["present"], expected)
    same = [name for name in arrays if name != "present"]
    assert all(after[name] is arrays[name] for name in same), "what is away is not changed"


def test_without_terms_the_arrays_are_returned_as_they_are(arrays: Arrays) -> None:
    assert apply_corruption(arrays, " ", SCHEMA, seed=3, split="val") is arrays


def test_noise_in_images_is_the_stream_of_the_rows_key(arrays: Arrays) -> None:
    after = apply_corruption(arrays, "xray=noise:0.5", SCHEMA, seed=3, split="val")
    keys = keys_of(arrays, "3/val")
    rows = [r for r in rows_in(arrays, "3/val", 0.0, 0.5) if arrays["present"][r, 1]]
    for row in rows:
        rng = np.random.Generator(np.random.Philox(key=keys[row] << 64 | 1))
        assert after["images/xray"][row].tobytes() == rng.bytes(6)
    assert {*changed_rows(arrays, after, "images/xray")} == {*rows}
    np.testing.assert_array_equal(after["present"], arrays["present"])


def test_noise_in_a_table_is_drawn_from_the_training_statistics(arrays: Arrays) -> None:
    after = apply_corruption(arrays, "table=noise", SCHEMA, seed=3, split="val")
    keys = keys_of(arrays, "3/val")
    for row in np.flatnonzero(arrays["present"][:, 2]):
        rng = np.random.Generator(np.random.Philox(key=keys[row] << 64 | 2))
        numbers = rng.normal([5.0, -50.0], [2.0, 1.0])
        assert after["numbers/table"][row] == pytest.approx(numbers)
        assert after["categories/table"][row].tolist() == [int(rng.random(2)[0] * 3), -1]
    assert {*changed_rows(arrays, after, "numbers/table")} == {
        *np.flatnonzero(arrays["present"][:, 2])
    }
    assert after["images/photo"] is arrays["images/photo"]
    after = apply_corruption(arrays, "notes=noise", SCHEMA, seed=3, split="val")
    assert set(after["categories/notes"].ravel()) == {0, 1}


def test_shuffling_permutes_content_and_presence_among_the_rows_of_the_term(
    arrays: Arrays,
) -> None:
    after = apply_corruption(arrays, "table=shuffle:0.6", SCHEMA, seed=3, split="val")
    rows = np.array(rows_in(arrays, "3/val", 0.0, 0.6))
    order = np.random.default_rng([3, 2, len(rows)]).permutation(rows)
    for name in ("numbers/table", "categories/table"):
        expected = arrays[name].copy()
        expected[rows] = arrays[name][order]
        np.testing.assert_array_equal(after[name], expected)
    present = arrays["present"].copy()
    present[rows, 2] = arrays["present"][order, 2]
    np.testing.assert_array_equal(after["present"], present)
