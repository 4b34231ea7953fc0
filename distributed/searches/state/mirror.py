"""The folder that a search writes to, with its copy in a bucket where the experiment is a URI."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyarrow.fs import FileSelector

from distributed.runtime.storage import filesystem, is_uri

# In the order of their upload. A trial that ended without a record is rebuilt from the study, but a
# record without its trial is not: so the study goes first.
STATE_FILES = ("experiment.json", "study.journal", "records.jsonl")
LOG_SUFFIXES = (".journal", ".jsonl")  # files that grow by whole lines
# TensorBoard's files of the search and of each trial.
EVENT_FILES = re.compile(r"(trials/[^/]+/)?events\.out\.tfevents\.[^/]+")
DOWNLOADS = 8  # at a time


class Mirror:
    """Gives a search a local folder, whether its experiment is a local folder or a URI.

    For a URI the state and the TensorBoard files of an earlier process are downloaded first, and
    `upload` copies what has changed. A local experiment is its own folder and uploads nothing.
    """

    def __init__(self, out: str) -> None:
        self.out, self.is_remote = out, is_uri(out)
        self.folder = Path(tempfile.mkdtemp(prefix="experiment-") if self.is_remote else out)
        self.uploaded: dict[Path, tuple[float, int]] = {}  # the version that was uploaded last
        if self.is_remote:
            self.filesystem, self.path = filesystem(out)
            for name in STATE_FILES:
                self._download(name)
            with ThreadPoolExecutor(DOWNLOADS) as pool:
                for path in pool.map(self._download, self._remote_event_files()):
                    self.uploaded[path] = _version(path)

    def _download(self, name: str) -> Path:
        """Copies a file of the bucket, if it has it, and returns its local path."""
        path = self.folder / name
        try:
            with self.filesystem.open_input_stream(f"{self.path}/{name}") as stream:
                content = stream.read()
        except FileNotFoundError:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _remote_event_files(self) -> list[str]:
        selector = FileSelector(self.path, recursive=True, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        names = [info.path.removeprefix(self.path).lstrip("/") for info in infos]
        return [name for name in names if EVENT_FILES.fullmatch(name)]

    def upload(self) -> None:
        """Copies to the bucket what has changed since the last call, the state first."""
        if not self.is_remote:
            return
        files = {
            path
            for path in self.folder.rglob("*")
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".lock"
        }
        state = [self.folder / name for name in STATE_FILES if self.folder / name in files]
        versions = {path: _version(path) for path in [*state, *sorted(files - set(state))]}
        changed = {
            path: version
            for path, version in versions.items()
            if self.uploaded.get(path) != version
        }
        # An upload takes seconds. The state is read before the first one, so that its files agree.
        contents = {path: _whole_lines(path) for path in state if path in changed}
        for path, version in changed.items():
            target = self._target(path)
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(target) as stream:
                stream.write(contents[path] if path in contents else path.read_bytes())
            self.uploaded[path] = version
        # Event files that the board has replaced by another one.
        for path in self.uploaded.keys() - versions.keys():
            self.filesystem.delete_file(self._target(path))
            del self.uploaded[path]

    def _target(self, path: Path) -> str:
        return f"{self.path}/{path.relative_to(self.folder).as_posix()}"


def _version(path: Path) -> tuple[float, int]:
    """Time and size of a file, which change when its content does."""
    return path.stat().st_mtime, path.stat().st_size


def _whole_lines(path: Path) -> bytes:
    """A file's content; of a log, without a line that is just being written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1] if path.suffix in LOG_SUFFIXES else content
