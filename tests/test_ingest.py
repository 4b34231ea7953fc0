"""Ingest from end to end: real files through a real Ray, every bad input with its outcome, shards that read back."""

from __future__ import annotations

import filecmp
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed import ingest, ingest_write, shards
from distributed.cli import Failure
from distributed.ingest_rows import encode_rows
from tests.conftest import ROOT, run_command

ROWS = 120


def png(seed: int, height: int = 12, width: int = 10) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def records(rows: int = ROWS) -> dict[str, list[Any]]:
    """A clean table: 3 classes (a: 60 %, b: 30 %, c: 10 %), groups of two rows, a number and a category."""
    rng = np.random.default_rng(0)
    return {
        "key": [f"r{i:04d}" for i in range(rows)],
        "y": [("a", "a", "a", "a", "a", "a", "b", "b", "b", "c")[i // 2 % 10] for i in range(rows)],
        "patient": [f"p{i // 2}" for i in range(rows)],
        "age": [round(float(v), 3) for v in rng.normal(50, 10, rows)],
        "site": rng.choice(["arm", "leg", "back"], rows).tolist(),
        "photo": [f"{i}.png" for i in range(rows)],
    }


def write_images(folder: Path, rows: int = ROWS) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(rows):
        (folder / f"{i}.png").write_bytes(png(i))


def write_csv(folder: Path, table: dict[str, list[Any]], name: str = "t.csv", **options: Any) -> str:
    pd.DataFrame(table).to_csv(folder / name, index=False, **options)
    return str(folder / name)


def run(*words: object) -> shards.Manifest:
    """Ingest within this process, on the Ray that is already there."""
    argv = [str(w) for w in words]
    assert ingest.main(argv) == 0
    return shards.read_manifest(argv[argv.index("--out") + 1])


def rows_of(folder: Path, split: str = "") -> pd.DataFrame:
    found = [pq.read_table(f) for s in shards.SPLITS if split in ("", s) for f in shards.part_files(str(folder), s)]
    return pa.concat_tables(found).to_pandas()


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files and CSV of the clean table, and its shards in out/."""
    folder = tmp_path_factory.mktemp("ingest")
    write_images(folder / "images")
    table = write_csv(folder, records())
    run("--table", table, "--label", "y", "--id", "key", "--group", "patient", "--image", f"photo={folder}/images", "--out", folder / "out")
    return folder


def test_the_shards_hold_every_row_once_with_the_agreed_columns(made: Path) -> None:
    manifest = shards.read_manifest(str(made / "out"))
    table = rows_of(made / "out")
    assert sorted(table["id"]) == records()["key"]
    schema = pq.read_schema(shards.part_files(str(made / "out"), "val")[0])
    assert {n: str(t) for n, t in zip(schema.names, schema.types)} == {
        "id": "string",
        "label": "int32",
        "rank": "int32",
        "group": "string",
        "image.photo": "binary",
        "table.age": "float",
        "table.site": "int32",
    }
    assert manifest.rows == {s: len(rows_of(made / "out", s)) for s in shards.SPLITS}
    assert manifest.schema.classes == ("a", "b", "c")
    assert manifest.schema.counts == tuple(np.bincount(rows_of(made / "out", "train")["label"]))
    assert not (made / "out" / "rejected.parquet").exists()
    assert sorted(os.listdir(made)) == ["images", "out", "t.csv"]  # nothing temporary is left


def test_cells_are_those_of_the_table(made: Path) -> None:
    manifest = shards.read_manifest(str(made / "out"))
    found = rows_of(made / "out").set_index("id")
    wanted = pd.DataFrame(records()).set_index("key").loc[found.index]
    assert np.array_equal(found["table.age"].to_numpy(), wanted["age"].to_numpy(np.float32))
    vocabulary = manifest.schema.tables[0].categorical[0].vocabulary
    assert [vocabulary[i] for i in found["table.site"]] == wanted["site"].tolist()
    assert [manifest.schema.classes[i] for i in found["label"]] == wanted["y"].tolist()
    assert found["group"].tolist() == wanted["patient"].tolist()
    assert found["image.photo"].tolist() == [png(int(k[1:])) for k in found.index]  # already of the median size: kept byte for byte


def test_statistics_are_of_the_training_rows_only(made: Path) -> None:
    schema = shards.read_manifest(str(made / "out")).schema
    train = rows_of(made / "out", "train")
    age = train["table.age"].to_numpy(float)
    assert schema.tables[0].numeric[0].mean == pytest.approx(age.mean(), rel=1e-6)
    assert schema.tables[0].numeric[0].std == pytest.approx(age.std(), rel=1e-6)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b))) for b in train["image.photo"]]) / 255
    image = schema.images[0]
    assert (image.height, image.width, image.channels) == (12, 10, 3)
    assert image.mean == pytest.approx(pixels.mean((0, 1, 2)), rel=1e-6)
    assert image.std == pytest.approx(pixels.std((0, 1, 2)), rel=1e-6)


def test_groups_never_cross_and_classes_keep_their_shares(made: Path) -> None:
    parts = {s: rows_of(made / "out", s) for s in shards.SPLITS}
    groups = [set(p["group"]) for p in parts.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for split, share in zip(shards.SPLITS, (0.7, 0.1, 0.2)):
        assert np.abs(np.bincount(parts[split]["label"], minlength=3) - share * np.array([72, 36, 12])).max() <= 2


def test_ranks_number_each_class_of_each_split(made: Path) -> None:
    for split in shards.SPLITS:
        for _, rows in rows_of(made / "out", split).groupby("label"):
            assert sorted(rows["rank"]) == list(range(len(rows)))


def same_files(left: Path, right: Path) -> bool:
    names = sorted(str(p.relative_to(left)) for p in left.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(right)) for p in right.rglob("*") if p.is_file())
    return filecmp.cmpfiles(left, right, names, shallow=False)[0] == names


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(made: Path, tmp_path: Path) -> None:
    words = ("--table", made / "t.csv", "--label", "y", "--id", "key", "--group", "patient", "--image", f"photo={made}/images")
    run(*words, "--out", tmp_path / "again")
    assert same_files(made / "out", tmp_path / "again")
    run(*words, "--out", tmp_path / "other", "--seed", 1)
    assert set(rows_of(tmp_path / "other", "test")["id"]) != set(rows_of(made / "out", "test")["id"])


def test_bytes_do_not_depend_on_how_the_rows_are_cut_into_blocks(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import ingest_passes, ingest_table

    monkeypatch.setattr(ingest_table, "BLOCK_ROWS", 7)
    monkeypatch.setattr(ingest_passes, "GROUP_BYTES", 1)
    run(
        "--table",
        made / "t.csv",
        "--label",
        "y",
        "--id",
        "key",
        "--group",
        "patient",
        "--image",
        f"photo={made}/images",
        "--out",
        tmp_path / "o",
    )
    assert same_files(made / "out", tmp_path / "o")


def test_parquet_with_image_bytes_gives_the_same_rows_as_csv_with_files(made: Path, tmp_path: Path) -> None:
    table = records()
    table["photo"] = [png(i) for i in range(ROWS)]
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=50)
    words = ("--label", "y", "--id", "key", "--group", "patient", "--image", "photo")
    run("--table", tmp_path / "t.parquet", *words, "--out", tmp_path / "out")
    assert rows_of(tmp_path / "out").equals(rows_of(made / "out"))
    (tmp_path / "folder").mkdir()
    for i, first in enumerate((0, 70)):
        pq.write_table(pa.table(table).slice(first, 70), tmp_path / "folder" / f"{i}.parquet")
    run("--table", tmp_path / "folder", *words, "--out", tmp_path / "two")
    assert same_files(tmp_path / "out", tmp_path / "two")


def test_new_rows_are_prepared_as_the_training_rows_were(made: Path) -> None:
    manifest = shards.read_manifest(str(made / "out"))
    encoded, refused = encode_rows(pd.read_csv(made / "t.csv"), manifest, str(made / "images"))
    assert refused.num_rows == 0
    wanted = rows_of(made / "out").set_index("id").drop(columns=["group", "rank"])
    found = encoded.to_pandas().set_index("id").drop(columns="rank").loc[wanted.index]
    assert found.equals(wanted[found.columns])
    assert encoded.schema.field("table.site").type == pa.int32()


def test_new_rows_without_labels_ids_or_a_modality(made: Path) -> None:
    manifest = shards.read_manifest(str(made / "out"))
    new = pa.table({"age": [1.5, None], "site": ["arm", "Mars"]})
    encoded, _ = encode_rows(new, manifest, first=7)
    vocabulary = manifest.schema.tables[0].categorical[0].vocabulary
    assert encoded.drop_columns(["rank"]).to_pylist() == [
        {"id": "7", "label": -1, "image.photo": None, "table.age": 1.5, "table.site": vocabulary.index("arm")},
        {"id": "8", "label": -1, "image.photo": None, "table.age": None, "table.site": 3},
    ]
    only_images, refused = encode_rows(pa.table({"photo": ["0.png", "gone.png", "../t.csv"]}), manifest, {"photo": str(made / "images")})
    assert only_images.to_pylist()[0]["table.site"] == -1
    assert only_images["image.photo"].to_pylist() == [png(0)]
    assert [r["id"] for r in refused.to_pylist()] == ["1", "2"]
    assert "no such file" in refused["reason"][0].as_py()
    assert "leaves the folder" in refused["reason"][1].as_py()
    with pytest.raises(ValueError, match="must have all columns of 'table' or none; it lacks site"):
        encode_rows(pa.table({"age": [1.0]}), manifest)
    with pytest.raises(ValueError, match="at least one modality"):
        encode_rows(pa.table({"x": [1.0]}), manifest)


def test_every_refused_row_has_its_reason_and_the_others_stay(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    shutil.copytree(made / "images", images)
    (tmp_path / "secret.png").write_bytes(png(0))
    (images / "0.png").write_bytes(png(0)[:150])  # truncated
    (images / "1.png").write_text("no image")
    (images / "2.png").unlink()
    (images / "3.png").unlink()
    (images / "3.png").symlink_to(tmp_path / "secret.png")
    buffer = io.BytesIO()
    Image.new("L", (200, 200)).save(buffer, "PNG")
    (images / "4.png").write_bytes(buffer.getvalue())
    table = records()
    table["photo"][5] = "../secret.png"
    table["y"][6] = ""
    table["key"][7] = "r0008"
    table["key"][9] = ""
    table["photo"][10] = ""  # lacks its image: kept
    table["photo"][11] = table["age"][11] = table["site"][11] = ""
    words = ("--label", "y", "--id", "key", "--group", "patient", "--image", "photo=" + str(images), "--max-pixels", 30_000)
    manifest = run("--table", write_csv(tmp_path, table), *words, "--out", tmp_path / "out")
    refused = {r["id"]: r["reason"] for r in pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()}
    expected = {
        "r0000": "photo: unreadable image",
        "r0001": "photo: not an image of a known format",
        "r0002": "photo: no such file: '2.png'",
        "r0003": "photo: path leaves the folder of the images: '3.png'",
        "r0004": "photo: image of 200x200 pixels is over the limit of 30000",
        "r0005": "photo: path leaves the folder of the images: '../secret.png'",
        "r0006": "label is missing (column 'y')",
        "r0008": "duplicate id (first in row 7)",
        "": "id is missing (column 'key')",
        "r0011": "no image and no table value",
    }
    assert refused.keys() == expected.keys()
    assert all(refused[k].startswith(v) for k, v in expected.items())
    kept = rows_of(tmp_path / "out").set_index("id")
    assert len(kept) == sum(manifest.rows.values()) == ROWS - len(expected)
    assert kept.loc["r0010", "image.photo"] is None
    assert set(shards.read_manifest(str(tmp_path / "out")).schema.classes) == {"a", "b", "c"}
    assert "refused: 10 (see rejected.parquet)" in capsys.readouterr().out


def test_a_table_only_data_set_with_every_odd_column(ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = 400
    rng = np.random.default_rng(1)
    labels = ["lone"] + ["b" if i % 4 == 0 else "a" for i in range(rows - 1)]
    table = {
        "y": labels,
        "good": rng.normal(size=rows),
        "constant": ["x"] * rows,
        "empty": [""] * rows,
        "name": [f"name {i}" for i in range(rows)],
        "line": range(rows),
        "infinite": [("inf" if i % 10 == 0 else i % 7) for i in range(rows)],
        "mixed": [("?" if i == 0 else i % 50) for i in range(rows)],
        "diagnosis": ["diagnosed " + c for c in labels],
        "words": rng.choice(["low", "high"], rows),
    }
    manifest = run("--table", write_csv(tmp_path, table), "--label", "y", "--modality", "lab=good,infinite", "--out", tmp_path / "out")
    assert manifest.schema.modalities == ("lab", "table")
    assert [c.name for c in manifest.schema.tables[0].numeric] == ["good", "infinite"]
    assert manifest.schema.tables[0].numeric[1].quantiles[-1] == 6
    assert set(manifest.prepare["dropped"]) == {"constant", "empty", "name", "line"}
    said = capsys.readouterr().out
    for line in (
        "note: constant: dropped, constant",
        "note: empty: dropped, no training row has a value",
        "note: name: dropped, every value is different",
        "note: line: dropped, numbers the rows",
        "infinite: missing",
        "note: classes with one row, which is in train: lone",
        "warning: diagnosis determines the label",
    ):
        assert line in said
    train = rows_of(tmp_path / "out", "train")
    assert manifest.schema.classes.index("lone") in set(train["label"])
    assert len(rows_of(tmp_path / "out")) == rows
    assert sorted(rows_of(tmp_path / "out")["id"], key=int) == [str(i) for i in range(rows)]


def test_a_given_split_is_obeyed_its_leaks_are_said_and_a_missing_val_is_cut_from_train(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = records()
    table["part"] = ["test" if i % 5 == 0 else "Train" for i in range(ROWS)]
    table["part"][3] = "holdout"
    table["photo"][5] = "4.png"  # rows 4 and 5: train and test
    words = ("--label", "y", "--id", "key", "--group", "patient", "--split-column", "part", "--image", f"photo={made}/images")
    manifest = run("--table", write_csv(tmp_path, table), *words, "--out", tmp_path / "out")
    assert sorted(rows_of(tmp_path / "out", "test")["id"]) == [f"r{i:04d}" for i in range(0, ROWS, 5)]
    train, val = rows_of(tmp_path / "out", "train"), rows_of(tmp_path / "out", "val")
    assert 8 <= len(val) <= 16
    assert not set(train["group"]) & set(val["group"])
    reason = pq.read_table(tmp_path / "out" / "rejected.parquet")["reason"][0].as_py()
    assert reason == "split must be one of train, val, test (column 'part'); got 'holdout'"
    said = capsys.readouterr().out
    assert "the split column has no val rows" in said
    assert "groups (" in said
    assert "cross the given splits" in said
    assert "photo: 1 identical images (2 rows) are in several splits; 1 of them in val or test with a twin in train" in said
    assert len(manifest.prepare["warnings"]) == 2


def test_sizes_fits_and_channels(made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def deep(_: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(1000, 2000, (20, 30), dtype=np.uint16)).save(buffer, "PNG")
        return buffer.getvalue()

    labels = ["a", "b"] * 20
    pq.write_table(pa.table({"y": labels, "scan": [deep(i) for i in range(40)]}), tmp_path / "t.parquet")
    words = ("--table", tmp_path / "t.parquet", "--label", "y", "--image", "scan")
    manifest = run(*words, "--image-size", "8x16", "--fit", "crop", "--out", tmp_path / "out")
    image = manifest.schema.images[0]
    assert (image.height, image.width, image.channels) == (8, 16, 1)
    low, high = manifest.prepare["images"][0]["window"]
    assert 995 < low < 1050
    assert 1950 < high < 2005
    assert 0.3 < image.mean[0] < 0.7
    opened = Image.open(io.BytesIO(rows_of(tmp_path / "out")["image.scan"][0]))
    assert (opened.size, opened.mode) == ((16, 8), "L")


CSV = "y,x\n" + "\n".join(f"{'ab'[i % 2]},{i % 7}" for i in range(40)) + "\n"


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (CSV, ["--label", "z"], "--label must name a column of the table; got 'z'; valid: y, x"),
        (CSV, ["--label", "y", "--image", "x"], "no image of a sample of column 'x' could be read: no such file: '0'"),
        (CSV, ["--label", "y", "--drop", "x"], "no column is left to learn from"),
        (CSV, ["--label", "y", "--group", "y"], "a column must have one use; 'y' is given to --label and --group"),
        (CSV, ["--label", "y", "--numeric", "x", "--categorical", "x"], "not both; got x"),
        (CSV, ["--label", "y", "--numeric", "y"], "--numeric is for feature columns; 'y' is given to --label"),
        (CSV, ["--label", "y", "--modality", "x"], "--modality takes NAME=COL,COL; got 'x'"),
        (CSV, ["--label", "y", "--split", "0.5,0.5"], "--split must be three shares TRAIN,VAL,TEST that sum to 1"),
        (CSV, ["--label", "y", "--split", "0.5,0.3,0.2", "--split-column", "x"], "exclude each other"),
        (CSV, ["--label", "y", "--encoding", "klingon"], "--encoding must be one that Python knows"),
        (CSV, ["--label", "y", "--seed", "-1"], "--seed must be at least 0; got -1"),
        ("", ["--label", "y"], "is an empty file"),
        ("y,y\n1,2\n", ["--label", "y"], "y appears more than once"),
        ("\n1,2\n", ["--label", "y"], "must begin with a line of column names"),
    ],
)
def test_mistakes_are_one_line_before_ray_starts(tmp_path: Path, text: str, words: list[str], error: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError) as found:
        ingest.main(["--table", str(tmp_path / "t.csv"), *words, "--image-size", "8", "--out", str(tmp_path / "out")])
    assert error in str(found.value)
    assert "\n" not in str(found.value)
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (b"y,x\n", [], "--table must hold rows"),
        (b"y,x\n,1\n,2\n", [], "at least one row must be usable; all 2 were refused, the first because: label is missing (column 'y')"),
        (b"y,x\na,1\na,2\na,2\n", [], "at least two classes; 'y' has only 'a' in its 3 usable rows"),
        (b"y,x\na,1\nb,1\na,1\n", [], "no modality is left to learn from: every feature column was dropped (x: constant)"),
        (b"y,x\na,1\nb,2,3\na,4\n", [], "must have 2 cells: CSV parse error: "),
        (b"y,x\na,caf\xe9\nb,x\n", [], "is not utf-8: byte 0xe9 at offset 9; name the table's own with --encoding"),
        (b"y,x\n" + b"\n".join(b"%f,%d" % (i / 7, i % 3) for i in range(300)), [], "'y' has 300 values in 300 rows: numbers or ids?"),
        (b"y,x\n" + b"a,1\nb,2\n" * 20, ["--split-column", "x"], "no column is left"),
        (b"y,x,s\n" + b"a,1,test\nb,2,val\n" * 20, ["--split-column", "s"], "the split column must have training rows"),
    ],
)
def test_tables_without_a_way_out_end_in_one_line_and_leave_nothing(
    ray_local: None, tmp_path: Path, text: bytes, words: list[str], error: str
) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(ValueError) as found:
        ingest.main(["--table", str(tmp_path / "t.csv"), "--label", "y", *words, "--out", str(tmp_path / "out")])
    assert error in str(found.value)
    assert "\n" not in str(found.value)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_bad_byte_far_into_a_large_file_is_located(ray_local: None, tmp_path: Path) -> None:
    row = "a,größe\nb,höhe\n".encode()
    text = b"y,x\n" + row * 400_000 + b"a,caf\xe9\n"
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(ValueError, match=f"byte 0xe9 at offset {len(text) - 2};"):
        ingest.main(["--table", str(tmp_path / "t.csv"), "--label", "y", "--out", str(tmp_path / "out")])


def test_another_encoding_and_delimiter_are_read(ray_local: None, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(("y;x\n" + "a;café\nb;thé\n" * 30).encode("latin-1"))
    manifest = run("--table", tmp_path / "t.csv", "--label", "y", "--encoding", "latin-1", "--out", tmp_path / "out")
    assert set(manifest.schema.tables[0].categorical[0].vocabulary) == {"café", "thé"}


def test_an_output_that_is_there_stays_unless_overwritten(made: Path, tmp_path: Path) -> None:
    words = ["--table", str(made / "t.csv"), "--label", "y", "--drop", "photo", "key", "patient", "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    run(*words)  # an empty folder is no output
    before = (tmp_path / "out" / "schema.json").read_text()
    with pytest.raises(ValueError, match="or add --overwrite"):
        ingest.main([*words, "--seed", "3"])
    assert (tmp_path / "out" / "schema.json").read_text() == before
    run(*words, "--seed", "3", "--overwrite")
    assert json.loads((tmp_path / "out" / "schema.json").read_text())["prepare"]["seed"] == 3
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"--overwrite replaces a SHARDS folder only; .* also holds thesis\.txt"):
        ingest.main([*words, "--overwrite"])
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"
    assert os.listdir(tmp_path) == ["out"]


def test_more_than_half_refused_is_written_with_a_warning(ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"y": ["a", "b", "", "", ""] * 20, "x": list(range(100))}
    table["x"] = [v % 9 for v in table["x"]]
    manifest = run("--table", write_csv(tmp_path, table), "--label", "y", "--out", tmp_path / "out")
    assert sum(manifest.rows.values()) == 40
    assert "60 of 100 rows were refused: more than half" in capsys.readouterr().out


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A real file system of 256 KiB."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk_leaves_nothing_that_passes_for_shards(made: Path, small_disk: Path) -> None:
    table = records(400)
    table["photo"] = [png(i, 30, 30) for i in range(400)]  # 1 MB
    pq.write_table(pa.table(table), made / "large.parquet")
    words = ["--table", str(made / "large.parquet"), "--label", "y", "--id", "key", "--image", "photo", "--out", str(small_disk / "out")]
    with pytest.raises(Failure, match="no space left while writing"):
        ingest.main(words)
    assert os.listdir(small_disk) == []
    (made / "large.parquet").unlink()


def test_a_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import pyarrow as pa; from distributed import cli; from distributed.ingest_write import Target, write_table\n"
        "def main(argv):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    with Target(argv[1]).writing() as folder:\n"
        "        write_table(folder + '/train/part-00000.parquet', pa.table({'x': [bytes(100000)]}))\n"
        "cli.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(tmp_path / "out")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"error: over the limit of a file's size while writing '{tmp_path}/out'; nothing was left there\n"
    assert os.listdir(tmp_path) == []


def test_a_part_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage that every machine of the cluster shares"):
        ingest_write.verify([(str(tmp_path / "part-00000.parquet"), 100)])


def test_the_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    done = run_command("distributed/ingest.py", "--table", "nowhere.csv", "--label", "y", "--out", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --table must name a CSV or Parquet file (or a folder of them) that exists; got 'nowhere.csv'\n"


@pytest.mark.slow
def test_an_error_deep_in_a_table_is_one_line_on_stderr_after_ray_has_started(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"y,x\n" + b"a,1\nb,2\n" * 1_500_000 + b"a,1,1\n")
    done = run_command("distributed/ingest.py", "--table", str(tmp_path / "t.csv"), "--label", "y", "--out", str(tmp_path / "out"))
    lines = [line for line in done.stderr.splitlines() if not line.startswith("preparing rows: ")]
    assert done.returncode == 2
    assert lines == [
        f"error: every line of '{tmp_path}/t.csv' must have 2 cells: CSV parse error: Row #3000002: Expected 2 columns, got 3: a,1,1"
    ]
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_ingest_leaves_no_shards(tmp_path: Path, number: signal.Signals) -> None:
    table = records(3000)
    table["photo"] = [png(i, 200, 200) for i in range(100)] * 30
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    words = ["--table", str(tmp_path / "t.parquet"), "--label", "y", "--image", "photo", "--out", str(tmp_path / "out")]
    running = subprocess.Popen([sys.executable, str(ROOT / "distributed" / "ingest.py"), *words], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".out.incomplete.*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert not (tmp_path / "out").exists()
    if number != signal.SIGKILL:
        assert running.returncode == 130
        assert said.splitlines()[-1] == "error: interrupted"
        assert os.listdir(tmp_path) == ["t.parquet"]


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment of a real S3 server on this machine, with the bucket `shards`."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="shards")
        system, path = shards.filesystem("s3://shards")
        for i in range(ROWS):
            with system.open_output_stream(f"{path}/raw/{i}.png") as stream:
                stream.write(png(i))
        with system.open_output_stream(f"{path}/raw/t.csv") as stream:
            stream.write(pd.DataFrame(records()).to_csv(index=False).encode())
        yield settings
    server.stop()


def test_images_of_an_object_store_are_read_and_their_paths_stay_inside(made: Path, store: dict[str, str]) -> None:
    manifest = shards.read_manifest(str(made / "out"))
    new = pa.table({"photo": ["1.png", "s3://shards/raw/2.png", "../t.csv", "s3://other/2.png", "gone.png"]})
    found, refused = encode_rows(new, manifest, "s3://shards/raw")
    assert found["image.photo"].to_pylist() == [png(1), png(2)]
    assert [r.split(": ")[1] for r in refused["reason"].to_pylist()] == ["path leaves the folder of the images"] * 2 + ["no such file"]


@pytest.mark.slow
def test_table_images_and_shards_in_an_object_store(made: Path, store: dict[str, str]) -> None:
    words = ["distributed/ingest.py", "--table", "s3://shards/raw/t.csv", "--label", "y", "--id", "key", "--group", "patient"]
    words += ["--image", "photo", "--out", "s3://shards/out"]
    done = run_command(*words, **store)
    assert done.returncode == 0, done.stderr
    assert shards.read_manifest("s3://shards/out") == shards.read_manifest(str(made / "out"))
    system, _ = shards.filesystem("s3://shards/out")
    for split in shards.SPLITS:
        remote = pq.read_table(shards.part_files("s3://shards/out", split)[0], filesystem=system)
        assert remote.equals(pq.read_table(shards.part_files(str(made / "out"), split)[0]))
    done = run_command(*words, **store)
    assert (done.returncode, "or add --overwrite" in done.stderr) == (2, True)
    done = run_command(*words, "--overwrite", "--seed", "5", **store)
    assert done.returncode == 0, done.stderr
    assert shards.read_manifest("s3://shards/out").prepare["seed"] == 5
