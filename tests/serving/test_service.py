"""Facts about the running service: the command starts it, it answers as predict does, refuses what
it should in one line, survives hostile requests, and ends on a signal."""

from __future__ import annotations

import base64
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from distributed.inference.record_predictor import Decisions, RecordPredictor
from distributed.training.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.training import small_run

pytest.importorskip("ray.serve")
pytestmark = pytest.mark.slow  # a Ray of its own

TOKEN = "correct-horse"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = 400  # requests


@dataclass
class Service:
    address: str
    process: subprocess.Popen[str]
    log: Path

    def ask(
        self, path: str, body: bytes | None = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, str]:
        """Returns the status and the text of an answer."""
        if token:
            headers["Authorization"] = f"Bearer {token}"
        kind = {"Content-Type": "application/json"} if body is not None else {}
        request = urllib.request.Request(
            f"{self.address}{path}",
            data=body,
            headers=kind | {name.replace("_", "-"): text for name, text in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def predict(self, content: object) -> Any:
        status, text = self.ask("/predict", json.dumps(content).encode())
        assert status == 200, text
        return json.loads(text)["predictions"]


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("service"), dirs_exist_ok=True)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    port = free_port()
    words = ["--checkpoint", str(folder / "run"), "--port", str(port), "--coverage", "0.8"]
    words += ["--max-bytes", "100000", "--max-records", "40"]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "distributed" / "serve.py"), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "LONGTAIL_SERVE_TOKEN": TOKEN},
        )
    running = Service(f"http://127.0.0.1:{port}", process, log)
    deadline = time.monotonic() + 240
    while "also        " not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    yield running
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143, log.read_text()


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    rows = small_run.raw(small_run.SPLITS["test"], 2, "test").drop(columns="label")
    return [
        {name: None if value is None or value != value else value for name, value in row.items()}
        for row in rows.to_dict("records")
    ]


def as_json(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in record.items()
    }


def test_answers_are_those_of_the_model(
    service: Service, folder: Path, records: list[dict[str, Any]]
) -> None:
    predictor = RecordPredictor(load_checkpoint(str(folder / "run")), Decisions(coverage=0.8))
    wanted = predictor.predict(records[:40])
    given = service.predict({"records": [as_json(record) for record in records[:40]]})
    with ThreadPoolExecutor(8) as pool:  # which meet in one batch
        single = list(pool.map(lambda r: service.predict(as_json(r))[0], records[:40]))
    for answers in (given, single):
        for one, other in zip(answers, wanted, strict=True):
            assert {name: one[name] for name in ("id", "prediction", "set")} == {
                name: other[name] for name in ("id", "prediction", "set")
            }
            assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_it_wants_its_token_and_knows_its_paths(service: Service) -> None:
    for token in (None, "wrong", TOKEN + "x"):
        status, text = service.ask("/predict", b"{}", token=token)
        assert (status, "the token is missing or wrong" in text) == (401, True)
        assert service.ask("/metrics", token=token)[0] == 401
    assert service.ask("/health", token=None) == (200, '{"status":"ok"}')
    status, page = service.ask("/", token=None)
    assert status == 200
    assert all(name in page for name in ("photo", "age", "dose", "site", "leg"))
    assert TOKEN not in page
    assert service.ask("/nothing")[0] == 404
    assert service.ask("/predict")[0] == 405
    assert TOKEN not in service.log.read_text()


