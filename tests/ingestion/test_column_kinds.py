"""The same rows from text and from types: booleans, dates, decimal commas; images deeper than the
sample's; odd names."""

from __future__ import annotations

import datetime
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from distributed.inference.rows import matching
from distributed.raw.encoding import encode_rows
from distributed.raw.table import open_raw_table, sample_rows
from distributed.shards.manifest import Manifest
from model.schema import Categorical, Numeric, Schema, Table
from tests.ingestion.example_table import records, rows_of, run, write_csv, write_images


def test_deep_images_that_the_sample_lacked_are_said(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def grey(i: int, kind: type) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9)).astype(kind)).save(
            buffer, "PNG"
        )
        return buffer.getvalue()

    scans = [
        grey(i, np.uint16 if i == 1 else np.uint8) for i in range(300)
    ]  # the sample of 300 rows has no row 1
    pq.write_table(pa.table({"y": ["a", "b"] * 150, "scan": scans}), tmp_path / "t.parquet")
    words = (
        "--table",
        tmp_path / "t.parquet",
        "--label",
        "y",
        "--image",
        "scan",
        "--out",
        tmp_path / "out",
    )
    manifest = run(*words)
    assert manifest.prepare["images"][0]["window"] is None
    assert (
        "scan: 1 images have more than 8 bits of grey and the sample had none"
        in manifest.prepare["warnings"][0]
    )
    assert not run(*words, "--overwrite", "--window", "0,255").prepare["warnings"]


def mixed(rows: int = 120) -> dict[str, list[Any]]:
    """Columns that text and types spell differently: true, dates and decimals."""
    rng = np.random.default_rng(0)
    first = datetime.datetime(2020, 1, 1)
    return {
        "key": [f"r{i}" for i in range(rows)],
        "ill": [i % 3 == 0 for i in range(rows)],
        "smoker": rng.choice([True, False], rows).tolist(),
        "seen": [first + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9999, rows)],
        "dose": rng.normal(5, 2, rows).round(2).tolist(),
    }


def test_booleans_dates_and_decimal_commas_are_the_same_from_every_kind_of_table(
    ray_local: None, tmp_path: Path
) -> None:
    pq.write_table(pa.table(mixed()), tmp_path / "t.parquet")
    frame = pd.DataFrame(mixed())
    frame.to_csv(tmp_path / "point.csv", index=False)
    frame.astype({"ill": str}).assign(ill=lambda f: f["ill"].str.lower()).to_csv(
        tmp_path / "comma.csv", index=False, sep=";", decimal=","
    )
    tables = {
        name: open_raw_table(str(tmp_path / name))
        for name in ("t.parquet", "point.csv", "comma.csv")
    }
    made = {
        name: run(
            "--table",
            tmp_path / name,
            "--label",
            "ill",
            "--id",
            "key",
            "--out",
            tmp_path / f"{name}.out",
        )
        for name in tables
    }
    wanted = rows_of(tmp_path / "t.parquet.out")
    for name, manifest in made.items():
        assert manifest.schema == made["t.parquet"].schema
        assert manifest.schema.classes == ("False", "True")
        assert manifest.prepare["readings"]["seen"] == "dates"
        assert rows_of(tmp_path / f"{name}.out").equals(wanted)
        for table in tables.values():
            found, refused = encode_rows(
                sample_rows(table, table.schema.names, 120),
                manifest,
                commas=table.delimiter == ";",
            )
            assert refused.num_rows == 0
            found = found.to_pandas().set_index("id").drop(columns="rank")
            assert found.equals(wanted.set_index("id").loc[found.index, found.columns])
    assert any("dose: decimal commas" in note for note in made["comma.csv"].prepare["notes"])


