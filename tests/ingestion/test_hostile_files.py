"""An ingest of hostile files and cells: each is refused with its reason, and the rest is done."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.memory_use import descendants
from tests.ingestion.example_table import ROWS, records, rows_of, run, write_images
from tests.mistakes import mistake
from tests.raw.test_hostile_images import HOSTILE, PEAK_BYTES, blank_png, peak_bytes


def write_hostile_files(folder: Path) -> dict[str, str]:
    """Replaces some images of the clean table; returns the reason for which each is refused."""
    write_images(folder)
    for name in ("0.png", "1.png", "2.png", "3.png", "4.png"):
        (folder / name).unlink()
    (folder / "0.png").write_bytes(blank_png(60_000_000, 1, 8, 0))
    with open(folder / "1.png", "wb") as file:
        file.truncate(30 << 30)
    os.mkfifo(folder / "2.png")
    (folder / "3.png").mkdir()
    return {
        "r0000": "image of 60000000x1 pixels is over the limit of 100000 of a side",
        "r0001": "image file of 32,212,254,720 bytes is over the limit of 256,000,000",
        "r0002": "not a file: '2.png'",
        "r0003": "not a file: '3.png'",
        "r0004": "no such file: '4.png'",
    }


def refusals(out: Path) -> dict[str, str]:
    rejected = pd.read_parquet(out / "rejected.parquet")
    return dict(zip(rejected["id"], rejected["reason"]))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_hostile_rows_are_refused_and_the_rest_is_done(
    ray_local: None, tmp_path: Path, kind: str
) -> None:
    reasons = {name: f"photo: {why}" for name, why in write_hostile_files(tmp_path / "i").items()}
    table = pd.DataFrame(records())
    table.loc[5, "photo"] = "x" * 10_000_000
    table.loc[6, "site"] = "y" * 10_000_000
    reasons["r0005"] = "photo: a cell of 10,000,000 characters is no path"
    reasons["r0006"] = "site: cell of 10,000,000 characters is over the limit of 1,000,000"
    if kind == "csv":
        table.to_csv(tmp_path / "t.csv", index=False)
    else:
        table.to_parquet(tmp_path / "t.parquet")
    run(
        *("--table", tmp_path / f"t.{kind}", "--label", "y", "--id", "key"),
        *("--image", f"photo={tmp_path}/i", "--out", tmp_path / "out"),
    )
    refused = refusals(tmp_path / "out")
    assert refused.keys() == reasons.keys()
    assert [name for name, why in reasons.items() if not refused[name].startswith(why)] == []
    assert len(rows_of(tmp_path / "out")) == ROWS - len(reasons)


def test_a_line_of_a_csv_that_is_too_long_is_named(ray_local: None, tmp_path: Path) -> None:
    for text, reason in (
        ("a,1\nb," + "x" * 40_000_000 + "\n", "line 3 has a cell of 40,000,000 characters"),
        ('a,1\nb,"' + "x\n" * 20_000_000, "line .* has a cell of 40,000,000 characters"),
    ):
        (tmp_path / "t.csv").write_text("y,note\n" + text)
        with mistake(f"no line of '.*t.csv' may be over 16 MiB: {reason}"):
            run("--table", tmp_path / "t.csv", "--label", "y", "--out", tmp_path / "out")


def test_a_damaged_parquet_table_is_named(ray_local: None, tmp_path: Path) -> None:
    """Its first page says that a cell has three billion bytes."""
    (tmp_path / "t").mkdir()
    for name in ("a", "b"):
        table = pa.table({"y": ["a", "b"] * 50, "photo": pa.array([b"x" * 50] * 100)})
        pq.write_table(
            table, tmp_path / "t" / f"{name}.parquet", compression="none", use_dictionary=False
        )
    path = tmp_path / "t" / "b.parquet"
    content = path.read_bytes()
    damaged = content.replace(b"\x32\0\0\0" + b"x" * 50, b"\0\x5e\xd0\xb2" + b"x" * 50)
    assert damaged != content
    path.write_bytes(damaged)
    with mistake(f"cannot read '{path}': "):
        run("--table", tmp_path / "t", "--label", "y", "--image", "photo", "--out", tmp_path / "o")


@pytest.mark.slow
def test_a_worker_stays_below_its_limit_whatever_the_images_are(
    ray_local: None, tmp_path: Path
) -> None:
    write_images(tmp_path / "i")
    for i, make in enumerate(HOSTILE.values()):
        (tmp_path / "i" / f"{i}.png").write_bytes(make())
    pd.DataFrame(records()).to_csv(tmp_path / "t.csv", index=False)
    run(
        *("--table", tmp_path / "t.csv", "--label", "y", "--id", "key"),
        *("--image", f"photo={tmp_path}/i", "--out", tmp_path / "out"),
    )
    workers = {
        pid: peak_bytes(pid)
        for pid in descendants(os.getpid())
        if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::")
    }
    assert workers and max(workers.values()) < PEAK_BYTES, workers
    assert len(rows_of(tmp_path / "out")) + len(refusals(tmp_path / "out")) == ROWS
