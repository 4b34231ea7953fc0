"""Real commands with planted secrets: none of them is printed, logged or stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import ROOT, run_command

VARIABLES = {
    "GITHUB_PAT": "pLantedPat_000*1",
    "HF_TOKEN": "pLantedToken-02",
    "WANDB_API_KEY": "pLantedKey0/+03==",
    "AWS_SECRET_ACCESS_KEY": "pLantedAws/04+x&y",
    "AWS_SESSION_TOKEN": 'pLantedSession"05',
    "PGPASSWORD": "pLantedPg@06",
    "MYSQL_PWD": "pLantedMysql#07",
    "MY_SECRET": "pLantedSecret<08>",
    "CI_CREDENTIALS": "pLantedCredentials09",
    "DATABASE_URL": "postgresql://me:pLantedDatabase10@127.0.0.1:9/db",
}
# Runs commands one after the other in one process, as their scripts do.
RUN_ALL = """
import importlib, json, os, sys
from distributed.runtime import command

def in_sqlalchemy(argv):
    import sqlalchemy
    sqlalchemy.create_engine("postgresql+nothing://me:p/w@pLantedLibrary20@h/db")

def in_arrow(argv):
    from pyarrow import fs
    fs.FileSystem.from_uri("s3://KEY:pLantedArrow21@bucket/x?nothing=1")

def of_our_own(argv):
    raise RuntimeError(f"refused {os.environ['GITHUB_PAT']} of {os.environ['MY_SECRET']!r}")

mains = {main.__name__: main for main in (in_sqlalchemy, in_arrow, of_our_own)}
for name, *sys.argv[1:] in json.load(sys.stdin):
    try:
        command.run(mains.get(name) or importlib.import_module(f"distributed.{name}").main)
    except SystemExit as end:
        print("exit", end.code, flush=True)
"""


def test_no_secret_of_a_refused_command_or_a_librarys_traceback_is_printed(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('image.weights = "https://h/w?token=pLantedFile11"\n')
    values = [value for name, value in VARIABLES.items() if name != "DATABASE_URL"]
    everything = "-".join(quote(value, safe="") for value in values)
    out = str(tmp_path / "out")
    commands = [
        ["train", "--data", "s3://KEY:pLanted/12@bucket/x"],
        ["train", "--data", "S3://pLantedUser13@bucket"],
        ["train", "--data", f"/no/{everything}/shards"],
        ["train", "--data", "s3://bucket/x", "--workers", "mysql://u:pLantedWorkers14@h"],
        ["train", "--out", out, "--set", "image.weights=https://h/w?X-Amz-Signature=pLanted15"],
        ["train", "--out", out, "--config", str(tmp_path / "f.toml")],
        ["evaluate", "--checkpoint", "https://h/c?sv=1&sig=pLanted%2F16%3D&se=2", "--data", "x"],
        ["predict", "--checkpoint", out, "--data", "gs://b/x?access_token=pLanted17", "--out", out],
        ["ingest", "--table", "s3://K:pLa@nted/18@b/t.csv", "--label", "l", "--out", out],
        ["tune", "--data", "x", "--nothing", "https://h/?X-Goog-Signature=pLanted19"],
        ["evaluate", "--checkpoint", "x", "--data", "https://h/x?Signature=pLanted/23"],
        ["train", "s3://KEY:pLanted/24@bucket/x"],
        ["train", "--data", "s3://KEY:pLanted/25@bucket/x", "--data", "https://h/x?sig=pLanted26"],
        ["train", "--set", "image.weights=https://h/w?sig=pLanted27", "image.weights=x"],
        ["in_sqlalchemy"],
        ["in_arrow"],
        ["of_our_own"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(commands),
        env={**os.environ, **VARIABLES, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert codes == ["exit 2"] * 14 + ["exit 1", "exit 2", "exit 1"], done.stderr
    assert done.stderr.count("***") >= 20, done.stderr
    assert done.stderr.count("Traceback") == 2
    for text in (done.stdout, done.stderr):
        assert not [line for line in text.splitlines() if "pLa" in line or "nted/18" in line]
    assert not os.path.exists(out)


def files_with(word: bytes, *folders: Path) -> list[str]:
    """The files below the folders that hold a word, in their name or their bytes."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [str(p) for p in paths if word in p.read_bytes() or word in os.fsencode(p)]


def search(out: Path, ray: str, *arguments: str, **environment: str) -> Mapping[str, object]:
    """Runs a search of a few seconds; returns its exit code and what it printed."""
    done = run_command(
        *("distributed/tune.py", "--quick", "--replicates", "0", "--set", "optim.epochs=1"),
        *("--out", str(out), *arguments),
        **{**VARIABLES, "RAY_TMPDIR": ray, **environment},
    )
    return {"code": done.returncode, "text": done.stdout + done.stderr}


@pytest.mark.slow
def test_a_search_stores_no_secret_and_goes_on_with_its_password(
    tmp_path: Path, wafer_shards: str
) -> None:
    """The password of a storage is that of a real database of SQLite, in the URL's query."""
    database = tmp_path / "study.db"
    url = f"sqlite:///file:{database}?uri=true&token=pLantedStorage22"
    out = tmp_path / "out"
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as ray:
        first = search(out, ray, "--data", wafer_shards, "--trials", "1", "--storage", url)
        assert first["code"] == 0, first["text"]
        assert json.loads((out / "experiment.json").read_text())["options"]["storage"] == (
            url.replace("pLantedStorage22", "***")
        )
        refused = search(out, ray, "--resume", "--trials", "2")
        assert refused["code"] == 2
        assert "set LONGTAIL_STORAGE_PASSWORD; got" in str(refused["text"])
        password = {"LONGTAIL_STORAGE_PASSWORD": "pLantedStorage22"}
        second = search(out, ray, "--resume", "--trials", "2", **password)
        assert second["code"] == 0, second["text"]
        other = search(out, ray, "--resume", "--storage", url.replace("study", "another"))
        assert other["code"] == 2 and "must keep its --storage" in str(other["text"])
        for done in (first, refused, second, other):
            assert "pLanted" not in str(done["text"])
        assert len((out / "trials.csv").read_text().splitlines()) == 3
        assert any(Path(ray).rglob("raylet.out")), "Ray's logs were looked through"
        assert files_with(b"pLanted", out, Path(ray), tmp_path) == []
