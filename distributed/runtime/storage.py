"""TODO"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


PART_SUFFIX = ".part"  # ends the name of a file that is being written


def write_file(uri: str, content: bytes) -> None:
    """Writes a file whole or not at all."""
    from pyarrow.fs import LocalFileSystem

    files, path = filesystem(uri)
    files.create_dir(path.rpartition("/")[0], recursive=True)
    with files.open_output_stream(f"{path}{PART_SUFFIX}") as stream:
        stream.write(content)
    if isinstance(
        files, LocalFileSystem
    ):  # a power cut must not keep the new name and lose the bytes
        with open(f"{path}{PART_SUFFIX}", "r+b") as file:
            os.fsync(file.fileno())
    files.move(f"{path}{PART_SUFFIX}", path)


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


def remove_folder(uri: str) -> None:
    """Deletes a folder with everything in it, if it is there."""

    files, path = filesystem(uri)
    if files.get_file_info(path).type.name == "Directory":
        files.delete_dir(path)


def read_file(uri: str) -> bytes:

    files, path = filesystem(uri)
    with files.open_input_stream(path) as stream:
        return bytes(stream.read())


def is_uri(location: str) -> bool:
    return "://" in location


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """The file system of a local path or a URI, and the path in it. Credentials come from the environment only."""
    from pyarrow import fs

    uri = os.fspath(uri)
    if not is_uri(uri):
        return fs.LocalFileSystem(), os.path.abspath(uri)
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise ValueError(
            "a URI must hold no credentials: put them in the environment; got one with '@' before the host"
        )
    if parts.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        options: dict[str, Any] = {"region": region} if region else {}
        if endpoint:
            address = urlsplit(endpoint if is_uri(endpoint) else f"https://{endpoint}")
            options.update(
                endpoint_override=address.netloc,
                scheme=address.scheme,
                region=region or "us-east-1",
            )
        return fs.S3FileSystem(**options), (parts.netloc + parts.path).rstrip("/")
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except Exception as error:
        raise ValueError(
            f"a location must be a local path or a file://, s3://, gs:// or hdfs:// URI; got {uri!r} ({error})"
        ) from None
    return system, path.rstrip("/") or "/"


def join(uri: str, *names: str) -> str:
    """A name below a folder, for paths and URIs alike."""
    return posixpath.join(uri, *names) if is_uri(uri) else os.path.join(uri, *names)


def absolute_location(place: str) -> str:
    """A local path made absolute, since workers run in other folders; a URI as it is."""
    return place.rstrip("/") if "://" in place else str(Path(place).resolve())


@contextmanager
def writable(
    out: str, rule: str = "--out must be a folder or URI that can be read and written"
) -> Iterator[None]:
    """Says in one line that this is no place for results."""
    try:
        yield
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise ValueError(f"{rule}; got {out!r}: {why}") from None
