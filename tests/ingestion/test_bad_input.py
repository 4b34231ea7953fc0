"""Ingest of bad input: each case ends as a refused row with a reason or as one clear line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.ingestion import pipeline
from distributed.ingestion.output import WrittenFile, verify_parts
from distributed.raw.encoding import encode_rows
from distributed.raw.table import open_raw_table
from distributed.runtime.command import one_line
from distributed.runtime.errors import Failure
from distributed.shards.checksums import PartRecord
from distributed.shards.manifest import Manifest, read_manifest
from model.schema import Categorical, Numeric, Schema, Table
from tests.conftest import ROOT, run_command, script
from tests.ingestion.example_table import (
    ROWS,
    make_shards,
    png,
    records,
    rows_of,
    run,
    write_csv,
    write_images,
)
from tests.mistakes import mistake

ingest = script("ingest")


@pytest.fixture(scope="module")
def made(ray_local: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("ingest"))


def test_every_refused_row_has_its_reason_and_the_others_stay(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    words = (
        "--label",
        "y",
        "--id",
        "key",
        "--group",
        "patient",
        "--image",
        "photo=" + str(images),
        "--max-pixels",
        30_000,
    )
    manifest = run("--table", write_csv(tmp_path, table), *words, "--out", tmp_path / "out")
    refused = {
        r["id"]: r["reason"]
        for r in pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    }
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
    assert set(read_manifest(str(tmp_path / "out")).schema.classes) == {"a", "b", "c"}
    assert "refused: 10 (see rejected.parquet)" in capsys.readouterr().out


def test_a_table_only_data_set_with_every_odd_column(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    manifest = run(
        "--table",
        write_csv(tmp_path, table),
        "--label",
        "y",
        "--modality",
        "lab=good,infinite",
        "--out",
        tmp_path / "out",
    )
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


def test_rows_that_hold_only_what_is_dropped_are_refused_and_count_for_nothing(
    ray_local: None, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    table: dict[str, list[object]] = {
        "y": ["lost", *("ab"[i % 4 == 0] for i in range(199))],
        "name": [f"record {i}" for i in range(200)],
        "hospital": ["north"] * 200,
        "age": rng.normal(50, 9, 200).tolist(),
        "site": rng.choice(["arm", "leg"], 200).tolist(),
    }
    full = {name: list(cells) for name, cells in table.items()}
    for i in range(40):
        table["age"][i] = table["site"][i] = ""
    manifest = run("--table", write_csv(tmp_path, table), "--label", "y", "--out", tmp_path / "out")
    refused = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert refused == [{"id": str(i), "reason": "no image and no table value"} for i in range(40)]
    assert (sum(manifest.rows.values()), manifest.schema.classes) == (160, ("a", "b"))
    assert manifest.rows == {"train": 112, "val": 16, "test": 32}
    assert manifest.schema.tables[0].numeric[0].missing == 0
    assert set(manifest.prepare["dropped"]) == {"name", "hospital"}
    assert (
        sum(
            note.startswith("name: dropped, every value is different")
            for note in manifest.prepare["notes"]
        )
        == 1
    )
    good, not_good = encode_rows(
        pa.table({name: cells[:40] for name, cells in full.items()}), manifest
    )
    assert (good.num_rows, not_good.num_rows) == (40, 0)
    _, not_good = encode_rows(
        pa.table(
            {
                n: ["" if n in ("age", "site") else c for c in cells[:40]]
                for n, cells in full.items()
            }
        ),
        manifest,
    )
    assert not_good["reason"].to_pylist() == ["no image and no table value"] * 40


def test_words_that_features_take_for_missing_are_told_where_they_are_names(
    ray_local: None, tmp_path: Path
) -> None:
    table = {
        "key": [f"r{i}" if i else "NA" for i in range(60)],
        "y": ["a", "b", "NA"] * 20,
        "lot": [f"l{i % 20}" if i % 4 else "null" for i in range(60)],
        "x": [i % 7 for i in range(60)],
    }
    words = ("--label", "y", "--group", "lot", "--id", "key")
    manifest = run("--table", write_csv(tmp_path, table), *words, "--out", tmp_path / "out")
    assert manifest.schema.classes == ("NA", "a", "b")
    warnings = [line for line in manifest.prepare["warnings"] if "empty" in line]
    assert warnings == [
        "label: 'NA' is taken for a name (rows: 20); if it means missing, leave those cells empty",
        "group: 'null' is taken for a name (rows: 15); if it means missing, leave"
        " those cells empty",
        "id: 'NA' is taken for a name (rows: 1); if it means missing, leave those cells empty",
    ]


def test_ids_that_mostly_repeat_are_refused_with_two_examples(
    ray_local: None, tmp_path: Path
) -> None:
    table = records()
    words = ("--table", write_csv(tmp_path, table), "--label", "y", "--drop", "photo")
    out = ("--out", str(tmp_path / "out"))
    with mistake(
        "--id must name a column of unique ids; in 'patient' 60 of 120 rows repeat the id of an "
        "earlier row, such as 'p0' and 'p1': rows that belong together are named with --group"
    ):
        ingest.main([*words, "--id", "patient", *out])
    table["key"][7] = table["key"][8]
    write_csv(tmp_path, table)
    assert run(*words, "--id", "key", *out).rows["train"]
    assert len(pq.read_table(tmp_path / "out" / "rejected.parquet")) == 1


def test_names_that_differ_only_in_case_or_blanks_are_warned_of(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {
        "kind": ["Flip Flops", "FLIP FLOPS", "Flip  Flops ", "Shoes"] * 30,
        "lot": [f"l{i // 4}" for i in range(120)],
        "site": ["arm", "leg", "Arm", "leg"] * 30,
    }
    words = ("--table", write_csv(tmp_path, table), "--label", "kind", "--group", "lot")
    prepare = run(*words, "--out", tmp_path / "out").prepare
    assert (
        "label: names of classes differ only in case or blanks: 'FLIP FLOPS' = 'Flip  Flops' = "
        "'Flip Flops'; if they are one class, write them alike"
    ) in prepare["warnings"]
    note = "site: categories that differ only in case or blanks: 'Arm' = 'arm'"
    assert note in prepare["notes"]
    said = [line.split() for line in capsys.readouterr().out.replace("│", " ").splitlines()]
    assert ["kind", "label", "0.0%", "4"] in said
    assert ["lot", "group", "0.0%", "30", *["its", "rows", "stay", "in", "one", "split"]] in said


def test_names_of_pictures_without_the_option_are_asked_about_or_said(
    ray_local: None, tmp_path: Path
) -> None:
    words = ("--table", write_csv(tmp_path, records()), "--label", "y", "--group", "patient")
    out = ("--out", str(tmp_path / "out"))
    note = (
        "photo: dropped, names of pictures, such as '0.png' (--image photo=DIR uses those in DIR)"
    )
    assert note in run(*words, *out).prepare["notes"]
    write_images(tmp_path)
    with mistake(
        "the use of column 'photo' must be given: it holds names of pictures under the table's "
        "folder, such as '0.png'; valid: --image 'photo' .*, --drop 'photo'"
    ):
        ingest.main([*words, *out, "--overwrite"])
    assert run(*words, "--drop", "photo", *out, "--overwrite").schema.modalities == ("table",)
    table = run(*words, "--categorical", "photo", *out, "--overwrite").schema.tables[0]
    assert "photo" in [column.name for column in table.categorical]


CSV = "y,x\n" + "\n".join(f"{'ab'[i % 2]},{i % 7}" for i in range(40)) + "\n"


@pytest.mark.parametrize("option", ["--label", "--id", "--group", "--split-column"])
def test_a_column_of_lists_is_refused_by_the_option_that_names_it(
    tmp_path: Path, option: str
) -> None:
    table = pa.table({"y": ["a", "b"] * 20, "x": range(40), "many": [[i] for i in range(40)]})
    pq.write_table(table, tmp_path / "t.parquet")
    words = [option, "many", *([] if option == "--label" else ["--label", "y"])]
    with mistake(f"{option} must name a column of numbers or words; 'many' holds list<"):
        ingest.main(
            ["--table", str(tmp_path / "t.parquet"), *words, "--out", str(tmp_path / "out")]
        )
    assert os.listdir(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize("column", ["y", "key", "age", "site"])
def test_new_rows_with_a_column_of_lists_are_refused_in_one_line(column: str) -> None:
    schema = Schema(
        tables=(
            Table(
                name="table",
                numeric=(Numeric(name="age"),),
                categorical=(Categorical(name="site", vocabulary=("a",)),),
            ),
        )
    )
    manifest = Manifest(schema=schema, rows={}, prepare={"label": "y", "id": "key", "images": []})
    rows = {"y": ["a"], "key": ["1"], "age": [1.0], "site": ["a"], column: [["a", "b"]]}
    with pytest.raises(
        ValueError, match="must hold numbers or words; one that is to be read holds list<"
    ):
        encode_rows(pa.table(rows), manifest)


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (CSV, ["--label", "z"], "--label must name a column of the table; got 'z'; valid: y, x"),
        (
            CSV,
            ["--label", "y", "--image", "x"],
            "no image of a sample of column 'x' could be read: no such file: '0'",
        ),
        (CSV, ["--label", "y", "--drop", "x"], "no column is left to learn from"),
        (
            "y,x\na,1.png\nb,b/2.JPEG\n",
            ["--label", "y"],
            "dropped (x: names of pictures, such as '1.png' (--image x=DIR uses those in DIR))",
        ),
        (
            CSV,
            ["--label", "y", "--group", "y"],
            "a column must have one use; 'y' is given to --label and --group",
        ),
        (CSV, ["--label", "y", "--numeric", "x", "--categorical", "x"], "not both; got x"),
        (
            CSV,
            ["--label", "y", "--numeric", "y"],
            "--numeric is for feature columns; 'y' is given to --label",
        ),
        (
            CSV,
            ["--label", "y", "--modality", "lab=x", "--modality", "lab=z"],
            "got 'lab' twice; valid: lab=x,z",
        ),
        (
            CSV,
            ["--label", "y", "--image", "x=a", "x=b"],
            "--image must name a column once; got 'x' twice",
        ),
        (CSV, ["--label", "y", "--modality", "x"], "--modality takes NAME=COL,COL; got 'x'"),
        (
            CSV,
            ["--label", "y", "--split", "0.5,0.5"],
            "--split must be three shares TRAIN,VAL,TEST that sum to 1",
        ),
        (
            CSV,
            ["--label", "y", "--split", "0.5,0.3,0.2", "--split-column", "x"],
            "exclude each other",
        ),
        (
            CSV,
            ["--label", "y", "--encoding", "klingon"],
            "--encoding must be one that Python knows",
        ),
        (CSV, ["--label", "y", "--seed", "-1"], "--seed must be between 0 and 4294967295; got -1"),
        ("", ["--label", "y"], "is an empty file"),
        ("y,y\n1,2\n", ["--label", "y"], "y appears more than once"),
        ("\n1,2\n", ["--label", "y"], "must begin with a line of column names"),
    ],
)
def test_mistakes_are_one_line_before_ray_starts(
    tmp_path: Path, text: str, words: list[str], error: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError) as found:
        ingest.main(
            [
                "--table",
                str(tmp_path / "t.csv"),
                *words,
                "--image-size",
                "8",
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert error in one_line(found.value)
    assert "\n" not in str(found.value)
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (b"y,x\n", [], "--table must hold rows"),
        (
            b"y,x\n,1\n,2\n",
            [],
            "at least one row must be usable; all 2 were refused, the first because:"
            " label is missing (column 'y')",
        ),
        (
            b"y,x\na,1\na,2\na,2\n",
            [],
            "at least two classes; 'y' has only 'a' in its 3 usable rows",
        ),
        (
            b"y,x\na,1\nb,1\na,1\n",
            [],
            "no modality is left to learn from: every feature column was dropped (x: constant)",
        ),
        (b"y,x\na,1\nb,2,3\na,4\n", [], "must have 2 cells: CSV parse error: "),
        (
            b"y,x\na,caf\xe9\nb,x\n",
            [],
            "is not utf-8: byte 0xe9 at offset 9; name the table's own with --encoding",
        ),
        (
            b"y,x\n" + b"\n".join(b"%f,%d" % (i / 7, i % 3) for i in range(300)),
            [],
            "'y' has 300 values in 300 rows: numbers or ids?",
        ),
        (b"y,x\n" + b"a,1\nb,2\n" * 20, ["--split-column", "x"], "no column is left"),
        (
            b"y,x,s\n" + b"a,1,test\nb,2,val\n" * 20,
            ["--split-column", "s"],
            "the split column must have training rows",
        ),
    ],
)
def test_tables_without_a_way_out_end_in_one_line_and_leave_nothing(
    ray_local: None, tmp_path: Path, text: bytes, words: list[str], error: str
) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(ValueError) as found:
        ingest.main(
            [
                "--table",
                str(tmp_path / "t.csv"),
                "--label",
                "y",
                *words,
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert error in one_line(found.value)
    assert "\n" not in str(found.value)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_bad_byte_far_into_a_large_file_is_located(ray_local: None, tmp_path: Path) -> None:
    row = "a,größe\nb,höhe\n".encode()
    text = b"y,x\n" + row * 400_000 + b"a,caf\xe9\n"
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(ValueError, match=f"byte 0xe9 at offset {len(text) - 2};"):
        ingest.main(
            ["--table", str(tmp_path / "t.csv"), "--label", "y", "--out", str(tmp_path / "out")]
        )


def test_another_encoding_and_delimiter_are_read(ray_local: None, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(("y;x\n" + "a;café\nb;thé\n" * 30).encode("latin-1"))
    manifest = run(
        "--table",
        tmp_path / "t.csv",
        "--label",
        "y",
        "--encoding",
        "latin-1",
        "--out",
        tmp_path / "out",
    )
    assert set(manifest.schema.tables[0].categorical[0].vocabulary) == {"café", "thé"}


def test_an_output_that_is_there_stays_unless_overwritten(made: Path, tmp_path: Path) -> None:
    words = [
        "--table",
        str(made / "t.csv"),
        "--label",
        "y",
        "--drop",
        "photo",
        "key",
        "patient",
        "--out",
        str(tmp_path / "out"),
    ]
    (tmp_path / "out").mkdir()
    run(*words)  # an empty folder is no output
    before = (tmp_path / "out" / "schema.json").read_text()
    with mistake("or add --overwrite"):
        ingest.main([*words, "--seed", "3"])
    assert (tmp_path / "out" / "schema.json").read_text() == before
    run(*words, "--seed", "3", "--overwrite")
    assert json.loads((tmp_path / "out" / "schema.json").read_text())["prepare"]["seed"] == 3
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    with mistake(r"--overwrite replaces a SHARDS folder only; .* also holds thesis\.txt"):
        ingest.main([*words, "--overwrite"])
    assert (tmp_path / "out" / "thesis.txt").read_text() == "dear"
    assert os.listdir(tmp_path) == ["out"]


def test_more_than_half_refused_is_written_with_a_warning(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = {"y": ["a", "b", "", "", ""] * 20, "x": list(range(100))}
    table["x"] = [v % 9 for v in table["x"]]
    manifest = run("--table", write_csv(tmp_path, table), "--label", "y", "--out", tmp_path / "out")
    assert sum(manifest.rows.values()) == 40
    assert "60 of 100 rows were refused: more than half" in capsys.readouterr().out


def test_a_full_disk_leaves_nothing_that_passes_for_shards(made: Path, small_disk: Path) -> None:
    table = records(400)
    table["photo"] = [png(i, 30, 30) for i in range(400)]  # 1 MB
    pq.write_table(pa.table(table), made / "large.parquet")
    words = [
        "--table",
        str(made / "large.parquet"),
        "--label",
        "y",
        "--id",
        "key",
        "--image",
        "photo",
        "--out",
        str(small_disk / "out"),
    ]
    with pytest.raises(Failure, match="no space left while writing"):
        ingest.main(
            [*words, "--rows-per-file", "5"]
        )  # tasks of other parts are running when the first fails
    assert os.listdir(small_disk) == []
    time.sleep(1)
    assert os.listdir(small_disk) == [], "a task has written after the clean-up"
    (made / "large.parquet").unlink()


def test_a_mounted_volume_is_filled_in_place_and_holds_all_or_nothing(
    ray_local: None, small_disk: Path, tmp_path: Path
) -> None:
    words = [
        "--table",
        write_csv(tmp_path, records()),
        "--label",
        "y",
        "--drop",
        "photo",
        "key",
        "patient",
        "--out",
        str(small_disk),
    ]
    (small_disk / "lost+found").mkdir()
    first = run(*words)
    assert sum(first.rows.values()) == len(rows_of(small_disk)) == ROWS
    with mistake("or add --overwrite"):
        ingest.main(words)
    assert run(*words, "--overwrite", "--seed", "3").prepare["seed"] == 3
    assert len(rows_of(small_disk)) == ROWS
    assert sorted(os.listdir(small_disk)) == ["lost+found", "schema.json", "test", "train", "val"]
    (small_disk / "notes.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"also holds notes\.txt"):
        ingest.main([*words, "--overwrite"])
    (small_disk / "notes.txt").unlink()
    table = records(400) | {"photo": [png(i, 30, 30) for i in range(400)]}  # 1 MB
    pq.write_table(pa.table(table), tmp_path / "large.parquet")
    with pytest.raises(Failure, match="no space left while writing"):
        ingest.main(
            [
                "--table",
                str(tmp_path / "large.parquet"),
                "--label",
                "y",
                "--image",
                "photo",
                "--overwrite",
                "--out",
                str(small_disk),
            ]
        )
    assert os.listdir(small_disk) == ["lost+found"]


def test_a_folder_mounted_from_the_same_disk_is_filled_in_place(made: Path, tmp_path: Path) -> None:
    far, out = tmp_path / "far", tmp_path / "mounted here"
    far.mkdir()
    out.mkdir()
    if subprocess.run(["mount", "--bind", far, out], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        words = (
            "--table",
            made / "t.csv",
            "--label",
            "y",
            "--drop",
            "photo",
            "key",
            "patient",
            "--out",
            out,
        )
        run(*words)
        run(*words, "--overwrite")
        assert len(rows_of(far)) == ROWS
    finally:
        subprocess.run(["umount", "--lazy", out], check=True)


def test_a_link_leads_to_where_the_shards_are_written(made: Path, tmp_path: Path) -> None:
    words = [
        "--table",
        str(made / "t.csv"),
        "--label",
        "y",
        "--drop",
        "photo",
        "key",
        "patient",
        "--out",
        str(tmp_path / "link"),
    ]
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "shards")
    for more in ([], ["--overwrite"]):
        run(*words, *more)
        assert len(rows_of(tmp_path / "far" / "shards")) == ROWS
        assert (tmp_path / "link").is_symlink()
        assert os.listdir(tmp_path / "far") == ["shards"]


def test_a_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1])\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import pyarrow as pa; from distributed.runtime import command; from"
        " distributed.ingestion.output import OutputFolder, write_table\n"
        "def main(argv):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "    with OutputFolder(argv[1]).writing() as folder:\n"
        "        write_table(folder + '/train/part-00000.parquet',"
        " pa.table({'x': [bytes(100000)]}))\n"
        "command.run(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert (
        done.stderr == f"error: over the limit of a file's size while writing '{tmp_path}/out';"
        " nothing was left there\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_part_that_is_not_there_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage that every machine of the cluster shares"):
        verify_parts([WrittenFile(str(tmp_path / "part-00000.parquet"), "", PartRecord(100, 0, 0))])


def test_the_command_exits_with_2_and_one_line(tmp_path: Path) -> None:
    done = run_command(
        "distributed/ingest.py",
        "--table",
        "nowhere.csv",
        "--label",
        "y",
        "--out",
        str(tmp_path / "out"),
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: --table must name a CSV or Parquet file (or a folder of them) that exists;"
        " got 'nowhere.csv'\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("lines", [4_500_000, 7_000_000], ids=["in this process", "in Ray"])
def test_an_error_deep_in_a_table_is_one_line_on_stderr(tmp_path: Path, lines: int) -> None:
    (tmp_path / "t.csv").write_bytes(b"y,x\n" + b"a,1\nb,2\n" * (lines // 2) + b"a,1,1\n")
    is_small = pipeline.is_small(open_raw_table(str(tmp_path / "t.csv")), [])
    assert is_small == (lines == 4_500_000)
    done = run_command(
        "distributed/ingest.py",
        "--table",
        str(tmp_path / "t.csv"),
        "--label",
        "y",
        "--out",
        str(tmp_path / "out"),
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("preparing rows: ")]
    assert done.returncode == 2
    assert said == [
        f"error: every line of '{tmp_path}/t.csv' must have 2 cells: CSV parse error:"
        f" Row #{lines + 2}: Expected 2 columns, got 3: a,1,1"
    ]
    assert os.listdir(tmp_path) == ["t.csv"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(("rows", "side"), [(3000, 200), (60_000, 16)], ids=["small", "large"])
def test_a_stopped_ingest_leaves_no_shards(
    tmp_path: Path, number: signal.Signals, rows: int, side: int
) -> None:
    table = records(rows)
    table["photo"] = [png(i, side, side) for i in range(100)] * (rows // 100)
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    is_small = pipeline.is_small(open_raw_table(str(tmp_path / "t.parquet")), [side**2])
    assert is_small == (rows == 3000), "small tables are ingested without Ray"
    words = [
        "--table",
        str(tmp_path / "t.parquet"),
        "--label",
        "y",
        "--image",
        "photo",
        "--out",
        str(tmp_path / "out"),
    ]
    running = subprocess.Popen(
        [sys.executable, str(ROOT / "distributed" / "ingest.py"), *words],
        stderr=subprocess.PIPE,
        text=True,
    )
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
        assert running.returncode == 128 + number
        assert said.splitlines()[-1] == "error: interrupted"
        assert os.listdir(tmp_path) == ["t.parquet"]
