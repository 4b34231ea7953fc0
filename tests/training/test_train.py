"""train.py as a user runs it: what it leaves behind, and what happens when processes are killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch

from distributed.training import states
from distributed.training.driver import folder_to_compare
from distributed.training.spec import RunSpec
from tests.conftest import ROOT, flip_bit, run_command

TINY = [
    "dim=16",
    "image.width=8",
    "table.width=16",
    "experts.hidden=16",
    "data.max_rows=300",
    "optim.epochs=4",
]
ENDLESS = [*TINY[:-1], "optim.epochs=500"]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoint" / "model.pt", weights_only=True)["network"]


def begin(shards: str, run: Path, *more: str, mark: str = "") -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(ROOT / "distributed/train.py"),
        "--data",
        shards,
        "--out",
        str(run),
        *more,
    ]
    environment = {**os.environ, "LONGTAIL_TEST_MARK": mark}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def starts(run: Path) -> list[int]:
    """The epochs with which the run began and went on, as its event files say."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(run.glob("events.*"))
    return [
        event.step
        for file in files
        for event in EventFileLoader(str(file)).Load()
        if event.HasField("session_log")
    ]


def epochs(run: Path) -> int:
    try:
        return len(json.loads((run / "history.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def wait_for_epochs(
    run: Path, count: int, process: subprocess.Popen[str], seconds: float = 120
) -> None:
    limit = time.monotonic() + seconds
    while epochs(run) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, f"{epochs(run)} epochs after {seconds} s"
        time.sleep(0.1)


def marked(mark: str, title: str) -> list[int]:
    """Processes that carry the mark in their environment and the title on their command line."""
    processes = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if (
                    title in (folder / "cmdline").read_text()
                    and f"LONGTAIL_TEST_MARK={mark}" in (folder / "environ").read_text()
                ):
                    processes.append(int(folder.name))
            except OSError:
                continue
    return processes


@pytest.fixture(scope="module")
def undisturbed(wafer_shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that nothing disturbed, with its states."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    words = ["--data", wafer_shards, "--out", str(run), "--keep-state", "--set", *TINY]
    done = run_command("distributed/train.py", *words)
    assert done.returncode == 0, done.stderr
    assert "balanced accuracy" in done.stdout
    assert "epoch 4/4" in done.stderr
    assert f" --logdir {run.parent}\n" in done.stdout
    assert "epochs      4 of 4; the scores are of epoch " in done.stdout
    return run


@pytest.mark.parametrize(
    ("out", "folder"),
    [
        ("/a/runs/r5", "/a/runs"),
        ("/r5", "/"),
        ("s3://bucket/runs/r5", "s3://bucket/runs"),
        ("s3://bucket/r5", "s3://bucket"),
        ("s3://bucket", "s3://bucket"),
    ],
)
def test_a_run_is_compared_with_those_beside_it(out: str, folder: str) -> None:
    assert folder_to_compare(out) == folder


def test_a_run_leaves_what_the_contract_says(undisturbed: Path) -> None:
    metrics = json.loads((undisturbed / "metrics.json").read_text())
    for split in ("val", "test"):
        values = metrics[split]
        assert 0 < values["balanced_accuracy"] <= 1
        assert (
            abs(values["weight/map"] + values["weight/table"] - 1) < 1e-5
            or values["weight/map"] + values["weight/table"] < 1
        )
        assert {
            "macro_f1",
            "g_mean",
            "mcc",
            "macro_auroc",
            "accuracy",
            "worst_recall",
            "ece",
            "nll",
            "brier",
        } <= set(values)
    assert metrics["train_seconds"] > 0
    assert metrics["rows_per_second"] > 0
    assert json.loads((undisturbed / "config.json").read_text())["optim.epochs"] == 4
    assert len(list(undisturbed.glob("events.*"))) == 1


def test_checkpoint_needs_no_ray_and_holds_what_prediction_needs(undisturbed: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = None; sys.path.insert(0, sys.argv[1])\n"
        "from distributed.training.checkpoint import load_checkpoint\n"
        "c = load_checkpoint(sys.argv[2])\n"
        "print(c.manifest.schema.classes, c.network.counts_C, c.config.dim)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), str(undisturbed)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "near-full" in done.stdout


def test_tensorboard_has_every_term_metric_histogram_and_the_confusion(undisturbed: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed))
    events.Reload()
    tags = events.Tags()
    assert {
        "loss/total",
        "loss/classification",
        "loss/auxiliary",
        "loss/confidence",
        "val/balanced_accuracy",
        "speed/learning_rate",
    } <= set(tags["scalars"])
    assert {
        "val_recall/none",
        "weight/map",
        "confidence/table",
        "speed/rows_per_second",
        "final/test/balanced_accuracy",
    } <= set(tags["scalars"])
    assert "val_confusion" in tags["images"]
    assert any(t.startswith("weight_many/") for t in tags["histograms"])
    assert any(t.startswith("confidence_") for t in tags["histograms"])
    assert [e.step for e in events.Scalars("val/balanced_accuracy")] == [1, 2, 3, 4]
    assert "custom_scalars__config__" in tags["tensors"]


def test_killed_driver_resumes_to_the_same_weights(
    undisturbed: Path, wafer_shards: str, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    slow = begin(wafer_shards, run, "--set", *TINY)
    wait_for_epochs(run, 2, slow)
    slow.kill()
    slow.wait()
    resumed = run_command(
        "distributed/train.py", "--data", wafer_shards, "--out", str(run), "--resume"
    )
    assert resumed.returncode == 0, resumed.stderr
    for name, value in weights(undisturbed).items():
        assert torch.equal(weights(run)[name], value), name


def test_sigterm_leaves_a_resumable_run_and_a_truncated_state_is_noticed(
    wafer_shards: str, tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    process = begin(wafer_shards, run, "--set", *ENDLESS)
    wait_for_epochs(run, 3, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "--resume" in errors.strip().splitlines()[-1]
    assert "Traceback" not in errors
    newest, before = sorted((run / "state").glob("*.pt"), reverse=True)[:2]
    newest.write_bytes(newest.read_bytes()[:5000])
    again = begin(wafer_shards, run, "--resume")
    kept = int(before.name.split("-")[1])
    wait_for_epochs(run, kept + 3, again)  # the history may be one ahead of the damaged state
    again.send_signal(signal.SIGTERM)
    _, errors = again.communicate(timeout=60)
    assert f"{newest.name} is damaged" in errors
    assert [m["epoch"] for m in json.loads((run / "history.json").read_text())][: kept + 3] == list(
        range(1, kept + 4)
    )


def test_states_of_another_version_are_refused_in_one_line(
    undisturbed: Path, wafer_shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "older"
    shutil.copytree(undisturbed, run)
    settings = json.loads((run / "config.json").read_text())
    saved = states.states_of(RunSpec(shards=wafer_shards, settings=settings, out=str(run)))
    assert saved is not None
    newest_state = saved.load()
    assert newest_state is not None
    with monkeypatch.context() as patch:
        patch.setattr(states, "WEIGHTS_FORMAT", states.WEIGHTS_FORMAT - 1)
        saved.save(newest_state["epoch"] + 1, newest_state)
    done = run_command(
        "distributed/train.py", "--data", wafer_shards, "--out", str(run), "--resume"
    )
    assert done.returncode == 2
    assert (
        f"--resume needs states of format {states.WEIGHTS_FORMAT}"
        in done.stderr.strip().splitlines()[-1]
    )
    assert "Traceback" not in done.stderr


def test_a_diverging_run_names_step_and_term(wafer_shards: str, tmp_path: Path) -> None:
    done = run_command(
        "distributed/train.py",
        "--data",
        wafer_shards,
        "--out",
        str(tmp_path / "r"),
        "--set",
        *TINY,
        "optim.lr=1e30",
        "optim.clip=0",
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "is not finite at step" in last
    assert "the loss term" in last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs --out"),
        (["--set", "optim.epochs"], "--set takes KEY=VALUE"),
        (["--out", __file__], "--out must be a folder or URI that can be read and written"),
        (["--data", "nowhere"], "a SHARDS folder must exist"),
        (
            ["--set", "data.modalities=picture"],
            "a modality must be one of the data set's: map, table; got picture",
        ),
        (["--set", "data.corrupt=map=nois"], "a corruption must be"),
        (
            ["--set", "stage.kind=crt", "loss.margin=0.3"],
            "stage.kind=crt needs linear classifiers; loss.margin=0.3",
        ),
        (["--set", "optim.metric=recall/moon"], "optim.metric=recall/CLASS must name a class"),
        (
            ["--workers", "4", "--set", "data.batch_size=3"],
            "data.batch_size must be at least scaling.workers=4; got 3",
        ),
        (
            ["--workers", "8", "--set", "scaling.sync_batch_norm=false"],
            "scaling.sync_batch_norm=false needs 16 rows per worker: "
            "data.batch_size of at least 128; got 64",
        ),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, wafer_shards: str, tmp_path: Path
) -> None:
    data = [] if "--data" in arguments else ["--data", wafer_shards]
    out = [] if {"--resume", "--out"} & {*arguments} else ["--out", str(tmp_path / "r")]
    done = run_command("distributed/train.py", *data, *out, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists(), "the corrected command can use the folder"


def test_out_in_use_and_other_settings_are_refused(undisturbed: Path, wafer_shards: str) -> None:
    done = run_command("distributed/train.py", "--data", wafer_shards, "--out", str(undisturbed))
    assert (done.returncode, "add --resume" in done.stderr) == (2, True)
    done = run_command(
        "distributed/train.py",
        "--data",
        wafer_shards,
        "--out",
        str(undisturbed),
        "--resume",
        "--set",
        "dim=32",
    )
    assert (done.returncode, "dim is 16 there, got 32" in done.stderr) == (2, True)


def test_a_resumed_run_keeps_its_data(undisturbed: Path, wafer_shards: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(wafer_shards, other)
    manifest = json.loads((other / "schema.json").read_text())
    manifest["prepare"]["seed"] = 1234  # as another ingest of the same table would say
    del manifest["checksum"], manifest["parts"]
    (other / "schema.json").write_text(json.dumps(manifest))
    done = run_command(
        "distributed/train.py", "--data", str(other), "--out", str(undisturbed), "--resume"
    )
    assert (done.returncode, "a resumed run must keep its data" in done.stderr) == (2, True), (
        done.stderr
    )
    assert (
        run_command("distributed/train.py", "--out", str(undisturbed), "--resume").returncode == 0
    ), "it knows its data"


def test_data_without_test_rows_can_be_trained_on(wafer_shards: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(wafer_shards, data)
    shutil.rmtree(data / "test")
    manifest = json.loads((data / "schema.json").read_text())
    manifest["rows"]["test"] = 0
    del manifest["checksum"], manifest["parts"]
    (data / "schema.json").write_text(json.dumps(manifest))
    done = run_command(
        "distributed/train.py",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "r"),
        "--set",
        *TINY[:-1],
        "optim.epochs=1",
    )
    assert done.returncode == 0, done.stderr
    assert "note: the data has no test rows" in done.stdout
    assert "test" not in json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert (tmp_path / "r" / "checkpoint").exists()


def test_workers_that_never_fit_are_refused(wafer_shards: str, tmp_path: Path) -> None:
    done = run_command(
        "distributed/train.py",
        "--data",
        wafer_shards,
        "--out",
        str(tmp_path / "r"),
        "--workers",
        "256",
        "--set",
        "data.batch_size=256",
    )
    assert (done.returncode, "this run must fit on this machine" in done.stderr) == (2, True), (
        done.stderr
    )
    assert not (tmp_path / "r").exists(), "the corrected command can use the folder"


@pytest.mark.slow
def test_shards_that_workers_find_damaged_are_one_line(wafer_shards: str, tmp_path: Path) -> None:
    shutil.copytree(wafer_shards, tmp_path / "data")
    path = tmp_path / "data" / "train" / "part-00000.parquet"
    flip_bit(path)
    done = run_command(
        *("distributed/train.py", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "r")),
        *("--workers", "2", "--set", *TINY, "data.cache=stream"),
    )
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: '{path}' is damaged: ")


def test_a_full_disk_is_one_line(wafer_shards: str, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(200 << 10))
    done = run_command(
        "distributed/train.py",
        "--data",
        wafer_shards,
        "--out",
        str(small_disk / "r"),
        "--set",
        *TINY,
    )
    assert done.returncode == 1
    assert re.fullmatch(rf"error: no space left: {small_disk}/r/\S+\n", done.stderr)


@pytest.mark.slow
def test_of_overlapping_resumes_one_goes_on_and_the_others_name_it(
    wafer_shards: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed = begin(wafer_shards, run, "--set", *ENDLESS)
    wait_for_epochs(run, 2, killed)
    killed.kill()
    killed.communicate()
    processes = [begin(wafer_shards, run, "--resume") for _ in range(3)]
    limit = time.monotonic() + 240
    while len(running := [p for p in processes if p.poll() is None]) > 1:
        assert time.monotonic() < limit
        time.sleep(0.1)
    for process in set(processes) - set(running):
        _, errors = process.communicate()
        name = f"is held by train.py, process {running[0].pid} on"
        assert (process.returncode, errors.count("\n"), name in errors) == (2, 1, True), errors
    wait_for_epochs(run, epochs(run) + 2, running[0])
    running[0].terminate()
    assert running[0].wait(60) == 143
    history = [entry["epoch"] for entry in json.loads((run / "history.json").read_text())]
    assert history == [*range(1, len(history) + 1)]
    assert len(starts(run)) == 2
    assert not (run / ".lease").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_of_two_workers_heeds_signals(
    number: signal.Signals, wafer_shards: str, tmp_path: Path
) -> None:
    run, mark = tmp_path / "two", uuid.uuid4().hex
    process = begin(wafer_shards, run, "--workers", "2", "--set", *ENDLESS, mark=mark)
    wait_for_epochs(run, 2, process, 240)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.strip().splitlines()[-1].startswith("error: stopped; go on with: ")
    assert "Traceback" not in errors
    limit = time.monotonic() + 30
    while marked(mark, "ray::") and time.monotonic() < limit:
        time.sleep(0.5)
    assert not marked(mark, "ray::")


@pytest.mark.slow
def test_two_ray_workers_equal_one_and_a_killed_worker_is_replaced(
    wafer_shards: str, tmp_path: Path
) -> None:
    # Adam's first step has the same length however small the gradient: of one that is only
    # rounding noise, which differs between one worker and two, it makes a whole step.
    settings = [*TINY, "optim.name=sgd", "optim.lr=0.05"]
    one, run, mark = tmp_path / "one", tmp_path / "two", uuid.uuid4().hex
    words = ["--data", wafer_shards, "--out", str(one), "--set", *settings]
    done = run_command("distributed/train.py", *words)
    assert done.returncode == 0, done.stderr
    process = begin(wafer_shards, run, "--workers", "2", "--set", *settings, mark=mark)
    wait_for_epochs(run, 2, process, 240)  # then the state of the first is saved
    victims = marked(mark, "RayTrainWorker")
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    alone, two = (json.loads((r / "metrics.json").read_text()) for r in (one, run))
    assert two["epochs"] == 4
    first, after = starts(run)
    assert (first, after > 1) == (1, True), "it went on from a saved epoch"
    assert [metrics["epoch"] for metrics in json.loads((run / "history.json").read_text())] == [
        1,
        2,
        3,
        4,
    ]
    assert abs(alone["val"]["nll"] - two["val"]["nll"]) < 0.05
    for name, value in weights(one).items():
        assert torch.allclose(weights(run)[name].float(), value.float(), atol=2e-2, rtol=0.1), name
    limit = time.monotonic() + 30
    while marked(mark, "ray::") and time.monotonic() < limit:
        time.sleep(0.5)
    assert not marked(mark, "ray::")


@pytest.mark.slow
def test_two_ray_workers_learn_the_same_from_ray_data_as_from_their_own_threads(
    wafer_shards: str, tmp_path: Path
) -> None:
    stream = [
        *TINY[:-1],
        "optim.epochs=2",
        "data.cache=stream",
        "scaling.cpus_per_worker=0.5",
    ]  # a CPU is left for decoding
    for engine in ("ray", "threads"):
        arguments = [
            "--data",
            wafer_shards,
            "--out",
            str(tmp_path / engine),
            "--workers",
            "2",
            "--set",
            *stream,
            f"data.engine={engine}",
        ]
        done = run_command("distributed/train.py", *arguments)
        assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path / "ray"), weights(tmp_path / "threads")
    for name, value in theirs.items():
        assert torch.allclose(ours[name].float(), value.float(), atol=1e-4, rtol=1e-3), name
