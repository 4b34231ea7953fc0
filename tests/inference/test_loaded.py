"""Facts about load and LoadedModel.predict: the numbers of predict.py, in the order of the frame,
and without Ray."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from distributed.inference.batches.batch_prediction import predict
from distributed.inference.loaded import LoadedModel, PredictionNote, load
from distributed.inference.options import PredictOptions
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from distributed.wafers.options import WaferOptions
from distributed.wafers.table import generate_table, write_wafer_table
from tests.conftest import ROOT
from tests.training import small_run

CLASSES = list(small_run.CLASSES)
CELLS = ["age", "dose", "site"]


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/, a run/ trained on them, and their test rows: table.parquet with bytes, table.csv
    with paths into photos/."""
    here = shutil.copytree(trained_run, tmp_path_factory.mktemp("loaded"), dirs_exist_ok=True)
    frame = small_run.raw(small_run.SPLITS["test"], 2, "test")
    frame.to_parquet(here / "table.parquet")
    (here / "photos").mkdir()
    paths: list[str | None] = []
    for name, photo in zip(frame["id"], frame["photo"], strict=True):
        paths.append(None if photo is None else f"{name}.png")
        if photo is not None:
            (here / "photos" / f"{name}.png").write_bytes(photo)
    frame.assign(photo=paths).to_csv(here / "table.csv", index=False)
    return here


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load(folder / "run")


@pytest.fixture
def frame(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "table.parquet")


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionNote)
        yield


def by_command(run: Path, data: Path, out: Path, **options: Any) -> tuple[pd.DataFrame, list[str]]:
    """The predictions of predict.py and its notes."""
    result = predict(PredictOptions(checkpoint=str(run), data=str(data), out=str(out), **options))
    return pd.read_parquet(out / "predictions"), result.notes


def assert_identical(loaded: pd.DataFrame, predicted: pd.DataFrame) -> None:
    """Every digit of all rows, and their order."""
    pd.testing.assert_frame_equal(loaded.reset_index(drop=True), predicted, check_exact=True)


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, {}),
        ({"abstain": 0.7}, {"abstain": 0.7}),
        ({"aggregation": "prior"}, {"aggregation": "prior"}),
        ({"aggregation": "stability"}, {"aggregation": "stability"}),
        ({"batch_size": 7}, {"batch_size": 7}),
    ],
)
def test_a_frame_of_bytes_gives_the_numbers_of_predict(
    folder: Path,
    tmp_path: Path,
    model: LoadedModel,
    frame: pd.DataFrame,
    options: dict[str, Any],
    arguments: dict[str, Any],
) -> None:
    predicted, _ = by_command(folder / "run", folder / "table.parquet", tmp_path / "out", **options)
    assert_identical(model.predict(frame, **arguments), predicted)
    assert len(predicted) == len(frame)


