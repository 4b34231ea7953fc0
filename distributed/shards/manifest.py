"""The manifest of a SHARDS folder, on a local disk or an object store.

schema.json stands beside train/, val/ and test/ with their Parquet parts. It is written last, so
a folder that has one is whole.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyarrow.fs import FileSelector, FileType

from distributed.runtime.errors import UnreadableData
from distributed.runtime.storage import filesystem, join
from distributed.shards.checksums import PartRecord, record_key
from distributed.shards.layout import MANIFEST, SPLITS, VERSION
from model.schema import Schema, from_dict, to_dict

CHECKSUM = "checksum"  # the key of the digest of all else in schema.json


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of schema.json.

    rows: of every split.
    prepare: all that is needed to prepare new raw tables in the same way.
    content: a digest of all parts; empty in shards that are older than it.
    parts: size and checksums of every part file, by record_key; empty in shards that are older.
    """

    schema: Schema
    rows: dict[str, int]
    prepare: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    content: str = ""
    parts: Mapping[str, PartRecord] = field(default_factory=dict)


def read_manifest(uri: str) -> Manifest:
    """Reads the manifest of a SHARDS folder.

    Raises UnreadableData if it is missing, damaged or too new.
    """
    text = _read_text(uri)
    try:
        plain = json.loads(text)
        version = int(plain["version"])
    except (ValueError, KeyError, TypeError):
        raise UnreadableData(
            f"{join(uri, MANIFEST)} is not the schema of a SHARDS folder: make one with ingest.py"
        ) from None
    if version > VERSION:
        raise UnreadableData(
            f"{uri} has shards of version {version}; this code reads up to version {VERSION}: "
            "update it or ingest again"
        )
    try:
        _check_checksum(plain)
        schema = from_dict(plain["schema"])
        rows = {split: int(plain["rows"][split]) for split in SPLITS}
        parts = {name: PartRecord(*record) for name, record in plain.get("parts", {}).items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableData(
            f"{join(uri, MANIFEST)} is damaged ({type(error).__name__}: {error}): ingest again"
        ) from None
    return Manifest(
        schema=schema,
        rows=rows,
        prepare=plain.get("prepare", {}),
        version=version,
        content=str(plain.get("content", "")),
        parts=parts,
    )


def _check_checksum(plain: Mapping[str, Any]) -> None:
    """Raises ValueError where the content is not as it was written.

    Shards that are older than the checksums have none.
    """
    kept = plain.get(CHECKSUM)
    if (kept is not None or "parts" in plain) and kept != _checksum(plain):
        raise ValueError("its content is not as it was written")


def _checksum(plain: Mapping[str, Any]) -> str:
    """Returns a digest of the manifest's content but for the digest itself."""
    content = {key: value for key, value in plain.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def has_manifest(uri: str) -> bool:
    """Whether a place is a SHARDS folder."""
    system, path = filesystem(uri)
    try:
        return bool(system.get_file_info(posixpath.join(path, MANIFEST)).type == FileType.File)
    except OSError as error:
        raise ValueError(f"cannot read {uri!r}: {error}") from None


def _read_text(uri: str) -> str:
    """Returns the text of schema.json; "" where it is no text at all."""
    system, path = filesystem(uri)
    try:
        with system.open_input_stream(posixpath.join(path, MANIFEST)) as stream:
            return bytes(stream.read()).decode()
    except (FileNotFoundError, NotADirectoryError):
        if system.get_file_info(path).type == FileType.NotFound:
            raise UnreadableData(f"a SHARDS folder must exist; got {uri!r}") from None
        raise UnreadableData(
            f"a SHARDS folder must hold {MANIFEST} (written last, so a broken ingest has none); "
            f"got {uri!r}; ingest.py makes one of a table"
        ) from None
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise UnreadableData(f"cannot read {join(uri, MANIFEST)}: {error}") from None


def write_manifest(manifest: Manifest, uri: str) -> None:
    """Writes schema.json, which completes a SHARDS folder."""
    system, path = filesystem(uri)
    plain = {
        "version": manifest.version,
        **vars(manifest),
        "schema": to_dict(manifest.schema),
    }
    # Of what a reader will find: JSON turns tuples into lists and keys into text.
    plain[CHECKSUM] = _checksum(json.loads(json.dumps(plain)))
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with system.open_output_stream(posixpath.join(path, MANIFEST)) as stream:
        stream.write(text.encode())


def shards_digest(uri: str, manifest: Manifest) -> str:
    """Returns a content digest: equal only for folders with the same rows.

    For older shards, whose manifest has no digest of the parts, the sizes of the parts count.
    """
    content: str | list[tuple[str, int]] = manifest.content
    if not content:
        system, root = filesystem(uri)
        paths = [path for split in SPLITS for path in part_files(uri, split)]
        infos = system.get_file_info(paths) if paths else []
        content = [(info.path.removeprefix(root), info.size) for info in infos]
    plain = json.dumps(
        {"schema": to_dict(manifest.schema), "rows": manifest.rows, "content": content},
        sort_keys=True,
    )
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def part_files(uri: str, split: str) -> list[str]:
    """Returns the paths of a split's Parquet parts, in order, in the folder's file system."""
    if split not in SPLITS:
        raise ValueError(f"a split must be one of {', '.join(SPLITS)}; got {split!r}")
    system, path = filesystem(uri)
    infos = system.get_file_info(FileSelector(posixpath.join(path, split), allow_not_found=True))
    return sorted(
        info.path for info in infos if info.type == FileType.File and info.path.endswith(".parquet")
    )


def checked_parts(uri: str, split: str, manifest: Manifest) -> dict[str, PartRecord | None]:
    """Returns the paths of a split's parts, in order, with what schema.json says of each.

    That is None in shards that are older than the checksums. A part that is missing is an
    UnreadableData.
    """
    paths = part_files(uri, split)
    if not manifest.parts:
        return dict.fromkeys(paths)
    by_key = {record_key(path): path for path in paths}
    expected = sorted(key for key in manifest.parts if key.startswith(f"{split}/"))
    missing = [key for key in expected if key not in by_key]
    if missing:
        others = f" and {len(missing) - 1} other parts" if len(missing) > 1 else ""
        raise UnreadableData(
            f"shards must have all parts that schema.json lists; missing: {missing[0]}{others} "
            f"of {uri!r}; copy them again, or ingest again"
        )
    return {by_key[key]: manifest.parts[key] for key in expected}
