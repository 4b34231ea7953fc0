"""Makes the throw-away environments of the peers, with pinned versions, below a folder.

`FOLDER/ludwig` and `FOLDER/autogluon` take 6 GB each, because the releases of torch and torchvision
that they need come with CUDA libraries; all runs on the CPU. An environment that is there already
is left as it is.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks import command

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = ("ludwig", "autogluon")


def main() -> None:
    parser = command.parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for the environments")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ENVIRONMENTS:
        make(folder, name)


def make(folder: Path, name: str) -> None:
    """Installs one environment; the file `installed` in it says that all is there."""
    done = folder / name / "installed"
    if done.exists():
        print(f"{name}: is there")
        return
    tools = folder / "tools"
    uv = tools / "bin" / "uv"
    if not uv.exists():
        # pip takes minutes to resolve these, and may prefer a CPU build of torch that lies on the
        # machine, beside which torchvision cannot be imported.
        subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
        subprocess.run([str(tools / "bin" / "pip"), "install", "-q", "uv==0.13.9"], check=True)
    place = str(folder / name)
    subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, place], check=True)
    python = str(folder / name / "bin" / "python")
    requirements = str(HERE / f"requirements-{name}.txt")
    install = [str(uv), "pip", "install", "-q", "--python", python, "-r", requirements]
    subprocess.run(install, check=True)
    done.touch()
    print(f"{name}: installed")


if __name__ == "__main__":
    main()
