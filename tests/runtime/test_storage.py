"""Facts about storage: paths and URIs alike, files whole or not at all, no credentials in a URI."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

from distributed.runtime import storage
from distributed.runtime.errors import OptionError


def test_a_file_is_written_and_read_by_path_and_by_uri(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder" / "file"
    storage.write_file(str(place), b"one")
    assert storage.read_file(f"file://{place}") == b"one"
    storage.write_file(f"file://{place}", b"two")
    assert place.read_bytes() == b"two"
    assert os.listdir(place.parent) == ["file"], "no unfinished file stays"


def test_a_file_has_its_name_once_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, int, list[str]]] = []

    def watched(descriptor: int) -> None:
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((file.name, file.stat().st_size, sorted(f.name for f in tmp_path.iterdir())))

    monkeypatch.setattr(os, "fsync", watched)
    storage.write_file(str(tmp_path / "f"), b"12345")
    assert synced == [("f.part", 5, ["f.part"])]
    assert (tmp_path / "f").read_bytes() == b"12345"


def test_two_processes_may_write_one_file_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, others = str(tmp_path / "f"), [b"second", b"third"]

    def meanwhile(descriptor: int) -> None:
        if others:
            storage.write_file(place, others.pop(), shared=True)

    monkeypatch.setattr(os, "fsync", meanwhile)
    storage.write_file(place, b"first", shared=True)
    assert not others
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {"f": b"first"}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to make files larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "file"
    storage.write_file(str(place), b"old")
    with pytest.raises(OSError) as caught, files_of_at_most(1000):
        storage.write_file(str(place), bytes(5000))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(place))
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {"file": b"old"}


def test_lines_that_do_not_fit_leave_the_file_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "log"
    place.write_bytes(b"first\nsecond\ncut")
    with pytest.raises(OSError) as caught, files_of_at_most(40):
        storage.append_lines(str(place), b"x" * 50 + b"\n")
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(place))
    assert place.read_bytes() == b"first\nsecond\n"
    storage.append_lines(str(place), b"third\nfourth\n")
    assert place.read_bytes() == b"first\nsecond\nthird\nfourth\n"


def test_appended_lines_are_on_the_disk_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    storage.append_lines(str(tmp_path / "log"), b"line\n")
    assert synced == [5]


def test_only_a_full_disk_gets_the_name_of_a_place() -> None:
    for error, name in (
        (OSError(errno.ENOSPC, "full"), "here"),
        (OSError(errno.ENOSPC, "full", "there"), "there"),
        (OSError(f"Arrow: {os.strerror(errno.ENOSPC)}"), "here"),
        (OSError(errno.EACCES, "refused"), None),
    ):
        with pytest.raises(OSError) as caught, storage.naming_full_disk("here"):
            raise error
        assert caught.value.filename == name
        if name == "here":
            assert caught.value.errno == errno.ENOSPC
            assert caught.value.strerror == os.strerror(errno.ENOSPC)


@pytest.mark.parametrize(
    ("content", "one", "several"),
    [
        (b'{"a": 1}', {"a": 1}, "must hold a list of JSON objects"),
        (b'[{"a": 1}]', "it must hold a JSON object; it holds a list", [{"a": 1}]),
        (b"[]", "it must hold a JSON object; it holds a list", []),
        (b"[1]", "it must hold a JSON object; it holds a list", "must hold a list of JSON objects"),
        (b"{", "it is no JSON", "it is no JSON"),
        (b"\xff", "it is no JSON", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON", "it is no JSON"),
    ],
)
def test_json_files_hold_what_they_should_or_are_named(
    tmp_path: Path, content: bytes, one: object, several: object
) -> None:
    place = tmp_path / "file.json"
    place.write_bytes(content)
    for read, expected in ((storage.read_json_object, one), (storage.read_json_objects, several)):
        if isinstance(expected, str):
            with pytest.raises(storage.DamagedFile) as caught:
                read(str(place))
            assert str(caught.value).startswith(f"{place} is damaged: ")
            assert expected in str(caught.value)
        else:
            assert read(str(place)) == expected
    with pytest.raises(FileNotFoundError):
        storage.read_json_object(str(tmp_path / "nowhere"))


def test_a_full_disk_is_no_mistake_in_an_option() -> None:
    with pytest.raises(OSError) as caught, storage.as_option_error("out"):
        raise OSError(errno.ENOSPC, "full")
    assert not isinstance(caught.value, OptionError)


def test_a_folder_is_removed_with_its_content_or_was_not_there(tmp_path: Path) -> None:
    storage.write_file(str(tmp_path / "a" / "b"), b"")
    storage.remove_folder(str(tmp_path / "a"))
    storage.remove_folder(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    storage.write_file(str(tmp_path / "b"), b"file")
    storage.remove_folder(str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"file", "a file is no folder"


def test_files_go_into_the_folder_at_a_uri_under_their_names(tmp_path: Path) -> None:
    assert storage.uploader(str(tmp_path)) is None
    upload = storage.uploader(f"file://{tmp_path}/new/folder/")
    assert upload is not None
    upload("events", b"one")
    upload("events", b"two")
    assert [f.name for f in (tmp_path / "new" / "folder").iterdir()] == ["events"]
    assert (tmp_path / "new" / "folder" / "events").read_bytes() == b"two"


def test_a_uri_with_credentials_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold no credentials") as caught:
        storage.filesystem("s3://key:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_of_location_is_one_clear_error() -> None:
    with pytest.raises(
        ValueError, match=r"must be a local path or a file://, s3://.*'nothing://x'"
    ):
        storage.filesystem("nothing://x")


def test_a_path_may_be_a_path_object_and_a_uri_may_end_with_a_slash(tmp_path: Path) -> None:
    for location in (tmp_path, f"{tmp_path}/", f"file://{tmp_path}", f"file://{tmp_path}/"):
        files, path = storage.filesystem(location)  # type: ignore[arg-type]
        assert (files.type_name, path) == ("local", str(tmp_path))
    assert storage.filesystem("file:///")[1] == "/"


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ({}, {}),
        ({"AWS_REGION": "eu-1", "AWS_DEFAULT_REGION": "eu-2"}, {"region": "eu-1"}),
        ({"AWS_DEFAULT_REGION": "eu-2"}, {"region": "eu-2"}),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            {"endpoint_override": "127.0.0.1:9", "scheme": "http", "region": "us-east-1"},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "b:1", "AWS_REGION": "eu-1"},
            {"endpoint_override": "b:1", "scheme": "https", "region": "eu-1"},
        ),
    ],
)
def test_the_environment_names_the_object_store(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], options: dict[str, str]
) -> None:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    files, path = storage.filesystem("s3://bucket/a/b/")
    assert path == "bucket/a/b"
    assert files == fs.S3FileSystem(**options)


def test_locations_are_joined_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute_location("run") == str(tmp_path / "run")
    assert storage.absolute_location("s3://bucket/run/") == "s3://bucket/run"
    assert storage.join("s3://bucket/run", "a", "b") == "s3://bucket/run/a/b"
    assert storage.join("run", "a") == os.path.join("run", "a")


def test_a_place_that_cannot_be_written_is_a_mistake_in_its_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "x")
    with (
        pytest.raises(OptionError, match=r"^out must be a folder or URI .*; got '.*/file/x': "),
        storage.as_option_error(out),
    ):
        storage.write_file(out, b"")


def test_an_error_of_arrow_has_its_text_in_the_mistake() -> None:
    with (
        pytest.raises(OptionError) as caught,
        storage.as_option_error("s3://b", "shards", "must be there"),
    ):
        raise OSError("no\n  answer")
    assert caught.value.args == ("shards must be there; got 's3://b': no answer", "shards")


def test_an_endpoint_with_credentials_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://me:pw@host")
    with pytest.raises(ValueError, match=r"^AWS_ENDPOINT_URL must hold no credentials: .*\*\*\*"):
        storage.filesystem("s3://bucket")
