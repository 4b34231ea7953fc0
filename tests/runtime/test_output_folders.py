"""No command writes into the folder of another one, nor into one whose setup is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from distributed.runtime.output_folders import KINDS, RUN, OutputKind, check_output
from tests import mistakes
from tests.conftest import script
from tests.training import small_run

FILES = {
    "train": ("config.json", "history.json", "state/x", "checkpoint/model.pt"),
    "tune": ("experiment.json", "records.jsonl", "study.journal"),
    "ablate": ("study.json",),
    "ingest": ("schema.json",),
    "predict": ("summary.json", "predictions/x"),
}
COMMANDS = {
    "train": [[], ["--resume"]],
    "tune": [[], ["--resume"]],
    "ablate": [["--study", "losses"], ["--study", "losses", "--resume"]],
    "ingest": [["--table", "t.csv", "--label", "l"]],
    "predict": [["--checkpoint", "c"]],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(small_run.write_shards(tmp_path_factory.mktemp("data") / "shards"))


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("owner", FILES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_another_command_is_refused(
    command: str, owner: str, shards: str, tmp_path: Path
) -> None:
    if command == owner:
        return
    for number, name in enumerate(FILES[owner]):
        folder = tmp_path / str(number)
        before = write(folder, name)
        for arguments in COMMANDS[command]:
            data = [] if command == "ingest" else ["--data", shards]
            with mistakes.mistake(f"^--out must be .*{folder}.*{name.split('/')[0]}|is there"):
                script(command).main([*arguments, *data, "--out", str(folder)])
        assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "refused"),
    [
        (("0.png", "run.log"), "0.png"),
        (("results", "notes.txt"), "results"),
        (("run.log", "slurm-12.out", ".lease/x"), ""),
        (("data.json", "config.json.part"), ""),
    ],
)
def test_other_files_are_refused_but_logs_and_what_a_killed_run_leaves(
    names: tuple[str, ...], refused: str, tmp_path: Path
) -> None:
    write(tmp_path, *names)
    if not refused:
        assert check_output(str(tmp_path), RUN) is None
        return
    with mistakes.mistake(f"^--out must be a new or an empty folder, .* holds {refused}$"):
        check_output(str(tmp_path), RUN)


@pytest.mark.parametrize(
    ("command", "lost", "left"),
    [
        ("tune", "experiment.json", "records.jsonl"),
        ("tune", "experiment.json", "study.journal"),
        ("train", "config.json", "history.json"),
        ("train", "config.json", "state/x"),
        ("train", "config.json", "checkpoint/model.pt"),
    ],
)
def test_a_folder_that_lost_its_setup_is_refused(
    command: str, lost: str, left: str, shards: str, tmp_path: Path
) -> None:
    before = write(tmp_path, left)
    for arguments in COMMANDS[command]:
        for out in (str(tmp_path), f"file://{tmp_path}"):
            with mistakes.mistake(rf"^--out must be new .* but no {lost}: take another folder"):
                script(command).main([*arguments, "--data", shards, "--out", out])
    assert sorted(tmp_path.rglob("*")) == before


TITLES = {
    "train": "a training run",
    "tune": "a search",
    "ablate": "a study",
    "ingest": "a SHARDS folder",
    "predict": "predictions",
}


@pytest.mark.parametrize(("owner", "kind"), zip(FILES, KINDS))
def test_output_is_known_by_each_of_its_files(owner: str, kind: OutputKind, tmp_path: Path) -> None:
    for number, name in enumerate(FILES[owner]):
        folder, top = tmp_path / str(number), name.split("/")[0]
        write(folder, name)
        for other in KINDS:
            if other is not kind:
                with mistakes.mistake(
                    f"^--out must be a new folder, or one of {other.title}; {folder} holds {top}"
                    f" of {TITLES[owner]}$"
                ):
                    check_output(str(folder), other)
        if number:
            with mistakes.mistake(
                f"^--out must be new or hold all of {TITLES[owner]}; {folder} has {top} but no"
                f" {FILES[owner][0]}: take another folder, or restore that file$"
            ):
                check_output(str(folder), kind)
        else:
            check_output(str(folder), kind)
