"""Reads the encoded images that the cells of an image column hold or name."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Mapping
from typing import TypeAlias

from distributed.raw.limits import MAX_PATH, ImageLimits, RowRefused
from distributed.runtime.redaction import redact
from distributed.runtime.storage import filesystem, is_uri

# A cell of an image column: encoded bytes, a path, or a record of both.
ImageCell: TypeAlias = "bytes | str | Mapping[str, ImageCell] | None"


class ImageFolder:
    """Reads the files that an image column names, and no file outside its folder.

    limits: larger files are refused, before they are read.
    """

    def __init__(self, uri: str, limits: ImageLimits) -> None:
        self.limits = limits
        self.uri = uri.removeprefix("file://") or "."
        self.remote = is_uri(self.uri)
        if self.remote:
            self.system, self.root = filesystem(self.uri)
        else:
            self.root = os.path.realpath(self.uri)

    def read(self, cell: ImageCell) -> bytes | None:
        """Returns the encoded image of a cell; None for an empty cell."""
        if isinstance(cell, Mapping):
            return self.read(cell.get("bytes") or cell.get("path"))
        if cell is None or cell == b"" or (isinstance(cell, str) and not cell.strip()):
            return None
        if isinstance(cell, bytes):
            return cell
        if len(cell) > MAX_PATH:
            raise RowRefused(
                f"a cell of {len(cell):,} characters is no path: it may have {MAX_PATH}"
            )
        return self._read_remote(str(cell)) if self.remote else self._read_local(str(cell))

    def _read_local(self, name: str) -> bytes:
        plain = name.removeprefix("file://")
        if is_uri(plain) or "\0" in plain:
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        path = os.path.realpath(os.path.join(self.root, plain))  # symbolic links resolved
        if os.path.commonpath([path, self.root]) != self.root:
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):  # to read a device would never end
                    raise RowRefused(f"not a file: {name!r}")
                self.limits.check_file(status.st_size)
                return file.read()
        except FileNotFoundError:
            raise RowRefused(f"no such file: {name!r}") from None
        except IsADirectoryError:
            raise RowRefused(f"not a file: {name!r}") from None
        except OSError as error:
            raise RowRefused(f"unreadable file: {name!r} ({error.strerror})") from None

    def _read_remote(self, name: str) -> bytes:
        prefix = self.uri.rstrip("/") + "/"
        if is_uri(name) and not name.startswith(prefix):
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        path = posixpath.normpath(posixpath.join(self.root, name.removeprefix(prefix)))
        if not path.startswith(self.root.rstrip("/") + "/"):
            raise RowRefused(f"path leaves the folder of the images: {name!r}")
        try:
            with self.system.open_input_file(path) as file:
                self.limits.check_file(file.size())
                return bytes(file.read())
        except FileNotFoundError:
            raise RowRefused(f"no such file: {name!r}") from None
        except OSError as error:
            raise RowRefused(f"unreadable file: {name!r} ({error_line(error)})") from None


def _open_at_once(path: str, flags: int) -> int:
    """Opens a file, and a pipe without waiting for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def error_line(error: BaseException) -> str:
    """Returns the text of an error on one line, shortened and without secrets."""
    return redact(" ".join(str(error).split()))[:200] or type(error).__name__
