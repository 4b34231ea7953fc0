"""The folder a search writes to: the experiment itself where it is local, else a copy here that is uploaded to its URI."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distributed.shards import filesystem, is_uri

# In the order of their upload: a trial that ended without a record is rebuilt from the study, not the other way round.
STATE = ("experiment.json", "study.journal", "records.jsonl")
LOGS = (".journal", ".jsonl")


class Mirror:
    """`folder` is always local; for a URI, `upload` copies what has changed, and the state of an earlier sitting is fetched first."""

    def __init__(self, out: str) -> None:
        self.remote = is_uri(out)
        self.folder = Path(tempfile.mkdtemp(prefix="experiment-") if self.remote else out)
        self.sent: dict[Path, tuple[float, int]] = {}
        if self.remote:
            self.files, self.path = filesystem(out)
            for name in STATE:
                self._fetch(name)

    def _fetch(self, name: str) -> None:
        try:
            with self.files.open_input_stream(f"{self.path}/{name}") as stream:
                (self.folder / name).write_bytes(stream.read())
        except FileNotFoundError:
            pass

    def upload(self) -> None:
        if not self.remote:
            return
        found = {p for p in self.folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.suffix != ".lock"}
        state = [self.folder / name for name in STATE if self.folder / name in found]
        now = {path: (path.stat().st_mtime, path.stat().st_size) for path in [*state, *sorted(found - set(state))]}
        changed = {path: stamp for path, stamp in now.items() if self.sent.get(path) != stamp}
        together = {path: _whole(path) for path in state if path in changed}  # read at one time: an upload takes seconds
        for path, stamp in changed.items():
            target = f"{self.path}/{path.relative_to(self.folder).as_posix()}"
            self.files.create_dir(target.rpartition("/")[0], recursive=True)
            with self.files.open_output_stream(target) as stream:
                stream.write(together[path] if path in together else path.read_bytes())
            self.sent[path] = stamp


def _whole(path: Path) -> bytes:
    """A file's content; of a log, without a line that is just being written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1] if path.suffix in LOGS else content
