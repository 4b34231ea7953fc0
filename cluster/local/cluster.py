"""Starts, shows and stops a real Ray cluster on this machine, each node with its own address.

A node is a raylet of its own: a head and N workers.

    python cluster/local/cluster.py start --workers 2
    python cluster/local/cluster.py status
    python cluster/local/cluster.py kill worker1      # a node is lost; --unplug: with its network
    python cluster/local/cluster.py add               # a node joins
    python cluster/local/cluster.py stop

Linux only. As root every worker lives in a network namespace of its own; otherwise
the nodes are addresses 127.213.0.N of the loopback interface.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from cluster.local import nodes, processes
from cluster.local.network import NETWORKS, open_network
from cluster.local.nodes import State
from distributed.runtime.shell import ROOT, shown_location

# Characters: the whole path of a Unix socket may have 107, and Ray's part of it takes 70.
MAX_FOLDER_LENGTH = 36


def start(args: argparse.Namespace) -> None:
    """Starts a cluster and shows it."""
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
    except BaseException:
        # Ctrl-C too: a half-started cluster is taken down, its logs stay.
        end(state, keep_logs=True)
        raise
    show(state)


def prepare(name: str, force: bool) -> Path:
    """Returns the cluster's folder: the user's own, private, with a short path, and unused."""
    folder = Path(name).absolute()
    if len(str(folder)) > MAX_FOLDER_LENGTH:
        raise ValueError(
            f"--dir may have at most {MAX_FOLDER_LENGTH} characters, for Ray's sockets;"
            f" got {str(folder)!r}"
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
                f"--dir must hold no running cluster; got {name!r}, which has one;"
                " valid: another --dir, `stop` first, or --force"
            )
        end(old, keep_logs=False)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_token(path: Path) -> None:
    """Writes a new token that only this user can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))


def end(state: State, keep_logs: bool) -> list[int]:
    """Stops every process of this cluster and removes its network and files.

    Returns the ids of processes that did not end.
    """
    # Workers before the head, so that they leave in order and do not wait for a head that is gone.
    remaining = processes.stop(
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
    return remaining


def stop(args: argparse.Namespace) -> None:
    """Stops the cluster."""
    if remaining := end(nodes.load(args.dir), args.keep_logs):
        raise SystemExit(f"error: these processes did not end: {remaining}")
    print("stopped")


def status(args: argparse.Namespace) -> None:
    """Shows the cluster; exit code 1 where a node is down."""
    if not show(nodes.load(args.dir)):
        raise SystemExit(1)


def kill(args: argparse.Namespace) -> None:
    """Kills one worker, on request after cutting its network."""
    state = nodes.load(args.dir)
    workers = {node.name: node for node in state.nodes[1:]}
    if args.node not in workers:
        raise ValueError(
            f"kill takes a worker; got {args.node!r}; valid: {', '.join(workers) or 'none is left'}"
        )
    if args.unplug:
        if not state.subnet:
            raise ValueError(
                "--unplug needs a cluster with --network namespaces;"
                " this one has the network loopback"
            )
        state.network.unplug(workers[args.node].index)
    nodes.lose(state, workers[args.node])
    print(f"killed {args.node}")


def add(args: argparse.Namespace) -> None:
    """Adds one worker."""
    state = nodes.load(args.dir)
    node = nodes.bring_up(state, nodes.add_node(state), args.timeout)
    print(f"added {node.name} at {node.address}")


def show(state: State) -> bool:
    """Prints the nodes and the line that submits a job; returns whether all nodes are alive."""
    up = nodes.alive(state)
    for node in state.nodes:
        health = "alive" if node.name in up else "DOWN"
        print(f"{node.name:10} {node.address:15} process {node.pid:<8} {health}")
    print(f"\ndashboard  {state.dashboard}  (asks for the token in {state.token})\n")
    variables = [f"{name}={shlex.quote(value)}" for name, value in nodes.environment(state).items()]
    print(f"export {' '.join(variables)}")
    job = ["python", "distributed/tune.py", "--out", f"{state.folder}/results"]
    submit = ["ray", "job", "submit", "--address", state.dashboard]
    print(shlex.join([*submit, "--working-dir", shown_location(str(ROOT)), "--", *job]))
    return len(up) == len(state.nodes)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; `function` is the one to call."""
    summary, _, examples = (__doc__ or "").partition("\n\n")
    root = argparse.ArgumentParser(
        description=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    entries = {"start": start, "stop": stop, "status": status, "kill": kill, "add": add}
    parsers = {}
    default = f"/tmp/longtail-{os.getuid()}"
    for name, function in entries.items():
        parsers[name] = commands.add_parser(
            name, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        parsers[name].set_defaults(function=function)
        parsers[name].add_argument(
            "--dir",
            default=default,
            help="folder of the cluster's state, logs and token",
        )
    _add_start_options(parsers["start"])
    parsers["stop"].add_argument(
        "--keep-logs", action="store_true", help="leave the nodes' folders with Ray's logs"
    )
    parsers["kill"].add_argument("node", help="name of the worker to lose")
    parsers["kill"].add_argument(
        "--unplug",
        action="store_true",
        help="cut its network first, as when a whole machine vanishes",
    )
    for name in ("start", "add"):
        parsers[name].add_argument(
            "--timeout",
            type=float,
            default=90,
            help="seconds a node may take to come up",
        )
    return root


def _add_start_options(start: argparse.ArgumentParser) -> None:
    """Adds the options of `start`: nodes, their sizes, their network."""
    start.add_argument("--workers", type=int, default=2, help="worker nodes beside the head")
    start.add_argument(
        "--cpus",
        type=float,
        default=2,
        help="CPUs that each worker offers to Ray; logical, not a limit",
    )
    start.add_argument(
        "--head-cpus",
        type=float,
        default=0,
        help="CPUs that the head offers; 0 keeps tasks off it",
    )
    start.add_argument("--object-store-mb", type=int, default=200, help="object store of each node")
    start.add_argument(
        "--network",
        default="auto",
        help=f"{', '.join(NETWORKS)}; auto: namespaces when allowed",
    )
    start.add_argument(
        "--force", action="store_true", help="stop the cluster that runs in the folder first"
    )


def main() -> int:
    args = parser().parse_args()
    # An exception, so that `start` takes down what it has begun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        args.function(args)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
