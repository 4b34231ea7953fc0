"""TODO"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import sys
import time
from pathlib import Path
from typing import Any

from distributed.runtime.errors import Failure

ROOT = Path(__file__).resolve().parents[2]


PACKAGES = ("distributed", "model", "search_spaces")


# What every process of a run must agree on. The driver's own environment wins; remote workers get it through the runtime environment,
# because the driver's environment does not reach other machines.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # the new Parquet reader is several times slower on small shards
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",  # also the poll that each train.report waits for: 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MALLOC_ARENA_MAX": "1",  # Ray runs tasks in threads, whose own arenas would give memory back at every step: see runs.keep_memory
}


# Passed on where set: where the object store is, never its credentials, which the dashboard would show.
STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def in_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def in_cluster() -> bool:
    """Whether Ray is a cluster that others started, else the local one of this process."""
    return bool(os.environ.get("RAY_ADDRESS") or in_job())


def start_ray(
    *,
    nested: bool = False,
    cpus: int | None = None,
    gpus: float | None = None,
    object_store: int | None = None,
    temp_dir: str | None = None,
) -> None:
    """Joins the cluster of RAY_ADDRESS or of the job around us, else starts a local Ray that ends with this process.

    The sizes are for a local Ray only, as is `nested`: trainers will run in tasks. One that dies leaves its placement group to Train's
    clean-up, which asks the dashboard; the others do without its dozen processes. Ray replaces signal handlers: install your own
    afterwards. Does nothing when Ray already runs.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        _quiet()
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if in_cluster():
        _reach(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(**common, runtime_env=runtime_env())
        except ConnectionError as error:
            hint = "if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
            raise Failure(
                f"cannot join Ray at RAY_ADDRESS={os.environ.get('RAY_ADDRESS')!r}: {error}; {hint}"
            ) from None
    else:
        os.environ.setdefault(
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
        )  # nobody takes this machine away with a notice
        # A local Ray inherits this environment: without a runtime_env it can use the workers that it starts in advance.
        os.environ.update(runtime_env()["env_vars"])
        sizes = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "object_store_memory": object_store,
            "_temp_dir": temp_dir,
        }
        given = {k: v for k, v in sizes.items() if v is not None}
        _start_local(include_dashboard=nested, dashboard_host="127.0.0.1", **common, **given)
    _quiet()


def _start_local(**options: Any) -> None:
    """Up to three tries: an overloaded machine exceeds the 30 seconds that Ray gives its processes to start, and two Rays that start at
    once may choose the same port for their dashboards."""
    import ray

    for left in (2, 1, 0):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:
            passing = (
                "timed out during startup",
                "Address already in use",
                "address already in use",
            )
            if not any(sign in str(error) for sign in passing):
                raise
            ray.shutdown()
            if not left:
                raise Failure(
                    f"a local Ray did not start in three tries: {str(error).strip().splitlines()[-1]}"
                ) from None
            print("Ray did not start, trying again", file=sys.stderr)
            time.sleep(random.uniform(0.5, 2))


def _reach(address: str) -> None:
    """Ray itself tries an address for minutes before it gives up."""
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise Failure(f"no Ray cluster answers at RAY_ADDRESS={address!r}: {error}") from None


def runtime_env() -> dict[str, Any]:
    """The environment of remote workers: the settings above and the path of this code."""
    also = (
        n
        for n in sorted(os.environ)
        if n not in SETTINGS and (n.startswith(("RAY_TRAIN_", "RAY_DATA_")) or n in STORE)
    )
    names = [*SETTINGS, *also]
    variables = {name: os.environ.get(name, SETTINGS.get(name, "")) for name in names}
    if in_job():  # Ray refuses a variable that the job's own environment sets too; the job's working directory brings the code
        job = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"]).get("runtime_env") or {}
        taken = job.get("env_vars") or {}
        return {"env_vars": {name: value for name, value in variables.items() if name not in taken}}
    if os.environ.get("RAY_ADDRESS"):  # the other machines may not have this folder
        return {
            "env_vars": variables,
            "py_modules": [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()],
        }
    python_path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {"env_vars": {**variables, "PYTHONPATH": python_path}}


def _quiet() -> None:
    """Ray Data's own bars and chatter off: entry points show their own progress."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if hasattr(context, "use_datasource_v2"):
        context.use_datasource_v2 = os.environ.get("RAY_DATA_USE_DATASOURCE_V2") == "1"
    # Ray Data logs page-long traces of errors that it raises as well: the entry point says them in one line.
    for name, level in {
        "ray.data": logging.CRITICAL,
        "ray.tune": logging.WARNING,
        "ray.train": logging.WARNING,
    }.items():
        logging.getLogger(name).setLevel(level)
