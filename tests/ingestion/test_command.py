"""The help of ingest.py: complete, and quick to come."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT, run_command


def test_help_names_the_options_without_importing_the_heavy_libraries() -> None:
    done = run_command("distributed/ingest.py", "--help")
    assert done.returncode == 0
    for option in (
        "--table",
        "--label",
        "--image",
        "--group",
        "--split-column",
        "--image-size",
        "--out",
        "--modality",
        "--fit",
        "--window",
    ):
        assert option in done.stdout
    heavy = "{'ray', 'torch', 'pandas', 'pyarrow'}"
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import distributed.ingest\n"
    code += f"print(not {heavy} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "True\n"
    )
