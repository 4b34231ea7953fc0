"""Training and searching on several nodes, also when nodes and jobs are lost on the way."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster_tools import ROOT, Cluster, started, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc"),
]
SMALL = [
    "dim=16",
    "image.width=4",
    "table.width=16",
    "table.blocks=0",
    "experts.hidden=16",
    "inference.calibrate=false",
]
# Classes of the actors that do the work.
TRAINERS = ("RayTrainWorker",)
TRIALS = ("ImplicitFunc", "Trainable")


@pytest.fixture(scope="module")
def cluster_of_two() -> Iterator[Cluster]:
    """Two workers with two CPUs each: what one loses fits on the other."""
    with started(2, "--cpus", "2") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def shards(cluster_of_two: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small wafer shards, ingested on the cluster."""
    folder = tmp_path_factory.mktemp("data") / "shards"
    words = ["--rows", "400", "--val-rows", "0", "--test-rows", "0", "--size", "16"]
    done = cluster_of_two.submit("python", "distributed/wafers", *words, "--shards", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def two_workers(cluster_of_two: Cluster) -> Iterator[Cluster]:
    yield cluster_of_two
    while len(cluster_of_two.workers) < 2:
        added = cluster_of_two("add")
        assert added.returncode == 0, added.stderr


def train(shards: Path | str, out: Path | str, *settings: str, epochs: int) -> list[str]:
    """Returns the command of a small training on two workers."""
    return [
        "python",
        "distributed/train.py",
        "--data",
        str(shards),
        "--workers",
        "2",
        "--out",
        str(out),
        "--set",
        f"optim.epochs={epochs}",
        *SMALL,
        *settings,
    ]


def tune(shards: Path | str, out: Path | str, *, trials: int, epochs: int) -> list[str]:
    """Returns the command of a small random search."""
    options = [
        "--trials",
        str(trials),
        "--replicates",
        "0",
        "--stopper",
        "none",
        "--sampler",
        "random",
    ]
    settings = ["--set", f"optim.epochs={epochs}", *SMALL]
    return [
        "python",
        "distributed/tune.py",
        "--data",
        str(shards),
        "--out",
        str(out),
        "--space",
        "fusion",
        *options,
        *settings,
    ]


def history(run: Path) -> list[int]:
    """Returns the epochs that a run has recorded so far."""
    try:
        return [int(entry["epoch"]) for entry in json.loads((run / "history.json").read_text())]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


def check_run(run: Path, epochs: int) -> dict[str, Any]:
    """Checks that a finished run is complete and trained every epoch once; returns its metrics."""
    assert history(run) == list(range(1, epochs + 1))
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    assert {"val", "test", "train_seconds", "rows_per_second"} <= set(metrics)
    assert 0 <= metrics["val"]["balanced_accuracy"] <= 1
    assert (run / "checkpoint" / "model.pt").stat().st_size > 1000
    assert list(run.glob("events.out.tfevents.*"))
    assert not list(run.rglob("*.part"))
    return metrics


def records(out: Path) -> dict[str, dict[str, Any]]:
    """Returns the records of a search's ended trials by name."""
    path = out / "records.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return {
        record["job"]["name"]: record
        for record in (json.loads(line) for line in lines if line.endswith("}"))
    }


