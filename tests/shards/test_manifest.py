"""The SHARDS folder: its manifest, its parts, its locations."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from distributed.runtime import storage
from distributed.shards import layout
from distributed.shards.checksums import PartRecord
from distributed.shards.layout import VERSION
from distributed.shards.manifest import (
    Manifest,
    checked_parts,
    has_manifest,
    part_files,
    read_manifest,
    shards_digest,
    write_manifest,
)
from model.schema import Categorical, Image, Numeric, Schema, Table, to_dict

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
    with_content = dataclasses.replace(MANIFEST, content="0123")
    write_manifest(with_content, str(tmp_path))
    assert read_manifest(str(tmp_path)) == with_content


def test_what_older_shards_do_not_have_is_empty(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    file = tmp_path / "schema.json"
    plain = json.loads(file.read_text())
    for key in ("prepare", "content", "parts", "checksum"):
        del plain[key]
    file.write_text(json.dumps(plain))
    assert read_manifest(str(tmp_path)) == dataclasses.replace(MANIFEST, prepare={})


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


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": {**to_dict(SCHEMA), "classes": None}},
        {"schema": {"images": []}},
        {"rows": {"train": "many", "val": 0, "test": 2}},
    ],
)
def test_a_damaged_schema_is_said_to_be_damaged(tmp_path: Path, damage: dict[str, object]) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    file = tmp_path / "schema.json"
    plain = {**json.loads(file.read_text()), **damage}
    del plain["checksum"], plain["parts"]
    file.write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=rf"^{file} is damaged \(\w+Error: .*\): ingest again$"):
        read_manifest(str(tmp_path))


def test_a_place_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="a SHARDS folder must exist; got"):
        read_manifest(str(tmp_path / "file" / "shards"))
    with pytest.raises(ValueError, match=r"a SHARDS folder must hold schema\.json"):
        read_manifest(str(tmp_path / "file"))
    (tmp_path / "schema.json").mkdir()
    with pytest.raises(ValueError, match=rf"^cannot read {tmp_path}/schema\.json: "):
        read_manifest(str(tmp_path))


def test_the_manifest_is_text_that_people_can_read(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    text = (tmp_path / "schema.json").read_text()
    assert list(json.loads(text)) == [
        "version",
        "schema",
        "rows",
        "prepare",
        "content",
        "parts",
        "checksum",
    ]
    assert text.startswith('{\n "version": 1,\n')
    assert '"ä"' in text
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(dataclasses.replace(MANIFEST, prepare={"x": float("nan")}), str(tmp_path))


def test_the_digest_of_shards_stays_what_it_is() -> None:
    """States and searches know their data by it."""
    manifest = dataclasses.replace(MANIFEST, content="0123")
    assert shards_digest("nowhere", manifest) == "642f3ecdc2306aba"
    other = dataclasses.replace(manifest, content="0124")
    assert shards_digest("nowhere", other) != shards_digest("nowhere", manifest)


def test_the_checksum_of_a_schema_stays_what_it_is(tmp_path: Path) -> None:
    """Another one would make every schema damaged that is written already."""
    write_manifest(MANIFEST, str(tmp_path))
    assert json.loads((tmp_path / "schema.json").read_text())["checksum"] == "4fd920f12a40313c"


def test_the_flips_of_images_are_kept(tmp_path: Path) -> None:
    image = dataclasses.replace(MANIFEST.schema.images[0], flips="none")
    schema = dataclasses.replace(MANIFEST.schema, images=(image,))
    write_manifest(dataclasses.replace(MANIFEST, schema=schema), str(tmp_path))
    assert read_manifest(str(tmp_path)).schema == schema


def test_the_words_for_splits_and_the_files_of_a_folder_stay_what_they_are() -> None:
    assert layout.SPLITS == ("train", "val", "test")
    assert {
        **dict.fromkeys(("train", "training"), 0),
        **dict.fromkeys(("val", "valid", "validation", "dev"), 1),
        **dict.fromkeys(("test", "testing"), 2),
    } == layout.SPLIT_NAMES
    assert layout.REFUSED_SPLIT not in range(3)
    assert layout.REFUSED_SPLIT == -1
    assert (layout.MANIFEST, layout.REJECTED) == ("schema.json", "rejected.parquet")


@pytest.mark.parametrize("removed", [(), ("checksum",), ("parts",)])
def test_a_schema_that_is_not_as_it_was_written_is_damaged(
    tmp_path: Path, removed: tuple[str, ...]
) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    plain = json.loads((tmp_path / "schema.json").read_text())
    plain["rows"]["train"] += 0 if removed else 1
    for key in removed:
        del plain[key]
    (tmp_path / "schema.json").write_text(json.dumps(plain))
    with pytest.raises(ValueError, match=r"schema\.json is damaged .*not as it was written"):
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


def test_the_order_of_keys_in_a_schema_is_of_no_importance(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    file = tmp_path / "schema.json"
    plain = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(plain.items()))))
    assert read_manifest(str(tmp_path)) == MANIFEST


def test_a_place_with_a_schema_is_a_folder_of_shards(tmp_path: Path) -> None:
    assert not has_manifest(str(tmp_path / "nowhere"))
    assert not has_manifest(str(tmp_path))
    (tmp_path / "a" / "schema.json").mkdir(parents=True)
    assert not has_manifest(str(tmp_path / "a"))
    write_manifest(MANIFEST, str(tmp_path))
    assert has_manifest(str(tmp_path)) is True


def test_parts_are_those_that_the_schema_lists(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a.parquet", "b.parquet", "c.parquet"):
        (tmp_path / "train" / name).touch()
    folder = f"{tmp_path}/train"
    old = checked_parts(str(tmp_path), "train", MANIFEST)
    assert old == dict.fromkeys(f"{folder}/{name}.parquet" for name in "abc")
    record = PartRecord(3, 2, 1)
    keys = ("train/c.parquet", "train/a.parquet", "val/x.parquet")
    listed = dataclasses.replace(MANIFEST, parts=dict.fromkeys(keys, record))
    assert checked_parts(str(tmp_path), "train", listed) == {
        f"{folder}/a.parquet": record,
        f"{folder}/c.parquet": record,
    }
    write_manifest(listed, str(tmp_path))
    assert read_manifest(str(tmp_path)) == listed
    for names, missing in (("a", "train/a.parquet"), ("ac", "train/a.parquet and 1 other parts")):
        for name in names:
            (tmp_path / "train" / f"{name}.parquet").unlink(missing_ok=True)
        with pytest.raises(ValueError) as caught:
            checked_parts(str(tmp_path), "train", listed)
        assert str(caught.value) == (
            f"shards must have all parts that schema.json lists; missing: {missing} "
            f"of {str(tmp_path)!r}; copy them again, or ingest again"
        )
