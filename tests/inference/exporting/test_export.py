"""Facts about exported files: they equal predict, also where modalities are missing, and load in a
process without this project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from distributed import ExportOptions, export, load
from distributed.inference.exporting.model import input_tensors
from distributed.shards.memory import load_arrays
from tests.mistakes import mistake
from tests.training import small_run

P = [f"p/{name}" for name in small_run.CLASSES]

LOAD_TORCH = """
import sys, torch
inputs = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    outputs = torch.export.load(sys.argv[1]).module()(*inputs)
assert not {"distributed", "model"} & set(sys.modules)
torch.save(list(outputs), sys.argv[3])
"""
LOAD_ONNX = """
import sys, onnxruntime, torch
inputs = torch.load(sys.argv[2], weights_only=True)
session = onnxruntime.InferenceSession(sys.argv[1])
feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), inputs)}
outputs = session.run(None, feed)
assert not {"distributed", "model"} & set(sys.modules)
torch.save([torch.from_numpy(output) for output in outputs], sys.argv[3])
"""


@pytest.fixture(scope="module")
def folder(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(trained_run, tmp_path_factory.mktemp("export"), dirs_exist_ok=True)


def outputs_elsewhere(code: str, file: Path, inputs: Any, folder: Path) -> list[torch.Tensor]:
    """Runs a program in another folder, which does not find this project."""
    torch.save(list(inputs), folder / "inputs.pt")
    words = [str(file), str(folder / "inputs.pt"), str(folder / "outputs.pt")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[torch.Tensor] = torch.load(folder / "outputs.pt", weights_only=True)
    return outputs


def test_rows_of_the_test_split_get_the_numbers_of_predict(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    done = export(ExportOptions(checkpoint=str(folder / "run"), out=str(file), prior="training"))
    assert done.difference < 1e-4
    model = load(folder / "run")
    schema = model.checkpoint.network.schema
    arrays = load_arrays(str(folder / "shards"), "test", schema)
    inputs = [
        torch.from_numpy(arrays["images/photo"]),
        torch.from_numpy(arrays["numbers/table"]),
        torch.from_numpy(arrays["categories/table"]).long(),
        torch.from_numpy(arrays["present"]),
    ]
    assert not arrays["present"].all(), "some rows lack a modality"
    given = outputs_elsewhere(LOAD_TORCH, file, inputs, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = small_run.raw(small_run.SPLITS["test"], 2, "test")
        frame: pd.DataFrame = model.predict(rows, prior="training")
    np.testing.assert_allclose(given[0].numpy(), frame[P], atol=1e-4)
    np.testing.assert_allclose(given[1][:, 0].numpy(), frame["weight/photo"], atol=1e-4)
    assert given[2][:, 0].tolist() == frame["unfamiliar/photo"].tolist()
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["classes"] == list(small_run.CLASSES)
    assert [entry["name"] for entry in described["inputs"]] == [
        "image_photo",
        "numbers_table",
        "categories_table",
        "present",
    ]
    assert described["inputs"][2]["columns"] == {"site": list(small_run.SITES)}


@pytest.mark.slow  # the conversion takes half a minute
def test_onnx_runs_elsewhere_and_is_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "model.onnx"
    done = export(ExportOptions(checkpoint=str(folder / "run"), out=str(file), format="onnx"))
    assert done.difference < 1e-4
    model = load(folder / "run")
    inputs = input_tensors(model.checkpoint.network.schema, 33, seed=4)
    given = outputs_elsewhere(LOAD_ONNX, file, inputs, tmp_path)
    torch_file = tmp_path / "model.pt2"
    export(ExportOptions(checkpoint=str(folder / "run"), out=str(torch_file)))
    wanted = outputs_elsewhere(LOAD_TORCH, torch_file, inputs, tmp_path)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one.float(), other.float(), atol=1e-4, rtol=0)


def test_a_file_of_another_ending_is_refused(folder: Path, tmp_path: Path) -> None:
    with mistake(r"^--out must end with \.onnx for --format onnx; got '.*model\.pt'"):
        export(
            ExportOptions(
                checkpoint=str(folder / "run"), out=str(tmp_path / "model.pt"), format="onnx"
            )
        )
