"""Facts about evaluate.py: it repeats a run's own metrics, cuts and corrupts as said, reads other
shards by name, and explains itself."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed.inference.known_prior import read_prior
from distributed.inference.options import EvaluateOptions
from distributed.inference.rows.split_rows import open_evaluated_rows
from distributed.inference.rows.tables import open_input
from distributed.training.checkpoint import load_checkpoint, save_checkpoint
from model.learning.augment import resample_cells
from tests.conftest import run_command, script
from tests.mistakes import mistake
from tests.training import small_run, toy

evaluate = script("evaluate")


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shards/ and a run/ trained on them."""
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("evaluate"), dirs_exist_ok=True)


def run_evaluate(
    folder: Path, *arguments: str, data: str = "shards", checkpoint: str = "run"
) -> dict[str, Any]:
    out = folder / "result.json"
    assert (
        evaluate.main(
            [
                "--checkpoint",
                str(folder / checkpoint),
                "--data",
                str(folder / data),
                *arguments,
                "--json",
                str(out),
            ]
        )
        == 0
    )
    return json.loads(out.read_text())


def metrics_of(result: dict[str, Any]) -> dict[str, Any]:
    """Without what says where the rows came from."""
    return {name: value for name, value in result.items() if name not in ("data", "remarks")}


def test_it_repeats_the_metrics_of_the_run(folder: Path) -> None:
    own = json.loads((folder / "run" / "metrics.json").read_text())
    for split in ("val", "test"):
        result = run_evaluate(folder, "--split", split)
        assert {name: result[name] for name in own[split]} == pytest.approx(own[split], abs=1e-6)