def test_numbers_as_people_write_them_are_the_typed_ones_from_csv_and_parquet(
    ray_local: None, tmp_path: Path
) -> None:
    rows = 120
    rng = np.random.default_rng(0)
    price, dose = rng.uniform(1, 9999, rows).round(2), rng.integers(1, 500, rows)
    days = [datetime.datetime(2024, 1 + i % 12, 1 + i % 11) for i in rng.integers(0, 99, rows)]
    fixed: dict[str, list[Any]] = {
        "y": ["a", "b"] * (rows // 2),
        "key": [f"r{i}" for i in range(rows)],
    }
    typed = fixed | {"price": price.tolist(), "dose": dose.tolist(), "seen": days}
    swapped = str.maketrans(",.", ".,")
    written = fixed | {
        "price": [f"{value:,.2f}".translate(swapped) for value in price],
        "dose": [f"{value} mg" for value in dose],
        "seen": [day.strftime("%d/%m/%Y") for day in days],
        "score": ["1,234", "1,500"] * (rows // 2),
    }
    pq.write_table(pa.table(typed), tmp_path / "typed.parquet")
    pq.write_table(pa.table(written), tmp_path / "written.parquet")
    write_csv(tmp_path, written, "written.csv")
    words = ("--label", "y", "--id", "key", "--out")
    wanted = run("--table", tmp_path / "typed.parquet", *words, tmp_path / "typed")
    for name in ("written.parquet", "written.csv"):
        options = ("--table", tmp_path / name, "--dates", "day-first")
        manifest = run(*options, *words, tmp_path / f"{name}.out")
        assert manifest.schema == wanted.schema
        assert rows_of(tmp_path / f"{name}.out").equals(rows_of(tmp_path / "typed"))
        assert manifest.prepare["readings"] == {
            "price": "decimal commas, thousands dots",
            "dose": "decimal points, unit mg",
            "seen": "dates, day first",
        }
        assert (
            "--decimal point or --decimal comma says which" in manifest.prepare["dropped"]["score"]
        )
        unread: Counter[str] = Counter()
        encoded, _ = encode_rows(pa.table(typed), manifest, unread=unread)
        assert {name: unread[name] for name in typed} == dict.fromkeys(typed, 0) | {"dose": rows}
        assert encoded["table.price"].to_pylist() == np.float32(price).tolist()
        assert encoded["table.dose"].null_count == rows  # without their unit
    options = ("--table", tmp_path / "written.csv", "--dates", "day-first", "--decimal", "comma")
    scores = run(*options, *words, tmp_path / "decimal").schema.tables[0].numeric[-1]
    ends = (scores.quantiles[0], scores.quantiles[-1])
    assert (scores.name, ends) == ("score", (np.float32(1.234), 1.5))


def test_a_schema_of_before_still_reads_booleans_and_plain_numbers() -> None:
    smoker = Categorical(name="smoker", vocabulary=("true", "false"))
    older = Manifest(
        rows={},
        schema=Schema(
            tables=(Table(name="table", categorical=(smoker,), numeric=(Numeric(name="age"),)),),
            classes=("true", "false"),
        ),
        prepare={"label": "y", "id": None, "images": []},
    )
    found, _ = encode_rows(
        pd.DataFrame({"y": [True, False], "smoker": ["False", "True"], "age": ["1.5", "2"]}), older
    )
    assert found["label"].to_pylist() == [0, 1]
    assert found["table.smoker"].to_pylist() == [1, 0]
    assert found["table.age"].to_pylist() == [1.5, 2]


def test_shards_of_before_match_by_the_one_spelling_of_booleans() -> None:
    def of(*words: str) -> Schema:
        return Schema(
            tables=(
                Table(name="table", categorical=(Categorical(name="smoker", vocabulary=words),)),
            ),
            classes=words,
        )

    for data, model in (
        (of("true", "false"), of("False", "True")),
        (of("False", "True"), of("true", "false")),
    ):
        found = matching.match_schemas(data, model)
        assert found.labels_C.tolist() == [1, 0, -1]
        assert found.categories["table"][0].tolist() == [-1, 1, 0, 2]
        assert found.unknown_classes == ()


def test_names_with_brackets_and_colons_are_printed_as_they_are(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["breaths [/min]", "age [years]", "a:b:c", "[red]x[/red]"]
    table = {
        "y": ["a", "b"] * 30,
        **{name: [(i * k) % 7 for i in range(60)] for k, name in enumerate(names, 2)},
        "gone [/min]": [1] * 60,
    }
    run("--table", write_csv(tmp_path, table), "--label", "y", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    for name in names:
        assert f"│ {name} " in said
    assert "note: gone [/min]: dropped, constant" in said


def test_views_and_dictionaries_of_words_are_columns_like_any_other(
    ray_local: None, tmp_path: Path
) -> None:
    write_images(tmp_path / "photos", 60)
    rows = {name: values[:60] for name, values in records().items()}
    plain = pa.table(rows)
    kinds = {
        "y": pa.string_view(),
        "site": pa.string_view(),
        "photo": pa.dictionary(pa.int32(), pa.string()),
    }
    odd = pa.table(
        {name: plain[name].cast(kinds.get(name, plain[name].type)) for name in plain.column_names}
    )
    made = []
    for name, table in (("plain", plain), ("odd", odd)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        words = (
            "--label",
            "y",
            "--id",
            "key",
            "--group",
            "patient",
            "--image",
            f"photo={tmp_path / 'photos'}",
        )
        made.append(
            run("--table", tmp_path / f"{name}.parquet", *words, "--out", tmp_path / name).schema
        )
    assert made[0] == made[1]
    assert rows_of(tmp_path / "plain").equals(rows_of(tmp_path / "odd"))
