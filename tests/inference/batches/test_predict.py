"""Facts about predict.py: every row comes out once, predicted or refused; tables and shards agree;
a pool gives what one process gives."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distributed.inference.batches import batch_prediction
from distributed.inference.options import PredictOptions
from distributed.inference.rows import tasks
from distributed.inference.rows.tables import open_input
from distributed.inference.rows.tasks import RowRange, make_tasks
from distributed.raw.reading import csv_options
from distributed.raw.table import RawTable
from distributed.runtime.errors import Failure, flag
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import run_command, script
from tests.mistakes import mistake
from tests.raw.test_hostile_images import blank_png
from tests.training import small_run

predict = script("predict")

CLASSES = list(small_run.CLASSES)
P = [f"p/{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, a run/ trained on them, and their test rows raw: table.parquet with bytes, table.csv
    with paths into photos/."""
    here = shutil.copytree(trained_run, tmp_path_factory.mktemp("predict"), dirs_exist_ok=True)
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


def run_predict(
    folder: Path, data: str, out: Path, *arguments: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions and summary; every row that went in comes out, predicted or refused."""
    assert predict.main(words(folder, data, out, *arguments)) == 0
    return written(out)


def words(folder: Path, data: str, out: Path, *arguments: str) -> list[str]:
    places = {"--checkpoint": folder / "run", "--data": folder / data, "--out": out}
    return [*(str(word) for pair in places.items() for word in pair), *arguments]


def written(out: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    summary = json.loads((out / "summary.json").read_text())
    predictions = pd.read_parquet(out / "predictions")
    assert summary["rows"] == summary["predicted"] + summary["rejected"] == len(predictions)
    assert predictions["reason"].notna().sum() == summary["rejected"]
    return predictions, summary


def close(a: pd.DataFrame, b: pd.DataFrame) -> None:
    a, b = (
        frame.set_index("id").sort_index().drop(columns="split", errors="ignore")
        for frame in (a, b)
    )
    pd.testing.assert_frame_equal(a, b, atol=1e-5, rtol=1e-5)


def test_columns_mean_what_they_say(folder: Path, out: Path) -> None:
    predictions, summary = run_predict(folder, "shards", out, "--split", "test")
    fixed = ["id", "split", "label", "prediction", "probability", "abstained", "entropy"]
    of_modalities = [
        f"{what}/{name}" for what in ("weight", "unfamiliar") for name in ("photo", "table")
    ]
    assert list(predictions) == [
        *fixed,
        *P,
        *of_modalities,
        "expert_weight/1",
        "expert_weight/2",
        "expert_weight/3",
        "reason",
    ]
    p = predictions[P].to_numpy(float)
    assert p.sum(1) == pytest.approx(np.ones(95), abs=1e-5)
    assert predictions["prediction"].tolist() == [CLASSES[c] for c in p.argmax(1)]
    assert predictions["probability"].to_numpy() == pytest.approx(p.max(1))
    assert predictions["entropy"].to_numpy() == pytest.approx(-(p * np.log(p)).sum(1), abs=1e-4)
    assert (predictions["weight/photo"] + predictions["weight/table"]).to_numpy() == pytest.approx(
        np.ones(95), abs=1e-5
    )
    assert not predictions["abstained"].any()
    assert predictions["label"].value_counts().to_dict() == dict(
        zip(CLASSES, small_run.SPLITS["test"])
    )
    own = json.loads((folder / "run" / "metrics.json").read_text())["test"]
    assert (predictions["label"] == predictions["prediction"]).mean() == pytest.approx(
        own["accuracy"]
    )
    assert summary["rows/common"] == (predictions["prediction"] == "common").sum()
    assert summary["weight/photo"] == pytest.approx(predictions["weight/photo"].mean(), abs=1e-5)


def test_all_splits_are_predicted_unless_one_is_named(folder: Path, out: Path) -> None:
    predictions, _ = run_predict(folder, "shards", out)
    assert predictions["split"].value_counts().to_dict() == {
        name: sum(counts) for name, counts in small_run.SPLITS.items()
    }
    assert predictions["id"].is_unique


def test_shards_a_table_of_bytes_and_a_csv_of_paths_agree(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    shards, _ = run_predict(folder, "shards", out, "--split", "test")
    table, _ = run_predict(folder, "table.parquet", tmp_path / "table")
    csv, summary = run_predict(
        folder, "table.csv", tmp_path / "csv", "--image", f"photo={folder / 'photos'}"
    )
    close(shards, table)
    close(table, csv)
    assert csv["id"].tolist() == pd.read_csv(folder / "table.csv")["id"].tolist()
    assert summary["notes"] == []
    pd.read_csv(folder / "table.csv").to_csv(
        folder / "comma.csv", index=False, sep=";", decimal=","
    )
    comma, summary = run_predict(
        folder, "comma.csv", tmp_path / "comma", "--image", f"photo={folder / 'photos'}"
    )
    close(csv, comma)
    assert summary["notes"] == [
        "the cells of the table are separated by ;: decimal commas are read as numbers"
    ]


def test_the_command_works_from_another_folder(folder: Path, out: Path) -> None:
    arguments = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "table.csv"),
        "--image",
        f"photo={folder / 'photos'}",
    ]
    done = run_command("distributed/predict.py", *arguments, "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "predicted   95 of 95 rows" in done.stdout
    done = run_command("distributed/predict.py", *arguments, "--out", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --out must be a new or empty folder; {out} holds summary.json\n"


def test_refused_rows_are_in_their_places_with_the_reasons_of_ingest(
    folder: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    frame["photo"] = frame["photo"].astype(object)
    frame.loc[3, "photo"] = b"not an image"
    frame.loc[4, "photo"] = frame.loc[4, "photo"][:60]
    frame.loc[5, ["photo", "age", "dose", "site"]] = None
    frame.loc[6, "id"] = None
    frame.to_parquet(folder / "bad.parquet")
    predictions, summary = run_predict(folder, "bad.parquet", out)
    assert predictions["id"].fillna("").tolist() == frame["id"].fillna("").tolist()
    refused = predictions.iloc[3:7]
    assert predictions["reason"].notna().tolist() == [3 <= row < 7 for row in range(95)]
    assert refused[["prediction", "probability", *P]].isna().all(axis=None)
    assert not predictions.drop(index=refused.index)["prediction"].isna().any()
    reasons = refused["reason"].tolist()
    assert "not an image of a known format" in reasons[0]
    assert "unreadable image" in reasons[1]
    assert reasons[2] == "no image and no table value"
    assert reasons[3] == "id is missing (column 'id')"
    assert (summary["rows"], summary["rejected"], summary["warnings"]) == (95, 4, [])
    kinds = {name: n for name, n in summary.items() if name.startswith("refused/")}
    assert len(kinds) == 4
    assert kinds["refused/no image and no table value"] == 1
    assert "  1 x no image and no table value" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "arguments", [(), ("--aggregation", "prior"), ("--aggregation", "stability")]
)
def test_a_table_of_refused_rows_only_is_written_and_ends_with_3(
    folder: Path, out: Path, arguments: tuple[str, ...]
) -> None:
    frame = pd.read_parquet(folder / "table.parquet").head(3).assign(photo=b"nothing")
    frame.to_parquet(folder / "worst.parquet")
    with pytest.raises(Failure, match="3 of 3 rows were refused, more than half") as caught:
        run_predict(folder, "worst.parquet", out, *arguments)
    predictions, summary = written(out)
    assert (caught.value.code, summary["rejected"], summary["predicted"]) == (3, 3, 0)
    assert predictions["id"].tolist() == frame["id"].tolist()
    assert predictions["reason"].str.startswith("photo: not an image of a known format").all()


@pytest.mark.parametrize(("bad", "warned", "code"), [(9, 0, 0), (10, 1, 0), (47, 1, 0), (48, 1, 3)])
def test_many_refused_rows_are_warned_of_and_more_than_half_end_with_3(
    folder: Path,
    out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    bad: int,
    warned: int,
    code: int,
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    frame.loc[np.arange(95) % 2 * 48 + np.arange(95) // 2 < bad, "photo"] = b"nothing"
    frame.to_parquet(tmp_path / "t.parquet")
    try:
        assert predict.main(words(folder, str(tmp_path / "t.parquet"), out)) == 0
        ended = 0
    except Failure as failure:
        ended = failure.code
    predictions, summary = written(out)
    assert (ended, len(summary["warnings"])) == (code, warned)
    refused = frame["photo"] == b"nothing"
    assert predictions["reason"].notna().tolist() == refused.tolist()
    assert predictions["id"].tolist() == frame["id"].tolist()
    line = f"warning: {bad} of 95 rows ({bad / 95:.0%}) were refused"
    assert (line in capsys.readouterr().out) == bool(warned)


@pytest.mark.parametrize(
    ("dropped", "absent", "left"),
    [(["photo"], "photo", "table"), (["age", "dose", "site"], "table", "photo")],
)
def test_a_table_without_a_modality_still_gets_predictions(
    folder: Path, out: Path, dropped: list[str], absent: str, left: str
) -> None:
    frame = pd.read_parquet(folder / "table.parquet").drop(columns=dropped)
    frame.to_parquet(folder / "less.parquet")
    predictions, summary = run_predict(folder, "less.parquet", out)
    predictions = predictions[predictions["reason"].isna()]
    assert (predictions[f"weight/{absent}"] == 0).all()
    assert (predictions[f"weight/{left}"] == 1).all()
    assert any(
        f"{absent} is absent in every row" in note or f"{absent}: it is absent in every row" in note
        for note in summary["notes"]
    )
    assert summary["predicted"] > 80  # the rows without what is left are refused


def test_labels_that_are_no_class_empty_columns_and_strange_ones_are_noted(
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
    predictions, summary = run_predict(folder, "strange.parquet", out)
    assert predictions["label"].isna().sum() == 7
    rows = len(frame)
    wanted = [
        f"label: 7 of {rows} labels are none of the classes ({', '.join(CLASSES)}): no label there",
        "columns that training did not know are passed over: surprise, extra",
    ]
    assert set(wanted) <= set(summary["notes"])
    assert {note.partition(";")[0] for note in summary["notes"]} >= {
        "dose: empty in every row",
        "site: empty in every row",
    }
    assert summary["unread/labels that are no class"] == 7


def test_cells_that_cannot_be_read_are_counted(folder: Path, out: Path) -> None:
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
    summary = run_predict(folder, "odd.parquet", out)[1]
    assert f"age: {rows} of {rows} cells are no numbers as in training: missing" in summary["notes"]
    assert f"dose: 2 of {rows} cells are no numbers as in training: missing" in summary["notes"]
    unseen = int(frame.site[2:].notna().sum())
    assert (
        f"site: {unseen} of {rows} cells are none of the categories of training (arm,"
        f" leg, back, face)" in summary["notes"]
    )


def test_rows_of_a_file_without_odd_cells_get_no_such_note(folder: Path, out: Path) -> None:
    images = ("--image", f"photo={folder / 'photos'}")
    assert not [
        note
        for note in run_predict(folder, "table.csv", out, *images)[1]["notes"]
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
    predictions, summary = run_predict(tmp_path, "table.parquet", out)
    without = predictions["id"].isin(frame["id"][frame["photo"].isna()])
    assert (predictions["unfamiliar/photo"] == ~without).all()
    assert not predictions["unfamiliar/table"].any()
    assert (predictions["weight/photo"] > 0).tolist() == [True] * 5 + [False] * 90, (
        "where nothing is familiar, by all that is there"
    )
    n = int((~without).sum())
    assert summary["rows_unfamiliar/photo"] == n
    assert summary["notes"] == [
        f"photo is unlike anything in training in {n} of 95 rows: it counts as"
        f" absent; --trust-unfamiliar uses it anyway",
        "5 of these rows have nothing that is like training: all their modalities are used",
    ]
    trusting, summary = run_predict(
        tmp_path, "table.parquet", tmp_path / "trusting", "--trust-unfamiliar"
    )
    assert summary["notes"] == []
    assert not trusting["unfamiliar/photo"].any()
    assert (trusting["weight/photo"] > 0).equals(~without)


def test_rows_that_are_joined_to_the_wrong_pictures_are_noted(
    folder: Path, out: Path, tmp_path: Path, ray_local: None
) -> None:
    frame = pd.read_parquet(folder / "table.parquet").sort_values("label", ignore_index=True)
    cells = ["age", "dose", "site"]
    # By class, and then half a table further: most rows get the cells of another class.
    frame[cells] = np.roll(frame[cells].to_numpy(), len(frame) // 2, axis=0)
    frame.to_parquet(tmp_path / "table.parquet")
    predictions, summary = run_predict(folder, str(tmp_path / "table.parquet"), out)
    assert len(predictions) > 80
    (note,) = summary["notes"]
    assert note.startswith("photo and table agree only 0 % as much as on validation")
    pooled, again = run_predict(
        folder, str(tmp_path / "table.parquet"), tmp_path / "pool", "--concurrency", "2"
    )
    close(predictions, pooled)
    assert again["notes"] == summary["notes"]


def test_unknown_columns_do_not_matter_nor_do_labels(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    frame = pd.read_parquet(folder / "table.parquet")
    frame.drop(columns="label").assign(colour="red", label_of_another=1).to_parquet(
        folder / "more.parquet"
    )
    predictions, _ = run_predict(folder, "more.parquet", out)
    own, _ = run_predict(folder, "table.parquet", tmp_path / "own")
    assert predictions["label"].isna().all()
    close(predictions.drop(columns="label"), own.drop(columns="label"))


def test_rows_without_a_class_go_below_the_threshold(folder: Path, out: Path) -> None:
    predictions, summary = run_predict(folder, "shards", out, "--split", "test", "--abstain", "0.7")
    unsure = predictions[P].max(axis=1) < 0.7
    assert 0 < unsure.sum() < 95
    assert predictions["abstained"].tolist() == unsure.tolist()
    assert (predictions["prediction"] == "").tolist() == unsure.tolist()
    assert summary["abstained"] == unsure.sum()
    assert sum(summary[f"rows/{name}"] for name in CLASSES) == 95 - unsure.sum()


def test_a_known_prior_moves_the_probabilities_by_bayes(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    plain, _ = run_predict(folder, "shards", out, "--split", "test")
    (folder / "prior.json").write_text('{"common": 1, "middling": 3, "scarce": 6}')
    moved, summary = run_predict(
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
    assert summary["aggregation"] == "given"


@pytest.mark.parametrize("method", ["stability", "prior"])
def test_estimates_are_those_of_evaluate(folder: Path, out: Path, method: str) -> None:
    _, summary = run_predict(folder, "shards", out, "--split", "test", "--aggregation", method)
    assert summary["aggregation/asked"] == method
    assert summary["aggregation/rows"] == 95
    assert bool(summary["aggregation/reason"]) == bool(summary["aggregation/fell_back"])
    if method == "stability":
        return
    evaluate = script("evaluate")
    arguments = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "shards"),
        "--aggregation",
        method,
    ]
    evaluate.main([*arguments, "--json", str(folder / "result.json")])
    other = json.loads((folder / "result.json").read_text())
    for name in ("aggregation", "aggregation/fell_back", "aggregation/reason", "expert_weight/1"):
        assert summary[name] == other[name]


def test_a_pool_of_actors_gives_the_same_to_the_bit(
    folder: Path, out: Path, tmp_path: Path, ray_local: None
) -> None:
    for data, arguments in (
        ("shards", ()),
        ("table.csv", ("--image", f"photo={folder / 'photos'}")),
    ):
        alone, _ = run_predict(folder, data, tmp_path / f"alone {data}", *arguments)
        pool, _ = run_predict(folder, data, out, *arguments, "--concurrency", "2")
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
    manifest = json.loads((broken / "schema.json").read_text())
    del manifest["checksum"], manifest["parts"]
    (broken / "schema.json").write_text(json.dumps(manifest))
    for arguments in ((), ("--concurrency", "2")):
        with mistake("must be a whole PNG or JPEG") as caught:
            run_predict(folder, "broken", out, *arguments)
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
    arguments = ["--image", f"photo={folder / 'photos'}", "--batch-size", "10"]
    whole, summary = run_predict(folder, "long.csv", out, *arguments)
    assert whole["id"].tolist() == [str(i) for i in range(285)]
    assert summary["notes"] == ["rows are numbered from 0: the table has no id column 'id'"]
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
    task_groups = list(rows.task_groups(1))
    assert len(task_groups) > 5
    assert all(task_group.rows % 10 == 0 for task_group in task_groups[:-1])
    monkeypatch.setattr(batch_prediction, "needs_pool", lambda rows, concurrency: False)
    parts, _ = run_predict(folder, "long.csv", tmp_path / "parts", *arguments)
    pd.testing.assert_frame_equal(whole, parts)


def test_what_a_broken_run_left_is_replaced(folder: Path, out: Path) -> None:
    (out / "predictions").mkdir(parents=True)
    (out / "predictions" / "part-00099.parquet").write_bytes(b"half a file")
    predictions, _ = run_predict(folder, "shards", out, "--split", "val")
    assert len(predictions) == 53


def test_a_folder_of_somebody_elses_predictions_is_left_alone(folder: Path, out: Path) -> None:
    (out / "predictions").mkdir(parents=True)
    mine = out / "predictions" / "thesis.txt"
    mine.write_text("years of work")
    with mistake(r"--out must be a new or empty folder; .* holds predictions/thesis.txt"):
        run_predict(folder, "shards", out, "--split", "val")
    assert mine.read_text() == "years of work"


def test_everything_may_be_at_a_uri(folder: Path, out: Path, tmp_path: Path) -> None:
    here, _ = run_predict(folder, "shards", out, "--split", "test")
    arguments = [
        "--checkpoint",
        f"file://{folder}/run",
        "--data",
        f"file://{folder}/shards",
        "--split",
        "test",
    ]
    assert predict.main([*arguments, "--out", f"file://{tmp_path}/deep/there"]) == 0
    close(pd.read_parquet(tmp_path / "deep" / "there" / "predictions"), here)
    assert json.loads((tmp_path / "deep" / "there" / "summary.json").read_text())[
        "predicted"
    ] == len(here)


def test_a_full_disk_is_one_line(folder: Path, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(240 << 10))
    arguments = [
        "--checkpoint",
        str(folder / "run"),
        "--data",
        str(folder / "shards"),
        "--out",
        str(small_disk / "out"),
    ]
    done = run_command("distributed/predict.py", *arguments)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: no space left: {small_disk}/out/predictions/part-00000.parquet\n",
    )


def test_numbers_in_columns_of_bytes_are_read_as_text_is(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    table = pq.read_table(folder / "table.parquet")
    ages = [f"{age:5.1f}" for age in table["age"].to_pylist()]
    ages[0] = "  ?  "
    predictions, notes = {}, {}
    for kind, cells in (
        ("text", pa.array(ages)),
        ("bytes", pa.array([a.encode() for a in ages], pa.binary(5))),
    ):
        pq.write_table(
            table.set_column(table.schema.get_field_index("age"), "age", cells),
            tmp_path / f"{kind}.parquet",
        )
        predictions[kind], summary = run_predict(
            folder, str(tmp_path / f"{kind}.parquet"), out / kind
        )
        notes[kind] = summary["notes"]
    assert predictions["bytes"].equals(predictions["text"])
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
        f"^--out must be a folder or URI that can be read and written; got"
        f" '{tmp_path}/{place}': [^\n]*$"
    ):
        run_predict(folder, "table.parquet", tmp_path / place)
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
        run_predict(folder, str(tmp_path / name), out)
    assert not (out / "predictions").exists()


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
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
        ("shards", ["--abstain", "1.5"], "--abstain must be between 0 and 1; got 1.5"),
        ("shards", ["--concurrency", "0"], "--concurrency must be at least 1"),
        ("shards", ["--aggregation", "stability", "--prior", "p.json"], "not stability"),
        ("shards", ["--gpus-per-actor", "1"], "GPU"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, out: Path, data: str, arguments: list[str], message: str
) -> None:
    frame = pd.read_csv(folder / "table.csv")
    frame.drop(columns="dose").to_csv(folder / "half.csv", index=False)
    frame[["id", "label"]].to_csv(folder / "other.csv", index=False)
    with mistake(message) as caught:
        run_predict(folder, data, out, *arguments)
    assert "\n" not in str(caught.value)
    assert not (out / "summary.json").exists()


def shards_with_a_damaged_part(folder: Path, target: Path) -> Path:
    shutil.copytree(folder / "shards", target)
    path = target / "test" / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_part_is_named_in_one_line(folder: Path, out: Path, tmp_path: Path) -> None:
    path = shards_with_a_damaged_part(folder, tmp_path / "shards")
    with mistake(rf"'{path}' is damaged: bytes 0 to \d+ are not as they were written"):
        run_predict(folder, str(tmp_path / "shards"), out)


@pytest.mark.slow
def test_a_damaged_part_that_an_actor_finds_is_named_in_one_line(
    folder: Path, out: Path, tmp_path: Path, ray_local: None
) -> None:
    path = shards_with_a_damaged_part(folder, tmp_path / "shards")
    with mistake(rf"'{path}' is damaged: bytes 0 to \d+ are not as they were written"):
        run_predict(folder, str(tmp_path / "shards"), out, "--concurrency", "2")


def test_a_damaged_table_is_named_in_one_line(folder: Path, out: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "table.parquet")
    pq.write_table(table, tmp_path / "t.parquet", compression="none", use_dictionary=False)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "t.parquet").write_bytes(content)
    with mistake(rf"cannot read '{tmp_path}/t\.parquet': "):
        run_predict(folder, str(tmp_path / "t.parquet"), out)


def test_hostile_pictures_and_cells_are_refused_and_the_rest_is_predicted(
    folder: Path, out: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "photos", tmp_path / "photos")
    table = pd.read_csv(folder / "table.csv")
    rows = table.index[table["photo"].notna()][:5]
    files = [tmp_path / "photos" / name for name in table.loc[rows, "photo"]]
    for path in files[:3]:
        path.unlink()
    with open(files[0], "wb") as sparse:
        sparse.truncate(30 << 30)
    os.mkfifo(files[1])
    files[2].write_bytes(blank_png(60_000_000, 1, 8, 0))
    table.loc[rows[3], "site"] = "x" * 10_000_000
    table.loc[rows[4], "photo"] = "x" * 10_000_000
    table.to_csv(tmp_path / "table.csv", index=False)
    predictions, summary = run_predict(
        folder, str(tmp_path / "table.csv"), out, "--image", f"photo={tmp_path}/photos"
    )
    refused = predictions.set_index("id")["reason"]
    assert summary["rejected"] == 5
    for row, reason in zip(
        rows,
        (
            "photo: image file of 32,212,254,720 bytes is over the limit of 64,000,000",
            "photo: not a file: ",
            "photo: image of 60000000x1 pixels is over the limit of 10000 ",
            "site: cell of 10,000,000 characters is over the limit of 1,000,000",
            "photo: a cell of 10,000,000 characters is no path",
        ),
        strict=True,
    ):
        assert refused[table.loc[row, "id"]].startswith(reason)
    own = {flag(option.name) for option in dataclasses.fields(PredictOptions)}
    for command, option in re.findall(r"(\S+) (--[a-z-]+)", " ".join(refused.dropna())):
        assert option in own or command.endswith("ingest.py"), "predict lacks this option"
