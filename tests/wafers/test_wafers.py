"""The built-in wafer data: deterministic, long-tailed, readable as wafer maps, and such that fusing
the halves pays."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from distributed.ingestion.options import IngestOptions
from distributed.ingestion.pipeline import ingest
from distributed.runtime.command import one_line
from distributed.shards.layout import SPLITS
from distributed.wafers.__main__ import main
from distributed.wafers.default import default_shards
from distributed.wafers.maps import FAIL, GRIDS, OUTSIDE, PASS, PATTERNS
from distributed.wafers.options import WAFERS_VERSION, WaferOptions
from distributed.wafers.readings import BLAME, CAUSES, READINGS, TOOLS
from distributed.wafers.shards import write_wafer_shards
from distributed.wafers.sheet import contact_sheet
from distributed.wafers.table import (
    WAFER_CLASSES,
    class_counts,
    generate_split_table,
    generate_table,
    write_wafer_table,
)
from tests.conftest import run_command

CLEAN: dict[str, Any] = {
    "image_informative": 1.0,
    "table_informative": 1.0,
    "corrupt": 0.0,
    "missing": 0.0,
}


def generate(**parameters: Any) -> pd.DataFrame:
    return generate_table(WaferOptions(**parameters))


def pixels(frame: pd.DataFrame) -> np.ndarray:
    """Maps [N, S, S]; a lost map is all OUTSIDE."""
    size = Image.open(io.BytesIO(frame["map"].dropna().iloc[0])).size
    empty = np.zeros(size, np.uint8)
    return np.stack(
        [empty if png is None else np.asarray(Image.open(io.BytesIO(png))) for png in frame["map"]]
    )


def failure_share(frame: pd.DataFrame) -> np.ndarray:
    """Share of the dies of each wafer that fail."""
    maps = pixels(frame)
    return (maps == FAIL).sum((1, 2)) / (maps != OUTSIDE).sum((1, 2))


@pytest.fixture(scope="module")
def default() -> pd.DataFrame:
    return generate(truth=True)


@pytest.fixture(scope="module")
def clean() -> pd.DataFrame:
    return generate(rows=1800, imbalance=2, **CLEAN)


def test_the_literals_agree_on_names() -> None:
    assert set(WAFER_CLASSES) == set(PATTERNS) == set(CAUSES)
    assert all(set(effects) <= set(READINGS) for effects in CAUSES.values())
    assert all(
        tool in TOOLS[column] for blamed in BLAME.values() for column, (tool, _) in blamed.items()
    )
    assert CAUSES["none"] == {}
    assert "none" not in BLAME


def test_the_same_parameters_give_the_same_bytes_and_another_seed_other_ones(
    tmp_path: Path,
) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_wafer_table(tmp_path / f"{name}.parquet", generate(rows=300, seed=seed))
    a, b, c = ((tmp_path / f"{name}.parquet").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_one_parameter_changes_one_aspect() -> None:
    base = generate(rows=300)
    other_table = generate(rows=300, table_informative=0.2)
    other_image = generate(rows=300, image_informative=0.2)
    assert base["map"].equals(other_table["map"])
    assert not base[list(READINGS)].equals(other_table[list(READINGS)])
    assert base.drop(columns="map").equals(other_image.drop(columns="map"))
    assert not base["map"].equals(other_image["map"])
    assert base.equals(generate(rows=300, truth=True).iloc[:, :-2])


@pytest.mark.parametrize(
    ("rows", "imbalance"), [(4000, 50), (900, 1), (27, 1000), (28, 1), (1000, 100)]
)
def test_class_counts_are_an_exponential_tail_that_adds_up(rows: int, imbalance: float) -> None:
    counts = list(class_counts(rows, imbalance).values())
    assert sum(counts) == rows
    assert min(counts) >= 3
    assert counts == sorted(counts, reverse=True)
    if min(counts) > 10:
        assert counts[0] / counts[-1] == pytest.approx(imbalance, rel=0.05)
        assert counts[4] == pytest.approx(
            np.sqrt(counts[0] * counts[-1]), rel=0.05
        )  # the geometric middle


def test_the_columns_and_the_long_tail(default: pd.DataFrame) -> None:
    assert list(default)[:4] == ["id", "lot", "label", "map"]
    assert default["label"].value_counts().to_dict() == class_counts(4000, 50)
    assert default["id"].is_unique
    assert default.groupby("lot").size().eq(25).all()


@pytest.mark.parametrize("rows", [200, 600, 4000])
def test_every_class_is_spread_over_many_lots(rows: int) -> None:
    frame = generate(rows=rows, imbalance=50)
    lots, counts = frame.groupby("label")["lot"].nunique(), frame.groupby("label").size()
    assert frame["lot"].nunique() >= 40
    assert (lots >= np.minimum(12, 0.6 * counts)).all()
    assert lots.min() >= 3


def test_maps_are_round_grey_images_of_three_levels(clean: pd.DataFrame) -> None:
    assert Image.open(io.BytesIO(clean["map"].iloc[0])).mode == "L"
    maps = pixels(clean)
    assert maps.shape[1:] == (32, 32)
    assert set(np.unique(maps)) == {OUTSIDE, PASS, FAIL}
    assert (maps[:, [0, 0, -1, -1], [0, -1, 0, -1]] == OUTSIDE).all()
    assert (maps[:, 16, 16] != OUTSIDE).all()
    # An inscribed circle covers pi/4 of its square.
    assert (maps != OUTSIDE).mean() == pytest.approx(np.pi / 4, abs=0.03)


def test_another_size_shows_the_same_wafers() -> None:
    small, large = (generate(rows=200, size=size, **CLEAN) for size in (32, 64))
    assert pixels(large).shape[1:] == (64, 64)
    assert small.drop(columns="map").equals(large.drop(columns="map"))
    assert failure_share(small) == pytest.approx(failure_share(large), abs=0.05)


def test_each_pattern_fails_where_its_name_says(clean: pd.DataFrame) -> None:
    maps = pixels(clean)
    axis = (np.arange(32) + 0.5) / 16 - 1
    radius = np.hypot(axis, axis[:, None])

    def rate(name: str, low: float, high: float) -> float:
        chosen = maps[(clean["label"] == name).to_numpy()][:, (radius >= low) & (radius < high)]
        return float((chosen == FAIL).sum() / (chosen != OUTSIDE).sum())

    assert rate("none", 0, 1) < 0.08
    assert rate("center", 0, 0.2) > 0.6 > 0.1 > rate("center", 0.7, 0.9)
    assert rate("donut", 0.4, 0.55) > 2 * rate("donut", 0, 0.15)
    assert rate("edge-ring", 0.93, 1) > 0.5 > 0.1 > rate("edge-ring", 0, 0.7)
    assert rate("edge-ring", 0.93, 1) > 2 * rate("edge-loc", 0.93, 1) > 4 * rate("edge-loc", 0, 0.6)
    assert rate("loc", 0.3, 0.6) > 1.5 * rate("loc", 0.85, 1)
    assert rate("random", 0, 0.4) == pytest.approx(rate("random", 0.4, 0.8), abs=0.03)
    assert rate("near-full", 0, 1) > 0.75 > 0.5 > rate("random", 0, 1)


def test_a_scratch_is_long_and_thin(clean: pd.DataFrame) -> None:
    failed = pixels(clean[clean["label"] == "scratch"]) == FAIL
    blob = pixels(clean[clean["label"] == "loc"]) == FAIL

    def elongation(maps: np.ndarray) -> float:
        """Median ratio of the principal axes of the failed dies that have two failed neighbours or
        more."""
        ratios = []
        for m in maps:
            p = np.pad(m, 1).astype(int)
            near = sum(
                p[1 + i : 33 + i, 1 + j : 33 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j
            )
            points = np.argwhere(m & (near >= 2))
            if len(points) > 5:
                small, large = np.linalg.eigvalsh(np.cov(points.T))
                ratios.append(np.sqrt(large / max(small, 0.1)))
        return float(np.median(ratios))

    assert elongation(failed) > 1.5 * elongation(blob)


def test_evidence_varies_smoothly_and_has_the_given_means() -> None:
    frame = generate(
        rows=4000, image_informative=0.6, table_informative=0.3, corrupt=0, missing=0, truth=True
    )
    assert frame["map_evidence"].mean() == pytest.approx(0.6, abs=0.02)
    assert frame["table_evidence"].mean() == pytest.approx(0.3, abs=0.02)
    deciles = np.histogram(frame["map_evidence"], bins=10, range=(0, 1))[0]
    assert (deciles > 0.02 * len(frame)).all()


def test_washed_out_maps_lose_their_pattern_and_dead_halves_say_nothing() -> None:
    frame = generate(
        rows=1800, imbalance=1, image_informative=0, table_informative=0, corrupt=0, missing=0
    )
    by_class = pd.Series(failure_share(frame)).groupby(frame["label"].to_numpy()).mean()
    assert by_class.max() - by_class.min() < 0.02
    for name in READINGS:
        groups = frame.groupby("label")[name].mean()
        assert np.ptp(groups) < 0.8 * frame[name].std(), name


def test_causes_show_in_the_readings(clean: pd.DataFrame) -> None:
    z = (clean[list(READINGS)] - clean[list(READINGS)].mean()) / clean[list(READINGS)].std()
    mean = z.groupby(clean["label"]).mean()
    for pattern, effects in CAUSES.items():
        for name, effect in effects.items():
            assert (mean.loc[pattern, name] - mean.loc["none", name]) * np.sign(effect) > 0.25, (
                pattern,
                name,
            )
    assert np.ptp(mean["queue_time_h"]) < 0.5
    through = clean.groupby("label")["cmp_tool"].value_counts(normalize=True)
    assert through["scratch", "CMP-3"] > 0.6 > 0.5 > through["none", "CMP-3"]


def test_missing_cells_have_the_given_share_and_hit_readings_out_of_range(
    default: pd.DataFrame,
) -> None:
    sensors = [name for name, (*_, may_lose) in READINGS.items() if may_lose]
    logged = default[~default["recipe"].isna()]
    assert logged[sensors].isna().to_numpy().mean() == pytest.approx(0.06, abs=0.01)
    assert not logged[[name for name in READINGS if name not in sensors]].isna().to_numpy().any()
    gone = default["recipe"].isna()
    assert gone.mean() == pytest.approx(0.015, abs=0.006)
    assert default.loc[gone, [*READINGS, *TOOLS]].isna().to_numpy().all()
    assert default["map"].isna().mean() == pytest.approx(0.015, abs=0.006)
    assert not (gone & default["map"].isna()).any()
    # Not at random: what was lost, which the same wafers without losses tell, is further from the
    # middle than what was kept.
    heavy, whole = (generate(missing=missing) for missing in (0.3, 0))
    assert not whole.isna().to_numpy().any()
    for name in sensors:
        far, lost = (
            (whole[name] - whole[name].median()).abs(),
            heavy[name].isna() & heavy["recipe"].notna(),
        )
        assert far[lost].mean() > 1.1 * far[heavy[name].notna()].mean(), name


def test_corrupt_spoils_one_half_of_the_given_share(default: pd.DataFrame) -> None:
    frame = generate(rows=2000, corrupt=0.4, missing=0, truth=True)
    no_map, no_log = frame["map_evidence"] == 0, frame["table_evidence"] == 0
    assert no_map.mean() == pytest.approx(0.2, abs=0.03)
    assert no_log.mean() == pytest.approx(0.2, abs=0.03)
    assert not (no_map & no_log).any()
    # A faulty probe card: whole rows or columns fail, so one of the two directions varies far more
    # than the other.
    maps = pixels(frame)[:, 8:24, 8:24] == FAIL
    uneven = np.abs(maps.mean(1).std(1) - maps.mean(2).std(1))
    assert np.median(uneven[no_map]) > 4 * np.median(uneven[~no_map])


def test_fusion_pays_and_neither_half_suffices(default: pd.DataFrame) -> None:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    failed = (pixels(default) == FAIL).reshape(len(default), -1).astype(np.float32)
    table = (
        pd.get_dummies(default[[*READINGS, "recipe", *TOOLS]], columns=["recipe", *TOOLS])
        .fillna(-1)
        .to_numpy(np.float32)
    )
    image = PCA(40, random_state=0).fit_transform(failed)
    fold = default["lot"].str[1:].astype(int).to_numpy() % 3
    label = default["label"].to_numpy()

    def score(*halves: np.ndarray) -> float:
        """Balanced accuracy over three folds of lots."""
        x, guess = np.concatenate(halves, axis=1), label.copy()
        for k in range(3):
            forest = RandomForestClassifier(
                60, class_weight="balanced", min_samples_leaf=5, n_jobs=1, random_state=0
            )
            guess[fold == k] = forest.fit(x[fold != k], label[fold != k]).predict(x[fold == k])
        return float(balanced_accuracy_score(label, guess))

    only_table, only_image, both = score(table), score(image), score(table, image)
    assert 0.42 < only_table < 0.6
    assert 0.58 < only_image < 0.72
    assert both > max(only_table, only_image) + 0.06


def test_shards_of_wafers_have_every_class_in_every_split(ray_local: None, tmp_path: Path) -> None:
    from distributed.shards.manifest import read_manifest

    place = str(tmp_path / "shards")
    write_wafer_shards(
        WaferOptions(rows=600, val_rows=0, test_rows=0, imbalance=20, size=24, seed=1, shards=place)
    )
    manifest = read_manifest(str(tmp_path / "shards"))
    assert manifest.schema.modalities == ("map", "table")
    assert (manifest.schema.images[0].height, manifest.schema.images[0].channels) == (24, 1)
    assert {column.name for column in manifest.schema.tables[0].numeric} == set(READINGS)
    assert {column.name for column in manifest.schema.tables[0].categorical} == {"recipe", *TOOLS}
    parts = {split: pd.read_parquet(tmp_path / "shards" / split) for split in SPLITS}
    assert sum(len(part) for part in parts.values()) == 600
    assert all(part["label"].nunique() == 9 for part in parts.values())
    lots = [set(part["group"]) for part in parts.values()]
    assert len(lots[0] | lots[1] | lots[2]) == sum(len(of_split) for of_split in lots)


@pytest.mark.parametrize("rows", [27, 300, 4000])
def test_more_validation_and_test_wafers_leave_the_others_as_they_are(rows: int) -> None:
    options = WaferOptions(rows=rows, val_rows=500, test_rows=1000, size=16, truth=True)
    frame = generate_split_table(options)
    pd.testing.assert_frame_equal(
        frame.iloc[:rows].drop(columns="split"), generate_table(options), check_dtype=False
    )
    sizes = frame["split"].value_counts()
    base = frame.iloc[:rows]["split"].value_counts()
    assert sizes["train"] == base["train"]
    assert (sizes["val"], sizes["test"]) == (500, 1000)
    assert frame["id"].is_unique
    assert frame.groupby("lot")["split"].nunique().eq(1).all()
    assert frame.groupby("split")["label"].nunique().eq(9).all()
    more = frame.iloc[rows:]
    for place in ("val", "test"):
        labels = more[more["split"] == place]["label"]
        assert labels.value_counts().to_dict() == class_counts(len(labels), 50)
    for column in ("map_evidence", "table_evidence"):
        assert more[column].mean() == pytest.approx(generate(truth=True)[column].mean(), abs=0.04)
    kept = generate_split_table(dataclasses.replace(options, val_rows=0, test_rows=0))
    pd.testing.assert_frame_equal(kept, frame.iloc[:rows])


def test_the_wafers_of_the_table_have_the_split_of_ingest(ray_local: None, tmp_path: Path) -> None:
    options = WaferOptions(rows=300, val_rows=0, test_rows=0, size=16, seed=4)
    write_wafer_table(tmp_path / "t.parquet", generate_table(options))
    words = {"label": "label", "image": ("map",), "group": "lot", "id": "id", "seed": 4}
    ingest(
        IngestOptions(
            table=str(tmp_path / "t.parquet"), image_size="16", out=str(tmp_path / "own"), **words
        )
    )
    write_wafer_shards(dataclasses.replace(options, shards=str(tmp_path / "wafers")))
    for split in SPLITS:
        own, made = (
            b"".join(path.read_bytes() for path in sorted((tmp_path / place / split).iterdir()))
            for place in ("own", "wafers")
        )
        assert own == made, split


def test_a_small_table_is_that_of_the_version() -> None:
    frame = generate(rows=60, size=16, truth=True)
    numbers = frame.select_dtypes("number")
    digest = hashlib.sha256(pixels(frame).tobytes())
    digest.update(frame.drop(columns=["map", *numbers]).to_json().encode())
    # The last digits of exp and log depend on the processor.
    digest.update(numbers.to_csv(float_format="%.5g").encode())
    assert (WAFERS_VERSION, digest.hexdigest()[:16]) == (3, "1187985c1ce3f128"), (
        "the generator draws other wafers: raise WAFERS_VERSION in distributed/wafers/options.py,"
        " so that cached example data is written anew, and put the new digest here"
    )


def test_the_default_shards_are_made_once(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed.shards.manifest import read_manifest

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = default_shards()
    made = (Path(first) / "schema.json").stat().st_mtime_ns
    assert default_shards() == first
    assert (Path(first) / "schema.json").stat().st_mtime_ns == made
    assert Path(first).is_relative_to(tmp_path)
    manifest = read_manifest(first)
    assert manifest.rows == {"train": 2800, "val": 2000, "test": 5000}
    assert min(manifest.schema.counts) >= 15
    rows = pd.read_parquet(Path(first) / "train")
    numbers = rows.select_dtypes("float")
    digest = hashlib.sha256(b"".join(rows["image.map"].fillna(b"")))
    digest.update(rows.drop(columns=["image.map", *numbers]).to_json().encode())
    digest.update(numbers.to_csv(float_format="%.5g").encode())
    assert digest.hexdigest()[:16] == "a2cf2f9c458e7e95", (
        "the training rows are those of version 0.1.0, with which every published result was made"
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rows": 26}, r"rows must be at least 27.*got 26"),
        ({"imbalance": 0.5}, r"imbalance must be .*at least 1; got 0.5"),
        ({"imbalance": float("nan")}, r"imbalance must be .*got nan"),
        ({"size": 8}, r"size must be between 16 and 512; got 8"),
        ({"seed": -1}, r"seed must be between 0 and 4294967295; got -1"),
        ({"corrupt": 1.5}, r"corrupt must be between 0 and 1; got 1.5"),
        ({"missing": 0.95}, r"missing must be between 0 and 0.9; got 0.95"),
        ({"image_informative": -0.1}, r"image_informative must be between 0 and 1; got -0.1"),
        (
            {"table_informative": float("nan")},
            r"table_informative must be between 0 and 1; got nan",
        ),
    ],
)
def test_a_parameter_out_of_range_is_one_clear_error(
    parameters: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        generate(**parameters)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "parameters",
    [{"rows": 27, "imbalance": 1e6}, {"corrupt": 1.0, "missing": 0.9}, {"size": 16}, {"size": 97}],
)
def test_the_extremes_generate(parameters: dict[str, float]) -> None:
    frame = generate(**{"rows": 100, **parameters})
    assert set(frame["label"]) == set(WAFER_CLASSES)
    assert len(frame) == parameters.get("rows", 100)


def test_the_contact_sheet_has_a_row_a_class_and_the_clear_maps_first(tmp_path: Path) -> None:
    frame = generate(rows=600, imbalance=1, corrupt=0, missing=0, truth=True)
    contact_sheet(frame, tmp_path / "deep" / "sheet.png", columns=6, scale=32)
    sheet = np.asarray(Image.open(tmp_path / "deep" / "sheet.png"))
    assert sheet.shape == (9 * 36 + 4, 110 + 6 * 36)
    near_full = sheet[8 * 36 :, 110:]
    assert (near_full[:, :36] == FAIL).mean() > 1.5 * (near_full[:, -36:] == FAIL).mean()


def test_the_command_writes_what_the_function_returns(tmp_path: Path) -> None:
    out, sheet = tmp_path / "sub" / "t.parquet", tmp_path / "s.png"
    words = [
        "--rows",
        "200",
        "--imbalance",
        "5",
        "--image-informative",
        "0.9",
        "--table-informative",
        "0.4",
    ]
    words += [
        "--corrupt",
        "0.2",
        "--missing",
        "0.1",
        "--size",
        "24",
        "--seed",
        "7",
        "--out",
        str(out),
        "--sheet",
        str(sheet),
    ]
    done = run_command("distributed/wafers", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 wafers: none 4")
    expected = generate(
        rows=200,
        imbalance=5,
        image_informative=0.9,
        table_informative=0.4,
        corrupt=0.2,
        missing=0.1,
        size=24,
        seed=7,
    )
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected, check_dtype=False)
    assert sheet.stat().st_size > 1000
    assert [p.name for p in out.parent.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "many", "--out", "t.parquet"], "--rows must be a whole number; got 'many'"),
        (
            ["--row", "100", "--out", "t.parquet"],
            "--row is no option of .*; did you mean --rows\\?",
        ),
        (["--rows", "100"], "nothing to write: give at least one of --out, --shards, --sheet"),
        (["--rows", "100", "--out", "/"], "--out and --sheet must name files; got the folder /"),
        (
            ["--rows", "100", "--out", "/dev/null/t.parquet"],
            "--out and --sheet must be in a folder that can be written to; got /dev/null/t",
        ),
    ],
)
def test_a_users_mistake_is_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as error:
        main(words)
    assert re.search(message, one_line(error.value))


def test_a_users_mistake_is_one_line_and_exit_code_2() -> None:
    done = run_command("distributed/wafers", "--rows", "9", "--out", "t.parquet")
    assert done.returncode == 2
    assert done.stderr == "error: --rows must be at least 27; got 9\n"


def test_every_recipe_has_its_own_grid(clean: pd.DataFrame) -> None:
    assert set(clean["recipe"]) == set(GRIDS)
    assert clean.groupby("lot")["recipe"].nunique().eq(1).all()
