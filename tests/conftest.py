"""For every test: the repository root on the path, commands, a local Ray, small wafer shards, and
a small trained run."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_USE_DATASOURCE_V2", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In a background job of a shell. The commands that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def script(name: str) -> ModuleType:
    """Returns the module of a script such as distributed/ingest.py.

    `distributed.ingest` is the function of that name.
    """
    return importlib.import_module(f"distributed.{name}")


def run_command(
    *arguments: str, timeout: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python distributed/....py ...` from another folder, as a user would."""
    command = [sys.executable, str(ROOT / arguments[0]), *arguments[1:]]
    # A pool of actors sets this for its own process; a user's command starts without it.
    inherited = {k: v for k, v in os.environ.items() if k != "RAY_BACKEND_LOG_LEVEL"}
    with tempfile.TemporaryDirectory() as elsewhere:
        return subprocess.run(
            command,
            cwd=elsewhere,
            env={**inherited, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    import ray

    from distributed.runtime.ray_session import start_ray

    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as folder:
        start_ray(cpus=2, temp_dir=folder, object_store=300_000_000, nested=True)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def wafer_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 small wafers, ingested as a user's table would be."""
    out = tmp_path_factory.mktemp("shards") / "wafers"
    done = run_command(
        "distributed/wafers",
        "--rows",
        "600",
        "--imbalance",
        "20",
        "--size",
        "16",
        "--val-rows",
        "0",
        "--test-rows",
        "0",
        "--shards",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    return str(out)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small shards/ and the run/ of a network that learned from them.

    A module copies it before it changes or adds anything.
    """
    from tests.training import small_run

    folder = tmp_path_factory.mktemp("trained")
    small_run.train(folder / "run", small_run.write_shards(folder / "shards"))
    return folder


def flip_bit(file: Path, place: int = 3000) -> None:
    """Changes one bit of a file; a second call changes it back."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def fill(disk: Path) -> None:
    """Writes a file `filler` until the disk is full."""
    with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A real file system of 256 KiB."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            pytest.skip("needs the right to mount a tmpfs")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
