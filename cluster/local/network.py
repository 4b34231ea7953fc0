"""Gives every node of a local cluster its own address.

Where the rights allow, by a bridge and one network namespace for each worker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NETWORKS = ("auto", "namespaces", "loopback")
PREFIX = "10.213"  # a private range that few networks use; one /24 of it for each cluster


@dataclass(frozen=True, kw_only=True)
class NodeNetwork:
    """The network of one cluster: a bridge, or addresses of the loopback interface."""

    subnet: int = 0  # number of the bridge's subnet; 0: loopback
    # The cluster's id. The bridge carries it, so that an old state file never removes the network
    # of another cluster.
    owner: str = ""

    @property
    def bridge(self) -> str:
        """Name of the bridge's interface."""
        return f"longtail{self.subnet}"

    def address(self, node: int) -> str:
        """Returns the address of node 0 (the head, on the bridge itself) or of worker 1, 2, ..."""
        host = 1 if node == 0 else 10 + node
        # Linux answers on all of 127.0.0.0/8. Ray would replace 127.0.0.1 itself by the address
        # that the machine has outside.
        return f"{PREFIX}.{self.subnet}.{host}" if self.subnet else f"127.213.0.{host}"

    def interface(self, node: int) -> str:
        """Returns the interface that gloo must use.

        By default it looks up the host's name, which is the same for all nodes of one machine.
        """
        if not self.subnet:
            return "lo"
        return "eth0" if node else self.bridge

    def namespace(self, node: int) -> str:
        """Returns the name of a worker's namespace; "" for the head and on loopback."""
        return f"{self.bridge}-worker{node}" if self.subnet and node else ""

    def cable(self, node: int) -> str:
        """Returns the interface at the bridge's end of a worker's cable."""
        return f"lt{self.subnet}w{node}"

    def unplug(self, node: int) -> None:
        """Takes a worker off the network: packets in both directions are lost without an error."""
        run("link", "set", self.cable(node), "down")

    def enter(self, node: int) -> list[str]:
        """Returns the words before a command that run it inside the node's namespace."""
        return [_ip(), "netns", "exec", self.namespace(node)] if self.namespace(node) else []

    def add(self, node: int) -> None:
        """Creates a worker's namespace with its end of a cable to the bridge."""
        if not self.namespace(node):
            return
        space, cable = self.namespace(node), self.cable(node)
        run("netns", "add", space)
        run("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        run("link", "set", cable, "master", self.bridge, "up")
        run("-n", space, "link", "set", "lo", "up")
        run("-n", space, "addr", "add", f"{self.address(node)}/24", "dev", "eth0")
        run("-n", space, "link", "set", "eth0", "up")
        # A process finds its own address by its default route, so it needs one.
        run("-n", space, "route", "add", "default", "via", self.address(0))

    def remove(self, node: int) -> None:
        """Deletes a worker's cable and namespace.

        The cable first, because the kernel removes a namespace only some time later.
        """
        if self.namespace(node) and self.is_ours():
            run("link", "delete", self.cable(node), check=False)
            run("netns", "delete", self.namespace(node), check=False)

    def is_ours(self) -> bool:
        """Whether the bridge belongs to this cluster."""
        alias = Path(f"/sys/class/net/{self.bridge}/ifalias")
        return alias.exists() and alias.read_text().strip() == self.owner

    def close(self) -> None:
        """Deletes the bridge, after the workers."""
        if self.subnet and self.is_ours():
            run("link", "delete", self.bridge, check=False)


def open_network(kind: str, owner: str) -> NodeNetwork:
    """Returns a new network for the cluster with this id.

    A bridge on a free subnet where the rights allow; else loopback for kind "auto", and an error
    for kind "namespaces".
    """
    if kind not in NETWORKS:
        raise ValueError(f"--network must be one of {', '.join(NETWORKS)}; got {kind!r}")
    if kind == "loopback":
        return NodeNetwork()
    if os.geteuid() == 0 and shutil.which("ip", path=_path()):
        for subnet in range(1, 255):
            network = NodeNetwork(subnet=subnet, owner=owner)
            # Creating the bridge claims the subnet: it fails when another cluster has it.
            if run("link", "add", network.bridge, "type", "bridge", check=False):
                run("link", "set", network.bridge, "alias", owner)
                run("addr", "add", f"{network.address(0)}/24", "dev", network.bridge)
                run("link", "set", network.bridge, "up")
                return network
            if subnet == 1 and not _bridge_exists(network.bridge):
                break
    if kind == "namespaces":
        raise ValueError(
            "--network namespaces needs root and iproute2's `ip` with the right to add bridges;"
            " valid here: loopback"
        )
    return NodeNetwork()


def run(*arguments: str, check: bool = True) -> bool:
    """Runs `ip` with arguments; returns whether it succeeded, or with `check` raises an error."""
    result = subprocess.run([_ip(), *arguments], capture_output=True, text=True)
    if check and result.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")
    return result.returncode == 0


def _bridge_exists(name: str) -> bool:
    return run("link", "show", name, check=False)


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _ip() -> str:
    return shutil.which("ip", path=_path()) or "ip"