def test_hostile_requests_neither_break_it_nor_make_it_grow(
    service: Service, records: list[dict[str, Any]]
) -> None:
    good = as_json(records[0])
    wanted = service.predict(good)
    random_bytes = random.Random(0)
    bomb = {"photo": base64.b64encode(b"\x89PNG\r\n\x1a\n" + random_bytes.randbytes(500)).decode()}
    hostile: list[tuple[bytes, dict[str, str]]] = [
        (b"", {}),
        (b"{" * 9000, {}),
        (b"[" * 40_000, {}),
        (b'{"age": 1e999}', {}),
        (b'{"age": NaN, "site": "\\ud800"}', {}),
        (b'{"photo": "/etc/passwd"}', {}),
        (json.dumps(bomb).encode(), {}),
        (json.dumps({"records": [good] * 41}).encode(), {}),
        (json.dumps({"records": [3, None, [], "x", {"a" * 5000: 1}]}).encode(), {}),
        (b"x" * 200_000, {}),
        (random_bytes.randbytes(5000), {"Content_Type": "multipart/form-data; boundary=x"}),
        (b"--x\r\n" * 500, {"Content_Type": "multipart/form-data; boundary=x"}),
        (json.dumps({"site": "y" * 90_000}).encode(), {}),
    ]

    def send(k: int) -> int:
        body, headers = hostile[k % len(hostile)]
        status, text = service.ask("/predict", body, **headers)
        assert status in (200, 400, 413, 415), text
        assert "Traceback" not in text
        assert json.loads(text)
        return status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(100)))
        before = memory_of_replica()
        statuses += pool.map(send, range(HOSTILE))
    assert {200, 400, 413} <= set(statuses)
    assert memory_of_replica() < before + 30_000, "kB"
    again = service.predict(good)
    assert again[0]["probabilities"] == pytest.approx(wanted[0]["probabilities"], abs=1e-5)
    assert service.process.poll() is None
    metrics = service.ask("/metrics")[1]
    counted = re.search(r'longtail_requests_total{status="413"} (\d+)', metrics)
    assert counted is not None
    assert int(counted[1]) >= HOSTILE // len(hostile)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_picture_that_is_dropped_on_the_page_is_predicted(
    service: Service, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    record = next(r for r in records if r["photo"] and r["site"])
    wanted = service.predict(as_json({name: record[name] for name in ("photo", "age", "site")}))[0]
    script = f"""
    const bytes = Uint8Array.from(atob("{base64.b64encode(record["photo"]).decode()}"),
                                  letter => letter.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "photo.png", {{type: "image/png"}}));
    document.querySelector(".drop").dispatchEvent(
      new DragEvent("drop", {{dataTransfer: data, bubbles: true, cancelable: true}}));
    document.querySelector("[name=age]").value = "{record["age"]}";
    document.querySelector("[name=site]").value = "{record["site"]}";
    form.requestSubmit();
    """
    page = service.ask("/", token=None)[1].replace("</body>", f"<script>{script}</script></body>")

    class WithScript(http.server.BaseHTTPRequestHandler):
        """Serves the page with the script of the test, and hands requests on to the service."""

        def do_GET(self) -> None:
            self.answer(200, page, "text/html")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = {"Content_Type": self.headers["Content-Type"]}
            token = self.headers["Authorization"].removeprefix("Bearer ")
            self.answer(*service.ask(self.path, body, token=token, **kind), "application/json")

        def answer(self, status: int, text: str, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WithScript)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/#token={TOKEN}"
    words = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"]
    words += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=30000", "--dump-dom"]
    done = subprocess.run([*words, address], capture_output=True, text=True, timeout=120)
    server.shutdown()
    answer = done.stdout.partition("<output")[2].partition("</output>")[0]
    assert f'class="class">{wanted["prediction"]}<' in answer, done.stdout[-3000:]
    assert f"probability {100 * wanted['probability']:.1f} %" in answer
    assert f"May be: {', '.join(wanted['set'])}" in answer
    assert 'alt="the chosen picture"' in done.stdout


def memory_of_replica() -> int:
    """Returns the resident memory of the copy of the model, in kB."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            status = (folder / "status").read_text()
        except OSError:
            continue
        if name.startswith(b"ray::ServeReplica:longtail:Service"):
            sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))  # type: ignore[index]
    assert len(sizes) == 1, sizes
    return sizes[0]
