"""Starts a local Ray or joins a cluster, with the same environment in every process of a run."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("distributed", "model", "search_spaces")  # the code that remote workers import

# What every process of a run must agree on. The driver's own environment wins. Remote workers get
# it through the runtime environment, because the driver's environment does not reach them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The new Parquet reader is several times slower on small shards.
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    # Also the interval of the poll that each train.report waits for: 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray runs tasks in threads, whose own arenas would give memory back to the system at every
    # step: see runtime/freed_memory.py.
    "MALLOC_ARENA_MAX": "1",
}

# Where the object store is. Passed on where set; its credentials never are, because the dashboard
# would show them.
OBJECT_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")


def in_job() -> bool:
    """Returns whether this process is the driver of a submitted Ray job."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


def in_cluster() -> bool:
    """Returns whether `start_ray` joins an existing cluster; otherwise it starts a local Ray."""
    return bool(os.environ.get("RAY_ADDRESS") or in_job())


def is_running() -> bool:
    """Whether this process already uses a Ray; does not load it."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def start_ray(
    *,
    nested: bool = False,
    cpus: int | None = None,
    gpus: float | None = None,
    object_store: int | None = None,
    temp_dir: str | None = None,
) -> None:
    """Joins the cluster of RAY_ADDRESS or of the surrounding job, else starts a local Ray.

    Does nothing when Ray already runs. A local Ray ends with this process. Ray replaces the
    handler of SIGTERM: enter `signals.stop_requests` afterwards.

    nested: tasks of this session will start trainers of their own. A trainer that dies leaves its
    placement group to Train's clean-up, which asks the dashboard; sessions without nested trainers
    save the dashboard's dozen processes. nested and the sizes matter for a local Ray only;
    object_store is in bytes.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Ray takes seconds to load, which --help and a training in this process need not wait for.
    from distributed.runtime import ray_startup

    if not is_running():
        if in_cluster():
            ray_startup.join_cluster(runtime_env())
        else:
            sizes = {
                "num_cpus": cpus,
                "num_gpus": gpus,
                "object_store_memory": object_store,
                "_temp_dir": temp_dir,
            }
            given = {name: size for name, size in sizes.items() if size is not None}
            _prepare_local_environment()
            ray_startup.start_local(include_dashboard=nested, dashboard_host="127.0.0.1", **given)
    ray_startup.quiet_ray_data()


def _prepare_local_environment() -> None:
    """Sets the environment that the workers of a local Ray inherit from this process.

    Ray could pass it on as a runtime_env, but then it cannot use the workers that it starts in
    advance.
    """
    # A local machine receives no preemption notice.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.update(runtime_env()["env_vars"])


def runtime_env() -> dict[str, Any]:
    """Returns Ray's runtime environment for workers: ENVIRONMENT and the path of this code."""
    variables = _worker_variables()
    if in_job():
        # Ray refuses a variable that the job's own environment sets too. The job's working
        # directory brings the code.
        job = json.loads(os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"]).get("runtime_env") or {}
        set_by_job = job.get("env_vars") or {}
        own = {name: value for name, value in variables.items() if name not in set_by_job}
        return {"env_vars": own}
    if os.environ.get("RAY_ADDRESS"):
        # The other machines may not have this folder.
        modules = [str(ROOT / name) for name in PACKAGES if (ROOT / name).is_dir()]
        return {"env_vars": variables, "py_modules": modules}
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    python_path = os.pathsep.join(path for path in paths if path)
    return {"env_vars": {**variables, "PYTHONPATH": python_path}}


def _worker_variables() -> dict[str, str]:
    """Returns the environment variables of this process that its workers need as well."""
    also_set = [
        name
        for name in sorted(os.environ)
        if name not in ENVIRONMENT
        and (name.startswith(("RAY_TRAIN_", "RAY_DATA_")) or name in OBJECT_STORE)
    ]
    names = [*ENVIRONMENT, *also_set]
    return {name: os.environ.get(name, ENVIRONMENT.get(name, "")) for name in names}
