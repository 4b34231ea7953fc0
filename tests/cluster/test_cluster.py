"""The system on several real raylets, which cluster/local starts with addresses of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import nodes, processes
from tests.cluster.cluster_tools import Cluster, started, traces

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the local cluster reads /proc"
)

WHERE = """
import sys, ray
ray.init()

@ray.remote(num_cpus=0.1)
def where():
    return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

places = ray.get([where.options(resources={name: 0.01}).remote() for name in sys.argv[1:]])
addresses = sorted(address for _, address in places)
print("NODES", len({node for node, _ in places}), "ADDRESSES", *addresses)
"""


def working_dir(folder: Path) -> tuple[str, str]:
    """Returns the options that send a folder with where.py along with the job."""
    (folder / "where.py").write_text(WHERE)
    return "--working-dir", str(folder)


def answers_without_token(state: nodes.State) -> dict[str, int]:
    """Returns the HTTP status of what README.md lists: the metrics, and paths of the dashboard."""
    metrics = f"http://{state.head.address}:{state.head.port('metrics')}/metrics"
    paths = ("/api/gcs_healthz", "/api/authentication_mode", "/", "/api/jobs/", "/api/v0/nodes")
    addresses = {path: state.dashboard + path for path in (*paths, "/logs/")}
    codes = {}
    for path, address in ({"/metrics": metrics} | addresses).items():
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                codes[path] = answer.status
        except urllib.error.HTTPError as refusal:
            codes[path] = refusal.code
    return codes


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Cluster]:
    with started(2) as cluster:
        yield cluster


def test_smoke(tmp_path: Path) -> None:
    """Starts, refuses a job without token, runs one on both nodes, stops and leaves nothing.

    The cluster test that CI runs: about 30 s.
    """
    with started(1, "--head-cpus", "1") as cluster:
        state = cluster.state
        assert cluster("status").returncode == 0
        assert state.token.stat().st_mode & 0o077 == 0
        assert answers_without_token(state) == {
            "/metrics": 200,
            "/api/gcs_healthz": 200,
            "/api/authentication_mode": 200,
            "/": 200,
            "/api/jobs/": 401,
            "/api/v0/nodes": 401,
            "/logs/": 401,
        }
        refused = cluster.submit("python", "-c", "print('in')", options=(), token=False)
        assert refused.returncode != 0
        assert "authentication" in (refused.stdout + refused.stderr).lower()
        done = cluster.submit(
            "python", "where.py", "head", "worker1", options=working_dir(tmp_path)
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (
            f"NODES 2 ADDRESSES {' '.join(sorted(node.address for node in state.nodes))}"
            in done.stdout
        )
        bystander = subprocess.Popen(["sleep", "60"])
        assert cluster("stop").returncode == 0
        assert traces(state) == []
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    folder = f"/tmp/lt-none-{os.getpid()}"
    for arguments, expected in [
        (("status",), "must hold a started cluster"),
        (("start", "--network", "wifi"), "auto, namespaces, loopback"),
    ]:
        result = Cluster(folder)(*arguments)
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
        done = cluster.submit("python", "where.py", *cluster.workers, options=working_dir(tmp_path))
        assert "NODES 2 ADDRESSES 127.213.0.11 127.213.0.12" in done.stdout, (
            done.stdout + done.stderr
        )
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


@pytest.mark.cluster
def test_a_node_that_dies_at_its_start_is_started_again(two_workers: Cluster) -> None:
    state = two_workers.state
    node = nodes.add_node(state)
    processes.kill(processes.NODE_MARK, f"{state.id}-{node.name}")
    again = nodes.bring_up(state, node, 90)
    assert (again.name, again.address) == (node.name, node.address)
    assert again.pid != node.pid
    assert node.name in nodes.alive(two_workers.state)