def test_what_a_condition_does_and_does_not_do_is_stated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prior.json").write_text('{"common": 2, "scarce": 1}')
    result = run_evaluate(folder, "--prior", str(tmp_path / "prior.json"), "--replicates", "0")
    others = [name for name in small_run.CLASSES if name not in ("common", "scarce")]
    assert (
        f"the known prior gives {', '.join(others)} no weight: never predicted" in result["remarks"]
    )
    assert "intervals" not in result["remarks"]
    result = run_evaluate(folder, "--modalities", "table", "--corrupt", "photo=noise:0.5")
    assert "photo is taken away: nothing of it is left to corrupt" in result["remarks"]
    capsys.readouterr()
    result = run_evaluate(folder, "--shift", "forward-500")
    sizes = [n for name, n in result.items() if name.startswith("rows/") and n]
    assert (
        f"by forward-500 (the largest class has {max(sizes) / min(sizes):.3g} times the rows"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("stage", ["crt", "lws", "tau"])
def test_a_run_with_a_second_stage_is_what_is_saved(
    folder: Path, tmp_path: Path, stage: str
) -> None:
    done = small_run.train(tmp_path / "run", folder / "shards", **{"stage.kind": stage})
    first = torch.load(folder / "run" / "checkpoint" / "model.pt", weights_only=True)["network"]
    second = torch.load(tmp_path / "run" / "checkpoint" / "model.pt", weights_only=True)["network"]
    changed = {
        name
        for name, value in second.items()
        if name not in first or not torch.equal(value, first[name])
    }
    assert changed, "the second stage did nothing"
    assert all(name.startswith("experts") for name in changed), "the representation is frozen"
    out = tmp_path / "result.json"
    arguments = [
        "--checkpoint",
        str(tmp_path / "run"),
        "--data",
        str(folder / "shards"),
        "--split",
        "test",
        "--json",
        str(out),
    ]
    assert evaluate.main(arguments) == 0
    result = json.loads(out.read_text())
    assert {name: result[name] for name in done.metrics.test} == pytest.approx(
        done.metrics.test, abs=1e-6
    )


def test_runs_shards_and_results_may_be_uris(folder: Path, tmp_path: Path) -> None:
    plain = run_evaluate(folder, "--split", "test")
    arguments = [
        "--checkpoint",
        f"file://{folder}/run",
        "--data",
        f"file://{folder}/shards",
        "--split",
        "test",
    ]
    assert evaluate.main([*arguments, "--json", f"file://{tmp_path}/deep/result.json"]) == 0
    result = json.loads((tmp_path / "deep" / "result.json").read_text())
    places = ("checkpoint", "data")
    assert {n: v for n, v in result.items() if n not in places} == {
        n: v for n, v in plain.items() if n not in places
    }


def test_two_evaluations_may_write_one_file_at_the_same_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, splits = tmp_path / "result.json", ["train"]
    arguments = ["--checkpoint", str(folder / "run"), "--data", str(folder / "shards")]
    arguments += ["--replicates", "0", "--json", str(out), "--split"]

    def evaluate_once_more(descriptor: int) -> None:
        written = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        if ".try-" not in written and splits:  # the first of them tries whether it can be written
            assert evaluate.main([*arguments, splits.pop()]) == 0

    evaluate.main([*arguments, "test"])
    expected = out.read_text()
    out.unlink()
    monkeypatch.setattr(os, "fsync", evaluate_once_more)
    assert evaluate.main([*arguments, "test"]) == 0
    assert not splits
    assert out.read_text() == expected
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_the_json_is_one_flat_object_with_intervals_weights_and_confidences(folder: Path) -> None:
    result = run_evaluate(folder)
    assert all(value is None or isinstance(value, str | int | float) for value in result.values())
    for name in ("balanced_accuracy", "macro_f1", "few_shot_accuracy", "ece", "nll"):
        assert result[f"{name}/low"] <= result[f"{name}/high"]
    assert result["accuracy/low"] < result["accuracy"] < result["accuracy/high"]
    assert sum(result[f"expert_weight/{e}"] for e in (1, 2, 3)) == pytest.approx(1, abs=1e-6)
    assert result["aggregation"] == result["aggregation/asked"] == "uniform"
    assert [result[f"rows/{name}"] for name in small_run.CLASSES] == list(small_run.SPLITS["test"])
    for group in ("all", "many", "medium", "few"):
        for name in ("predicted", "true", "weight"):
            assert 0 <= result[f"confidence/photo/{group}/{name}"] <= 1


def test_the_command_prints_a_table_and_help_is_fast(folder: Path) -> None:
    done = run_command(
        "distributed/evaluate.py",
        "--checkpoint",
        str(folder / "run" / "checkpoint"),
        "--data",
        str(folder / "shards"),
    )
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy %" in done.stdout
    assert "photo, few" in done.stdout
    assert "uniform weights 0.333 0.333 0.333" in done.stdout


@pytest.mark.parametrize(
    ("shift", "rows"),
    [("uniform", (10, 10, 10)), ("forward-5", (50, 22, 10)), ("backward-5", (2, 4, 10))],
)
def test_the_cut_follows_the_protocol(folder: Path, shift: str, rows: tuple[int, ...]) -> None:
    result = run_evaluate(folder, "--shift", shift, "--replicates", "10")
    assert tuple(result[f"rows/{name}"] for name in small_run.CLASSES) == rows
    assert (result["rows"], result["rows_available"]) == (sum(rows), 95)
    assert result == run_evaluate(folder, "--shift", shift, "--replicates", "10")
    other = run_evaluate(folder, "--shift", shift, "--replicates", "10", "--seed", "1")
    assert other["rows"] == result["rows"]
    assert other["nll"] != result["nll"]


def test_modalities_left_out_get_no_weight(folder: Path) -> None:
    result = run_evaluate(folder, "--modalities", "table")
    assert result["weight/photo"] == 0
    assert "confidence/photo" not in result
    assert result["confidence/photo/all/predicted"] is None
    missing = run_evaluate(folder, "--corrupt", "photo=missing")
    assert {k: v for k, v in missing.items() if k not in ("modalities", "corrupt")} == {
        k: v for k, v in result.items() if k not in ("modalities", "corrupt")
    }


def test_noise_lowers_the_true_confidence_of_the_sabotaged_modality(folder: Path) -> None:
    clean, noisy = run_evaluate(folder), run_evaluate(folder, "--corrupt", "photo=noise")
    assert noisy["confidence/photo/all/true"] < clean["confidence/photo/all/true"] - 0.1
    assert noisy["confidence/table/all/true"] == pytest.approx(
        clean["confidence/table/all/true"], abs=1e-6
    )


def test_shards_that_number_classes_and_categories_otherwise_give_the_same(folder: Path) -> None:
    turned = small_run.schema(
        classes=("scarce", "common", "middling"), sites=("face", "leg", "arm", "back")
    )
    small_run.write_shards(folder / "turned", turned)
    result, own = run_evaluate(folder, data="turned"), run_evaluate(folder)
    assert metrics_of(result) == pytest.approx(metrics_of(own), abs=1e-6)
    assert "matched by name" in result["remarks"]
    assert "categories of table matched by value: site" in result["remarks"]


def test_a_table_of_other_records_is_noted_unless_the_checkpoint_has_nothing_to_compare_with(
    folder: Path,
) -> None:
    note = "photo and table agree only"
    assert note not in run_evaluate(folder)["remarks"]
    assert note in run_evaluate(folder, "--corrupt", "table=shuffle")["remarks"]
    before = folder / "before"  # one made by a version that did not learn what to expect
    save_checkpoint(
        str(before), dataclasses.replace(load_checkpoint(str(folder / "run")), cross_modal=None)
    )
    assert (
        note
        not in run_evaluate(folder, "--corrupt", "table=shuffle", checkpoint="before")["remarks"]
    )


def test_a_stream_gives_what_memory_gives(folder: Path) -> None:
    streamed = folder / "streamed"
    streamed.mkdir()
    loaded = load_checkpoint(str(folder / "run"))
    from distributed.config import apply_changes

    config = apply_changes(loaded.config, {"data.cache": "stream"})
    save_checkpoint(str(streamed), dataclasses.replace(loaded, config=config))
    result = {}
    for name in ("run", "streamed"):
        arguments = [
            "--checkpoint",
            str(folder / name),
            "--data",
            str(folder / "shards"),
            "--corrupt",
            "photo=noise:0.4",
            "--shift",
            "forward-2",
        ]
        assert evaluate.main([*arguments, "--json", str(folder / "result.json")]) == 0
        result[name] = json.loads((folder / "result.json").read_text()) | {"checkpoint": ""}
    assert result["run"] == pytest.approx(result["streamed"], abs=1e-6)


def test_guards_work_without_the_validation_split_and_say_what_they_did(folder: Path) -> None:
    shutil.copytree(folder / "shards", folder / "no_val", ignore=shutil.ignore_patterns("val"))
    for method in ("stability", "prior"):
        result = run_evaluate(
            folder, "--aggregation", method, "--shift", "forward-5", data="no_val"
        )
        assert result["aggregation/asked"] == method
        assert result["aggregation"] == ("uniform" if result["aggregation/fell_back"] else method)
        assert bool(result["aggregation/reason"]) == bool(result["aggregation/fell_back"])
        assert "without labelled validation rows" not in result["aggregation/reason"]


@pytest.mark.parametrize(
    "rows", [(600, 10, 5), (10, 10, 600)], ids=["of the frequent class", "of the rare class"]
)
def test_rows_nearly_all_of_one_class_are_found_out_without_labels_and_weighed_so(
    rows: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        small_run, "SPLITS", {**small_run.SPLITS, "val": (300, 150, 80), "test": rows}
    )
    # A weak network, which has something to gain from the prior.
    weak = {
        "optim.epochs": 2,
        "data.least_batches": 0,
        "fusion.kind": "confidence",
        "data.spoil": 0.0,
    }
    small_run.train(tmp_path / "run", small_run.write_shards(tmp_path / "shards"), **weak)
    before, after = (
        run_evaluate(tmp_path, "--aggregation", method) for method in ("uniform", "prior")
    )
    assert after["aggregation"] == "prior"
    assert not after["aggregation/fell_back"]
    shares = [count / sum(rows) for count in rows]
    assert [after[f"prior/{name}"] for name in small_run.CLASSES] == pytest.approx(shares, abs=0.05)
    assert after["accuracy"] > before["accuracy"] + 0.05


def test_the_checkpoint_holds_the_validation_logits_of_the_run(folder: Path) -> None:
    held = load_checkpoint(str(folder / "run")).validation
    assert held is not None
    assert torch.bincount(held.labels_V).tolist() == list(small_run.SPLITS["val"])
    assert held.logits_VEC.shape == (53, 3, 3)


def test_a_known_prior_of_one_class_decides_for_it(folder: Path) -> None:
    (folder / "prior.json").write_text('{"scarce": 2.0}')
    result = run_evaluate(
        folder, "--prior", str(folder / "prior.json"), "--trust-unfamiliar", "--replicates", "7"
    )
    assert (result["prior"], result["trust_unfamiliar"], result["replicates"]) == (
        str(folder / "prior.json"),
        True,
        7,
    )
    assert result["aggregation"] == "given"
    assert [result[f"recall/{name}"] for name in small_run.CLASSES] == [0, 0, 1]
    assert [result[f"prior/{name}"] for name in small_run.CLASSES] == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rare": 1}', "got rare; valid: common, middling, scarce"),
        ('{"scarce": -1}', "scarce has -1"),
        ('{"scarce": 0}', "above 0"),
        ("[1, 2]", "holds list"),
        ('{"scarce": 1' + 400 * "0" + "}", "a finite weight"),
        ("nonsense", "must be a JSON object"),
    ],
)
def test_a_wrong_prior_is_refused_in_one_line(folder: Path, text: str, message: str) -> None:
    (folder / "wrong.json").write_text(text)
    with mistake(message) as caught:
        run_evaluate(folder, "--prior", str(folder / "wrong.json"))
    assert str(caught.value).startswith("prior ")  # in Python an option has its Python name


