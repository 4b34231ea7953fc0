"""The states of a run: what is in their files, which are kept, and whose they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from distributed.config import Config, flatten
from distributed.runtime.command import one_line
from distributed.shards.manifest import Manifest, shards_digest, write_manifest
from distributed.training.spec import RunSpec, StateFiles
from distributed.training.states import OtherRunError, States, run_digest, states_of
from model.schema import Schema
from tests.training.small_run import damage

MANIFEST = Manifest(schema=Schema(classes=("a",)), rows={"train": 1, "val": 0, "test": 0})


def epochs_in(folder: Path) -> list[int]:
    return sorted(int(file.name.split("-")[1]) for file in folder.glob("*.pt"))


def test_a_state_that_was_just_written_outlives_damaged_later_ones(tmp_path: Path) -> None:
    states = States(str(tmp_path), "this run")
    for epoch in (4, 5):
        states.save(epoch, {"epoch": epoch})
    for epoch in (4, 5):
        damage(tmp_path, epoch)
    assert states.load() is None
    for epoch in (1, 2, 3):
        states.save(epoch, {"epoch": epoch})
        assert states.load() == {"epoch": epoch}
    assert epochs_in(tmp_path) == [2, 3]


def test_an_epoch_that_is_written_again_takes_the_place_of_its_damaged_file(tmp_path: Path) -> None:
    states = States(str(tmp_path), "this run")
    for epoch in (4, 5):
        states.save(epoch, {"epoch": epoch})
    damage(tmp_path, 5)
    assert states.load() == {"epoch": 4}
    states.save(5, {"epoch": 5, "again": True})
    assert epochs_in(tmp_path) == [4, 5]
    assert states.load() == {"epoch": 5, "again": True}


def test_what_happens_instead_of_a_damaged_state_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = States(str(tmp_path), "this run")
    for epoch in (4, 5):
        states.save(epoch, {"epoch": epoch})
        damage(tmp_path, epoch)
    assert states.load() is None
    newest, last = capsys.readouterr().err.splitlines()
    assert newest.endswith("is damaged; trying the one before it")
    assert last.endswith("is damaged; there is none before it: starting anew")


def test_what_a_killed_writer_left_goes_with_the_next_state(tmp_path: Path) -> None:
    states = States(str(tmp_path), "this run")
    (tmp_path / "epoch-000001-0123456789abcdef.pt.part").write_bytes(b"half")
    assert states.load() is None
    states.save(2, {"epoch": 2})
    assert [file.suffix for file in tmp_path.iterdir()] == [".pt"]


def test_a_file_has_its_epoch_and_its_checksum_in_its_name(tmp_path: Path) -> None:
    state = {"epoch": 7, "weights": torch.arange(3.0)}
    States(f"{tmp_path}/state/", "this run").save(7, state)
    (file,) = (tmp_path / "state").iterdir()
    assert file.name == f"epoch-000007-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.pt"
    saved = torch.load(file, weights_only=True)
    assert (saved["format"], saved["run"], saved["state"]["epoch"]) == (7, "this run", 7)
    loaded = States(f"file://{tmp_path}/state", "this run").load()
    assert loaded is not None
    assert loaded["weights"].tolist() == [0.0, 1.0, 2.0]


def test_the_newest_two_states_are_kept_and_foreign_files_left_alone(tmp_path: Path) -> None:
    states = States(str(tmp_path), "this run")
    assert states.load() is None
    (tmp_path / "notes.txt").write_text("mine")
    for epoch in (9, 10, 11):
        states.save(epoch, {"epoch": epoch})
    assert epochs_in(tmp_path) == [10, 11]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert states.load() == {"epoch": 11}
    missing = States(str(tmp_path / "nowhere"), "this run")
    assert missing.load() is None


def test_a_half_written_state_is_no_earlier_one(tmp_path: Path) -> None:
    states = States(str(tmp_path), "this run")
    states.save(1, {"epoch": 1})
    (tmp_path / "epoch-000002-0123456789abcdef.pt.part").write_bytes(b"half")
    states.save(3, {"epoch": 3})
    assert epochs_in(tmp_path) == [1, 3]
    assert len([*tmp_path.iterdir()]) == 2


def other_run(states: States) -> str:
    """What a command prints where it resumes from these states."""
    with pytest.raises(OtherRunError) as caught:
        states.load()
    assert caught.value.args[1:] == ("resume",)
    return one_line(caught.value)


@pytest.mark.parametrize("content", [{"format": 6, "run": "this run"}, {"format": 7}, {}])
def test_states_of_another_format_are_refused(tmp_path: Path, content: dict[str, object]) -> None:
    torch.save({**content, "state": {"epoch": 1}}, tmp_path / "written")
    digest = hashlib.sha256((tmp_path / "written").read_bytes()).hexdigest()[:16]
    (tmp_path / "written").rename(tmp_path / f"epoch-000001-{digest}.pt")
    assert other_run(States(str(tmp_path), "this run")) == (
        "--resume needs states of format 7 with the digest of their run; "
        f"{tmp_path} has others: train anew, or use the version that wrote them"
    )


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "EOFError"),
        (b"PK\x03\x04junk", "RuntimeError"),
        (b"\x80\x02cos\nsystem\n(S'true'\ntR.", "UnpicklingError"),
    ],
)
def test_what_this_project_did_not_write_is_no_state(
    tmp_path: Path, content: bytes, error: str
) -> None:
    name = f"epoch-000001-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    (tmp_path / name).write_bytes(content)
    assert other_run(States(str(tmp_path), "this run")) == (
        f"--resume needs states that this project wrote; {tmp_path} has others ({error})"
    )


def test_states_of_another_run_are_refused_or_start_anew_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    States(str(tmp_path), "another run").save(1, {"epoch": 1})
    message = (
        f"resume needs states of the same settings, defaults and data; {tmp_path} has those of "
        "another run or version: train anew in another folder"
    )
    assert other_run(States(str(tmp_path), "this run")) == f"--{message}"
    assert States(str(tmp_path), "this run", restart=True).load() is None
    assert capsys.readouterr().err == f"warning: {message}; this training starts anew\n"


def test_the_digest_of_a_run_is_of_its_settings_and_its_rows(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    shards = str(tmp_path)
    plain = run_digest(RunSpec(shards=shards))
    assert run_digest(RunSpec(shards=shards, settings={"scaling.threads": 3})) == plain
    assert run_digest(RunSpec(shards=shards, out="elsewhere", resume=True)) == plain
    assert run_digest(RunSpec(shards=shards, settings={"optim.seed": 3})) != plain
    assert len(plain) == 16
    digest = shards_digest(shards, MANIFEST)
    flat = {k: v for k, v in flatten(Config()).items() if not k.startswith("scaling.")}
    text = json.dumps([flat, digest], sort_keys=True)
    assert plain == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_states_of_a_run_are_where_it_keeps_them(tmp_path: Path) -> None:
    write_manifest(MANIFEST, str(tmp_path))
    spec = RunSpec(shards=str(tmp_path), out="run")
    assert states_of(RunSpec(shards=str(tmp_path))) is None
    states = states_of(spec)
    assert states is not None
    assert (states.folder, states.run, states.restart) == ("run/state", run_digest(spec), False)
    files = StateFiles(folder="s", restart_if_of_another_run=True)
    restarted = states_of(RunSpec(shards=str(tmp_path), states=files))
    assert restarted is not None
    assert (restarted.folder, restarted.restart) == ("s", True)
