"""Facts about storage: paths and URIs alike, files whole or not at all, no credentials in a URI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distributed.runtime import storage
from distributed.runtime.errors import OptionError


def test_a_file_is_written_and_read_by_path_and_by_uri(tmp_path: Path) -> None:
    place = tmp_path / "new" / "folder" / "file"
    storage.write_file(str(place), b"one")
    assert storage.read_file(f"file://{place}") == b"one"
    storage.write_file(f"file://{place}", b"two")
    assert place.read_bytes() == b"two"
    assert os.listdir(place.parent) == ["file"], "no unfinished file stays"


def test_a_folder_is_removed_with_its_content_or_was_not_there(tmp_path: Path) -> None:
    storage.write_file(str(tmp_path / "a" / "b"), b"")
    storage.remove_folder(str(tmp_path / "a"))
    storage.remove_folder(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def test_a_uri_with_credentials_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold no credentials") as caught:
        storage.filesystem("s3://key:secret@bucket/x")
    assert "secret" not in str(caught.value)


def test_an_unknown_kind_of_location_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"must be a local path or a file://, s3://"):
        storage.filesystem("nothing://x")


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
