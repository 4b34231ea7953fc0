"""What the README and the documents show is run, or at least exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "cluster").glob("*.md")]
)
SETTINGS = re.compile(r"--set ((?:[a-z_]+(?:\.[a-z_]+)?=\S+ ?)+)")


def python_blocks(name: str) -> list[str]:
    """The blocks of Python in a document."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def write_table(folder: Path, rows: int, table: str, images: str) -> None:
    """Records of two classes that both modalities tell apart: bright or dark pictures, old or young
    patients."""
    rng = np.random.default_rng(rows)
    (folder / images).mkdir()
    rare = np.arange(rows) % 8 == 0
    for i in range(rows):
        pixels = rng.integers(0, 90, (16, 16)) + (160 if rare[i] else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / images / f"{i}.png")
    frame = pd.DataFrame(
        {
            "patient": [f"p{i // 2}" for i in range(rows)],
            "photo": [f"{i}.png" for i in range(rows)],
            "age": np.where(rare, 80.0, 40.0) + rng.normal(0, 3, rows),
            "diagnosis": np.where(rare, "rare", "frequent"),
        }
    )
    frame.to_csv(folder / table, index=False)


def test_the_six_lines_of_python_run_as_they_stand(tmp_path: Path) -> None:
    write_table(tmp_path, 160, "records.csv", "images")
    write_table(tmp_path, 24, "new.csv", "new_images")
    code = next(block for block in python_blocks("README.md") if "load(" in block)
    check = "\nprint((predictions['prediction'] == pandas.read_csv('new.csv')['diagnosis']).mean())"
    done = run_python(code + check, tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) > 0.9


def test_the_network_is_built_and_trained_on_tensors_as_it_stands(tmp_path: Path) -> None:
    code = next(block for block in python_blocks("docs/method.md") if "Network(" in block)
    statements = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.stmt)]
    assert len(statements) <= 12  # two imports, ten lines
    done = run_python("import sys; sys.modules['ray'] = None\n" + code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_readme_fits_its_length() -> None:
    assert len(README.splitlines()) <= 140
    assert "@@" not in README  # a placeholder


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (path.parent / target).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_name_scripts_and_settings_that_exist(path: Path) -> None:
    from distributed.config import setting_fields

    text = path.read_text(encoding="utf-8")
    scripts = re.findall(r"python ((?:distributed|benchmarks|cluster)/[\w/]+\.py)", text)
    assert not [script for script in scripts if not (ROOT / script).is_file()]
    names = [pair.split("=")[0] for group in SETTINGS.findall(text) for pair in group.split()]
    assert not [name for name in names if name not in setting_fields()]
