"""Facts about the lease on an output folder: one holder, refusals that name it, its end."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distributed.reference import COMMANDS as REFERENCE
from distributed.runtime import lease, storage
from distributed.runtime.errors import Failure, full_disk_message
from distributed.runtime.holder import FolderHeld, Holder
from distributed.runtime.lease_files import LeaseFiles
from tests.conftest import ROOT, script
from tests.mistakes import mistake

HEAD = (
    f"import os, sys, time; sys.path.insert(0, {str(ROOT)!r})\n"
    "from distributed.runtime import command, lease\n"
)
# Holds the folder until its input ends, and writes a file in the meantime.
HOLDING = (
    f"{HEAD}"
    "def main(argv):\n"
    "    with lease.hold(argv[0]):\n"
    "        print('held', flush=True)\n"
    "        while not os.path.exists(argv[1]): time.sleep(0.02)\n"
    "    return 0\n"
    "command.run(main)\n"
)
# Asks for the folder in many processes at the same moment and prints what became of each.
ASKING = (
    f"{HEAD}"
    "out, count = sys.argv[1], int(sys.argv[2])\n"
    "ready, go = os.pipe(), os.pipe()\n"
    "done, end = os.pipe(), os.pipe()\n"
    "for number in range(count):\n"
    "    if os.fork() == 0:\n"
    "        os.close(go[1]); os.close(end[1])\n"
    "        os.read(go[0], 1)\n"  # returns when the parent has closed the other end
    "        try:\n"
    "            with lease.hold(out):\n"
    "                os.write(done[1], f'held by process {os.getpid()} on\\n'.encode())\n"
    "                os.read(end[0], 1)\n"
    "        except ValueError as error:\n"
    "            os.write(done[1], f'{error}\\n'.encode())\n"
    "        os._exit(0)\n"
    "os.close(go[1])\n"
    "lines = []\n"
    "with os.fdopen(done[0]) as results:\n"
    "    for _ in range(count): lines.append(results.readline())\n"
    "os.close(end[1])\n"
    "for _ in range(count): os.wait()\n"
    "print(''.join(lines), end='')\n"
)


def ask_all_at_once(out: str, count: int) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ASKING, out, str(count)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def start_holder(out: Path, end: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(out), str(end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds tmp_path/out until there is a file tmp_path/end."""
    process = start_holder(tmp_path / "out", tmp_path / "end")
    yield process
    process.kill()
    process.communicate()


