"""Import hook and line tracer, in the process of the tests and in those that the tests start.

Python loads site/sitecustomize.py at its start where PYTHONPATH names that folder; it calls
`install`. Standard library only: a command that a test starts imports this before anything else.
"""

from __future__ import annotations

import atexit
import json
import marshal
import os
import sys
import threading
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TASK = "LONGTAIL_MUTATION"  # the environment variable that tells a started process what to do

Line = tuple[str, int]


class MutantFinder:
    """Gives a mutant's code when its module is imported."""

    def __init__(self, file: str, code: CodeType) -> None:
        self.path, self.code = str(ROOT / file), code
        self.module = ".".join(Path(file).with_suffix("").parts)

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.module:
            return None
        loader = SourceFileLoader(name, self.path)
        loader.get_code = lambda _: self.code  # type: ignore[method-assign]
        return spec_from_file_location(name, self.path, loader=loader)


class Tracer:
    """Notes the lines of the given files that run in any thread of this process."""

    def __init__(self, files: list[str]) -> None:
        self.names = {str(ROOT / file): file for file in files}
        self.lines: set[Line] = set()

    def start(self) -> None:
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def stop(self) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        name = self.names.get(frame.f_code.co_filename)
        if name is None or frame.f_code.co_name == "<module>":
            return None

        def line(frame: FrameType, event: str, argument: object) -> Any:
            self.lines.add((name, frame.f_lineno))
            return line

        return line


def set_task(**task: object) -> None:
    """Tells the processes that this one starts what to do; see `install`."""
    os.environ[TASK] = json.dumps(task)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent / "site")


def install() -> None:
    """Does what the environment asks for, where it does.

    file, code: the mutated file, and the file that holds its code. trace, files: the folder for
    lists of the lines that ran, and the files whose lines count.
    """
    task = json.loads(os.environ.get(TASK, "{}"))
    if "code" in task:
        code = marshal.loads(Path(task["code"]).read_bytes())
        sys.meta_path.insert(0, MutantFinder(task["file"], code))
    if "trace" in task:
        tracer = Tracer(task["files"])
        tracer.start()
        atexit.register(_write_lines, tracer, Path(task["trace"]))
        end = os._exit

        def end_at_once(code: int) -> None:
            _write_lines(tracer, Path(task["trace"]))
            end(code)

        os._exit = end_at_once  # type: ignore[assignment]  # it would skip what atexit runs


def _write_lines(tracer: Tracer, folder: Path) -> None:
    tracer.stop()
    (folder / f"{os.getpid()}.json").write_text(json.dumps(sorted(tracer.lines)))


def read_lines(folder: Path) -> set[Line]:
    """Returns the lines that ended processes noted, and forgets them."""
    lines: set[Line] = set()
    for file in folder.glob("*.json"):
        lines |= {(name, number) for name, number in json.loads(file.read_text())}
        file.unlink()
    return lines
