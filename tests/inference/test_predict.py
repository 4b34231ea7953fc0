"""Facts about predict.py: every row comes out once, predicted or refused; tables and shards agree; a pool gives what one process gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.inference import batch_prediction, tasks
from distributed.inference.tables import open_input
from distributed.inference.tasks import RowRange, make_tasks
from distributed.raw.table import RawTable, csv_options
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import run_command, script
from tests.inference.mistakes import mistake
from tests.training import small_run

predict = script("predict")

CLASSES = list(small_run.CLASSES)
P = [f"p/{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, a run/ trained on them, and their test rows raw: table.parquet with bytes, table.csv with paths into photos/."""
    here = tmp_path_factory.mktemp("predict")
    small_run.train(here / "run", small_run.write_shards(here / "shards"))
    frame = small_run.raw(small_run.SPLITS["test"], 2, "test")
    frame.to_parquet(here / "table.parquet")
    (here / "photos").mkdir()
    for name, photo in zip(frame["id"], frame["photo"], strict=True):
        if photo is not None:
            (here / "photos" / f"{name}.png").write_bytes(photo)
    paths = [
        None if photo is None else f"{name}.png"
        for name, photo in zip(frame["id"], frame["photo"], strict=True)
    ]
    frame.assign(photo=paths).to_csv(here / "table.csv", index=False)
    return here


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


