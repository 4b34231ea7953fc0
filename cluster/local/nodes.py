"""The nodes of a local cluster: their state on disk, how one starts, and which are alive."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local import processes
from cluster.local.network import NodeNetwork
from distributed.runtime.shell import script_command

# A node whose processes die is noticed in 3 s, one that vanishes from the network in 18 s (85 s
# with Ray's own settings). With a timeout of 1 s it would be 5 s, but a node too busy to answer
# three times in a row would be given up.
HEAD_ENVIRONMENT = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
}
PORTS = (
    "gcs",
    "dashboard",
    "client",
    "node-manager",
    "object-manager",
    "agent-listen",
    "agent-grpc",
    "runtime-env",
    "metrics",
)
BLOCK = 150  # ports of one node: those above, the rest for its worker processes
# Above Ray's own random worker ports, below the system's ephemeral ones.
FIRST_PORT, LAST_PORT = 20000, 32000


@dataclass
class Node:
    """One raylet of the cluster: the head or a worker."""

    name: str
    index: int  # 0 is the head
    address: str
    ports: int  # first port of its block
    pid: int = 0  # of `ray start --block`

    def port(self, name: str) -> int:
        """Returns the node's port for one of the services in PORTS."""
        return self.ports + PORTS.index(name)


@dataclass
class State:
    """A cluster as later commands need it; written to cluster.json after every change."""

    id: str
    folder: str
    subnet: int  # 0: loopback
    cpus: float  # of one worker
    head_cpus: float
    store_mb: int  # object store of one node
    added: int = 0  # nodes ever started: names are not used twice
    nodes: list[Node] = field(default_factory=list)

    @property
    def network(self) -> NodeNetwork:
        return NodeNetwork(subnet=self.subnet, owner=self.id)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def token(self) -> Path:
        return Path(self.folder) / "token"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.head.port('dashboard')}"

    def save(self) -> None:
        """Writes cluster.json, whole or not at all."""
        path = Path(self.folder) / "cluster.json"
        path.with_suffix(".tmp").write_text(json.dumps(dataclasses.asdict(self), indent=1))
        path.with_suffix(".tmp").replace(path)


def load(folder: str) -> State:
    """Returns the state of the cluster in a folder."""
    try:
        tree = json.loads((Path(folder) / "cluster.json").read_text())
    except FileNotFoundError:
        start = script_command("cluster/local/cluster.py", "start", "--dir", folder)
        raise ValueError(
            f"--dir must hold a started cluster; got {folder!r}; start one with: {start}"
        ) from None
    return State(**{**tree, "nodes": [Node(**node) for node in tree["nodes"]]})


def environment(state: State) -> dict[str, str]:
    """Returns the variables with which a shell reaches the cluster.

    Ray needs both the mode and the token: it refuses one alone.
    """
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(state.token)}


def node_environment(state: State, node: Node) -> dict[str, str]:
    """Returns the environment of a node's processes."""
    # Variables of another Ray on this machine are left out: RAY_ADDRESS would send the node there.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {
        **clean,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(state.token),
        "RAY_USAGE_STATS_ENABLED": "0",
        **HEAD_ENVIRONMENT,
        "GLOO_SOCKET_IFNAME": state.network.interface(node.index),
        # `ray job submit -- python ...` runs the first python on the head's PATH: make it this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # Unless this is set, Ray writes its process titles over the environment, marks included.
        "SPT_NOENV": "1",
        processes.CLUSTER_MARK: state.id,
        processes.NODE_MARK: f"{state.id}-{node.name}",
    }


def start_command(state: State, node: Node) -> list[str]:
    """Returns the command that starts a node in its own network and keeps running."""
    head = node.index == 0
    role = [
        "--head",
        f"--port={node.port('gcs')}",
        f"--ray-client-server-port={node.port('client')}",
        "--include-dashboard=true",
    ]
    role += ["--dashboard-host=127.0.0.1", f"--dashboard-port={node.port('dashboard')}"]
    if not head:
        role = [f"--address={state.head.address}:{state.head.port('gcs')}"]
    return [
        *state.network.enter(node.index),
        *[
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--block",
            "--disable-usage-stats",
            *role,
        ],
        f"--node-ip-address={node.address}",
        f"--temp-dir={state.folder}/{node.name}",
        f"--num-cpus={state.head_cpus if head else state.cpus:g}",
        "--num-gpus=0",
        f"--resources={json.dumps({node.name: 1})}",
        f"--object-store-memory={state.store_mb * 2**20}",
        f"--node-manager-port={node.port('node-manager')}",
        f"--object-manager-port={node.port('object-manager')}",
        f"--dashboard-agent-listen-port={node.port('agent-listen')}",
        f"--dashboard-agent-grpc-port={node.port('agent-grpc')}",
        f"--runtime-env-agent-port={node.port('runtime-env')}",
        f"--metrics-export-port={node.port('metrics')}",
        f"--min-worker-port={node.ports + len(PORTS)}",
        f"--max-worker-port={node.ports + BLOCK - 1}",
    ]


