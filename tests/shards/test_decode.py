"""Decoding: the arrays of shard columns, value by value."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as pillow

from distributed.shards import decode
from distributed.shards.memory import select_arrays
from model.schema import Categorical, Image, Numeric, Schema, Table

SCHEMA = Schema(
    images=(
        Image(name="photo", height=2, width=3),
        Image(name="depth", height=1, width=4, channels=2),
    ),
    tables=(
        Table(
            name="table",
            numeric=(Numeric(name="x"), Numeric(name="y")),
            categorical=(Categorical(name="c", vocabulary=("a", "b")),),
        ),
        Table(name="notes", categorical=(Categorical(name="d", vocabulary=("e",)),)),
    ),
    classes=("a", "b"),
)


def picture(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    channels = len(pillow.new(mode, (1, 1)).getbands())
    pixels = np.arange(size[0] * size[1] * channels, dtype=np.uint8) * 9
    out = io.BytesIO()
    pillow.frombytes(mode, size, pixels.tobytes()).save(out, kind)
    return out.getvalue()


def test_the_columns_of_a_schema_and_the_bytes_of_a_row() -> None:
    assert decode.shard_columns(SCHEMA) == [
        *("image.photo", "image.depth", "table.x", "table.y", "table.c", "notes.d")
    ]
    arrays = decode.empty_arrays(SCHEMA, 5)
    assert {name: (values.shape, values.dtype.name) for name, values in arrays.items()} == {
        "images/photo": ((5, 3, 2, 3), "uint8"),
        "images/depth": ((5, 2, 1, 4), "uint8"),
        "numbers/table": ((5, 2), "float32"),
        "categories/table": ((5, 1), "int32"),
        "numbers/notes": ((5, 0), "float32"),
        "categories/notes": ((5, 1), "int32"),
        "present": ((5, 4), "bool"),
        "labels": ((5,), "int32"),
        "ranks": ((5,), "int32"),
    }
    assert decode.decoded_row_bytes(SCHEMA) * 5 == sum(v.nbytes for v in arrays.values())


@pytest.mark.parametrize(
    ("encoded", "image"),
    [
        (picture("RGB", (3, 2)), Image(name="i", height=2, width=3)),
        (picture("RGB", (3, 2), "JPEG"), Image(name="i", height=2, width=3)),
        (picture("L", (3, 2), "JPEG"), Image(name="i", height=2, width=3, channels=1)),
        (picture("L", (3, 2), "JPEG"), Image(name="i", height=2, width=3, channels=2)),
        (picture("L", (3, 2)), Image(name="i", height=2, width=3)),
        (picture("LA", (3, 2)), Image(name="i", height=2, width=3, channels=2)),
        (picture("RGBA", (3, 2)), Image(name="i", height=2, width=3, channels=4)),
    ],
)
def test_a_stored_image_has_the_pixels_that_pillow_reads(encoded: bytes, image: Image) -> None:
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[image.channels]
    expected = np.asarray(pillow.open(io.BytesIO(encoded)).convert(mode))
    pixels = decode.decode_stored_image(encoded, image)
    assert pixels.shape == (2, 3, image.channels)
    np.testing.assert_array_equal(pixels, expected.reshape(pixels.shape))


def test_a_row_without_an_image_is_black_and_not_present() -> None:
    image = SCHEMA.images[1]
    encoded_B = np.array([picture("LA", (4, 1)), None], dtype=object)
    pixels_BCHW = np.full((2, 2, 1, 4), 7, np.uint8)
    present_B = np.array([False, True])
    decode.decode_images(encoded_B, image, pixels_BCHW, present_B)
    assert present_B.tolist() == [True, False]
    assert pixels_BCHW[0].tolist() == [[[0, 18, 36, 54]], [[9, 27, 45, 63]]]
    assert not pixels_BCHW[1].any()


def test_a_wrong_image_is_named_with_what_it_must_be() -> None:
    encoded_B = np.array([picture("RGB", (2, 2))], dtype=object)
    size = len(encoded_B[0])
    with pytest.raises(ValueError) as caught:
        decode.decode_columns({"image.photo": encoded_B}, SCHEMA.keep(("photo",)))
    assert str(caught.value) == (
        "an image of column photo must be a whole PNG or JPEG of 3x2, 3 channel(s); "
        f"got {size} bytes: size (2, 2); run ingest again"
    )


def test_a_table_is_present_where_any_of_its_cells_has_a_value() -> None:
    nan = np.nan
    columns = {
        "table.x": np.array([1.0, nan, nan, nan]),
        "table.y": np.array([2.0, 3.0, nan, nan]),
        "table.c": np.array([nan, nan, 0.0, nan]),
        "notes.d": np.array([0, -1, -1, 1], np.int32),
        "label": np.array([1, 0, -1, 1]),
        "rank": np.array([5, 6, 7, 8]),
    }
    schema = SCHEMA.keep(("table", "notes"))
    arrays = decode.decode_columns(columns, schema)
    np.testing.assert_array_equal(
        arrays["numbers/table"], np.array([[1, 2], [nan, 3], [nan, nan], [nan, nan]], np.float32)
    )
    assert arrays["categories/table"].tolist() == [[-1], [-1], [0], [-1]]
    assert arrays["categories/notes"].tolist() == [[0], [-1], [-1], [1]]
    assert arrays["present"].tolist() == [
        [True, True],
        [True, False],
        [True, False],
        [False, True],
    ]
    assert arrays["labels"].tolist() == [1, 0, -1, 1]
    assert arrays["ranks"].tolist() == [5, 6, 7, 8]
    del columns["label"], columns["rank"]
    out = decode.empty_arrays(schema, 4)
    assert decode.decode_columns(columns, schema, out) is out
    assert out["labels"].tolist() == out["ranks"].tolist() == [-1] * 4


def test_rows_are_copied_in_the_order_asked_for() -> None:
    arrays = {"labels": np.array([4, 5, 6]), "present": np.eye(3, dtype=bool)}
    taken = decode.take_rows(arrays, np.array([2, 0, 2]))
    assert taken["labels"].tolist() == [6, 4, 6]
    assert taken["present"].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]


def test_the_arrays_of_some_modalities_have_their_own_presence() -> None:
    arrays = decode.empty_arrays(SCHEMA, 2)
    arrays["present"][:] = [[True, False, True, False], [False, False, True, True]]
    kept = SCHEMA.keep(("photo", "notes"))
    chosen = select_arrays(arrays, SCHEMA, kept)
    assert {*chosen} == {*decode.empty_arrays(kept, 0)}
    assert chosen["present"].tolist() == [[True, False], [False, True]]
    assert chosen["images/photo"] is arrays["images/photo"]
    again = select_arrays(chosen, SCHEMA, SCHEMA.keep(("notes",)))
    assert again["present"].tolist() == [[False], [True]]
    assert select_arrays(arrays, SCHEMA, SCHEMA)["present"] is arrays["present"]
    with pytest.raises(AssertionError, match="loaded: photo, notes; wanted: depth"):
        select_arrays(chosen, SCHEMA, SCHEMA.keep(("depth",)))
