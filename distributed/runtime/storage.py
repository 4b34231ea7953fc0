"""Reads and writes files by local path or URI, through the file systems of pyarrow."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from distributed.runtime.errors import OptionError, disk_full
from distributed.runtime.redaction import check_no_credentials, has_credentials

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem


PART_SUFFIX = ".part"  # ends the name of a file that is still being written


def write_file(uri: str, content: bytes, *, shared: bool = False) -> None:
    """Writes a file whole or not at all: under another name first, which is then changed.

    shared: other processes may write the same file at the same time, and one of them wins. In a
    folder that this process holds (lease.py) there is none, and what a killed process left of the
    file is replaced.
    """
    files, path = filesystem(uri)
    unfinished = f"{path}{f'.{uuid.uuid4().hex}' if shared else ''}{PART_SUFFIX}"
    try:
        with naming_full_disk(uri):
            files.create_dir(path.rpartition("/")[0], recursive=True)
            with files.open_output_stream(unfinished) as stream:
                stream.write(content)
            if files.type_name == "local":
                # A power cut must not keep the new name and lose the bytes.
                with open(unfinished, "r+b") as file:
                    os.fsync(file.fileno())
            files.move(unfinished, path)
    except OSError:
        with suppress(OSError):  # its bytes may be what fills the disk
            files.delete_file(unfinished)
        raise


def append_lines(path: str, lines: bytes) -> None:
    """Appends lines to a local file, all of them or none.

    The part of a last line that a kill or a full disk has left is removed first.
    """
    with naming_full_disk(path), open(path, "ab", buffering=0) as file:
        remove_cut_line(path)
        end = os.path.getsize(path)
        try:
            while lines:
                lines = lines[file.write(lines) :]
            os.fsync(file.fileno())
        except OSError:
            os.truncate(path, end)
            raise


def remove_cut_line(path: str) -> None:
    """Removes what follows the last line break of a local file."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def naming_full_disk(location: str) -> Iterator[None]:
    """Adds the location to an error of a full disk inside the block, which rarely names a file."""
    try:
        yield
    except OSError as error:
        if not disk_full(error) or error.filename:
            raise
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), location) from error


def uploader(uri: str) -> Callable[[str, bytes], None] | None:
    """Returns a function that writes a file by its name into the folder at a URI; None if local.

    It writes under the final name at once: a reader that watches the folder, such as TensorBoard,
    would read a file with a temporary name too.
    """
    if not is_uri(uri):
        return None
    files, path = filesystem(uri)

    def upload(name: str, content: bytes) -> None:
        files.create_dir(path, recursive=True)
        with files.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content)

    return upload


def read_file(uri: str) -> bytes:
    """Returns the content of a file."""
    files, path = filesystem(uri)
    with files.open_input_stream(path) as stream:
        return bytes(stream.read())


def read_json_object(uri: str) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Raises FileNotFoundError where there is no file, and DamagedFile, which names it, where it holds
    anything else.
    """
    content = _read_json(uri)
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise DamagedFile(f"{uri} is damaged: it must hold a JSON object; it holds a {kind}")
    return content


def read_json_objects(uri: str) -> list[dict[str, Any]]:
    """Returns the objects in a JSON file that holds a list of them; raises as read_json_object."""
    content = _read_json(uri)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise DamagedFile(f"{uri} is damaged: it must hold a list of JSON objects")
    return content


def _read_json(uri: str) -> object:
    try:
        content: object = json.loads(read_file(uri))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{uri} is damaged: it is no JSON ({error})") from None
    return content


class DamagedFile(ValueError):
    """A file that a command reads back is not as it was written: cut short, or overwritten."""


def remove_folder(uri: str) -> None:
    """Deletes a folder with everything in it; does nothing where there is none."""
    files, path = filesystem(uri)
    if files.get_file_info(path).type.name == "Directory":
        files.delete_dir(path)


def is_uri(location: str) -> bool:
    """Whether the location is a URI such as s3://bucket/folder, else a local path."""
    return "://" in location


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """Returns the file system of a local path or URI, and the path within it.

    Credentials come from the environment only.
    """
    # pyarrow takes a quarter of a second to load, which --help and plain messages do not need.
    from pyarrow import fs

    uri = os.fspath(uri)
    if not is_uri(uri):
        return fs.LocalFileSystem(), os.path.abspath(uri)
    parts = urlsplit(uri)
    is_bucket_with_user = parts.scheme in ("s3", "gs") and ":" in parts.netloc
    if has_credentials(uri) or "@" in parts.netloc or is_bucket_with_user:
        raise ValueError(
            "a URI must hold no credentials: put them in the environment;"
            " got one with a user, a password or a signature"
        )
    if parts.scheme == "s3":
        return fs.S3FileSystem(**_s3_options()), (parts.netloc + parts.path).rstrip("/")
    try:
        files, path = fs.FileSystem.from_uri(uri)
    except Exception as error:
        raise ValueError(
            "a location must be a local path or a file://, s3://, gs:// or hdfs:// URI;"
            f" got {uri!r} ({error})"
        ) from None
    return files, path.rstrip("/") or "/"


def list_folder(files: FileSystem, path: str) -> list[FileInfo]:
    """Returns what is in a folder; nothing where there is none."""
    # Loaded on use, as in `filesystem`.
    from pyarrow.fs import FileSelector

    found: list[FileInfo] = files.get_file_info(FileSelector(path, allow_not_found=True))
    return found


def _s3_options() -> dict[str, str]:
    """Returns the endpoint and the region that the environment names, for pyarrow."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    check_no_credentials("AWS_ENDPOINT_URL", endpoint)
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, str] = {"region": region} if region else {}
    if endpoint:
        address = urlsplit(endpoint if is_uri(endpoint) else f"https://{endpoint}")
        options |= {
            "endpoint_override": address.netloc,
            "scheme": address.scheme,
            "region": region or "us-east-1",
        }
    return options


def join(uri: str, *names: str) -> str:
    """Returns the location of a name below a folder, for paths and URIs alike."""
    return posixpath.join(uri, *names) if is_uri(uri) else os.path.join(uri, *names)


def absolute_location(location: str) -> str:
    """Returns a local path as an absolute one, because workers run in other folders.

    A URI is returned without a slash at its end.
    """
    return location.rstrip("/") if is_uri(location) else str(Path(location).resolve())


@contextmanager
def as_option_error(
    location: str,
    option: str = "out",
    rule: str = "must be a folder or URI that can be read and written",
) -> Iterator[None]:
    """Turns an OSError inside the block into an OptionError about the option and its location."""
    try:
        yield
    except OSError as error:
        if disk_full(error):  # which is no mistake of the user
            raise
        why = error.strerror or " ".join(str(error).split())
        raise OptionError(f"{option} {rule}; got {location!r}: {why}", option) from None