def check_search(out: Path, trials: int) -> None:
    """Checks that a finished search is complete: each trial once, none failed, all files."""
    with open(out / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert len({row["trial"] for row in rows}) == len(rows) == trials, [
        row["trial"] for row in rows
    ]
    assert {row["state"] for row in rows} == {"complete"}, [row["reason"] for row in rows]
    assert all(
        (out / name).stat().st_size
        for name in ("best.toml", "report.html", "report.md", "study.journal", "experiment.json")
    )
    assert any(record["job"]["kind"] == "test" for record in records(out).values())


def busy_worker(cluster: Cluster, classes: tuple[str, ...]) -> str:
    """Returns a worker node on which an actor of one of these classes runs now."""
    names = cluster.node_names()
    live = [
        row
        for row in cluster.rows("actors")
        if row["state"] == "ALIVE" and any(name in row["class_name"] for name in classes)
    ]
    busy = sorted({names.get(row["node_id"], "?") for row in live} & set(cluster.workers))
    assert busy, [row["class_name"] for row in cluster.rows("actors")]
    return busy[-1]


def test_training_spreads_over_two_nodes(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    log = two_workers.submit(*train(shards, tmp_path / "run", epochs=2))
    assert log.returncode == 0, log.stdout + log.stderr
    assert two_workers.places(TRAINERS) == set(two_workers.workers)
    check_run(tmp_path / "run", 2)
    assert two_workers.leaks() == []


def test_search_has_trials_on_both_nodes(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    log = two_workers.submit(*tune(shards, tmp_path / "search", trials=6, epochs=2))
    assert log.returncode == 0, log.stdout + log.stderr
    assert two_workers.places(TRIALS) >= set(two_workers.workers)
    check_search(tmp_path / "search", 6)
    assert two_workers.leaks() == []


def test_training_continues_on_the_remaining_nodes(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    run, name = tmp_path / "run", f"lost-{time.time():.0f}"
    two_workers.begin(name, *train(shards, run, epochs=30))
    wait_for(lambda: len(history(run)) >= 2, 240, lambda: two_workers.log(name))
    assert two_workers("kill", busy_worker(two_workers, TRAINERS)).returncode == 0
    before = len(history(run))
    assert before < 30
    log = two_workers.finish(name)
    assert log.startswith("SUCCEEDED"), log
    check_run(run, 30)
    assert two_workers.leaks() == []


def test_search_loses_no_finished_trial_when_a_node_is_lost(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    out, name = tmp_path / "search", f"search-{time.time():.0f}"
    two_workers.begin(name, *tune(shards, out, trials=8, epochs=10))
    wait_for(lambda: len(records(out)) >= 2, 240, lambda: two_workers.log(name))
    assert two_workers("kill", busy_worker(two_workers, TRIALS)).returncode == 0
    before = records(out)
    assert len(before) < 8
    log = two_workers.finish(name)
    assert log.startswith("SUCCEEDED"), log
    check_search(out, 8)
    assert before.items() <= records(out).items()
    assert two_workers.leaks() == []


def test_interrupted_search_goes_on_when_it_is_submitted_again(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    out, name = tmp_path / "search", f"stop-{time.time():.0f}"
    command = tune(shards, out, trials=8, epochs=30)
    two_workers.begin(name, *command)
    wait_for(lambda: len(records(out)) >= 2, 240, lambda: two_workers.log(name))
    stopped = two_workers.ray("job", "stop", "--address", two_workers.state.dashboard, name)
    assert stopped.returncode == 0, stopped.stdout
    before = records(out)
    assert len(before) < 8
    assert two_workers.leaks() == []
    log = two_workers.submit(*command, "--resume")
    assert log.returncode == 0, log.stdout + log.stderr
    check_search(out, 8)
    assert before.items() <= records(out).items()
    assert two_workers.leaks() == []


def test_interrupted_training_goes_on_when_it_is_submitted_again(
    two_workers: Cluster, shards: Path, tmp_path: Path
) -> None:
    run, name = tmp_path / "run", f"again-{time.time():.0f}"
    command = train(shards, run, epochs=24)
    two_workers.begin(name, *command)
    wait_for(lambda: len(history(run)) >= 2, 240, lambda: two_workers.log(name))
    assert (
        two_workers.ray("job", "stop", "--address", two_workers.state.dashboard, name).returncode
        == 0
    )
    assert len(history(run)) < 24
    assert two_workers.leaks() == []
    log = two_workers.submit(*command, "--resume")
    assert log.returncode == 0, log.stdout + log.stderr
    check_run(run, 24)
    assert two_workers.leaks() == []


def test_training_of_a_fixed_size_waits_for_a_node(shards: Path, tmp_path: Path) -> None:
    run, name = tmp_path / "run", "waits"
    with started(2, "--cpus", "1") as cluster:
        cluster.begin(name, *train(shards, run, epochs=24))
        wait_for(lambda: len(history(run)) >= 2, 240, lambda: cluster.log(name))
        assert cluster("kill", cluster.workers[0]).returncode == 0
        wait_for(
            lambda: len([row for row in cluster.rows("nodes") if row["state"] == "ALIVE"]) == 2, 60
        )
        time.sleep(3)
        stuck = history(run)
        assert len(stuck) < 24
        time.sleep(3)
        assert history(run) == stuck
        assert cluster("add").returncode == 0
        log = cluster.finish(name)
        assert log.startswith("SUCCEEDED"), log
        check_run(run, 24)
        assert cluster.leaks() == []


def test_elastic_training_shrinks_and_goes_on(shards: Path, tmp_path: Path) -> None:
    run, name = tmp_path / "run", "shrinks"
    with started(2, "--cpus", "1") as cluster:
        cluster.begin(name, *train(shards, run, "scaling.min_workers=1", epochs=30))
        wait_for(lambda: len(history(run)) >= 2, 240, lambda: cluster.log(name))
        assert cluster("kill", cluster.workers[0]).returncode == 0
        assert len(history(run)) < 30
        log = cluster.finish(name)
        assert log.startswith("SUCCEEDED"), log
        check_run(run, 30)
        assert cluster.leaks() == []


def test_code_in_the_image_needs_no_working_directory(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Kubernetes: each node has the code on its PYTHONPATH.

    A job starts in the folder where Ray was started.
    """
    image = tmp_path / "image"
    for name in ("distributed", "model", "search_spaces"):
        shutil.copytree(ROOT / name, image / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(image))
    with started(2, "--cpus", "1") as cluster:
        for name in ("distributed", "model", "search_spaces"):
            (Path(cluster.folder) / name).symlink_to(image / name)
        log = cluster.submit(*train(shards, tmp_path / "run", epochs=1), options=())
        assert log.returncode == 0, log.stdout + log.stderr
        assert cluster.places(TRAINERS) == set(cluster.workers)
        check_run(tmp_path / "run", 1)
