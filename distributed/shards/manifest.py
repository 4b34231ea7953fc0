"""The SHARDS folder: schema.json beside train/, val/ and test/ Parquet parts, on a local disk or an object store."""

from __future__ import annotations

import hashlib
import json
import posixpath
from dataclasses import dataclass, field
from typing import Any

from distributed.runtime.storage import filesystem, join
from model import schema as schemas
from model.schema import Schema

SPLITS = ("train", "val", "test")
VERSION = 1
MANIFEST = "schema.json"
REJECTED = "rejected.parquet"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What schema.json says. `prepare` holds all that is needed to prepare new raw tables in the same way; `content` is a digest of all
    parts (empty in shards that are older than it)."""

    schema: Schema
    rows: dict[str, int]
    prepare: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION
    content: str = ""


def read_manifest(uri: str) -> Manifest:
    """The manifest of a SHARDS folder; one clear error where there is none."""
    text = _read_text(uri)
    try:
        plain = json.loads(text)
        version = int(plain["version"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{join(uri, MANIFEST)} is not the schema of a SHARDS folder: make one with distributed/ingest.py"
        ) from None
    if version > VERSION:
        raise ValueError(
            f"{uri} has shards of version {version}; this code reads up to version {VERSION}: update it or ingest again"
        )
    try:
        schema = schemas.from_dict(plain["schema"])
        rows = {split: int(plain["rows"][split]) for split in SPLITS}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{join(uri, MANIFEST)} is damaged ({type(error).__name__}: {error}): ingest again"
        ) from None
    return Manifest(
        schema=schema,
        rows=rows,
        prepare=plain.get("prepare", {}),
        version=version,
        content=str(plain.get("content", "")),
    )


def _read_text(uri: str) -> str:
    system, path = filesystem(uri)
    try:
        with system.open_input_stream(posixpath.join(path, MANIFEST)) as stream:
            return bytes(stream.read()).decode()
    except (FileNotFoundError, NotADirectoryError):
        from pyarrow.fs import FileType

        kind = system.get_file_info(path).type
        if kind == FileType.NotFound:
            raise ValueError(f"a SHARDS folder must exist; got {uri!r}") from None
        raise ValueError(
            f"a SHARDS folder must hold {MANIFEST} (written last, so a broken ingest has none); got {uri!r}"
        ) from None
    except UnicodeDecodeError:
        return ""
    except OSError as error:
        raise ValueError(f"cannot read {join(uri, MANIFEST)}: {error}") from None


def write_manifest(manifest: Manifest, uri: str) -> None:
    """Writes schema.json; the last step of making a SHARDS folder."""
    system, path = filesystem(uri)
    plain = {
        "version": manifest.version,
        **vars(manifest),
        "schema": schemas.to_dict(manifest.schema),
    }
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with system.open_output_stream(posixpath.join(path, MANIFEST)) as stream:
        stream.write(text.encode())


def shards_digest(uri: str, manifest: Manifest) -> str:
    """Names these rows: shards of other training, validation or test rows have another one. Older shards go by their parts' sizes."""
    content = manifest.content
    if not content:
        system, root = filesystem(uri)
        paths = [path for split in SPLITS for path in part_files(uri, split)]
        content = [
            (info.path.removeprefix(root), info.size)
            for info in (system.get_file_info(paths) if paths else [])
        ]
    plain = json.dumps(
        {"schema": schemas.to_dict(manifest.schema), "rows": manifest.rows, "content": content},
        sort_keys=True,
    )
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def part_files(uri: str, split: str) -> list[str]:
    """Paths of a split's Parquet parts, in order, for the file system of `filesystem(uri)`."""
    from pyarrow.fs import FileSelector, FileType

    if split not in SPLITS:
        raise ValueError(f"a split must be one of {', '.join(SPLITS)}; got {split!r}")
    system, path = filesystem(uri)
    found = system.get_file_info(FileSelector(posixpath.join(path, split), allow_not_found=True))
    return sorted(f.path for f in found if f.type == FileType.File and f.path.endswith(".parquet"))


REFUSED_SPLIT = -1  # split of a refused row


TRAIN, VAL, TEST = 0, 1, 2


# What the values of a given split column may be.
SPLIT_NAMES = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "test": TEST,
    "testing": TEST,
}
