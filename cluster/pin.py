"""Writes cluster/requirements.txt: each package of the image, its version and its wheel's SHA-256.

    python cluster/pin.py                              # after a change of constraints.txt
    python cluster/pin.py --extra-index-url URL        # further arguments go to pip

The image installs exactly these files (pip --require-hashes), so run it where the wheels are those
of the image: Linux on x86-64 with the Python of cluster/Dockerfile. Versions come from
constraints.txt; pip chooses those of the packages that are not named there.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "cluster" / "requirements.txt"
EXTRAS = ("serve",)  # of pyproject.toml: kuberay/rayservice.yaml runs the service
BESIDE = ("boto3",)  # for the autoscaler of `ray up` on AWS
# Of pip's environment only these count: no folder of wheels of this machine, no configuration file.
KEPT_VARIABLES = ("PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT")
HEAD = """\
# Made by cluster/pin.py, for Linux on x86-64 with Python {python}. Not to be edited by hand.
"""


def image_python() -> str:
    """Returns the Python of the image, such as 3.11."""
    found = re.search(r"^FROM python:(\d+\.\d+)", (ROOT / "cluster/Dockerfile").read_text(), re.M)
    assert found
    return found[1]


def check_machine(python: str) -> None:
    """Raises ValueError where pip would choose other wheels than those of the image."""
    here = (platform.system(), platform.machine(), ".".join(platform.python_version_tuple()[:2]))
    if here != ("Linux", "x86_64", python):
        raise ValueError(
            f"pin.py must run on Linux x86_64 with Python {python}; got {' '.join(here)}"
        )


def requirements() -> list[str]:
    """Returns what the image installs, as pyproject.toml declares it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [
        *project["dependencies"],
        *(name for extra in EXTRAS for name in extras[extra]),
        *BESIDE,
    ]


def resolve(wanted: Sequence[str], pip_arguments: Sequence[str]) -> list[Mapping[str, Any]]:
    """Returns pip's report on every package that it would install, dependencies included."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PIP_") or name in KEPT_VARIABLES
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--only-binary=:all:", "--report", str(report)),
                *("--constraint", str(ROOT / "constraints.txt"), *pip_arguments, *wanted),
            ],
            env={**environment, "PIP_CONFIG_FILE": os.devnull},
            check=True,
        )
        packages: list[Mapping[str, Any]] = json.loads(report.read_text())["install"]
    return packages


def lines(packages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a line of the requirements for each package, in the order of their names."""
    pinned = {}
    for package in packages:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        digest = package["download_info"]["archive_info"]["hashes"]["sha256"]
        pinned[name] = f"{name}=={package['metadata']['version']} --hash=sha256:{digest}"
    return [pinned[name] for name in sorted(pinned)]


def main(pip_arguments: Sequence[str]) -> int:
    python = image_python()
    try:
        check_machine(python)
        packages = resolve(requirements(), pip_arguments)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    FILE.write_text(HEAD.format(python=python) + "\n".join(lines(packages)) + "\n")
    print(f"{len(packages)} packages in {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
