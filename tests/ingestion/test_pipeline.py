"""Ingest from end to end: real files through a real Ray, shards that read back, on disks and in
object stores."""

from __future__ import annotations

import dataclasses
import filecmp
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.ingestion.output import OutputFolder, verify_parts, write_table
from distributed.ingestion.passes import LENGTH
from distributed.ingestion.pipeline import plan_parts
from distributed.raw.encoding import encode_rows
from distributed.runtime import storage
from distributed.shards.layout import SPLITS
from distributed.shards.manifest import part_files, read_manifest, shards_digest, write_manifest
from model.schema import Schema
from tests.conftest import ROOT, run_command
from tests.ingestion.example_table import (
    ROWS,
    make_shards,
    png,
    records,
    rows_of,
    run,
    write_csv,
)


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("ingest"))


def test_the_shards_hold_every_row_once_with_the_agreed_columns(made: Path) -> None:
    manifest = read_manifest(str(made / "out"))
    table = rows_of(made / "out")
    assert sorted(table["id"]) == records()["key"]
    schema = pq.read_schema(part_files(str(made / "out"), "val")[0])
    assert {n: str(t) for n, t in zip(schema.names, schema.types)} == {
        "id": "string",
        "label": "int32",
        "rank": "int32",
        "group": "string",
        "image.photo": "binary",
        "file.photo": "string",
        "table.age": "float",
        "table.site": "int32",
    }
    assert manifest.rows == {s: len(rows_of(made / "out", s)) for s in SPLITS}
    assert manifest.schema.classes == ("a", "b", "c")
    assert manifest.schema.counts == tuple(np.bincount(rows_of(made / "out", "train")["label"]))
    assert not (made / "out" / "rejected.parquet").exists()
    assert sorted(os.listdir(made)) == ["images", "out", "t.csv"]  # nothing temporary is left


