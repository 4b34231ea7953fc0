"""Starts and joins that fail are one line and soon; a passing error of a start is tried again."""

from __future__ import annotations

import logging
import socket
import time

import pytest
import ray
import ray.data

from distributed.runtime import ray_startup
from distributed.runtime.errors import Failure


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The options of every call of ray.init, which fails as an overloaded machine makes it fail."""
    calls: list[dict[str, object]] = []

    def init(**options: object) -> None:
        calls.append(options)
        raise RuntimeError("some hint\nThe node timed out during startup\n")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return calls


def test_a_start_that_always_times_out_is_a_failure_after_three_tries(
    tries: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Failure) as caught:
        ray_startup.start_local(num_cpus=3)
    expected = "a local Ray did not start in three tries: The node timed out during startup"
    assert str(caught.value) == expected
    assert capsys.readouterr().err == "Ray did not start, trying again\n" * 2
    options = {"address": "local", "log_to_driver": False, "logging_level": logging.ERROR}
    assert tries == [{**options, "num_cpus": 3}] * 3


def test_a_start_is_over_once_it_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [RuntimeError("Address already in use"), None]
    ended: list[str] = []
    waits: list[float] = []

    def init(**options: object) -> None:
        if error := errors.pop(0):
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append("shutdown"))
    monkeypatch.setattr(time, "sleep", waits.append)
    ray_startup.start_local()
    assert (errors, ended) == ([], ["shutdown"])
    assert len(waits) == 1
    assert 0.5 <= waits[0] <= 2


def test_another_error_of_a_start_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def init(**options: object) -> None:
        calls.append(options)
        raise ValueError("no such option")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match="no such option"):
        ray_startup.start_local()
    assert len(calls) == 1


def test_a_cluster_that_refuses_is_a_failure_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}

    def init(**options: object) -> None:
        given.update(options)
        raise ConnectionError("no token")

    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(Failure) as caught:
            ray_startup.join_cluster({"env_vars": {}})
    assert str(caught.value) == (
        f"cannot join Ray at RAY_ADDRESS={address!r}: no token; "
        "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
    )
    assert given == {
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "runtime_env": {"env_vars": {}},
    }


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_where_nothing_listens_is_refused_before_ray_tries_it(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as unused:
        try:
            unused.bind((host.strip("[]"), 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        address = f"{host}:{unused.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(Failure, match="no Ray cluster answers at") as caught:
            ray_startup.join_cluster({})
        assert repr(address) in str(caught.value)
        unused.listen()
        ray_startup._check_reachable(address)


@pytest.mark.parametrize("address", ["auto", "local", "", "ray://127.0.0.1:9", "host:port"])
def test_an_address_of_another_form_is_left_to_ray(address: str) -> None:
    ray_startup._check_reachable(address)


def test_ray_data_shows_no_bars_and_logs_no_errors_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = ray.data.DataContext.get_current()
    for wanted in ("0", "1"):
        monkeypatch.setattr(context, "enable_progress_bars", True)
        monkeypatch.setattr(context, "use_datasource_v2", None)
        monkeypatch.setenv("RAY_DATA_USE_DATASOURCE_V2", wanted)
        ray_startup.quiet_ray_data()
        assert context.enable_progress_bars is False
        assert context.use_datasource_v2 is (wanted == "1")
    levels = [logging.getLogger(f"ray.{name}").level for name in ("data", "tune", "train")]
    assert levels == [logging.CRITICAL, logging.WARNING, logging.WARNING]
