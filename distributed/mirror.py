"""The folder a search writes to: the experiment itself where it is local, else a copy here that is uploaded to its URI."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distributed.shards import filesystem, is_uri

STATE = ("experiment.json", "records.jsonl", "study.journal")


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
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            stamp = (path.stat().st_mtime, path.stat().st_size)
            if self.sent.get(path) == stamp or path.suffix == ".lock":
                continue
            target = f"{self.path}/{path.relative_to(self.folder).as_posix()}"
            self.files.create_dir(target.rpartition("/")[0], recursive=True)
            with self.files.open_output_stream(target) as stream:
                stream.write(path.read_bytes())
            self.sent[path] = stamp