def test_a_prior_of_huge_weights_is_finite_and_a_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "prior.json").write_text('{"scarce": 1e308, "common": 1e308, "middling": 1}')
    assert read_prior(str(tmp_path / "prior.json"), small_run.CLASSES).tolist() == [0.5, 0, 0.5]
    with mistake("--prior must be training, uniform or a JSON file"):
        read_prior(str(tmp_path), small_run.CLASSES)


def test_the_checkpoint_of_another_project_is_refused_in_one_line(tmp_path: Path) -> None:
    for other in (
        {"epoch": 1, "state_dict": {}},
        {"plain": "{}"},
        {"plain": "no JSON"},
        [1],
        torch.nn.Linear(1, 1),
    ):
        torch.save(other, tmp_path / "model.pt")
        with mistake(
            "--checkpoint must be one that this project wrote; .* holds another model.pt"
        ) as caught:
            load_checkpoint(str(tmp_path))
        assert str(caught.value).startswith("checkpoint must")  # in Python its Python name
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("x", "y")
    with mistake("or a damaged one"):
        load_checkpoint(str(tmp_path))


@pytest.mark.parametrize(("place", "why"), [("file/e.json", ""), ("", "Is a directory")])
def test_a_json_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, place: str, why: str
) -> None:
    (tmp_path / "file").write_text("dear")
    arguments = ["--checkpoint", "nowhere", "--data", "nowhere", "--json", str(tmp_path / place)]
    with mistake(f"^--json must name a file that can be written; got '[^\n]*': [^\n]*{why}$"):
        evaluate.main(arguments)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shift", "sideways-3"], "uniform, forward-K or backward-K.*sideways-3"),
        (["--modalities", "sound"], "got sound"),
        (["--corrupt", "photo=rain"], "valid: noise, shuffle, missing"),
        (["--split", "all"], "--split must be one of train, val, test; got 'all'"),
        (["--replicates", "-1"], "--replicates must be at least 0"),
        (["--prior", "nowhere.json"], "must be training, uniform or a JSON file that exists"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: list[str], message: str) -> None:
    with mistake(message) as caught:
        run_evaluate(folder, *arguments)
    assert "\n" not in str(caught.value)


