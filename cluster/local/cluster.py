"""Starts, shows and stops a real Ray cluster on this machine: a head and N workers, each a raylet of its own with its own address.

    python cluster/local/cluster.py start --workers 2
    python cluster/local/cluster.py status
    python cluster/local/cluster.py kill worker1      # a node is lost; with --unplug as when a spot machine is taken away
    python cluster/local/cluster.py add               # a node joins
    python cluster/local/cluster.py stop

Linux only. As root every worker lives in a network namespace of its own; otherwise
the nodes are addresses 127.213.0.N of the loopback interface.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import contextlib
import os
import secrets
import shutil
import signal

from cluster.local import nodes, processes
from cluster.local.network import NETWORKS, open_network
from cluster.local.nodes import State

LONGEST_FOLDER = 36  # characters: a Unix socket's whole path may have 107, Ray's own part below the folder takes 70


def start(args: argparse.Namespace) -> None:
    folder = prepare(args.dir, args.force)
    name = secrets.token_hex(8)
    state = State(
        id=name,
        folder=str(folder),
        subnet=open_network(args.network, name).subnet,
        cpus=args.cpus,
        head_cpus=args.head_cpus,
        store_mb=args.object_store_mb,
    )
    try:
        state.save()
        write_token(state.token)
        nodes.bring_up(state, nodes.add_node(state), args.timeout)
        for node in [nodes.add_node(state) for _ in range(args.workers)]:
            nodes.bring_up(state, node, args.timeout)
    except BaseException:  # Ctrl-C too: a half-started cluster is taken down, its logs stay
        end(state, keep_logs=True)
        raise
    show(state)


def prepare(name: str, force: bool) -> Path:
    """The cluster's folder: ours, private, short enough for sockets, and free."""
    folder = Path(name).absolute()
    if len(str(folder)) > LONGEST_FOLDER:
        raise ValueError(
            f"--dir may have at most {LONGEST_FOLDER} characters, for Ray's sockets; got {str(folder)!r}"
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(
            f"--dir must be a folder of your own; got {name!r}, which is a link or another user's"
        )
    folder.chmod(0o700)
    if (folder / "cluster.json").exists():
        old = nodes.load(name)
        if processes.marked(processes.CLUSTER_MARK, old.id) and not force:
            raise ValueError(
                f"--dir must hold no running cluster; got {name!r}, which has one; valid: another --dir, `stop` first, or --force"
            )
        end(old, keep_logs=False)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_token(path: Path) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def end(state: State, keep_logs: bool) -> list[int]:
    """Stops every process of this cluster, removes its network and files; returns the ids of processes that would not die."""
    # Workers before the head, so that they leave in order and do not wait for a head that is gone.
    left = processes.stop(
        processes.CLUSTER_MARK, state.id, [node.pid for node in reversed(state.nodes)]
    )
    for index in range(state.added):
        state.network.remove(index)
    state.network.close()
    folder = Path(state.folder)
    for path in (state.token, folder / "cluster.json"):
        path.unlink(missing_ok=True)
    if not keep_logs:
        for name in ["head", *(f"worker{index}" for index in range(1, state.added))]:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / f"{name}.log").unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other files in the folder are the user's
            folder.rmdir()
    return left


def stop(args: argparse.Namespace) -> None:
    if left := end(nodes.load(args.dir), args.keep_logs):
        raise SystemExit(f"error: these processes did not end: {left}")
    print("stopped")


def status(args: argparse.Namespace) -> None:
    if not show(nodes.load(args.dir)):
        raise SystemExit(1)


def kill(args: argparse.Namespace) -> None:
    state = nodes.load(args.dir)
    workers = {node.name: node for node in state.nodes[1:]}
    if args.node not in workers:
        raise ValueError(
            f"kill takes a worker; got {args.node!r}; valid: {', '.join(workers) or 'none is left'}"
        )
    if args.unplug:
        if not state.subnet:
            raise ValueError(
                "--unplug needs a cluster with --network namespaces; this one has the network loopback"
            )
        state.network.unplug(workers[args.node].index)
    nodes.lose(state, workers[args.node])
    print(f"killed {args.node}")


def add(args: argparse.Namespace) -> None:
    state = nodes.load(args.dir)
    node = nodes.bring_up(state, nodes.add_node(state), args.timeout)
    print(f"added {node.name} at {node.address}")


def show(state: State) -> bool:
    """Prints the nodes and the line that submits a job; True when all are alive."""
    up = nodes.alive(state)
    for node in state.nodes:
        print(
            f"{node.name:10} {node.address:15} process {node.pid:<8} {'alive' if node.name in up else 'DOWN'}"
        )
    print(f"\ndashboard  {state.dashboard}  (asks for the token in {state.token})\n")
    print(
        "export " + " ".join(f"{name}={value}" for name, value in nodes.environment(state).items())
    )
    print(
        f"ray job submit --address {state.dashboard} --working-dir . -- python distributed/tune.py --out {state.folder}/results"
    )
    return len(up) == len(state.nodes)


def parser() -> argparse.ArgumentParser:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    root = argparse.ArgumentParser(
        description=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    entries = {"start": start, "stop": stop, "status": status, "kill": kill, "add": add}
    made = {}
    for name, function in entries.items():
        made[name] = commands.add_parser(name)
        made[name].set_defaults(function=function)
        default = f"/tmp/longtail-{os.getuid()}"
        made[name].add_argument(
            "--dir",
            default=default,
            help=f"folder of the cluster's state, logs and token (default {default})",
        )
    made["start"].add_argument(
        "--workers", type=int, default=2, help="worker nodes beside the head (default 2)"
    )
    made["start"].add_argument(
        "--cpus",
        type=float,
        default=2,
        help="CPUs that each worker offers to Ray; logical, not a limit (default 2)",
    )
    made["start"].add_argument(
        "--head-cpus",
        type=float,
        default=0,
        help="CPUs that the head offers; 0 keeps tasks off it (default 0)",
    )
    made["start"].add_argument(
        "--object-store-mb", type=int, default=200, help="object store of each node (default 200)"
    )
    made["start"].add_argument(
        "--network",
        default="auto",
        help=f"{', '.join(NETWORKS)} (default auto: namespaces when allowed)",
    )
    made["start"].add_argument(
        "--force", action="store_true", help="stop the cluster that runs in the folder first"
    )
    made["stop"].add_argument(
        "--keep-logs", action="store_true", help="leave the nodes' folders with Ray's logs"
    )
    made["kill"].add_argument("node", help="name of the worker to lose")
    made["kill"].add_argument(
        "--unplug",
        action="store_true",
        help="cut its network first, as when a whole machine vanishes",
    )
    for name in ("start", "add"):
        made[name].add_argument(
            "--timeout",
            type=float,
            default=90,
            help="seconds a node may take to come up (default 90)",
        )
    return root


def main() -> int:
    args = parser().parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that `start` takes down what it has begun
    try:
        args.function(args)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
