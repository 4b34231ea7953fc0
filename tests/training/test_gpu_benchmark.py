"""benchmarks/gpu.py ends in its time on any device, and its steps make nobody wait."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import Tensor

from benchmarks import gpu
from benchmarks.timed_process import run_until
from distributed.training.optimisation.step import train_step
from tests.conftest import ROOT
from tests.training.stand_in_gpu import DEVICE, StandInGpu


@pytest.mark.parametrize("encoder", gpu.ENCODERS)
def test_a_step_makes_nobody_wait(encoder: str) -> None:
    args = argparse.Namespace(size=32, batch=4, steps=2)
    stand_in = StandInGpu()
    with stand_in:
        run, source = gpu.begin(args, gpu.settings_of(args, encoder), DEVICE)
        with stand_in.watching():
            for batch in source.batches(0):
                train_step(run, [batch.apply(Tensor.pin_memory).to(DEVICE)])
    assert run.step == 2
    assert {p.device for p in run.network.parameters()} == {DEVICE}


def test_a_process_is_ended_with_those_that_it_started(tmp_path: Path) -> None:
    script, mark, begun_mark = tmp_path / "part.py", tmp_path / "mark", tmp_path / "begun"
    script.write_text(
        "import json, subprocess, sys, time\n"
        "kind = sys.argv[1]\n"
        "if kind == 'sleeps':\n"
        f"    subprocess.Popen(['sh', '-c', 'touch {begun_mark}; sleep 6; touch {mark}'])\n"
        "    time.sleep(60)\n"
        "if kind == 'fails':\n"
        "    sys.exit('no such device')\n"
        "print('a note')\n"
        "if kind != 'says nothing':\n"
        "    print(json.dumps({'rows': 3}))\n"
    )
    begun = time.time()
    assert run_until([str(script), "prints"], begun + 60, 2) == [{"rows": 3}] * 2
    assert run_until([str(script), "fails"], begun + 60) == [{"error": "no such device"}]
    (silent,) = run_until([str(script), "says nothing"], begun + 60)
    assert set(silent) == {"error"}
    begun = time.time()
    (ended,) = run_until([str(script), "sleeps"], begun + 3)
    assert set(ended) == {"error"}
    assert time.time() - begun < 6
    time.sleep(max(0.0, begun + 10 - time.time()))
    assert begun_mark.exists()
    assert not mark.exists()


def test_one_line_is_printed_when_the_time_is_over() -> None:
    words = ["--size", "16", "--batch", "4", "--steps", "2", "--pairs", "1", "--seconds", "7"]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert time.time() - begun < 60  # it loads torch before its time begins
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert set(result["shared"]) == {"1", "2", "4"}
    for encoder in gpu.ENCODERS:
        assert "compiled" in result[encoder]
        assert {"ratio", "error"} & set(result[encoder])
