"""The SHARDS folder: its manifest, its parts, its locations."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from distributed.runtime import storage
from distributed.shards.layout import VERSION
from distributed.shards.manifest import (
    Manifest,
    part_files,
    read_manifest,
    shards_digest,
    write_manifest,
)
from model.schema import Categorical, Image, Numeric, Schema, Table

SCHEMA = Schema(
    images=(Image(name="map", height=8, width=9, channels=1, mean=(0.5,), std=(0.25,)),),
    tables=(
        Table(
            name="table",
            numeric=(Numeric(name="x", quantiles=(0.0, 1.5)),),
            categorical=(Categorical(name="c", vocabulary=("ä",)),),
        ),
    ),
    classes=("a", "b"),
    counts=(3, 1),
)
MANIFEST = Manifest(schema=SCHEMA, rows={"train": 4, "val": 0, "test": 2}, prepare={"label": "y"})


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    assert read_manifest(str(tmp_path)) == MANIFEST
    assert read_manifest(f"file://{tmp_path}") == MANIFEST


def test_a_missing_folder_and_one_without_a_schema_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must exist; got"):
        read_manifest(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"must hold schema\.json"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", '{"rows": {}}', '{"version": "one"}', "\xff"]
)
def test_another_file_of_that_name_is_no_schema(tmp_path: Path, text: str) -> None:
    (tmp_path / "schema.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is not the schema of a SHARDS folder"):
        read_manifest(str(tmp_path))


def test_a_damaged_schema_is_said_to_be_damaged(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    plain = json.loads((tmp_path / "schema.json").read_text())
    del plain["schema"]["classes"]
    (tmp_path / "schema.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(str(tmp_path))


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_manifest(dataclasses.replace(MANIFEST, version=VERSION + 1), str(tmp_path))
    with pytest.raises(ValueError, match="shards of version 2; this code reads up to version 1"):
        read_manifest(str(tmp_path))


def test_parts_come_in_order_and_only_parquet(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("part-00001.parquet", "part-00000.parquet", "notes.txt"):
        (tmp_path / "train" / name).write_text("")
    assert [Path(p).name for p in part_files(str(tmp_path), "train")] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert part_files(str(tmp_path), "val") == []
    with pytest.raises(ValueError, match="must be one of train, val, test; got 'dev'"):
        part_files(str(tmp_path), "dev")


def test_shards_without_a_digest_of_their_content_go_by_the_sizes_of_their_parts(
    tmp_path: Path,
) -> None:
    found = []
    for test_rows in (b"12", b"123"):
        for split, content in (("train", b"1"), ("test", test_rows)):
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / "part-00000.parquet").write_bytes(content)
        found.append(shards_digest(str(tmp_path), MANIFEST))
    assert found[0] != found[1]
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "train", moved / "train")
    shutil.copytree(tmp_path / "test", moved / "test")
    assert shards_digest(str(moved), MANIFEST) == found[1]


def test_locations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert storage.filesystem(str(tmp_path))[1] == str(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    system, path = storage.filesystem("s3://bucket/a/b/")
    assert (system.type_name, path) == ("s3", "bucket/a/b")
    with pytest.raises(ValueError, match="no credentials") as error:
        storage.filesystem("s3://key:secret@bucket/a")
    assert "secret" not in str(error.value)
    with pytest.raises(ValueError, match="must be a local path or"):
        storage.filesystem("nothing://x")
