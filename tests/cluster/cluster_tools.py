"""What the cluster tests share: a local cluster, the commands a user would type at it, and what its head says about it."""

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
SINGLETONS = (
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
)  # Ray Data's and Train's own, one a cluster, meant to stay


class Cluster:
    """One local cluster in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, *words: str, timeout: float = 300) -> Done:
        """`python cluster/local/cluster.py WORDS`."""
        command = [
            sys.executable,
            str(ROOT / "cluster/local/cluster.py"),
            *words,
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

    def ray(self, *words: str, token: bool = True, timeout: float = 400) -> Done:
        """`ray WORDS` from the repository's root, in a shell that knows the token or does not."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_AUTH", "RAY_ADDRESS"))
        }
        environment |= nodes.environment(self.state) if token else {"RAY_AUTH_MODE": "disabled"}
        command = [sys.executable, "-m", "ray.scripts.scripts", *words]
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
        """`ray job submit --working-dir . -- COMMAND`, as the README writes it; waits for the end."""
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
        status = self.get(f"/api/jobs/{name}")["status"]
        with contextlib.suppress(urllib.error.HTTPError):
            return f"{status}\n{self.get(f'/api/jobs/{name}/logs')['logs']}"
        return f"{status}\n"

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """`ray list KIND`."""
        found: list[dict[str, Any]] = self.get(f"/api/v0/{kind}?limit=10000&detail=true")["data"][
            "result"
        ]["result"]
        return found

    def node_names(self) -> dict[str, str]:
        """Names of the nodes by Ray's ids, of lost ones too."""
        return {
            row["node_id"]: name
            for row in self.rows("nodes")
            for name in row["resources_total"]
            if name.startswith(("head", "worker"))
        }

    def places(self, words: str) -> set[str]:
        """Nodes on which actors ran whose class has one of these words in its name."""
        names = self.node_names()
        found = [
            row
            for row in self.rows("actors")
            if any(word in row["class_name"] for word in words.split())
        ]
        return {names.get(row["node_id"], "?") for row in found if row["node_id"]}

    def leaks(self, seconds: float = 30) -> list[str]:
        """Actors, placement groups and busy worker processes that are left once all jobs are over."""

        def left() -> list[str]:
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
        while (found := left()) and time.monotonic() < end:
            time.sleep(0.5)
        return found


def is_busy(pid: int) -> bool:
    """Whether a process is a Ray worker in the middle of something, or a driver of ours."""
    with contextlib.suppress(OSError):
        words = (
            Path(f"/proc/{pid}/cmdline")
            .read_bytes()
            .replace(b"\0", b" ")
            .decode(errors="replace")
            .strip()
        )
        idle = words.startswith(
            tuple(
                f"ray::{name}"
                for name in ("IDLE", "DashboardAgent", "RuntimeEnvAgent", *SINGLETONS)
            )
        )
        return (words.startswith("ray::") and not idle) or " distributed/" in words
    return False


def wait_for(
    true: Callable[[], Any], seconds: float, explain: Callable[[], object] = lambda: ""
) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {explain()}"
        time.sleep(0.3)


def traces(state: nodes.State) -> list[str]:
    """What a stopped cluster must not leave: processes, namespaces, a bridge, files."""
    left = [f"process {pid}" for pid in processes.marked(processes.CLUSTER_MARK, state.id)]
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
    left += [
        line
        for line in (links + spaces).splitlines()
        if state.subnet and state.network.bridge in line
    ]
    return left + [str(path) for path in Path(state.folder).glob("*")]


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
