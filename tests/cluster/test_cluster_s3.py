"""Shards, runs and searches in an S3-compatible store, served by a real process."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster_tools import Cluster, started, wait_for
from tests.cluster.test_cluster_faults import SMALL, TRAINERS, train, tune
from tests.conftest import run_command

pytest.importorskip("moto")
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
SECRET = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket on an S3 server whose address and credentials are in the environment."""
    import boto3

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "tester")
            patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
            wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 60)
            boto3.client("s3").create_bucket(Bucket="longtail")
            done = run_command(
                "distributed/wafers",
                "--rows",
                "400",
                "--size",
                "16",
                "--val-rows",
                "0",
                "--test-rows",
                "0",
                "--shards",
                "s3://longtail/shards",
            )
            assert done.returncode == 0, done.stderr
            yield "s3://longtail"
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Cluster]:
    """Two workers that reach the S3 server.

    On the loopback network every node reaches it at 127.0.0.1. The nodes have the credentials from
    the environment of `start`.
    """
    with started(2, "--network", "loopback") as cluster:
        yield cluster


def names(uri: str) -> set[str]:
    """Returns the files under a URI, by their path in it."""
    from pyarrow.fs import FileSelector

    from distributed.runtime.storage import filesystem

    system, path = filesystem(uri)
    entries = system.get_file_info(FileSelector(path, recursive=True))
    return {entry.path.removeprefix(path).strip("/") for entry in entries if entry.is_file}


def content(uri: str) -> bytes:
    from distributed.runtime.storage import read_file

    return read_file(uri)


def test_shards_are_complete(bucket: str) -> None:
    from distributed.shards.layout import SPLITS
    from distributed.shards.manifest import part_files, read_manifest

    manifest = read_manifest(f"{bucket}/shards")
    assert sum(manifest.rows.values()) == 400
    assert all(part_files(f"{bucket}/shards", split) for split in SPLITS)


def test_training_on_two_nodes_leaves_a_whole_run(cluster: Cluster, bucket: str) -> None:
    out = f"{bucket}/run"
    log = cluster.submit(*train(f"{bucket}/shards", out, epochs=2))
    assert log.returncode == 0, log.stdout + log.stderr
    assert cluster.places(TRAINERS) == set(cluster.workers)
    files = names(out)
    assert {
        "config.json",
        "metrics.json",
        "history.json",
        "checkpoint/model.pt",
        "checkpoint/info.json",
    } <= files
    assert not [name for name in files if name.endswith(".part")]
    assert "val" in json.loads(content(f"{out}/metrics.json"))
    from distributed.training.checkpoint import load_checkpoint

    assert load_checkpoint(out).network.schema.classes
    again = cluster.submit(*train(f"{bucket}/shards", out, epochs=2), timeout=100)
    assert again.returncode != 0
    assert "--resume" in again.stdout
    assert SECRET not in log.stdout + log.stderr + again.stdout
    assert SECRET.encode() not in b"".join(content(f"{out}/{name}") for name in files)
    assert cluster.leaks() == []


def test_search_leaves_a_whole_experiment_and_extends_it(cluster: Cluster, bucket: str) -> None:
    out = f"{bucket}/search"
    log = cluster.submit(*tune(f"{bucket}/shards", out, trials=4, epochs=1))
    assert log.returncode == 0, log.stdout + log.stderr
    assert {
        "trials.csv",
        "best.toml",
        "report.html",
        "report.md",
        "study.journal",
        "records.jsonl",
        "experiment.json",
    } <= names(out)
    assert [name for name in names(out) if "tfevents" in name]
    log = cluster.submit("python", "distributed/tune.py", "--out", out, "--trials", "6", "--resume")
    assert log.returncode == 0, log.stdout + log.stderr
    rows = list(csv.DictReader(io.StringIO(content(f"{out}/trials.csv").decode())))
    assert len({row["trial"] for row in rows}) == 6
    assert not Path("s3:").exists()
    assert cluster.leaks() == []


def test_small_settings_are_settings() -> None:
    from distributed.config import Config, apply_changes, parse_assignments

    assert apply_changes(Config(), parse_assignments(SMALL)) != Config()