def ask(folder: Path, data: str, out: Path, *words: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions and summary; every row that went in is predicted or refused."""
    assert (
        predict.main(
            [
                "--checkpoint",
                str(folder / "run"),
                "--data",
                str(folder / data),
                "--out",
                str(out),
                *words,
            ]
        )
        == 0
    )
    told = json.loads((out / "summary.json").read_text())
    refused = (
        len(pq.read_table(out / "rejected.parquet")) if (out / "rejected.parquet").exists() else 0
    )
    found = pd.read_parquet(out / "predictions")
    assert told["rows"] == told["predicted"] + told["rejected"] == len(found) + refused
    return found, told


def close(a: pd.DataFrame, b: pd.DataFrame) -> None:
    a, b = (
        frame.set_index("id").sort_index().drop(columns="split", errors="ignore")
        for frame in (a, b)
    )
    pd.testing.assert_frame_equal(a, b, atol=1e-5, rtol=1e-5)


def test_columns_mean_what_they_say(folder: Path, out: Path) -> None:
    found, told = ask(folder, "shards", out, "--split", "test")
    fixed = ["id", "split", "label", "prediction", "probability", "abstained", "entropy"]
    of_modalities = [
        f"{what}/{name}" for what in ("weight", "unfamiliar") for name in ("photo", "table")
    ]
    assert list(found) == [
        *fixed,
        *P,
        *of_modalities,
        "expert_weight/1",
        "expert_weight/2",
        "expert_weight/3",
    ]
    p = found[P].to_numpy(float)
    assert p.sum(1) == pytest.approx(np.ones(95), abs=1e-5)
    assert found["prediction"].tolist() == [CLASSES[c] for c in p.argmax(1)]
    assert found["probability"].to_numpy() == pytest.approx(p.max(1))
    assert found["entropy"].to_numpy() == pytest.approx(-(p * np.log(p)).sum(1), abs=1e-4)
    assert (found["weight/photo"] + found["weight/table"]).to_numpy() == pytest.approx(
        np.ones(95), abs=1e-5
    )
    assert not found["abstained"].any()
    assert found["label"].value_counts().to_dict() == dict(zip(CLASSES, small_run.SPLITS["test"]))
    own = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert (found["label"] == found["prediction"]).mean() == pytest.approx(own["accuracy"])
    assert told["rows/common"] == (found["prediction"] == "common").sum()
    assert told["weight/photo"] == pytest.approx(found["weight/photo"].mean(), abs=1e-5)


def test_all_splits_are_predicted_unless_one_is_named(folder: Path, out: Path) -> None:
    found, _ = ask(folder, "shards", out)
    assert found["split"].value_counts().to_dict() == {
        name: sum(counts) for name, counts in small_run.SPLITS.items()
    }
    assert found["id"].is_unique


def test_shards_a_table_of_bytes_and_a_csv_of_paths_agree(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    shards, _ = ask(folder, "shards", out, "--split", "test")
    table, _ = ask(folder, "table.parquet", tmp_path / "table")
    csv, told = ask(folder, "table.csv", tmp_path / "csv", "--image", f"photo={folder / 'photos'}")
    close(shards, table)
    close(table, csv)
    assert csv["id"].tolist() == pd.read_csv(folder / "table.csv")["id"].tolist()
    assert told["notes"] == []
    pd.read_csv(folder / "table.csv").to_csv(
        folder / "comma.csv", index=False, sep=";", decimal=","
    )
    comma, told = ask(
        folder, "comma.csv", tmp_path / "comma", "--image", f"photo={folder / 'photos'}"
    )
    close(csv, comma)
    assert told["notes"] == [
        "the cells of the table are separated by ;: decimal commas are read as numbers"
    ]


def test_the_command_works_from_another_folder(folder: Path, out: Path) -> None:
    words = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "table.csv"),
        "--image",
        f"photo={folder / 'photos'}",
    ]
    done = run_command("distributed/predict.py", *words, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "predicted   95 of 95 rows" in done.stdout
    done = run_command("distributed/predict.py", *words, "--out", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --out must be a new or empty folder; {out} holds summary.json\n"


def test_refused_rows_are_listed_with_the_reasons_of_ingest(
    folder: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    frame["photo"] = frame["photo"].astype(object)
    frame.loc[3, "photo"] = b"not an image"
    frame.loc[4, "photo"] = frame.loc[4, "photo"][:60]
    frame.loc[5, ["photo", "age", "dose", "site"]] = None
    frame.loc[6, "id"] = None
    frame.to_parquet(folder / "bad.parquet")
    found, told = ask(folder, "bad.parquet", out)
    refused = pq.read_table(out / "rejected.parquet").to_pandas()
    assert refused["id"].tolist() == ["test0003", "test0004", "test0005", ""]
    reasons = refused["reason"].tolist()
    assert "not an image of a known format" in reasons[0]
    assert "unreadable image" in reasons[1]
    assert reasons[2] == "no image and no table value"
    assert reasons[3] == "id is missing (column 'id')"
    assert (told["rows"], told["rejected"], len(found)) == (95, 4, 91)
    kinds = {name: n for name, n in told.items() if name.startswith("refused/")}
    assert len(kinds) == 4
    assert kinds["refused/no image and no table value"] == 1
    assert "  1 x no image and no table value" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("words", [(), ("--aggregation", "prior"), ("--aggregation", "stability")])
def test_a_table_of_refused_rows_only_is_a_mistake_with_its_reasons(
    folder: Path, out: Path, words: tuple[str, ...]
) -> None:
    frame = pd.read_parquet(folder / "table.parquet").head(3).assign(photo=b"nothing")
    frame.to_parquet(folder / "worst.parquet")
    with mistake("all 3 were refused: 3 x photo: not an image of a known format"):
        ask(folder, "worst.parquet", out, *words)
    found, told = (
        pd.read_parquet(out / "predictions"),
        json.loads((out / "summary.json").read_text()),
    )
    assert (len(found), told["rejected"], told["predicted"]) == (0, 3, 0)
    assert list(found)[:2] == ["id", "label"]
    assert len(pq.read_table(out / "rejected.parquet")) == 3


@pytest.mark.parametrize(
    ("dropped", "absent", "left"),
    [(["photo"], "photo", "table"), (["age", "dose", "site"], "table", "photo")],
)
def test_a_table_without_a_modality_still_gets_predictions(
    folder: Path, out: Path, dropped: list[str], absent: str, left: str
) -> None:
    frame = pd.read_parquet(folder / "table.parquet").drop(columns=dropped)
    frame.to_parquet(folder / "less.parquet")
    found, told = ask(folder, "less.parquet", out)
    assert (found[f"weight/{absent}"] == 0).all()
    assert (found[f"weight/{left}"] == 1).all()
    assert any(
        f"{absent} is absent in every row" in note or f"{absent}: it is absent in every row" in note
        for note in told["notes"]
    )
    assert told["predicted"] > 80  # the rows without what is left are refused


def test_labels_that_are_no_class_empty_columns_and_strange_ones_are_told(
    folder: Path, out: Path
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    assert not frame["dose"].isna().all()
    odd = frame.assign(
        label=["martian"] * 7 + frame["label"].tolist()[7:],
        dose=None,
        site=None,
        surprise=1,
        extra="x",
    )
    odd.to_parquet(folder / "strange.parquet")
    found, told = ask(folder, "strange.parquet", out)
    assert found["label"].isna().sum() == 7
    rows = len(frame)
    wanted = [
        f"label: 7 of {rows} labels are none of the classes ({', '.join(CLASSES)}): no label there",
        "columns that training did not know are passed over: surprise, extra",
    ]
    assert set(wanted) <= set(told["notes"])
    assert {note.partition(";")[0] for note in told["notes"]} >= {
        "dose: empty in every row",
        "site: empty in every row",
    }
    assert told["unread/labels that are no class"] == 7


def test_cells_that_tell_nothing_are_counted(folder: Path, out: Path) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    rows = len(frame)
    odd = frame.assign(
        age=[f"{a:.1f} years" for a in frame.age],
        dose=frame.dose.astype(str),
        site=frame.site.str.upper(),
    )
    odd.loc[:1, "site"] = frame.site[:2]
    odd.loc[:1, "dose"] = "lots"
    odd.to_parquet(folder / "odd.parquet")
    told = ask(folder, "odd.parquet", out)[1]
    assert f"age: {rows} of {rows} cells are no numbers as in training: missing" in told["notes"]
    assert f"dose: 2 of {rows} cells are no numbers as in training: missing" in told["notes"]
    unseen = int(frame.site[2:].notna().sum())
    assert (
        f"site: {unseen} of {rows} cells are none of the categories of training (arm, leg, back, face)"
        in told["notes"]
    )


def test_rows_of_a_file_without_odd_cells_get_no_such_note(folder: Path, out: Path) -> None:
    assert not [
        note
        for note in ask(folder, "table.csv", out)[1]["notes"]
        if "cells" in note or "no modality" in note
    ]


def test_rows_that_are_unlike_training_are_marked(folder: Path, out: Path, tmp_path: Path) -> None:
    known = load_checkpoint(str(folder / "run"))
    known.network.novelty_gate.limit_M[0] = 1e-9  # no photo is familiar any more
    save_checkpoint(str(tmp_path / "run" / "checkpoint"), known)
    frame = pd.read_parquet(folder / "table.parquet")
    frame.loc[:4, ["age", "dose", "site"]] = None
    frame.loc[5:9, "photo"] = None
    frame.to_parquet(tmp_path / "table.parquet")
    found, told = ask(tmp_path, "table.parquet", out)
    without = found["id"].isin(frame["id"][frame["photo"].isna()])
    assert (found["unfamiliar/photo"] == ~without).all()
    assert not found["unfamiliar/table"].any()
    assert (found["weight/photo"] > 0).tolist() == [True] * 5 + [False] * 90, (
        "where nothing is familiar, by all that is there"
    )
    n = int((~without).sum())
    assert told["rows_unfamiliar/photo"] == n
    assert told["notes"] == [
        f"photo is unlike anything in training in {n} of 95 rows: it counts as absent; --trust-unfamiliar goes by it",
        "5 of these rows have nothing that is like training: they are predicted by all they have",
    ]
    trusting, told = ask(tmp_path, "table.parquet", tmp_path / "trusting", "--trust-unfamiliar")
    assert told["notes"] == []
    assert not trusting["unfamiliar/photo"].any()
    assert (trusting["weight/photo"] > 0).equals(~without)


def test_rows_that_are_joined_to_the_wrong_pictures_are_told(
    folder: Path, out: Path, tmp_path: Path, ray_local: None
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    cells = ["age", "dose", "site"]
    frame[cells] = frame[cells].sample(frac=1, random_state=0).to_numpy()
    frame.to_parquet(tmp_path / "table.parquet")
    found, told = ask(folder, str(tmp_path / "table.parquet"), out)
    assert len(found) > 80
    (note,) = told["notes"]
    assert note.startswith("photo and table agree only 0 % as much as on validation")
    pooled, again = ask(
        folder, str(tmp_path / "table.parquet"), tmp_path / "pool", "--concurrency", "2"
    )
    close(found, pooled)
    assert again["notes"] == told["notes"]


def test_unknown_columns_do_not_matter_nor_do_labels(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    frame.drop(columns="label").assign(colour="red", label_of_another=1).to_parquet(
        folder / "more.parquet"
    )
    found, _ = ask(folder, "more.parquet", out)
    own, _ = ask(folder, "table.parquet", tmp_path / "own")
    assert found["label"].isna().all()
    close(found.drop(columns="label"), own.drop(columns="label"))


def test_rows_without_a_class_go_below_the_threshold(folder: Path, out: Path) -> None:
    found, told = ask(folder, "shards", out, "--split", "test", "--abstain", "0.7")
    unsure = found[P].max(axis=1) < 0.7
    assert 0 < unsure.sum() < 95
    assert found["abstained"].tolist() == unsure.tolist()
    assert (found["prediction"] == "").tolist() == unsure.tolist()
    assert told["abstained"] == unsure.sum()
    assert sum(told[f"rows/{name}"] for name in CLASSES) == 95 - unsure.sum()


def test_a_known_prior_moves_the_probabilities_by_bayes(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    plain, _ = ask(folder, "shards", out, "--split", "test")
    (folder / "prior.json").write_text('{"common": 1, "middling": 3, "scarce": 6}')
    moved, told = ask(
        folder,
        "shards",
        tmp_path / "moved",
        "--split",
        "test",
        "--prior",
        str(folder / "prior.json"),
    )
    expected = plain[P].to_numpy(float) * [
        0.1,
        0.3,
        0.6,
    ]  # with loss.average_prior_strength = 1 the experts' mean speaks for a uniform prior
    assert moved[P].to_numpy() == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-4)
    assert told["aggregation"] == "given"


@pytest.mark.parametrize("method", ["stability", "prior"])
def test_estimates_are_those_of_evaluate(folder: Path, out: Path, method: str) -> None:
    _, told = ask(folder, "shards", out, "--split", "test", "--aggregation", method)
    assert told["aggregation/asked"] == method
    assert told["aggregation/rows"] == 95
    assert bool(told["aggregation/reason"]) == bool(told["aggregation/fell_back"])
    if method == "stability":
        return
    evaluate = script("evaluate")
    words = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "shards"),
        "--aggregation",
        method,
    ]
    evaluate.main([*words, "--json", str(folder / "told.json")])
    other = json.loads((folder / "told.json").read_text())
    for name in ("aggregation", "aggregation/fell_back", "aggregation/reason", "expert_weight/1"):
        assert told[name] == other[name]


def test_a_pool_of_actors_gives_the_same_to_the_bit(
    folder: Path, out: Path, tmp_path: Path, ray_local: None
) -> None:
    for data, words in (("shards", ()), ("table.csv", ("--image", f"photo={folder / 'photos'}"))):
        alone, _ = ask(folder, data, tmp_path / f"alone {data}", *words)
        pool, _ = ask(folder, data, out, *words, "--concurrency", "2")
        pd.testing.assert_frame_equal(alone, pool)
        assert len(list((out / "predictions").iterdir())) > 1
        shutil.rmtree(out)


@pytest.mark.slow
def test_a_mistake_found_by_an_actor_is_one_line_too(
    folder: Path, out: Path, ray_local: None
) -> None:
    broken = folder / "broken"
    shutil.copytree(folder / "shards", broken)
    part = broken / "test" / "part-00001.parquet"
    frame = pq.read_table(part)
    photos = [b"\x89PNG cut short"] * len(frame)
    pq.write_table(
        frame.set_column(
            frame.column_names.index("image.photo"), "image.photo", pa.array(photos, pa.binary())
        ),
        part,
    )
    for words in ((), ("--concurrency", "2")):
        with mistake("must be a whole PNG or JPEG") as caught:
            ask(folder, "broken", out, *words)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [1, 2, 3, 16])
@pytest.mark.parametrize("file", ["part", ""])
def test_tasks_have_every_row_once_and_begin_at_batches(workers: int, file: str) -> None:
    groups, first = [], 0
    for group, rows in enumerate((1000, 37, 40_000, 64, 1)):
        groups.append(RowRange(file, group, 0, rows, first))
        first += rows
    dealt = make_tasks(groups, 64, workers)
    flat = [piece for task in dealt for piece in task]
    assert np.concatenate([np.arange(p.first, p.first + p.rows) for p in flat]).tolist() == list(
        range(first)
    )
    assert all(p.skip % 64 == 0 for p in flat)
    assert len(dealt) >= min(workers, 4)
    if file:  # a worker reads from the group's beginning: few cuts
        assert sum(p.group == 2 for p in flat) <= 2 * workers


def test_a_csv_in_many_chunks_is_one_table(
    folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.read_csv(folder / "table.csv").drop(columns="id")
    pd.concat([frame] * 3).to_csv(folder / "long.csv", index=False)
    words = ["--image", f"photo={folder / 'photos'}", "--batch-size", "10"]
    whole, told = ask(folder, "long.csv", out, *words)
    assert whole["id"].tolist() == [str(i) for i in range(285)]
    assert told["notes"] == ["rows are numbered from 0: the table has no id column 'id'"]
    monkeypatch.setattr(tasks, "CHUNK_BYTES", 1500)
    options = csv_options

    def small_blocks(table: RawTable) -> dict[str, Any]:
        from pyarrow import csv

        return {**options(table), "read_options": csv.ReadOptions(block_size=1000)}

    monkeypatch.setattr(tasks, "csv_options", small_blocks)
    checkpoint = load_checkpoint(str(folder / "run"))
    rows, _ = open_input(
        checkpoint, str(folder / "long.csv"), images={}, split="all", batch_size=10
    )
    waves = list(rows.waves(1))
    assert len(waves) > 5
    assert all(wave.rows % 10 == 0 for wave in waves[:-1])
    monkeypatch.setattr(batch_prediction, "needs_pool", lambda rows, concurrency: False)
    parts, _ = ask(folder, "long.csv", tmp_path / "parts", *words)
    pd.testing.assert_frame_equal(whole, parts)


def test_what_a_broken_run_left_is_replaced(folder: Path, out: Path) -> None:
    (out / "predictions").mkdir(parents=True)
    (out / "predictions" / "part-00099.parquet").write_bytes(b"half a file")
    found, _ = ask(folder, "shards", out, "--split", "val")
    assert len(found) == 53


def test_a_folder_of_somebody_elses_predictions_is_left_alone(folder: Path, out: Path) -> None:
    (out / "predictions").mkdir(parents=True)
    mine = out / "predictions" / "thesis.txt"
    mine.write_text("years of work")
    with mistake(r"--out must be a new or empty folder; .* holds predictions/thesis.txt"):
        ask(folder, "shards", out, "--split", "val")
    assert mine.read_text() == "years of work"


def test_everything_may_be_at_a_uri(folder: Path, out: Path, tmp_path: Path) -> None:
    here, _ = ask(folder, "shards", out, "--split", "test")
    words = [
        "--checkpoint",
        f"file://{folder}/run",
        "--data",
        f"file://{folder}/shards",
        "--split",
        "test",
    ]
    assert predict.main([*words, "--out", f"file://{tmp_path}/deep/there"]) == 0
    close(pd.read_parquet(tmp_path / "deep" / "there" / "predictions"), here)
    assert json.loads((tmp_path / "deep" / "there" / "summary.json").read_text())[
        "predicted"
    ] == len(here)


def test_a_full_disk_is_one_line(folder: Path, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(240 << 10))
    words = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "shards"),
        "--out",
        str(small_disk / "out"),
    ]
    done = run_command("distributed/predict.py", *words)
    assert (done.returncode, done.stderr) == (
        1,
        "error: no space left: nothing more can be written\n",
    )


def test_numbers_in_columns_of_bytes_are_read_as_text_is(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    table = pq.read_table(folder / "table.parquet")
    ages = [f"{age:5.1f}" for age in table["age"].to_pylist()]
    ages[0] = "  ?  "
    found, notes = {}, {}
    for kind, cells in (
        ("text", pa.array(ages)),
        ("bytes", pa.array([a.encode() for a in ages], pa.binary(5))),
    ):
        pq.write_table(
            table.set_column(table.schema.get_field_index("age"), "age", cells),
            tmp_path / f"{kind}.parquet",
        )
        found[kind], told = ask(folder, str(tmp_path / f"{kind}.parquet"), out / kind)
        notes[kind] = told["notes"]
    assert found["bytes"].equals(found["text"])
    assert (
        notes["bytes"]
        == notes["text"]
        == ["age: 1 of 95 cells are no numbers as in training: missing"]
    )


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_that_cannot_be_written_is_refused_in_one_line(
    folder: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("dear")
    with mistake(
        f"^--out must be a folder or URI that can be read and written; got '{tmp_path}/{place}': [^\n]*$"
    ):
        ask(folder, "table.parquet", tmp_path / place)
    assert (tmp_path / "file").read_text() == "dear"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "id,age\n1,2\n".encode("utf-16"),
            "is not utf-8: byte 0xff at offset 0; name the table's own with --encoding",
        ),
        ("t.csv.gz", b"id,age\n1,2\n", "^cannot read '.*/t.csv.gz': [^\n]*$"),
        ("t.csv", b'id,"age\n1,2\n', "^--data must begin with a line of column names"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line(
    folder: Path, out: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with mistake(message):
        ask(folder, str(tmp_path / name), out)


@pytest.mark.parametrize(
    ("data", "words", "message"),
    [
        ("shards", ["--image", "photo=x"], "--image is for tables"),
        (
            "table.csv",
            ["--image", "photo=x", "photo=y"],
            "--image must name a column once; got 'photo' again",
        ),
        (
            "table.csv",
            ["--image", "scan=x"],
            r"image column of the checkpoint \(photo\); got 'scan'",
        ),
        ("table.csv", ["--split", "test"], "--split is for SHARDS"),
        ("nowhere.csv", [], "--data must name a CSV or Parquet file"),
        ("x" * 300, [], r"cannot read '.*x': \[Errno 36\]"),
        ("half.csv", [], "must have all columns of 'table' or none; it lacks dose"),
        ("other.csv", [], "columns of at least one modality"),
        ("shards", ["--abstain", "1.5"], "--abstain must be a probability"),
        ("shards", ["--concurrency", "0"], "--concurrency must be at least 1"),
        ("shards", ["--aggregation", "stability", "--prior", "p.json"], "not stability"),
        ("shards", ["--gpus-per-actor", "1"], "GPU"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, out: Path, data: str, words: list[str], message: str
) -> None:
    frame = pd.read_csv(folder / "table.csv")
    frame.drop(columns="dose").to_csv(folder / "half.csv", index=False)
    frame[["id", "label"]].to_csv(folder / "other.csv", index=False)
    with mistake(message) as caught:
        ask(folder, data, out, *words)
    assert "\n" not in str(caught.value)
    assert not (out / "summary.json").exists()