def test_a_known_prior_gives_the_numbers_of_predict(
    folder: Path, tmp_path: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    prior = {"common": 1, "middling": 3}
    (tmp_path / "prior.json").write_text(json.dumps(prior))
    predicted, notes = by_command(
        folder / "run",
        folder / "table.parquet",
        tmp_path / "out",
        prior=str(tmp_path / "prior.json"),
    )
    loaded = model.predict(frame, prior=prior)
    assert_identical(loaded, predicted)
    assert loaded.attrs["notes"] == notes


def test_a_csv_with_a_folder_of_images_gives_the_numbers_of_predict(
    folder: Path, tmp_path: Path, model: LoadedModel
) -> None:
    photos = folder / "photos"
    predicted, _ = by_command(
        folder / "run", folder / "table.csv", tmp_path / "out", image=(f"photo={photos}",)
    )
    frame = pd.read_csv(folder / "table.csv")
    for images in (photos, str(photos), {"photo": photos}):
        assert_identical(model.predict(frame, images=images), predicted)
    assert len(predicted) == len(frame)


def test_the_built_in_wafers_give_the_numbers_of_predict(wafer_shards: str, tmp_path: Path) -> None:
    small_run.train(tmp_path / "run", Path(wafer_shards), **{"optim.epochs": 1})
    frame = generate_table(WaferOptions(rows=300, imbalance=5, size=16, seed=3))
    write_wafer_table(tmp_path / "wafers.parquet", frame)
    predicted, notes = by_command(tmp_path / "run", tmp_path / "wafers.parquet", tmp_path / "out")
    loaded = load(tmp_path / "run").predict(frame)
    assert_identical(loaded, predicted)
    assert loaded.attrs["notes"] == notes
    assert len(predicted) > 250


def test_rows_keep_their_order_and_index_and_refused_ones_have_a_reason(
    folder: Path, tmp_path: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    frame["photo"] = frame["photo"].astype(object)
    frame.loc[3, "photo"] = b"not an image"
    frame.loc[5, ["photo", *CELLS]] = None
    frame.loc[6, "id"] = None
    frame.to_parquet(tmp_path / "bad.parquet")
    predicted, _ = by_command(folder / "run", tmp_path / "bad.parquet", tmp_path / "out")
    frame.index = pd.Index(range(1000, 1000 + len(frame)), name="record")
    loaded = model.predict(frame)
    assert_identical(loaded, predicted)
    assert loaded.index.equals(frame.index)
    bad = loaded[loaded["reason"].notna()]
    assert bad.index.tolist() == [1003, 1005, 1006]
    assert bad["prediction"].isna().all()
    assert bad[[f"p/{name}" for name in CLASSES]].isna().all(axis=None)
    assert not bad["abstained"].any()
    assert loaded["id"].isna().tolist() == frame["id"].isna().tolist()
    shuffled = frame.sample(frac=1, random_state=0)
    again = model.predict(shuffled)
    assert again.index.equals(shuffled.index)
    assert again["reason"].notna().tolist() == [row in (1003, 1005, 1006) for row in again.index]


def test_many_refused_rows_are_warned_of(model: LoadedModel, frame: pd.DataFrame) -> None:
    bad = frame.head(9).assign(photo=[b"nothing", *frame["photo"][1:9]])
    with pytest.warns(PredictionNote, match=r"1 of 9 rows \(11%\) were refused"):
        assert model.predict(bad)["reason"].notna().sum() == 1


def test_one_record_and_a_list_of_records_are_rows(model: LoadedModel, frame: pd.DataFrame) -> None:
    records = frame.head(4).to_dict("records")
    several = model.predict(records)
    assert several["id"].tolist() == frame["id"].head(4).tolist()
    one = model.predict(records[2])
    assert len(one) == 1
    assert one["prediction"][0] == several["prediction"][2]
    assert one["probability"][0] == pytest.approx(several["probability"][2], abs=1e-6)
    series = model.predict(frame.iloc[2])
    assert series.index.tolist() == [2]
    pd.testing.assert_frame_equal(series.reset_index(drop=True), one)


def test_images_may_be_bytes_paths_pil_images_and_arrays_in_one_column(
    folder: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    frame = frame[frame["photo"].notna()].head(6).reset_index(drop=True)
    opened = [Image.open(io.BytesIO(photo)) for photo in frame["photo"]]
    expected = model.predict(frame)
    mixed = frame.assign(
        photo=[
            frame["photo"][0],
            f"{frame['id'][1]}.png",
            Path(f"{frame['id'][2]}.png"),
            opened[3],
            np.asarray(opened[4]),
            {"bytes": bytearray(frame["photo"][5]), "path": None},
        ]
    )
    pd.testing.assert_frame_equal(model.predict(mixed, images=folder / "photos"), expected)
    arrays = frame.assign(photo=[np.asarray(image) for image in opened])
    pd.testing.assert_frame_equal(model.predict(arrays), expected)


def test_a_turned_picture_is_the_same_as_a_file_and_as_an_image(model: LoadedModel) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    record = {"id": "a", "age": 40.0, "dose": 5.0, "site": "arm"}
    by_bytes = model.predict({**record, "photo": file.getvalue()})
    by_image = model.predict({**record, "photo": Image.open(file)})
    pd.testing.assert_frame_equal(by_bytes, by_image)


def test_missing_columns_are_missing_modalities_and_notes_say_so(
    folder: Path, tmp_path: Path, model: LoadedModel, frame: pd.DataFrame
) -> None:
    less = frame.drop(columns=CELLS).assign(surprise=1)
    less.to_parquet(tmp_path / "less.parquet")
    predicted, notes = by_command(folder / "run", tmp_path / "less.parquet", tmp_path / "out")
    with pytest.warns(PredictionNote, match="the frame has no column of table"):
        loaded = model.predict(less)
    assert_identical(loaded, predicted)
    assert loaded.attrs["notes"] == [
        note.replace("the table has", "the frame has") for note in notes
    ]
    assert "columns that training did not know are passed over: surprise" in notes


def test_ids_labels_and_unknown_columns_are_not_needed(
    model: LoadedModel, frame: pd.DataFrame
) -> None:
    plain = model.predict(frame.drop(columns=["id", "label"]).assign(extra="x"))
    full = model.predict(frame)
    assert plain["id"].tolist() == [str(row) for row in range(len(frame))]
    assert plain["label"].isna().all()
    pd.testing.assert_frame_equal(
        plain.drop(columns=["id", "label"]), full.drop(columns=["id", "label"])
    )


def test_columns_of_mixed_values_are_read_as_a_csv_file_would_hold_them(
    model: LoadedModel, frame: pd.DataFrame
) -> None:
    mixed = frame.astype({"age": object, "site": object})
    mixed.loc[::2, "age"] = mixed["age"][::2].map(str)
    texts = frame.assign(age=frame["age"].map(str))
    pd.testing.assert_frame_equal(model.predict(mixed), model.predict(texts))


def test_a_frame_without_rows_gives_one_without_rows(
    model: LoadedModel, frame: pd.DataFrame
) -> None:
    empty = model.predict(frame.head(0), aggregation="prior")
    assert len(empty) == 0
    assert list(empty) == list(model.predict(frame.head(2)))


def test_what_is_unlike_training_counts_as_absent_unless_it_is_trusted(
    folder: Path, tmp_path: Path, frame: pd.DataFrame
) -> None:
    checkpoint = load_checkpoint(str(folder / "run"))
    assert checkpoint.network.novelty_gate is not None
    checkpoint.network.novelty_gate.limit_M[0] = 1e-9  # every photo is unlike training
    save_checkpoint(str(tmp_path / "run" / "checkpoint"), checkpoint)
    careful = load(tmp_path / "run").predict(frame)
    trusting = load(tmp_path / "run", trust_unfamiliar=True).predict(frame)
    with_photo = frame["photo"].notna() & frame["age"].notna()
    assert (careful["weight/photo"][with_photo] == 0).all()
    assert (trusting["weight/photo"][with_photo] > 0).all()
    assert "load(..., trust_unfamiliar=True) uses it anyway" in careful.attrs["notes"][0]


def test_a_model_says_what_it_is(folder: Path, model: LoadedModel) -> None:
    assert model.classes == small_run.CLASSES
    assert model.schema["column"].tolist() == ["photo", "age", "dose", "site", "id", "label"]
    assert model.schema["kind"].tolist()[:4] == ["image", "number", "number", "category"]
    assert model.metrics is not None
    written = json.loads((folder / "run" / "metrics.json").read_text())
    assert model.metrics == {split: written[split] for split in ("val", "test")}
    assert "3 classes, photo + table, mixture fusion, 3 experts, balanced accuracy" in repr(model)
    assert load(folder / "run" / "checkpoint").metrics == model.metrics
    assert load(f"file://{folder}/run").metrics == model.metrics


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 7}, "rows must be a pandas DataFrame, a record as a dict, or a list"),
        ({"rows": [1, 2]}, "got list"),
        (
            {"images": {"scan": "x"}},
            r"images must name an image column of the checkpoint \(photo\)",
        ),
        (
            {"aggregation": "best"},
            "aggregation must be one of uniform, stability, prior; got 'best'",
        ),
        ({"aggregation": "stability", "prior": {"common": 1}}, "not stability"),
        ({"prior": {"rare": 1}}, "got rare; valid: common, middling, scarce"),
        ({"prior": {"common": 0}}, "above 0"),
        ({"abstain": 2}, "abstain must be between 0 and 1; got 2"),
        ({"batch_size": -1}, "batch_size must be at least 0"),
    ],
)
def test_mistakes_are_one_line(
    model: LoadedModel, frame: pd.DataFrame, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model.predict(**{"rows": frame.head(3), **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.drop(columns="dose"),
            "must have all columns of 'table' or none; it lacks dose",
        ),
        (lambda f: f[["id"]], "columns of at least one modality"),
        (lambda f: f.assign(photo=7), "image column 'photo' must hold encoded bytes.*got int"),
        (
            lambda f: f.assign(photo=[np.zeros((8, 8, 3))] * len(f)),
            r"of uint8, or \[height, width\] of uint16; got \[8, 8, 3\] of float64",
        ),
        (lambda f: pd.concat([f, f[["age"]]], axis=1), "different names; got 'age' more than once"),
    ],
)
def test_frames_that_cannot_be_used_are_refused_in_one_line(
    model: LoadedModel, frame: pd.DataFrame, change: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model.predict(change(frame.head(3)))
    assert "\n" not in str(caught.value)


def test_a_place_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must name a run or its checkpoint folder"):
        load(tmp_path)


def test_it_needs_no_ray_and_leaves_the_threads_as_they_were(folder: Path) -> None:
    code = (
        "import sys\nsys.modules['ray'] = None\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import pandas as pd, torch\n"
        "from distributed import load\n"
        "torch.set_num_threads(2)\n"
        f"model = load({str(folder / 'run')!r})\n"
        f"frame = pd.read_csv({str(folder / 'table.csv')!r})\n"
        f"result = model.predict(frame, images={str(folder / 'photos')!r}, aggregation='prior')\n"
        "print(len(result), torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["95", "2"]
