"""What every command shares: its exit codes, and errors of one line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def ended(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from distributed.runtime import command, errors, signals\n"
    code += f"def main(argv):\n    {body}\ncommand.run(main)\n"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise ValueError('a rule;\\n got 3')", 2, "error: a rule; got 3\n"),
        ("raise errors.Failure('the disk is full')", 1, "error: the disk is full\n"),
        ("raise errors.Failure('nobody answers', 7)", 7, "error: nobody answers\n"),
        ("raise KeyboardInterrupt", 130, "error: interrupted\n"),
        ("raise signals.Interrupted(15)", 143, "error: interrupted\n"),
        ("raise OSError(28, 'full', '/here')", 1, "error: no space left: /here\n"),
        ("raise OSError(28, '')", 1, "error: no space left: nothing more can be written\n"),
    ],
)
def test_exit_codes(body: str, code: int, said: str) -> None:
    done = ended(body)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_fault_of_ours_shows_its_traceback() -> None:
    done = ended("raise KeyError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("KeyError: 'bug'\n")


def test_a_mistake_shows_its_traceback_where_the_environment_asks_for_it() -> None:
    done = ended("raise ValueError('a rule; got 3')", LONGTAIL_TRACEBACK="1")
    assert done.returncode == 2
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a rule; got 3\nerror: a rule; got 3\n")


def test_a_command_gets_its_arguments_without_its_name() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from distributed.runtime import command\ncommand.run(lambda argv: len(argv))\n"
    assert subprocess.run([sys.executable, "-c", code, "one", "two"], check=False).returncode == 2


def test_a_reader_that_has_gone_is_no_failure_and_other_broken_pipes_are() -> None:
    def run(body: str, reader: int) -> subprocess.CompletedProcess[str]:
        script = f"""import sys; sys.path.insert(0, {str(ROOT)!r})
from distributed.runtime import command
def other_side():
    raise BrokenPipeError("the other side")
command.run(lambda argv: {body})"""
        return subprocess.run(
            [sys.executable, "-c", script],
            stdout=reader,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )

    read, unread = os.pipe()
    os.close(read)
    long, short = "[print('x' * 99) for _ in range(9999)] and 0", "[print('x')] and 0"
    assert [((done := run(body, unread)).returncode, done.stderr) for body in (long, short)] == [
        (141, "")
    ] * 2
    os.close(unread)
    other = run("other_side()", subprocess.DEVNULL)
    assert other.returncode == 1
    assert "BrokenPipeError: the other side" in other.stderr
