"""The system on several real raylets: started by cluster/local, with their own addresses where the rights allow."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import nodes, processes

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the local cluster reads /proc")
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")

WHERE = """
import sys, ray
ray.init()

@ray.remote(num_cpus=0.1)
def where():
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

found = ray.get([where.options(resources={name: 0.01}).remote() for name in sys.argv[1:]])
print("NODES", len({node for node, _ in found}), "ADDRESSES", *sorted(address for _, address in found))
"""


class Cluster:
    """One local cluster and the shell commands a user would type at it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "cluster/local/cluster.py"), *words, "--dir", self.folder]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    @property
    def state(self) -> nodes.State:
        return nodes.load(self.folder)

    def submit(
        self, *command: str, token: bool = True, options: tuple[str, ...] = (), timeout: float = 170
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit` from the repository root, as the README writes it."""
        environment = {name: value for name, value in os.environ.items() if name not in AUTHENTICATION}
        environment |= nodes.environment(self.state) if token else {"RAY_AUTH_MODE": "disabled"}
        ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.state.dashboard, *options]
        return subprocess.run([*ray, "--", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def working_dir(folder: Path) -> tuple[str, str]:
    """Options that send a folder with where.py along with the job."""
    (folder / "where.py").write_text(WHERE)
    return "--working-dir", str(folder)


def traces(state: nodes.State) -> list[str]:
    """What a stopped cluster must not leave: processes, namespaces, a bridge, files."""
    left = [f"process {pid}" for pid in processes.marked(processes.CLUSTER_MARK, state.id)]
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout if state.subnet else ""
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout if state.subnet else ""
    left += [line for line in (links + spaces).splitlines() if state.network.bridge in line and state.subnet]
    return left + [str(path) for path in Path(state.folder).glob("*")]


@contextlib.contextmanager
def started(workers: int, *options: str) -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="lt", dir="/tmp")
    cluster = Cluster(folder)
    up = cluster("start", "--workers", str(workers), *options)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield cluster
    finally:
        if (Path(folder) / "cluster.json").exists():
            cluster("stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Cluster]:
    with started(2) as cluster:
        yield cluster


def test_smoke(tmp_path: Path) -> None:
    """Starts, refuses a stranger, runs a job on both nodes, stops without a trace. The cluster test that CI runs: about 30 s."""
    with started(1, "--head-cpus", "1") as cluster:
        state = cluster.state
        assert cluster("status").returncode == 0
        assert state.token.stat().st_mode & 0o077 == 0
        refused = cluster.submit("python", "-c", "print('in')", token=False)
        assert refused.returncode != 0
        assert "authentication" in (refused.stdout + refused.stderr).lower()
        done = cluster.submit("python", "where.py", "head", "worker1", options=working_dir(tmp_path))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"NODES 2 ADDRESSES {' '.join(sorted(node.address for node in state.nodes))}" in done.stdout
        bystander = subprocess.Popen(["sleep", "60"])
        assert cluster("stop").returncode == 0
        assert traces(state) == []
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    folder = f"/tmp/lt-none-{os.getpid()}"
    for words, expected in [(("status",), "must hold a started cluster"), (("start", "--network", "wifi"), "auto, namespaces, loopback")]:
        result = Cluster(folder)(*words)
        assert result.returncode == 2
        assert expected in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    deep = Cluster(str(tmp_path / "a-folder-that-is-much-too-deep-for-a-unix-socket"))("start")
    assert deep.returncode == 2
    assert "at most" in deep.stderr
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.cluster
def test_loopback_network_works_without_rights(tmp_path: Path) -> None:
    with started(2, "--network", "loopback") as cluster:
        state = cluster.state
        assert all(node.address.startswith("127.") for node in state.nodes)
        done = cluster.submit("python", "where.py", "worker1", "worker2", options=working_dir(tmp_path))
        assert "NODES 2 ADDRESSES 127.213.0.11 127.213.0.12" in done.stdout, done.stdout + done.stderr
        assert cluster("stop").returncode == 0
        assert traces(state) == []


@pytest.mark.cluster
def test_a_lost_node_is_noticed_and_another_joins(two_workers: Cluster) -> None:
    lost = two_workers.state.nodes[-1].name
    assert two_workers("kill", lost).returncode == 0
    assert processes.marked(processes.NODE_MARK, f"{two_workers.state.id}-{lost}") == []
    assert two_workers("kill", "head").returncode == 2
    assert two_workers("add").returncode == 0
    assert [node.name for node in two_workers.state.nodes] == nodes.alive(two_workers.state)
    assert len(nodes.alive(two_workers.state)) == 3