def file_of_another_machine(out: Path, age: float) -> Path:
    """The file of a holder on another machine, renewed `age` seconds ago."""
    files = LeaseFiles(str(out))
    other = dataclasses.replace(Holder.of_this_process(), machine="other", host="far")
    files.content = other.content()
    files.write()
    files.mark_held()
    path = Path(files.path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_of_twenty_processes_at_once_one_holds_and_the_others_name_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        lines = ask_all_at_once(str(out), 20)
        held = [line for line in lines if line.startswith("held")]
        refused = [line for line in lines if line.startswith("out must be free")]
        assert (len(held), len(refused)) == (1, 19), lines
    assert not list(tmp_path.rglob(".lease"))


def test_a_second_process_is_refused_at_once_by_the_name_of_the_holder(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    began = time.monotonic()
    words = rf"^--out must be free; {tmp_path}/out is held by -c, process {holder.pid} on .* UTC: "
    with mistake(words), lease.hold(str(tmp_path / "out")):
        pass
    assert time.monotonic() - began < 1
    (tmp_path / "end").touch()
    assert holder.wait(20) == 0
    assert not (tmp_path / "out").exists()


# Each command that writes a folder, with the options that it needs to come to its work.
COMMANDS = {
    "ingest": "--table t.csv --label y --out",
    "train": "--out",
    "tune": "--out",
    "ablate": "--study fusion --out",
    "predict": "--checkpoint c --data d --out",
    "wafers.__main__": "--shards",
}


def test_a_refusal_names_the_holder_and_no_process_that_asks_too(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    for number in range(10):
        asking = LeaseFiles(str(tmp_path / "out"))
        asking.token = f"{number:032x}"  # comes before any other
        asking.path = f"{asking.place}/{asking.token}.asked"
        asking.write()
    with (
        mistake(f"^--out must be free; .* is held by -c, process {holder.pid} on"),
        lease.hold(str(tmp_path / "out")),
    ):
        pass


def test_every_command_that_writes_a_folder_is_tested_below() -> None:
    scripts = {name.removesuffix(".py") for name in REFERENCE}
    # evaluate and export write single files, serve writes none.
    assert scripts - {"evaluate", "export", "serve"} == {*COMMANDS} - {"wafers.__main__"} | {
        "python -m distributed.wafers"
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_for_a_held_folder_is_refused_before_it_loads_large_libraries(
    tmp_path: Path, holder: subprocess.Popen[str], name: str
) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import importlib\n"
        f"main = importlib.import_module('distributed.{name}').main\n"
        "try: main(sys.argv[1:])\n"
        "except ValueError as error: print(error)\n"
        "print({'torch', 'ray', 'pandas', 'optuna', 'plotly'} & {*sys.modules})\n"
    )
    command = [sys.executable, "-c", code, *COMMANDS[name].split(), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"{tmp_path}/out is held by -c, process {holder.pid} on" in done.stdout, done.stderr
    assert done.stdout.endswith("\nset()\n")


def test_a_study_without_a_folder_of_its_own_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held = mistake(r"^--out must be free; .*/studies/fusion-quick is held by ")
    with lease.hold(str(tmp_path / "studies/fusion-quick")), held:
        script("ablate").main(["--study", "fusion", "--quick"])


def test_a_first_look_finds_the_holder_of_a_folder_that_is_written_beside(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    lease.refuse_held(out)
    with lease.hold(out, beside=True), mistake(f"^--out must be free; {out} is held by "):
        for _ in range(10):  # which are listed before the holder, or after it
            LeaseFiles(out, beside=True).write()
        lease.refuse_held(out)
    for file in (tmp_path / ".out.lease").iterdir():
        file.unlink()
    lease.refuse_held(out)


def test_a_first_look_waits_for_a_sign_of_life_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 1.0)
    path = file_of_another_machine(tmp_path, age=0)
    began = time.monotonic()
    lease.refuse_held(str(tmp_path))
    assert 1.0 < time.monotonic() - began < 5, "it may have ended: `hold` waits longer"
    renewal = threading.Timer(0.5, os.utime, [path])
    renewal.start()
    with mistake("held by .* on far, since"):
        lease.refuse_held(str(tmp_path))
    for _ in range(10):  # of processes that ask for the folder too
        LeaseFiles(str(tmp_path)).write()
    path.unlink()
    began = time.monotonic()
    lease.refuse_held(str(tmp_path))
    assert time.monotonic() - began < 1.0


def test_two_threads_of_a_process_do_not_share_a_folder(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with lease.hold(str(tmp_path)):
                pass
        except FolderHeld as error:
            errors.append(error)

    with lease.hold(str(tmp_path)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in str(errors[0])


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "not waited for"])
def test_the_folder_of_a_killed_process_is_free_at_once(
    tmp_path: Path, holder: subprocess.Popen[str], reap: bool
) -> None:
    holder.kill()
    if reap:
        holder.wait()
    else:
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    began = time.monotonic()
    with lease.hold(str(tmp_path / "out")):
        assert time.monotonic() - began < 1


def test_a_process_id_that_was_given_again_is_not_the_holder() -> None:
    this = Holder.of_this_process()
    assert this.is_running()
    assert dataclasses.replace(this, started="1").is_running() is False
    assert dataclasses.replace(this, machine="other").is_running() is None


def test_a_process_is_named_by_its_script_and_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [""])
    this = Holder.of_this_process()
    assert (this.command, this.pid, this.host) == ("python", os.getpid(), os.uname().nodename)
    assert str(this) == f"python, process {this.pid} on {this.host}, since {this.since}"
    assert Holder.parse(this.content()) == this
    assert Holder.parse(this.content()[:-1]) is None
    assert Holder.parse(b'{"host": "x"}') is None
    assert Holder.parse(b"[]") is None
    assert dataclasses.replace(this, machine="").is_running() is None
    assert dataclasses.replace(this, started="").is_running() is False


def test_a_process_of_another_user_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        assert number == 0, "nothing may be sent"
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert Holder.of_this_process().is_running() is True


def test_who_waits_in_vain_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE", 0.4)
    file_of_another_machine(tmp_path, age=0)
    began = time.monotonic()
    with (
        mistake(
            f"^--out must be free; {tmp_path} is held by .* on far, since .*: wait for its end"
        ),
        lease.hold(str(tmp_path)),
    ):
        pass
    assert time.monotonic() - began > 0.4


def test_only_the_files_of_a_lease_count(tmp_path: Path) -> None:
    files = LeaseFiles(str(tmp_path))
    assert files.listed() == {}
    files.write()
    (tmp_path / ".lease" / "other.held").mkdir()
    (tmp_path / ".lease" / "other.txt").touch()
    asked = files.listed()
    assert list(asked) == [files.token]
    assert not asked[files.token].is_held
    assert asked[files.token].renewed == pytest.approx(time.time(), abs=60)
    assert files.holder(asked[files.token]) == Holder.parse(files.content)
    files.mark_held()
    assert files.listed()[files.token].is_held
    assert sorted(os.listdir(tmp_path / ".lease")) == sorted(
        ["other.held", "other.txt", f"{files.token}.held"]
    )
    files.delete(files.listed()[files.token])
    files.delete(asked[files.token])
    assert files.holder(asked[files.token]) is None
    assert files.listed() == {}


def test_a_holder_elsewhere_is_refused_when_it_renews_its_file(tmp_path: Path) -> None:
    path = file_of_another_machine(tmp_path, age=1)
    renewal = threading.Timer(0.5, os.utime, [path])
    renewal.start()
    with mistake("held by .* on far, since"), lease.hold(str(tmp_path)):
        pass
    assert path.exists()


def test_the_lease_of_a_lost_machine_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lease.LIFETIME + lease.WATCH < lease.PATIENCE <= 60
    assert 3 * lease.RENEWAL < lease.LIFETIME
    monkeypatch.setattr(lease, "LIFETIME", 2.0)
    monkeypatch.setattr(lease, "WATCH", 0.5)
    monkeypatch.setattr(lease, "QUIET", 0.5)
    path = file_of_another_machine(tmp_path, age=0)
    began = time.monotonic()
    with lease.hold(str(tmp_path)):
        assert 1.5 < time.monotonic() - began < 5
        assert not path.exists()
    assert "waiting for a sign of life" in capsys.readouterr().err


def test_a_lease_that_looks_old_is_watched_first(tmp_path: Path) -> None:
    path = file_of_another_machine(tmp_path, age=3600)
    renewal = threading.Timer(1.0, os.utime, [path])
    renewal.start()
    with mistake("on far"), lease.hold(str(tmp_path)):
        pass


def test_a_paused_holder_stops_when_it_finds_the_folder_taken_over(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(lease, "LIFETIME", 1.0)
    monkeypatch.setattr(lease, "WATCH", 0.5)
    holder.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    with lease.hold(str(out)):
        holder.send_signal(signal.SIGCONT)
        _, errors = holder.communicate(timeout=20)
        assert holder.returncode == 1
        assert errors.startswith(f"error: stopped, since this process has lost {out}: it is held")
        assert f"process {os.getpid()} on" in errors and errors.count("\n") == 1
        assert len(list((out / ".lease").iterdir())) == 1


def hold_until_interrupted(out: str, seen: list[bool]) -> None:
    """Holds a folder, removes the lease file, and notes before and after whether it is lost."""
    with lease.hold(out):
        seen.append(lease.is_lost(out))
        system, path = storage.filesystem(f"{out}/.lease")
        system.delete_dir_contents(path)
        try:
            time.sleep(20)
        finally:
            seen.append(lease.is_lost(out))


def test_a_lost_folder_is_known_to_those_who_would_write_a_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEWAL", 0.05)
    out, seen = str(tmp_path / "out"), list[bool]()
    with pytest.raises(Failure, match="has lost .*/out: its file in .*/out/.lease was removed"):
        hold_until_interrupted(out, seen)
    assert seen == [False, True]
    assert not lease.is_lost(out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_process_leaves_no_lease(
    tmp_path: Path, holder: subprocess.Popen[str], number: signal.Signals
) -> None:
    holder.send_signal(number)
    holder.communicate(timeout=20)
    assert holder.returncode == 128 + number
    assert not (tmp_path / "out").exists()


def test_what_was_written_stays_and_a_failure_leaves_no_lease(tmp_path: Path) -> None:
    def fail() -> None:
        with lease.hold(str(tmp_path / "a" / "out")):
            (tmp_path / "a" / "file").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path / "a") == ["file"]
    with lease.hold(str(tmp_path / "a" / "out"), beside=True):
        assert sorted(os.listdir(tmp_path / "a")) == [".out.lease", "file"]


def test_a_lease_does_not_show_the_arguments_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/tune.py", "--storage", "postgresql://me:secret@host"])
    with lease.hold(str(tmp_path)):
        (file,) = (tmp_path / ".lease").iterdir()
        assert "tune.py" in file.read_text() and "secret" not in file.read_text()


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "file").touch()
    with mistake("^--out must be a folder"), lease.hold(str(tmp_path / "file")):
        pass
    with lease.hold(str(small_disk / "kept")):  # the renewal needs no room
        with pytest.raises(OSError):
            (small_disk / "large").write_bytes(bytes(1 << 20))
        (file,) = (small_disk / "kept/.lease").iterdir()
        os.utime(file, (1, 1))
        with pytest.raises(OSError) as caught, lease.hold(f"{small_disk}/new"):
            pass
        message = full_disk_message(caught.value)
        assert message.startswith(f"no space left: {small_disk}/new/.lease/")
        limit = time.monotonic() + 10
        while file.stat().st_mtime == 1:
            assert time.monotonic() < limit
            time.sleep(0.1)


@pytest.fixture
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server in this process."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="leases")
        yield "s3://leases"
    server.stop()


def test_a_bucket_has_one_holder_too(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"{bucket}/run"
    lines = ask_all_at_once(out, 8)
    assert sum(line.startswith("held") for line in lines) == 1, lines
    assert sum(line.startswith("out must be free") for line in lines) == 7, lines
    assert not LeaseFiles(out).listed()
    monkeypatch.setattr(lease, "LIFETIME", 2.0)
    monkeypatch.setattr(lease, "WATCH", 0.5)
    monkeypatch.setattr(lease, "RENEWAL", 0.3)
    remains = LeaseFiles(out)
    remains.content = dataclasses.replace(Holder.of_this_process(), machine="other").content()
    remains.write()
    remains.mark_held()
    with lease.hold(out):
        (own,) = LeaseFiles(out).listed().values()
        with mistake(f"process {os.getpid()} on"), lease.hold(out):
            pass
        limit = time.monotonic() + 20
        while next(iter(LeaseFiles(out).listed().values())).renewed <= own.renewed:
            assert time.monotonic() < limit, "it is renewed every 0.3 s"
            time.sleep(0.3)
    assert not LeaseFiles(out).listed()
    with pytest.raises(Failure, match="its file in .*/run/.lease was removed"):
        hold_until_interrupted(out, [])
    assert not LeaseFiles(out).listed()
