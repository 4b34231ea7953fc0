"""Flipped bits in shards: every way of reading them names the damaged file in one line."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from distributed import Shards
from distributed.config import Config, apply_changes
from distributed.inference.rows.tasks import make_tasks, parquet_batches, row_ranges
from distributed.runtime.command import one_line
from distributed.shards import checksums, ray_reader
from distributed.shards.batches import open_batches
from distributed.shards.decode import shard_columns
from distributed.shards.index import read_index
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import checked_parts, part_files, read_manifest
from distributed.shards.memory import load_arrays
from distributed.shards.reader import ShardReader, Window

FAST_FLIPS, ALL_FLIPS = 100, 1000


def digest(content: object) -> bytes:
    return hashlib.blake2b(pickle.dumps(content), digest_size=16).digest()


def frame_rows(shards: str, split: str) -> bytes:
    frame = Shards(shards).to_pandas(split, images=True)
    return digest({name: frame[name].astype(object).tolist() for name in frame})


def reader_rows(shards: str, split: str) -> bytes:
    index = read_index(shards, split)
    columns = ShardReader(index, read_manifest(shards).schema).columns(np.arange(index.rows))
    return digest({name: values.tolist() for name, values in columns.items()})


def predicted_rows(shards: str, split: str) -> bytes:
    manifest = read_manifest(shards)
    records = checked_parts(shards, split, manifest)
    (task,) = make_tasks(row_ranges(shards, dict.fromkeys(records, split), records), 64, 1)
    columns = ["id", "label", *shard_columns(manifest.schema)]
    batches = parquet_batches(shards, task, 64, columns, records)
    return digest([batch.table.to_pydict() for batch in batches])


def decoded_rows(shards: str, split: str) -> bytes:
    arrays = load_arrays(shards, split, read_manifest(shards).schema)
    return digest({name: values.tobytes() for name, values in arrays.items()})


WAYS: tuple[Callable[[str, str], bytes], ...] = (frame_rows, reader_rows, predicted_rows)


def flip(path: Path, bit: int) -> None:
    """Changes one bit of a file; the same call changes it back."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        value = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([value]))


@pytest.fixture
def shards(wafer_shards: str, tmp_path: Path) -> Path:
    shutil.copytree(wafer_shards, tmp_path / "shards")
    return tmp_path / "shards"


def assert_names(error: ValueError, path: Path) -> None:
    assert path.name in one_line(error), one_line(error)


def assert_no_flip_is_silent(
    shards: Path, flips: int, ways: tuple[Callable[[str, str], bytes], ...]
) -> None:
    files = sorted(path for path in shards.rglob("*") if path.is_file())
    rng = random.Random(0)
    sizes = [path.stat().st_size for path in files]
    manifest = read_manifest(str(shards))
    whole = {(way, split): way(str(shards), split) for way in ways for split in SPLITS}
    errors = 0
    for number in range(flips):
        # A tenth of them in schema.json, which is small beside the parts.
        (path,) = rng.choices(files, sizes)
        if number % 10 == 0:
            path = shards / "schema.json"
        bit = rng.randrange(8 * path.stat().st_size)
        way = ways[number % len(ways)]
        split = path.parent.name if path.parent.name in SPLITS else "train"
        flip(path, bit)
        try:
            assert read_manifest(str(shards)) == manifest
            assert way(str(shards), split) == whole[way, split], f"{path}, bit {bit}, {way}"
        except ValueError as error:
            errors += 1
            assert_names(error, path)
        flip(path, bit)
    assert errors > 0.8 * flips


def test_no_flipped_bit_is_read_in_silence(shards: Path) -> None:
    assert_no_flip_is_silent(shards, FAST_FLIPS, WAYS)


@pytest.mark.slow
def test_no_flipped_bit_of_very_many_is_read_in_silence(shards: Path) -> None:
    assert_no_flip_is_silent(shards, ALL_FLIPS, (*WAYS, decoded_rows))