def test_part_files_are_of_one_size_and_not_too_many() -> None:
    def files(rows: int, megabytes: float) -> tuple[int, ...]:
        split = np.repeat([0, 1, 2], [rows * 8 // 10, rows // 10, rows // 10])
        known = pa.table({f"{LENGTH}photo": np.full(len(split), megabytes * 2**20)})
        return plan_parts(
            split, known, Schema(images=(), tables=(), classes=(), counts=()), 0
        ).files

    assert files(1000, 0.0) == (1, 1, 1)
    assert files(100_000, 0.0) == (8, 1, 1)
    assert files(10_000, 1.0) == (259, 33, 33)  # 31 rows each
    assert files(1_000_000, 1.0) == (1600, 200, 200)
    assert sum(files(1_000_000, 4.0)) == pytest.approx(4_000_000 / 1024, rel=0.01), (
        "none is beyond 1 GiB"
    )


def test_cells_are_those_of_the_table(made: Path) -> None:
    manifest = read_manifest(str(made / "out"))
    found = rows_of(made / "out").set_index("id")
    wanted = pd.DataFrame(records()).set_index("key").loc[found.index]
    assert np.array_equal(found["table.age"].to_numpy(), wanted["age"].to_numpy(np.float32))
    vocabulary = manifest.schema.tables[0].categorical[0].vocabulary
    assert [vocabulary[i] for i in found["table.site"]] == wanted["site"].tolist()
    assert [manifest.schema.classes[i] for i in found["label"]] == wanted["y"].tolist()
    assert found["group"].tolist() == wanted["patient"].tolist()
    assert found["image.photo"].tolist() == [
        png(int(k[1:])) for k in found.index
    ]  # already of the median size: kept byte for byte


def test_statistics_are_of_the_training_rows_only(made: Path) -> None:
    schema = read_manifest(str(made / "out")).schema
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
    parts = {s: rows_of(made / "out", s) for s in SPLITS}
    groups = [set(p["group"]) for p in parts.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for split, share in zip(SPLITS, (0.7, 0.1, 0.2)):
        assert (
            np.abs(
                np.bincount(parts[split]["label"], minlength=3) - share * np.array([72, 36, 12])
            ).max()
            <= 2
        )


def test_ranks_number_each_class_of_each_split(made: Path) -> None:
    for split in SPLITS:
        for _, rows in rows_of(made / "out", split).groupby("label"):
            assert sorted(rows["rank"]) == list(range(len(rows)))


def same_files(left: Path, right: Path) -> bool:
    names = sorted(str(p.relative_to(left)) for p in left.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(right)) for p in right.rglob("*") if p.is_file())
    return filecmp.cmpfiles(left, right, names, shallow=False)[0] == names


def test_other_test_rows_are_another_data_set_and_the_same_rows_are_not(tmp_path: Path) -> None:
    """A study must not take what it found on one of them for the other."""
    rows = [
        {"y": "ab"[i % 4 == 0], "x": i, "part": ("train", "val", "test")[max(0, i - 37)]}
        for i in range(40)
    ]
    digests = {}
    for name, last in (("one", 100), ("twin", 100), ("other", 101)):
        table = write_csv(
            tmp_path,
            {k: [*(r[k] for r in rows), {"y": "a", "x": last, "part": "test"}[k]] for k in rows[0]},
            f"{name}.csv",
        )
        run(
            "--table",
            table,
            "--label",
            "y",
            "--split-column",
            "part",
            "--out",
            str(tmp_path / name),
        )
        manifest = read_manifest(str(tmp_path / name))
        digests[name] = (manifest.schema, shards_digest(str(tmp_path / name), manifest))
    assert digests["one"] == digests["twin"]
    assert digests["one"][0] == digests["other"][0], "training alone does not tell them apart"
    assert digests["one"][1] != digests["other"][1]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(
    made: Path, tmp_path: Path
) -> None:
    words = (
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
    )
    run(*words, "--out", tmp_path / "again")
    assert same_files(made / "out", tmp_path / "again")
    run(*words, "--out", tmp_path / "other", "--seed", 1)
    assert set(rows_of(tmp_path / "other", "test")["id"]) != set(
        rows_of(made / "out", "test")["id"]
    )


def test_bytes_do_not_depend_on_how_the_rows_are_cut_into_blocks(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("distributed.ingestion.dataset.MIN_TASK_ROWS", 7)
    monkeypatch.setattr("distributed.ingestion.dataset.TASKS_PER_CPU", 1000)
    monkeypatch.setattr("distributed.ingestion.blocks.GROUP_BYTES", 1)
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


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_small_table_loads_no_ray_and_has_the_bytes_that_ray_writes(
    made: Path, tmp_path: Path, kind: str
) -> None:
    words = ["--label", "y", "--id", "key", "--group", "patient", "--image"]
    if kind == "csv":
        words = ["--table", f"{made}/t.csv", *words, f"photo={made}/images"]
    else:
        table = pa.table(records() | {"photo": [png(i) for i in range(ROWS)]})
        table = table.append_column("word", table["site"].dictionary_encode())
        (tmp_path / "parts").mkdir()
        # The files differ in a type and in the order of their columns.
        age = table.schema.get_field_index("age")
        pq.write_table(table.slice(0, 70), tmp_path / "parts" / "0.parquet", row_group_size=30)
        wider = table.set_column(age, "age", table["age"].cast(pa.float32()))
        pq.write_table(
            wider.slice(70).select(table.column_names[::-1]), tmp_path / "parts" / "1.pq"
        )
        words = ["--table", f"{tmp_path}/parts", *words, "photo"]
    run(*words, "--out", tmp_path / "in_ray")
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "importlib.import_module('distributed.ingest').main(sys.argv[1:])\n"
        "print('ray' in sys.modules, file=sys.stderr)"
    )
    here = [sys.executable, "-c", code, *words, "--out", f"{tmp_path}/here"]
    done = subprocess.run(here, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1:] == ["False"], done.stderr
    assert same_files(tmp_path / "in_ray", tmp_path / "here")


def test_parquet_with_image_bytes_gives_the_same_rows_as_csv_with_files(
    made: Path, tmp_path: Path
) -> None:
    table = records()
    table["photo"] = [png(i) for i in range(ROWS)]
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=50)
    words = ("--label", "y", "--id", "key", "--group", "patient", "--image", "photo")
    run("--table", tmp_path / "t.parquet", *words, "--out", tmp_path / "out")
    with_files = rows_of(made / "out").drop(columns="file.photo")  # bytes have no file names
    assert rows_of(tmp_path / "out").equals(with_files)
    (tmp_path / "folder").mkdir()
    for i, first in enumerate((0, 70)):
        pq.write_table(pa.table(table).slice(first, 70), tmp_path / "folder" / f"{i}.parquet")
    run("--table", tmp_path / "folder", *words, "--out", tmp_path / "two")
    assert same_files(tmp_path / "out", tmp_path / "two")


def test_new_rows_are_prepared_as_the_training_rows_were(made: Path) -> None:
    manifest = read_manifest(str(made / "out"))
    encoded, refused = encode_rows(pd.read_csv(made / "t.csv"), manifest, str(made / "images"))
    assert refused.num_rows == 0
    wanted = rows_of(made / "out").set_index("id").drop(columns=["group", "rank"])
    found = encoded.to_pandas().set_index("id").drop(columns="rank").loc[wanted.index]
    assert found.equals(wanted[found.columns])
    assert encoded.schema.field("table.site").type == pa.int32()


def test_new_rows_without_labels_ids_or_a_modality(made: Path) -> None:
    manifest = read_manifest(str(made / "out"))
    new = pa.table({"age": [1.5, None], "site": ["arm", "Mars"]})
    encoded, _ = encode_rows(new, manifest, first=7)
    vocabulary = manifest.schema.tables[0].categorical[0].vocabulary
    assert encoded.drop_columns(["rank"]).to_pylist() == [
        {
            "id": "7",
            "label": -1,
            "image.photo": None,
            "table.age": 1.5,
            "table.site": vocabulary.index("arm"),
        },
        {"id": "8", "label": -1, "image.photo": None, "table.age": None, "table.site": 3},
    ]
    only_images, refused = encode_rows(
        pa.table({"photo": ["0.png", "gone.png", "../t.csv"]}),
        manifest,
        {"photo": str(made / "images")},
    )
    assert only_images.to_pylist()[0]["table.site"] == -1
    assert only_images["image.photo"].to_pylist() == [png(0)]
    assert [r["id"] for r in refused.to_pylist()] == ["1", "2"]
    assert "no such file" in refused["reason"][0].as_py()
    assert "leaves the folder" in refused["reason"][1].as_py()
    with pytest.raises(ValueError, match="must have all columns of 'table' or none; it lacks site"):
        encode_rows(pa.table({"age": [1.0]}), manifest)
    with pytest.raises(ValueError, match="at least one modality"):
        encode_rows(pa.table({"x": [1.0]}), manifest)


def test_a_given_split_is_obeyed_its_leaks_are_said_and_a_missing_val_is_cut_from_train(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = records()
    table["part"] = ["test" if i % 5 == 0 else "Train" for i in range(ROWS)]
    table["part"][3] = "holdout"
    table["photo"][5] = "4.png"  # rows 4 and 5: train and test
    words = (
        "--label",
        "y",
        "--id",
        "key",
        "--group",
        "patient",
        "--split-column",
        "part",
        "--image",
        f"photo={made}/images",
    )
    manifest = run("--table", write_csv(tmp_path, table), *words, "--out", tmp_path / "out")
    assert sorted(rows_of(tmp_path / "out", "test")["id"]) == [
        f"r{i:04d}" for i in range(0, ROWS, 5)
    ]
    train, val = rows_of(tmp_path / "out", "train"), rows_of(tmp_path / "out", "val")
    assert 8 <= len(val) <= 16
    assert not set(train["group"]) & set(val["group"])
    reason = pq.read_table(tmp_path / "out" / "rejected.parquet")["reason"][0].as_py()
    assert reason == "split must be one of train, val, test (column 'part'); got 'holdout'"
    said = capsys.readouterr().out
    assert "the split column has no val rows" in said
    assert "groups (" in said
    assert "cross the given splits" in said
    assert (
        "photo: 1 identical images (2 rows) are in several splits; 1 of them in val"
        " or test with a twin in train" in said
    )
    assert len(manifest.prepare["warnings"]) == 2


def test_sizes_fits_and_channels(made: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def deep(_: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(1000, 2000, (20, 30), dtype=np.uint16)).save(buffer, "PNG")
        return buffer.getvalue()

    labels = ["a", "b"] * 20
    pq.write_table(
        pa.table({"y": labels, "scan": [deep(i) for i in range(40)]}), tmp_path / "t.parquet"
    )
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
        system, path = storage.filesystem("s3://shards")
        for i in range(ROWS):
            with system.open_output_stream(f"{path}/raw/{i}.png") as stream:
                stream.write(png(i))
        with system.open_output_stream(f"{path}/raw/t.csv") as stream:
            stream.write(pd.DataFrame(records()).to_csv(index=False).encode())
        yield settings
    server.stop()


def test_images_of_an_object_store_are_read_and_their_paths_stay_inside(
    made: Path, store: dict[str, str]
) -> None:
    manifest = read_manifest(str(made / "out"))
    new = pa.table(
        {"photo": ["1.png", "s3://shards/raw/2.png", "../t.csv", "s3://other/2.png", "gone.png"]}
    )
    found, refused = encode_rows(new, manifest, "s3://shards/raw")
    assert found["image.photo"].to_pylist() == [png(1), png(2)]
    assert [r.split(": ")[1] for r in refused["reason"].to_pylist()] == [
        "path leaves the folder of the images"
    ] * 2 + ["no such file"]


def test_shards_in_a_bucket_stay_until_their_successors_are_sure(
    made: Path, store: dict[str, str], tmp_path: Path
) -> None:
    before = read_manifest(str(made / "out"))
    part = write_table("s3://shards/kept/train/part-00000.parquet", pa.table({"x": [1]}))
    write_manifest(before, "s3://shards/kept")
    table = write_csv(tmp_path, {"y": ["a"] * 60, "x": list(range(60))})
    with pytest.raises(ValueError, match="at least two classes"):
        run("--table", table, "--label", "y", "--overwrite", "--out", "s3://shards/kept")
    assert read_manifest("s3://shards/kept") == before
    verify_parts([part])
    target = OutputFolder("s3://shards/kept", overwrite=True)
    with target.writing():
        target.clear()
        assert part_files("s3://shards/kept", "train") == []
        target.commit(dataclasses.replace(before, rows={"train": 0, "val": 0, "test": 0}))
    with (
        pytest.raises(RuntimeError),
        OutputFolder("s3://shards/kept", overwrite=True).writing(),
    ):
        raise RuntimeError("before clear()")
    assert read_manifest("s3://shards/kept").rows["train"] == 0


@pytest.mark.slow
def test_table_images_and_shards_in_an_object_store(made: Path, store: dict[str, str]) -> None:
    words = [
        "distributed/ingest.py",
        "--table",
        "s3://shards/raw/t.csv",
        "--label",
        "y",
        "--id",
        "key",
        "--group",
        "patient",
    ]
    words += ["--image", "photo", "--out", "s3://shards/out"]
    done = run_command(*words, **store)
    assert done.returncode == 0, done.stderr
    assert read_manifest("s3://shards/out") == read_manifest(str(made / "out"))
    system, _ = storage.filesystem("s3://shards/out")
    for split in SPLITS:
        remote = pq.read_table(part_files("s3://shards/out", split)[0], filesystem=system)
        assert remote.equals(pq.read_table(part_files(str(made / "out"), split)[0]))
    done = run_command(*words, **store)
    assert (done.returncode, "or add --overwrite" in done.stderr) == (2, True)
    done = run_command(*words, "--overwrite", "--seed", "5", **store)
    assert done.returncode == 0, done.stderr
    assert read_manifest("s3://shards/out").prepare["seed"] == 5
