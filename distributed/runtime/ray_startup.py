"""Calls ray.init: joins a cluster or starts a local Ray. Only ray_session.start_ray imports it."""

from __future__ import annotations

import logging
import os
import random
import socket
import sys
import time
from typing import Any

import ray
import ray.data

from distributed.runtime.errors import Failure

START_TRIES = 3
# Errors of a start that may succeed at the next try: an overloaded machine exceeds the 30 seconds
# that Ray gives its processes, and two Rays that start at once may choose the same dashboard port.
PASSING_ERRORS = ("timed out during startup", "address already in use")


def join_cluster(runtime_env: dict[str, Any]) -> None:
    """Joins a cluster; raises Failure, with a hint about its token, where that is impossible."""
    address = os.environ.get("RAY_ADDRESS", "")
    _check_reachable(address)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime_env)
    except ConnectionError as error:
        hint = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        named = os.environ.get("RAY_ADDRESS")
        raise Failure(f"cannot join Ray at RAY_ADDRESS={named!r}: {error}; {hint}") from None


def start_local(**options: Any) -> None:
    """Starts a local Ray with these options of ray.init, in up to three tries."""
    for remaining in reversed(range(START_TRIES)):
        try:
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            if not any(text in str(error).lower() for text in PASSING_ERRORS):
                raise
            ray.shutdown()
            if not remaining:
                last_line = str(error).strip().splitlines()[-1]
                raise Failure(f"a local Ray did not start in three tries: {last_line}") from None
            print("Ray did not start, trying again", file=sys.stderr)
            time.sleep(random.uniform(0.5, 2))


def _check_reachable(address: str) -> None:
    """Raises Failure at once where nothing listens at HOST:PORT; Ray would try it for minutes."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise Failure(f"no Ray cluster answers at RAY_ADDRESS={address!r}: {error}") from None


def quiet_ray_data() -> None:
    """Turns off the bars and the log of Ray Data: the commands show progress of their own."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if hasattr(context, "use_datasource_v2"):
        context.use_datasource_v2 = os.environ.get("RAY_DATA_USE_DATASOURCE_V2") == "1"
    # Ray Data logs page-long traces of errors that it raises as well, which the commands report
    # in one line.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
