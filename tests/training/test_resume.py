"""What a stopped or damaged run resumes from: states, history, curves, checkpoint."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed import load
from distributed.inference.loaded import PredictionNote
from distributed.runtime.command import one_line
from distributed.shards.manifest import read_manifest, write_manifest
from distributed.training.checkpoint import load_checkpoint, parse_checkpoint
from distributed.training.driver import fit
from distributed.training.options import FitOptions
from distributed.training.progress.board import RunBoard
from distributed.training.results import RunResult
from distributed.training.run import run_training
from distributed.training.spec import RunSpec, StateFiles, resumable_spec
from distributed.training.states import States, states_of
from tests import mistakes
from tests.training import small_run
from tests.training.small_run import damage

EPOCHS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, and the run of a network that learned from them."""
    folder = tmp_path_factory.mktemp("resume")
    small_run.train(
        folder / "run", small_run.write_shards(folder / "shards"), **{"optim.epochs": EPOCHS}
    )
    return folder


def resume(folder: Path, run: str | Path) -> RunResult:
    settings = {**small_run.SETTINGS, "optim.epochs": EPOCHS}
    return run_training(
        RunSpec(shards=str(folder / "shards"), settings=settings, out=str(run), resume=True)
    )


def steps(run: Path) -> dict[str, list[int]]:
    """The steps of every curve as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_whole(run: Path) -> None:
    """Every epoch once, in the history and in every curve."""
    assert [metrics["epoch"] for metrics in json.loads((run / "history.json").read_text())] == [
        1,
        2,
        3,
    ]
    curves = steps(run)
    final = [tag for tag in curves if tag.startswith("final/")]
    assert {"final/test/balanced_accuracy", "final/val/nll"} <= {*final}
    for tag, shown_steps in curves.items():
        assert shown_steps == ([EPOCHS + 1] if tag in final else [1, 2, 3]), tag


def test_a_checkpoint_with_settings_of_another_version_is_named(
    folder: Path, tmp_path: Path
) -> None:
    saved = torch.load(folder / "run" / "checkpoint" / "model.pt", weights_only=True)
    description = json.loads(saved["plain"])
    description["config"]["loss.spread"] = 0.5  # the name of an earlier version
    torch.save({**saved, "plain": json.dumps(description)}, tmp_path / "model.pt")
    assert mistake(str(tmp_path)) == (
        f"--checkpoint must have settings of this version; {tmp_path}: loss.spread is now"
        " loss.spread_of_prior_strength: train again, or use the version that made it"
    )


def test_a_damaged_checkpoint_is_refused_or_still_says_the_same(
    folder: Path, tmp_path: Path
) -> None:
    content = (folder / "run" / "checkpoint" / "model.pt").read_bytes()
    before = parse_checkpoint(content, "whole").network.state_dict()
    refused = []
    for place in range(0, len(content), len(content) // 60):
        (tmp_path / "model.pt").write_bytes(
            content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        )
        try:
            after = load_checkpoint(str(tmp_path)).network.state_dict()
        except ValueError as error:
            refused.append(one_line(error))
        else:  # padding between the parts
            assert all(value.equal(before[name]) for name, value in after.items())
    assert len(refused) > 30
    (message,) = set(refused)
    assert message.startswith(f"--checkpoint must be whole; {tmp_path}/model.pt is damaged")
    assert message.endswith(f"distributed/train.py --out {tmp_path} --resume")


def test_an_unfinished_run_is_no_checkpoint_and_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    unfinished = "--checkpoint must name a finished run; .* --out .* --resume"
    assert re.match(unfinished, mistake(f"{tmp_path}/"))
    for other in ("nowhere", "config.json"):
        message = mistake(str(tmp_path / other))
        assert message.startswith("--checkpoint must name a run or its checkpoint folder")


def mistake(folder: str) -> str:
    """What a command prints about a folder that holds no checkpoint."""
    with pytest.raises(ValueError) as error:
        load_checkpoint(folder)
    return one_line(error.value)


def dies(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The function, but for its second call, before or after which the process is killed."""
    calls = []

    def fatal(*given: Any) -> None:
        calls.append(given)
        if len(calls) < 2 or after:
            function(*given)
        if len(calls) == 2:
            raise KeyboardInterrupt

    return fatal


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("place", [(States, "save"), (RunBoard, "epoch")], ids=["state", "board"])
def test_a_kill_at_any_moment_loses_no_epoch(
    place: tuple[type, str],
    after: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(*place, dies(getattr(*place), after=after))
        with pytest.raises(KeyboardInterrupt):
            resume(folder, tmp_path)
    finished = resume(folder, tmp_path)
    assert [metrics["epoch"] for metrics in finished.history] == [1, 2, 3]
    assert_whole(tmp_path)


def test_tensorboard_reads_a_run_that_was_resumed_at_once_in_order(
    folder: Path, tmp_path: Path
) -> None:
    before = (
        tmp_path / f"events.out.tfevents.{time.time() + 1:010.0f}.zzz.99999.9"
    )  # of a clock that is ahead, and last by name
    before.touch()
    RunBoard(str(tmp_path), load_checkpoint(str(folder / "run")).network, 1)
    first, second = sorted(tmp_path.glob("events.*"))
    assert first == before
    assert second.stat().st_size


@pytest.mark.parametrize(
    "damaged", [(), (3,), (2, 3)], ids=["finished", "newest damaged", "all damaged"]
)
def test_a_run_that_is_resumed_has_every_epoch_once(
    damaged: tuple[int, ...], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    for epoch in damaged:
        damage(tmp_path / "run" / "state", epoch)
    resume(folder, tmp_path / "run")
    assert_whole(tmp_path / "run")


@pytest.mark.parametrize("content", ['[{"epoch": 1, "lo', "{}", "\x00\x01", "[1, 2]"])
def test_a_damaged_history_is_restored_from_the_state(
    content: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "history.json").write_text(content)
    resume(folder, tmp_path / "run")
    assert_whole(tmp_path / "run")
    assert f"{tmp_path}/run/history.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['{"optim.lr": 0.0', "[1]", '"text"', "\udcff", ""])
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_file_of_a_run_is_named_in_one_line(
    name: str, content: str, folder: Path, tmp_path: Path
) -> None:
    for file in ("config.json", "data.json"):
        (tmp_path / file).write_text('{"shards": "x", "digest": "y"}' if file[0] == "d" else "{}")
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with mistakes.mistake(rf"^{tmp_path}/{name} is damaged: "):
        fit(FitOptions(data=str(folder / "shards"), out=str(tmp_path), resume=True))


def test_a_model_whose_metrics_are_damaged_predicts_and_names_the_file(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "run" / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "metrics.json").write_text('{"val": {"accuracy": 0.')
    with pytest.warns(PredictionNote, match=r"metrics\.json is damaged"):
        assert load(tmp_path).metrics is None


def settings_and_data(rng: random.Random, folder: Path) -> tuple[dict[str, object], str]:
    """Random settings, and one of two folders of shards, which differ by a row count."""
    settings: dict[str, object] = {
        "optim.lr": rng.choice([0.001, 0.002, 0.003]),
        "loss.margin": rng.choice([0.0, 0.25]),
        "experts.count": rng.randint(1, 4),
        "optim.seed": rng.randint(0, 3),
        "fusion.kind": rng.choice(["gate", "late"]),
        "scaling.threads": rng.randint(1, 8),
    }
    return settings, str(folder / rng.choice(["shards", "other"]))


def test_a_state_is_used_by_its_own_settings_and_data_only(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(str(folder / "shards"))
    (folder / "other").mkdir(exist_ok=True)
    write_manifest(dataclasses.replace(manifest, content="another"), str(folder / "other"))
    rng, own = random.Random(0), 0
    for pair in range(100):
        files = StateFiles(folder=str(tmp_path / str(pair)))
        saved, loaded = settings_and_data(rng, folder), settings_and_data(rng, folder)
        if pair % 4 == 0:  # a run may go on with another scaling
            loaded = ({**saved[0], "scaling.threads": 9}, saved[1])
        written, read = (
            states_of(RunSpec(shards=shards, settings=settings, states=files))
            for settings, shards in (saved, loaded)
        )
        assert written is not None
        assert read is not None
        written.save(1, {"epoch": 1})
        same = {**saved[0], "scaling.threads": 9} == {**loaded[0], "scaling.threads": 9}
        if same and saved[1] == loaded[1]:
            own += 1
            assert read.load() == {"epoch": 1}
        else:
            with mistakes.mistake("--resume needs states of the same settings, defaults and data"):
                read.load()
    assert 25 <= own < 35


def test_a_trial_starts_anew_where_the_state_is_of_another_one(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = []
    for lr in (0.01, 0.001):
        settings = {**small_run.SETTINGS, "optim.epochs": 2, "optim.lr": lr}
        spec = resumable_spec(str(folder / "shards"), settings, str(tmp_path), test=False)
        results.append(run_training(spec))
    assert [metrics["epoch"] for metrics in results[1].history] == [1, 2]
    assert "has those of another run" in capsys.readouterr().err


def test_a_run_at_a_uri_leaves_nothing_on_this_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    resume(folder, f"file://{tmp_path}/run")
    assert not list((tmp_path / "local").iterdir())
    assert_whole(tmp_path / "run")


def test_a_finished_run_drops_its_states_and_a_resume_trains_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = FitOptions(
        data=str(folder / "shards"),
        out=str(out),
        set={**small_run.SETTINGS, "optim.epochs": 2},
        no_page=True,
    )
    done = fit(options)
    assert not (out / "state").exists()
    checkpoint = out / "checkpoint" / "model.pt"
    written, content = checkpoint.stat().st_mtime_ns, checkpoint.read_bytes()
    again = fit(dataclasses.replace(options, resume=True))
    assert again.metrics == done.metrics
    assert again.notes == ("the run was finished already: nothing was trained", *done.notes)
    assert checkpoint.stat().st_mtime_ns == written
    checkpoint.write_bytes(content[:1000])  # copied badly, say
    anew = fit(dataclasses.replace(options, resume=True, keep_state=True))
    assert "its states are deleted: training anew" in capsys.readouterr().err
    assert anew.metrics.test == done.metrics.test
    assert checkpoint.read_bytes() == content
    assert list((out / "state").glob("epoch-000002-*.pt")), "--keep-state keeps them"
    checkpoint.write_bytes(content[:1000])
    kept = fit(dataclasses.replace(options, resume=True))
    assert kept.metrics.test == done.metrics.test
    assert not (out / "state").exists()
