"""cluster/slurm/search.sbatch on two network namespaces, with substitutes for Slurm's commands."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.local import processes
from cluster.local.network import NodeNetwork, open_network
from tests.cluster.cluster_tools import wait_for

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]

SRUN = """#!/usr/bin/env bash
machine=1
while [[ $1 == --* ]]; do
  case $1 in
    --nodelist=m*) machine=${1#*=m} ;;
    --chdir=*) cd "${1#*=}" ;;
  esac
  shift
done
exec ip netns exec "$BRIDGE-worker$machine" "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[[ "$*" == "show hostnames m[1-2]" ]] && printf 'm1\\nm2\\n'
"""
# In place of the search: prints its nodes, and ends as the search does after Slurm's warning.
DRIVER = """
import signal, sys, time
import ray
ray.init()
while len(ray.nodes()) < 2:
    time.sleep(0.2)
signal.signal(signal.SIGTERM, lambda *_: (print("SAVED", flush=True), sys.exit(7)))
print("NODES", len(ray.nodes()), "CPUS", ray.cluster_resources()["CPU"], sys.argv[1:], flush=True)
time.sleep(300)
"""


@pytest.fixture
def machines() -> Iterator[NodeNetwork]:
    network = open_network("auto", secrets.token_hex(8))
    if not network.subnet:
        pytest.skip("no right to make network namespaces")
    try:
        network.add(1)
        network.add(2)
        yield network
    finally:
        network.remove(1)
        network.remove(2)
        network.close()


def test_a_job_starts_its_nodes_passes_the_warning_on_and_cleans_up(
    machines: NodeNetwork, tmp_path: Path
) -> None:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "distributed").mkdir()
    (tmp_path / "distributed" / "tune.py").write_text(DRIVER)
    job, mark = str(os.getpid()), secrets.token_hex(8)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("RAY_")
    } | {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHON": sys.executable,
        "BRIDGE": machines.bridge,
        "TOKEN_FOLDER": str(tmp_path),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NODELIST": "m[1-2]",
        "SLURM_CPUS_ON_NODE": "3",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SPT_NOENV": "1",
        processes.CLUSTER_MARK: mark,
    }
    with tempfile.TemporaryFile("w+") as log:

        def output() -> str:
            log.seek(0)
            return log.read()

        command = ["bash", str(ROOT / "cluster/slurm/search.sbatch"), "--trials", "9"]
        batch = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_for(lambda: "NODES" in output() or batch.poll() is not None, 200, output)
            assert "NODES 2 CPUS 6.0 ['--trials', '9']" in output()
            token = tmp_path / f".longtail-token-{job}"
            assert token.stat().st_mode & 0o077 == 0
            commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
            assert token.read_text() not in commands
            batch.send_signal(signal.SIGTERM)
            assert batch.wait(90) == 7
            assert "SAVED" in output()
            assert not token.exists()
            assert not Path(f"/tmp/longtail-{job}").exists()
            assert processes.wait_gone(processes.CLUSTER_MARK, mark, 10) == []
        finally:
            processes.kill(processes.CLUSTER_MARK, mark)
            batch.wait(10)
