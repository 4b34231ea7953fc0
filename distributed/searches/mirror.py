"""The folder a search writes to: the experiment itself where it is local, else a copy here that is uploaded to its URI."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distributed.runtime.storage import filesystem, is_uri

# In the order of their upload: a trial that ended without a record is rebuilt from the study, not the other way round.
STATE = ("experiment.json", "study.journal", "records.jsonl")
LOGS = (".journal", ".jsonl")
CURVES = re.compile(
    r"(trials/[^/]+/)?events\.out\.tfevents\.[^/]+"
)  # of the search and of each trial


class Mirror:
    """`folder` is always local; for a URI, `upload` copies what has changed, and the state and curves of an earlier sitting are fetched
    first."""

    def __init__(self, out: str) -> None:
        self.remote = is_uri(out)
        self.folder = Path(tempfile.mkdtemp(prefix="experiment-") if self.remote else out)
        self.sent: dict[Path, tuple[float, int]] = {}
        if self.remote:
            self.files, self.path = filesystem(out)
            for name in STATE:
                self._fetch(name)
            with ThreadPoolExecutor(8) as pool:
                for path in pool.map(self._fetch, self._curves()):
                    self.sent[path] = _stamp(path)

    def _fetch(self, name: str) -> Path:
        path = self.folder / name
        try:
            with self.files.open_input_stream(f"{self.path}/{name}") as stream:
                content = stream.read()
        except FileNotFoundError:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _curves(self) -> list[str]:
        from pyarrow.fs import FileSelector

        there = self.files.get_file_info(
            FileSelector(self.path, recursive=True, allow_not_found=True)
        )
        names = [info.path.removeprefix(self.path).lstrip("/") for info in there]
        return [name for name in names if CURVES.fullmatch(name)]

    def upload(self) -> None:
        if not self.remote:
            return
        found = {
            p
            for p in self.folder.rglob("*")
            if p.is_file() and not p.name.startswith(".") and p.suffix != ".lock"
        }
        state = [self.folder / name for name in STATE if self.folder / name in found]
        now = {path: _stamp(path) for path in [*state, *sorted(found - set(state))]}
        changed = {path: stamp for path, stamp in now.items() if self.sent.get(path) != stamp}
        together = {
            path: _whole(path) for path in state if path in changed
        }  # read at one time: an upload takes seconds
        for path, stamp in changed.items():
            target = self._target(path)
            self.files.create_dir(target.rpartition("/")[0], recursive=True)
            with self.files.open_output_stream(target) as stream:
                stream.write(together[path] if path in together else path.read_bytes())
            self.sent[path] = stamp
        for path in (
            self.sent.keys() - now.keys()
        ):  # curves that were written anew, into another file
            self.files.delete_file(self._target(path))
            del self.sent[path]

    def _target(self, path: Path) -> str:
        return f"{self.path}/{path.relative_to(self.folder).as_posix()}"


def _stamp(path: Path) -> tuple[float, int]:
    return path.stat().st_mtime, path.stat().st_size


def _whole(path: Path) -> bytes:
    """A file's content; of a log, without a line that is just being written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1] if path.suffix in LOGS else content