def free_block(used: list[int]) -> int:
    """Returns the first port of a block in which every port is free now.

    used: first ports of blocks that have a node. The order is random, so that two clusters that
    start at once rarely choose the same block.
    """
    blocks = [first for first in range(FIRST_PORT, LAST_PORT, BLOCK) if first not in used]
    for first in random.sample(blocks, len(blocks)):
        if all(_is_free(port) for port in range(first, first + BLOCK)):
            return first
    raise RuntimeError(f"no free block of {BLOCK} ports between {FIRST_PORT} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def add_node(state: State, again: Node | None = None) -> Node:
    """Starts the head (the first call) or one more worker, and does not wait for it.

    again: a node that ended at its start, to be started once more.
    """
    index = again.index if again else state.added
    name = f"worker{index}" if index else "head"
    node = Node(
        name=name,
        index=index,
        address=state.network.address(index),
        ports=free_block([n.ports for n in state.nodes]),
    )
    state.nodes.insert(0 if index == 0 else len(state.nodes), node)
    if not again:
        state.added += 1
        state.save()
        state.network.add(index)
    with open(f"{state.folder}/{name}.log", "wb") as log:
        process = subprocess.Popen(
            start_command(state, node),
            env=node_environment(state, node),
            cwd=state.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    node.pid = process.pid
    state.save()
    return node


def alive(state: State) -> list[str]:
    """Returns the names of the nodes that the head reports as alive.

    It is asked over HTTP, because importing Ray would cost a second.
    """
    key = {"Authorization": f"Bearer {state.token.read_text().strip()}"}
    request = urllib.request.Request(f"{state.dashboard}/api/v0/nodes", headers=key)
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:
            rows: list[dict[str, Any]] = json.load(reply)["data"]["result"]["result"]
    except (OSError, KeyError, TypeError):  # the head does not answer yet
        return []
    resources = [row["resources_total"] for row in rows if row["state"] == "ALIVE"]
    return [node.name for node in state.nodes if any(node.name in total for total in resources)]


def wait_alive(state: State, names: list[str], seconds: float) -> None:
    """Waits until these nodes are alive; raises RuntimeError where one ends or takes too long."""
    end = time.monotonic() + seconds
    while not set(names) <= set(alive(state)):
        for node in state.nodes:
            if node.name in names and not processes.marked(
                processes.NODE_MARK, f"{state.id}-{node.name}"
            ):
                raise RuntimeError(f"{node.name} ended at its start: {_tail(state, node)}")
        if time.monotonic() > end:
            raise RuntimeError(
                f"nodes {', '.join(names)} not up after {seconds:.0f} s; alive: {alive(state)}"
            )
        time.sleep(0.3)


def bring_up(state: State, node: Node, seconds: float, tries: int = 3) -> Node:
    """Waits until a node is alive and returns it.

    One that ends at its start is started again: Ray gives it 30 s, too few on a busy machine.
    """
    for remaining in reversed(range(tries)):
        try:
            wait_alive(state, [node.name], seconds)
            return node
        except RuntimeError:
            lose(state, node)
            if not remaining:
                raise
            node = add_node(state, again=node)
    raise AssertionError("unreachable")


def lose(state: State, node: Node) -> None:
    """Kills a node.

    Its namespace stays until `stop`, so that the kernel still answers that ports are closed, as the
    kernel of a live machine does.
    """
    processes.kill(processes.NODE_MARK, f"{state.id}-{node.name}")
    state.nodes.remove(node)
    state.save()


def _tail(state: State, node: Node) -> str:
    """Returns the last lines of a node's log as one line."""
    log = Path(f"{state.folder}/{node.name}.log").read_text(errors="replace")
    return " | ".join(log.strip().splitlines()[-5:])
