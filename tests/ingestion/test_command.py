"""What every entry point shares: exit codes and one-line errors; that --help is quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from distributed.runtime import ray_session
from tests.conftest import ROOT, run_command


def ended(body: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    code += "from distributed.runtime import command, errors\n"
    code += f"def main(argv):\n    {body}\ncommand.run(main)\n"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 1", 1, ""),
        ("raise ValueError('a rule;\\n got 3')", 2, "error: a rule; got 3\n"),
        ("raise errors.Failure('the disk is full')", 1, "error: the disk is full\n"),
        ("raise KeyboardInterrupt", 130, "error: interrupted\n"),
    ],
)
def test_exit_codes(body: str, code: int, said: str) -> None:
    done = ended(body)
    assert (done.returncode, done.stderr) == (code, said)


def test_a_fault_of_ours_shows_its_traceback() -> None:
    done = ended("raise KeyError('bug')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_names_the_options_without_importing_the_heavy_libraries() -> None:
    done = run_command("distributed/ingest.py", "--help")
    assert done.returncode == 0
    for option in (
        "--table",
        "--label",
        "--image",
        "--group",
        "--split-column",
        "--image-size",
        "--out",
        "--modality",
        "--fit",
        "--window",
    ):
        assert option in done.stdout
    heavy = "{'ray', 'torch', 'pandas', 'pyarrow'}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import distributed.ingest\n"
    code += f"print(not {heavy} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "True\n"
    )


def test_remote_workers_get_the_settings_the_code_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    local = ray_session.runtime_env()["env_vars"]
    assert local["PYTHONPATH"].startswith(str(ROOT))
    assert local["RAY_DATA_USE_DATASOURCE_V2"] == "0"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    joined = ray_session.runtime_env()
    assert str(ROOT / "model") in joined["py_modules"]
    assert joined["env_vars"]["AWS_ENDPOINT_URL"] == "http://store"
    assert "secret" not in json.dumps([local, joined])
    job = {"runtime_env": {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    inside = ray_session.runtime_env()
    assert "RAY_USAGE_STATS_ENABLED" not in inside["env_vars"]  # Ray refuses it twice
    assert "py_modules" not in inside


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


def test_a_cluster_that_does_not_answer_is_one_line_and_soon() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from distributed.runtime import command,"
            " ray_session\ncommand.run(lambda argv: ray_session.start_ray())",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "RAY_ADDRESS": "127.0.0.1:9"},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no Ray cluster answers at RAY_ADDRESS='127.0.0.1:9': ")
    assert done.stderr.count("\n") == 1
