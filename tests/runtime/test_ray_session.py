"""How a session with Ray begins: the environment of its processes, and clusters that are away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distributed.runtime import ray_session
from tests.conftest import ROOT


def test_remote_workers_get_the_settings_the_code_and_no_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-passed-on")
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
    assert "never-passed-on" not in json.dumps([local, joined])
    job = {"runtime_env": {"env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    inside = ray_session.runtime_env()
    assert "RAY_USAGE_STATS_ENABLED" not in inside["env_vars"]  # Ray refuses it twice
    assert "py_modules" not in inside


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no cluster and no job."""
    for name in ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", *ray_session.OBJECT_STORE):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_what_every_process_of_a_run_agrees_on() -> None:
    assert ray_session.ENVIRONMENT == {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_USE_DATASOURCE_V2": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "MALLOC_ARENA_MAX": "1",
    }
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    assert names == ray_session.OBJECT_STORE


def test_a_session_joins_the_cluster_of_its_address_or_of_its_job(
    outside: pytest.MonkeyPatch,
) -> None:
    assert (ray_session.in_job(), ray_session.in_cluster()) == (False, False)
    outside.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (ray_session.in_job(), ray_session.in_cluster()) == (False, True)
    outside.delenv("RAY_ADDRESS")
    outside.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert (ray_session.in_job(), ray_session.in_cluster()) == (True, True)


def test_workers_get_the_defaults_unless_the_driver_has_its_own(
    outside: pytest.MonkeyPatch,
) -> None:
    for name in (*ray_session.ENVIRONMENT, "PYTHONPATH"):
        outside.delenv(name, raising=False)
    outside.setenv("MALLOC_ARENA_MAX", "7")
    outside.setenv("RAY_DATA_OWN", "1")
    outside.setenv("RAY_TRAIN_OWN", "2")
    outside.setenv("RAY_OTHER", "3")
    outside.setenv("AWS_REGION", "eu")
    variables = ray_session.runtime_env()["env_vars"]
    assert variables.pop("PYTHONPATH") == str(ROOT)
    expected = {
        **ray_session.ENVIRONMENT,
        "MALLOC_ARENA_MAX": "7",
        "RAY_DATA_OWN": "1",
        "RAY_TRAIN_OWN": "2",
        "AWS_REGION": "eu",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert "RAY_OTHER" not in variables
    outside.setenv("PYTHONPATH", "/mine")
    joined = ray_session.runtime_env()["env_vars"]["PYTHONPATH"]
    assert joined == f"{ROOT}{os.pathsep}/mine"


def test_the_processes_of_a_local_ray_inherit_their_environment(
    outside: pytest.MonkeyPatch,
) -> None:
    preemption = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
    outside.setattr(os, "environ", {"RAY_TRAIN_OWN": "2", "MALLOC_ARENA_MAX": "7"})
    ray_session._prepare_local_environment()
    own = {"RAY_TRAIN_OWN": "2", "MALLOC_ARENA_MAX": "7", preemption: "0"}
    assert os.environ == {**ray_session.ENVIRONMENT, **own, "PYTHONPATH": str(ROOT)}
    os.environ[preemption] = "1"
    ray_session._prepare_local_environment()
    assert os.environ[preemption] == "1"


def test_a_cluster_gets_the_code_as_modules(outside: pytest.MonkeyPatch) -> None:
    outside.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    modules = ray_session.runtime_env()["py_modules"]
    assert modules == [str(ROOT / name) for name in ("distributed", "model", "search_spaces")]


def test_a_job_without_an_environment_gets_the_whole_of_ours(outside: pytest.MonkeyPatch) -> None:
    for job in ({}, {"runtime_env": None}, {"runtime_env": {}}):
        outside.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
        assert {*ray_session.ENVIRONMENT} <= {*ray_session.runtime_env()["env_vars"]}


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


@pytest.mark.usefixtures("ray_local")
def test_the_dashboard_answers_on_the_loopback_address_only() -> None:
    import ray

    host, port = ray._private.worker._global_node.webui_url.split(":")
    assert host == "127.0.0.1"
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    sockets = [line.split() for table in tables for line in table.splitlines()[1:]]
    listening = [words[1].split(":") for words in sockets if words[3] == "0A"]
    addresses = {address for address, number in listening if int(number, 16) == int(port)}
    assert addresses == {"0100007F"}, "127.0.0.1, as the kernel writes it"