def change(folder: Path, name: str, **changes: Any) -> None:
    """Shards like the others but for their schema."""
    shutil.copytree(folder / "shards", folder / name)
    plain = json.loads((folder / name / "schema.json").read_text())
    for key, value in changes.items():
        plain["schema"][key] = value(plain["schema"][key])
    del plain["checksum"], plain["parts"]
    (folder / name / "schema.json").write_text(json.dumps(plain))


@pytest.mark.parametrize(
    ("window", "shards_image", "message"),
    [
        (
            (0, 60000),
            {"window": [0, 26000]},
            "must have --window=0,60000 --fit pad, .* has --window=0,26000 --fit"
            " pad: ingest it with",
        ),
        (
            (-2.5, 2),
            {"window": [-2.5, 2], "fit": "crop"},
            "must have --window=-2.5,2 --fit pad, .* has --window=-2.5,2 --fit crop",
        ),
        (
            None,
            {"fit": "crop"},
            "images of 'photo' must have --fit pad, as in the checkpoint; --data has --fit crop",
        ),
        ((0, 60000), {"window": [10, 60500]}, None),  # by samples of their own
        ((0, 60000), {}, "none in --data: its images must be of 8 bits"),
        (None, {"window": [0, 60000]}, "none in the checkpoint"),
        (None, {"window": None}, None),
        ((0, 60000), None, None),
    ],
)
def test_images_must_be_prepared_as_those_of_the_checkpoint(
    folder: Path,
    tmp_path: Path,
    window: tuple[float, float] | None,
    shards_image: dict[str, Any] | None,
    message: str | None,
) -> None:
    loaded = load_checkpoint(str(folder / "run"))
    (image,) = loaded.manifest.prepare["images"]
    prepared = {"prepare": {**loaded.manifest.prepare, "images": [{**image, "window": window}]}}
    save_checkpoint(
        str(tmp_path / "run"),
        dataclasses.replace(loaded, manifest=dataclasses.replace(loaded.manifest, **prepared)),
    )
    shutil.copytree(folder / "shards", tmp_path / "shards")
    plain = json.loads((tmp_path / "shards" / "schema.json").read_text())
    plain["prepare"]["images"] = [{**image, **shards_image}] if shards_image is not None else []
    del plain["checksum"], plain["parts"]
    (tmp_path / "shards" / "schema.json").write_text(json.dumps(plain))
    saved = load_checkpoint(str(tmp_path / "run"))
    ways = (
        lambda: (
            open_evaluated_rows(
                saved, EvaluateOptions(checkpoint="", data=str(tmp_path / "shards"))
            ).notes
        ),
        lambda: open_input(saved, str(tmp_path / "shards"), images={}, split="test", batch_size=8)[
            1
        ],
    )
    for notes in ways:
        if message and "must have" in message:
            with mistake(message):
                notes()
        else:
            assert message in "; ".join(notes()) if message else not notes()


