"""For the cluster tests: a local cluster, a user's commands, and what its head reports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.local import nodes, processes

ROOT = Path(__file__).resolve().parents[2]
Done = subprocess.CompletedProcess[str]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# Actors of Ray Data and Ray Train, one a cluster, which are meant to stay.
SINGLETONS = ("_AutoscalingCoordinatorActor", "_StatsActor")


class Cluster:
    """One local cluster in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, timeout: float = 300) -> Done:
        """Runs `python cluster/local/cluster.py ARGUMENTS`."""
        command = [
            sys.executable,
            str(ROOT / "cluster/local/cluster.py"),
            *arguments,
            "--dir",
            self.folder,
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    @property
    def state(self) -> nodes.State:
        return nodes.load(self.folder)

    @property
    def workers(self) -> list[str]:
        return [node.name for node in self.state.nodes[1:]]

    def ray(self, *arguments: str, token: bool = True, timeout: float = 400) -> Done:
        """Runs `ray ARGUMENTS` from the repository's root, in a shell with the token or without."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))
        }
        environment |= nodes.environment(self.state) if token else {"RAY_AUTH_MODE": "disabled"}
        command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
        )

    def submit(
        self,
        *command: str,
        options: tuple[str, ...] = ("--working-dir", "."),
        token: bool = True,
        timeout: float = 400,
    ) -> Done:
        """Runs `ray job submit --working-dir . -- COMMAND`, as in the README; waits for the end."""
        return self.ray(
            "job",
            "submit",
            "--address",
            self.state.dashboard,
            *options,
            "--",
            *command,
            token=token,
            timeout=timeout,
        )

    def begin(
        self, name: str, *command: str, options: tuple[str, ...] = ("--working-dir", ".")
    ) -> str:
        """Submits a job under a name and does not wait."""
        done = self.submit(*command, options=(*options, "--no-wait", "--submission-id", name))
        assert done.returncode == 0, done.stdout + done.stderr
        return name

    def get(self, path: str) -> Any:
        """Returns what the dashboard answers at a path."""
        key = {"Authorization": f"Bearer {self.state.token.read_text()}"}
        with urllib.request.urlopen(
            urllib.request.Request(self.state.dashboard + path, headers=key), timeout=20
        ) as reply:
            return json.load(reply)

    def finish(self, name: str, seconds: float = 400) -> str:
        """Waits for a job; returns its log, with its status in the first line."""
        wait_for(
            lambda: self.get(f"/api/jobs/{name}")["status"] in ENDED,
            seconds,
            lambda: self.log(name),
        )
        return self.log(name)

    def log(self, name: str) -> str:
        """Returns the status of a job in the first line, then its log so far."""
        status = self.get(f"/api/jobs/{name}")["status"]
        with contextlib.suppress(urllib.error.HTTPError):
            return f"{status}\n{self.get(f'/api/jobs/{name}/logs')['logs']}"
        return f"{status}\n"

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """Returns what `ray list KIND` lists."""
        reply = self.get(f"/api/v0/{kind}?limit=10000&detail=true")
        rows: list[dict[str, Any]] = reply["data"]["result"]["result"]
        return rows

    def node_names(self) -> dict[str, str]:
        """Returns the names of the nodes by Ray's ids, lost nodes among them."""
        return {
            row["node_id"]: name
            for row in self.rows("nodes")
            for name in row["resources_total"]
            if name.startswith(("head", "worker"))
        }

    def places(self, classes: tuple[str, ...]) -> set[str]:
        """Returns the nodes on which actors of these classes ran."""
        names = self.node_names()
        actors = [
            row for row in self.rows("actors") if any(name in row["class_name"] for name in classes)
        ]
        return {names.get(row["node_id"], "?") for row in actors if row["node_id"]}

    def leaks(self, seconds: float = 180) -> list[str]:
        """Returns actors, placement groups and busy processes that outlive all jobs."""

        def remaining() -> list[str]:
            actors = [
                row
                for row in self.rows("actors")
                if row["state"] != "DEAD" and row["class_name"] not in SINGLETONS
            ]
            groups = [row for row in self.rows("placement_groups") if row["state"] != "REMOVED"]
            busy = [
                pid
                for pid in processes.marked(processes.CLUSTER_MARK, self.state.id)
                if is_busy(pid)
            ]
            return (
                [f"actor {a['class_name']} {a['state']}" for a in actors]
                + [f"group {g['state']}" for g in groups]
                + [f"{p}" for p in busy]
            )

        end = time.monotonic() + seconds
        while (leaks := remaining()) and time.monotonic() < end:
            time.sleep(0.5)
        return leaks


def is_busy(pid: int) -> bool:
    """Whether a process is a Ray worker with a task, or a driver of this project."""
    with contextlib.suppress(OSError):
        command = (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
        idle = command.startswith(
            tuple(
                f"ray::{name}"
                for name in ("IDLE", "DashboardAgent", "RuntimeEnvAgent", *SINGLETONS)
            )
        )
        return (command.startswith("ray::") and not idle) or " distributed/" in command
    return False


def wait_for(
    condition: Callable[[], Any], seconds: float, explain: Callable[[], object] = lambda: ""
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {explain()}"
        time.sleep(0.3)


def traces(state: nodes.State) -> list[str]:
    """Returns what a stopped cluster has left: processes, namespaces, a bridge, files."""
    remaining = [f"process {pid}" for pid in processes.marked(processes.CLUSTER_MARK, state.id)]
    links = (
        subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
        if state.subnet
        else ""
    )
    spaces = (
        subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
        if state.subnet
        else ""
    )
    remaining += [
        line
        for line in (links + spaces).splitlines()
        if state.subnet and state.network.bridge in line
    ]
    return remaining + [str(path) for path in Path(state.folder).glob("*")]


@contextlib.contextmanager
def started(workers: int, *options: str) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="lt", dir="/tmp")
    cluster = Cluster(folder)
    try:
        up = cluster("start", "--workers", str(workers), *options)
        assert up.returncode == 0, up.stdout + up.stderr
        yield cluster
    finally:
        if (Path(folder) / "cluster.json").exists():
            cluster("stop")
        shutil.rmtree(folder, ignore_errors=True)
