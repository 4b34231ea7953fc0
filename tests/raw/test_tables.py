"""How raw tables are opened: column names and delimiter of CSV, one type a column over Parquet
files, and the files that count."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.raw.table import open_raw_table, sample_rows
from tests.conftest import script
from tests.ingestion.example_table import png, rows_of, run
from tests.mistakes import mistake

ingest = script("ingest")


def names_of(file: Path, text: str, encoding: str = "utf-8", read_as: str = "utf-8") -> list[str]:
    """The column names, once the rows have been read by them."""
    file.write_bytes(text.encode(encoding))
    table = open_raw_table(str(file), read_as)
    assert sample_rows(table, table.schema.names).num_rows
    return list(table.schema.names)


@pytest.mark.parametrize(
    "names",
    [
        ["y", *(f"feature number {i}" for i in range(5000))],  # 107 KiB
        ["y", "two\nlines", 'a "word"', "comma, tab\t and ;"],
        ["y", "größe" * 20_000],
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_column_names_of_any_length_are_read(
    tmp_path: Path, names: list[str], packed: bool
) -> None:
    line = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    text = (line + "\n" + "1," * (len(names) - 1) + "1\n").encode()
    file = tmp_path / ("t.csv.gz" if packed else "t.csv")
    file.write_bytes(gzip.compress(text) if packed else text)
    table = open_raw_table(str(file))
    assert table.schema.names == names
    assert sample_rows(table, names[-1:])[names[-1]].to_pylist() == ["1"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            '"id";"Name, first";"Age, years, months";"y"\n1;b;3;a\n',
            ["id", "Name, first", "Age, years, months", "y"],
        ),
        ('id,"a;b;c",y\n1,2,a\n', ["id", "a;b;c", "y"]),
        ('id\theight in "\ty\n1\t2\ta\n', ["id", 'height in "', "y"]),
        ("y,x\ra,1\rb,2\r", ["y", "x"]),  # old Macs
        ("y,x\r\na,1\r\n", ["y", "x"]),
        ("y,x\na,1", ["y", "x"]),
    ],
)
def test_delimiters_outside_quotes_and_every_line_end_count(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    assert names_of(tmp_path / "t.csv", text) == names


def test_utf_16_is_read_where_it_is_named_and_points_to_the_option_elsewhere(
    tmp_path: Path,
) -> None:
    file = tmp_path / "t.csv"
    assert names_of(file, "y\tx\na\t1\n", "utf-16", "utf-16") == ["y", "x"]
    for name, encoding, read_as, why in (
        ("x", "utf-16", "utf-8", "byte 0xff at offset 0"),
        ("x", "utf-16-le", "utf-8", "it begins with NUL characters"),
        ("x", "utf-16", "latin-1", "it begins with NUL characters"),
        ("x", "utf-16-le", "utf-16", "UTF-16 stream does not start with BOM"),
        ("größe", "latin-1", "utf-8", "byte 0xf6 at offset 4"),
    ):
        with mistake(
            f"is not {read_as}: {why}; name the table's own with --encoding, such as .* utf-16$"
        ):
            names_of(file, f"y,{name}\na,1\n", encoding, read_as)


def test_a_line_of_names_that_does_not_end_is_one_line(tmp_path: Path) -> None:
    for text in ('y,"x\na,1\n', "y" * (17 << 20)):
        with pytest.raises(
            ValueError, match="at most 16 MiB; that of .* does not end: a quote that is not closed"
        ):
            names_of(tmp_path / "t.csv", text)


@pytest.mark.parametrize("where", ["all", "middle", "end"])
def test_a_damaged_gz_is_one_line(ray_local: None, tmp_path: Path, where: str) -> None:
    rng = np.random.default_rng(0)
    text = "y,x\n" + "".join(f"{'ab'[i % 2]},{v}\n" for i, v in enumerate(rng.normal(size=300_000)))
    packed = gzip.compress(text.encode(), 1)
    damaged = {
        "all": text.encode(),
        "middle": packed[: len(packed) // 2],
        "end": packed[:-8] + bytes(8),
    }[where]
    (tmp_path / "t.csv.gz").write_bytes(damaged)
    with pytest.raises(ValueError, match="^cannot read '.*/t.csv.gz': [^\n]*$"):
        ingest.main(
            ["--table", str(tmp_path / "t.csv.gz"), "--label", "y", "--out", str(tmp_path / "out")]
        )


def test_files_of_hidden_folders_and_files_without_rows_do_not_count(
    ray_local: None, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    for folder in (".ipynb_checkpoints", "_temporary/0"):
        (table / folder).mkdir(parents=True)
        (table / folder / "b.csv").write_text("y,x\na,9\n")
    (table / "a.csv").write_text("y,x\n")
    (table / "b.csv").write_text("y,x\n" + "a,1\nb,2\n" * 20)
    (table / "c.csv").write_text("y,x")
    (table / "old-mac.csv").write_text("y,x\ra,1\rb,2\r")
    manifest = run("--table", table, "--label", "y", "--out", tmp_path / "out")
    assert sum(manifest.rows.values()) == 42
    (tmp_path / "_t.csv").write_text("y,x\na,1\n")
    assert open_raw_table(str(tmp_path / "_t.csv")).files == (str(tmp_path / "_t.csv"),)


def write_parts(folder: Path, *columns: pa.Array) -> Path:
    folder.mkdir()
    for i, x in enumerate(columns):
        y = ["a", "b"] * (len(x) // 2)
        pq.write_table(
            pa.table({"y": pa.array(y, pa.string()), "z": np.arange(len(x)) % 7, "x": x}),
            folder / f"{i}.parquet",
        )
    return folder


HALVES = pa.array(np.arange(200) % 9 + 0.5)
WORDS = pa.array(["north", "south"] * 100)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (pa.nulls(600), HALVES, "number"),  # counted apart from the numbers
        (pa.array(np.arange(200) % 9), HALVES, "number"),
        (pa.nulls(600), WORDS, "category"),
        (
            pa.array(np.arange(200) % 9),
            pa.array([1, 2] * 100).cast(pa.decimal128(21, 2)).cast(pa.decimal128(10, 2)),
            "number",
        ),
        (WORDS.cast(pa.large_string()), WORDS.dictionary_encode(), "category"),
        (pa.array([1, 2] * 100).cast(pa.decimal128(21, 2)), HALVES, "number"),
        (
            pa.array([1, 2] * 100).cast(pa.timestamp("s")),
            pa.array([3, 4] * 100).cast(pa.timestamp("ns")),
            "number",
        ),
    ],
)
def test_types_that_differ_between_files_become_one(
    ray_local: None, tmp_path: Path, first: pa.Array, second: pa.Array, kind: str
) -> None:
    manifests = []
    for name, parts in (("forth", (first, second)), ("back", (second, first))):
        table = write_parts(tmp_path / name, *parts)
        manifests.append(
            run("--table", table, "--label", "y", "--seed", 1, "--out", tmp_path / f"{name}-out")
        )
        kinds = {
            "number": manifests[-1].schema.tables[0].numeric,
            "category": manifests[-1].schema.tables[0].categorical,
        }
        assert "x" in [column.name for column in kinds[kind]]
        assert sum(manifests[-1].rows.values()) == len(first) + len(second)
    x = rows_of(tmp_path / "forth-out")["table.x"]
    assert sorted(x.dropna()) == sorted(rows_of(tmp_path / "back-out")["table.x"].dropna())


@pytest.mark.parametrize(
    ("first", "second"), [(pa.array([10, 20] * 100), WORDS), (pa.array([np.nan] * 200), WORDS)]
)
def test_types_that_do_not_go_together_are_refused_unless_dropped(
    ray_local: None, tmp_path: Path, first: pa.Array, second: pa.Array
) -> None:
    table = write_parts(tmp_path / "table", first, second)
    words = ["--table", str(table), "--label", "y", "--out", str(tmp_path / "out")]
    told = (
        f"'x' holds {first.type} in '{table}/0.parquet' and string in '{table}/1.parquet' \\(--drop"
    )
    with mistake(f"a column must hold one type in all files of a table; {told}"):
        ingest.main(words)
    assert sum(run(*words, "--drop", "x").rows.values()) == 400


def test_parquet_files_and_row_groups_without_rows_are_passed_over(
    ray_local: None, tmp_path: Path
) -> None:
    table = pa.table(
        {
            "y": ["a", "b"] * 20,
            "photo": pa.array([png(i % 5) for i in range(40)]),
            "x": np.arange(40) % 7,
        }
    )
    (tmp_path / "table").mkdir()
    pq.write_table(table.slice(0, 0), tmp_path / "table" / "0.parquet")
    with pq.ParquetWriter(tmp_path / "table" / "1.parquet", table.schema) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)
    wider = table.set_column(1, "photo", table["photo"].cast(pa.large_binary())).select(
        ["x", "photo", "y"]
    )
    pq.write_table(wider, tmp_path / "table" / "2.parquet")
    manifest = run(
        "--table", tmp_path / "table", "--label", "y", "--image", "photo", "--out", tmp_path / "out"
    )
    assert (manifest.schema.images[0].height, sum(manifest.rows.values())) == (12, 80)