def damage(shards: Path) -> str:
    """Flips a bit of an image of the first training part; returns the part's path."""
    (path, *_) = part_files(str(shards), "train")
    column = pq.ParquetFile(path).schema_arrow.get_field_index("image.map")
    chunk = pq.read_metadata(path).row_group(0).column(column)
    flip(Path(path), 8 * (chunk.data_page_offset + chunk.total_compressed_size // 2))
    return path


@pytest.mark.parametrize("cache", ["memory", "stream"])
def test_a_training_names_the_damaged_part(shards: Path, cache: str) -> None:
    path = damage(shards)
    config = apply_changes(Config(), {"data.cache": cache, "data.engine": "threads"})
    with pytest.raises(ValueError) as caught:
        for _ in open_batches(str(shards), "train", config, train=True).batches(0):
            pass
    assert one_line(caught.value).startswith(f"'{path}' is damaged: bytes ")


def test_ray_data_names_the_damaged_part(shards: Path, ray_local: None) -> None:
    index = read_index(str(shards), "train")
    path = damage(shards)
    reader = ShardReader(index, read_manifest(str(shards)).schema)
    rows = np.arange(index.rows)
    with pytest.raises(ValueError) as caught:
        list(ray_reader.read_in_ray(reader, [Window(rows, (len(rows),))]))
    assert f"'{path}' is damaged: bytes " in one_line(caught.value)


def test_a_part_that_is_missing_cut_or_from_elsewhere_is_named(shards: Path) -> None:
    (path, *_) = part_files(str(shards), "train")
    content = Path(path).read_bytes()
    (other,) = part_files(str(shards), "test")[:1]
    for changed, reason in (
        (content[:-7], rf"it has {len(content) - 7:,} bytes and was written with"),
        (Path(other).read_bytes(), "it has|bytes"),
        (b"", "it has 0 bytes"),
    ):
        Path(path).write_bytes(changed)
        with pytest.raises(ValueError, match=rf"part-00000.parquet' is damaged: ({reason})"):
            read_index(str(shards), "train")
    Path(path).unlink()
    with pytest.raises(ValueError, match=r"missing: train/part-00000\.parquet"):
        read_index(str(shards), "train")


def test_shards_without_checksums_are_read_and_their_errors_are_one_line(shards: Path) -> None:
    whole = {(way, split): way(str(shards), split) for way in WAYS for split in SPLITS}
    for split in SPLITS:
        for path in part_files(str(shards), split):
            pq.write_table(pq.read_table(path), path, row_group_size=256)
    manifest = json.loads((shards / "schema.json").read_text())
    del manifest["parts"], manifest["checksum"]
    (shards / "schema.json").write_text(json.dumps(manifest))
    assert {(way, split): way(str(shards), split) for way, split in whole} == whole
    (path, *_) = part_files(str(shards), "train")
    Path(path).write_bytes(Path(path).read_bytes()[:-100])
    for way in WAYS:
        with pytest.raises(ValueError, match="cannot read .*part-00000.parquet"):
            way(str(shards), "train")


def test_parts_of_any_length_read_back(tmp_path: Path) -> None:
    """The last block may be whole, cut or absent, and reads may begin and end anywhere."""
    block = checksums.BLOCK_BYTES
    for rows, rest in ((0, 9), (1, 3), (block, 1), (block + 1, block), (3 * block - 1, 70_000)):
        content = random.Random(rows).randbytes(rows + rest)
        with open(tmp_path / "file", "wb") as file:
            stream = checksums.ChecksumStream(file)
            for low in range(0, rows, 40_000):
                stream.write(content[low : min(rows, low + 40_000)])
            digits = stream.end_blocks()
            stream.write(content[rows:])
        assert len(digits) == -(-rows // block) * checksums.HEX_DIGITS
        assert (tmp_path / "file").read_bytes() == content
        assert stream.record == (rows + rest, rows, stream.record.checksum)