def test_shards_that_cannot_be_matched_are_refused(folder: Path) -> None:
    change(folder, "larger", images=lambda m: [{**m[0], "height": 16}])
    change(folder, "narrower", tables=lambda t: [{**t[0], "numeric": t[0]["numeric"][:1]}])
    change(
        folder,
        "wordy",
        tables=lambda t: [
            {
                **t[0],
                "numeric": t[0]["numeric"][:1],
                "categorical": [
                    *t[0]["categorical"],
                    {"name": "dose", "vocabulary": [], "missing": 0},
                ],
            }
        ],
    )
    change(folder, "stranger", classes=lambda c: [*c[:2], "unheard of"])
    change(
        folder,
        "elsewhere",
        images=lambda m: [{**m[0], "name": "scan"}],
        tables=lambda t: [{**t[0], "name": "log"}],
    )
    (folder / "result.json").unlink(missing_ok=True)
    for name, message in {
        "larger": "must be 8x8 with 3 channel.*16x8",
        "narrower": "lacks dose",
        "wordy": "column 'dose' must be numeric",
        "stranger": "rows of unheard of",
        "elsewhere": "must have a modality of the checkpoint",
        "nowhere": "must exist",
    }.items():
        with mistake(message):
            run_evaluate(folder, data=name)
        assert not (folder / "result.json").exists()


def test_resampled_cells_come_from_the_training_marginals() -> None:
    rows, schema = toy.records(), toy.schema()
    name, table = schema.tables[0].name, schema.tables[0]
    kept = resample_cells(rows, schema.tables, 0.0, seed=0, step=0)
    assert torch.equal(kept.numbers[name].nan_to_num(99), rows.numbers[name].nan_to_num(99))
    assert torch.equal(kept.categories[name], rows.categories[name])
    many = rows.select(torch.arange(2000) % len(rows)).replace(total=0)
    drawn = resample_cells(many, schema.tables, 1.0, seed=0, step=0)
    for i, column in enumerate(table.numeric):
        values = drawn.numbers[name][:, i].numpy()
        assert np.quantile(values, [0, 0.5, 1]) == pytest.approx(
            [column.quantiles[0], np.median(column.quantiles), column.quantiles[-1]], abs=0.3
        )
    for k, column in enumerate(table.categorical):
        shares = (
            torch.bincount(drawn.categories[name][:, k], minlength=len(column.vocabulary)) / 2000
        )
        assert shares.tolist() == pytest.approx(
            [1 / len(column.vocabulary)] * len(column.vocabulary), abs=0.05
        )
    assert torch.equal(drawn.images["photo"], many.images["photo"])
    again = resample_cells(
        many.select(slice(500, 900)).replace(start=500, total=2000),
        schema.tables,
        1.0,
        seed=0,
        step=0,
    )
    assert torch.equal(again.numbers[name], drawn.numbers[name][500:900])


def test_a_damaged_part_is_named_in_one_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "shards", tmp_path / "shards")
    path = tmp_path / "shards" / "test" / "part-00001.parquet"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with mistake(rf"'{path}' is damaged: bytes 0 to \d+ are not as they were written"):
        run_evaluate(folder, data=str(tmp_path / "shards"))
