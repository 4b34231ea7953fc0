"""Reads the body of a request as records: JSON with pictures in base64, or a form with files."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request

JSON_RULE = 'the body must be JSON: one record {"column": value}, or {"records": [...]}'
DATA_URL = "base64,"  # ends the head of a picture as pages hold it: data:image/png;base64,...


class BadRequest(Exception):
    """A request that cannot be answered; the message is for whoever sent it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Returns the whole body; refuses one that is too large before it is in memory."""
    message = f"the body of a request may have {max_bytes:,} bytes"
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > max_bytes:
        raise BadRequest(message, 413)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise BadRequest(message, 413)
        parts.append(part)
    return b"".join(parts)


async def read_records(
    request: Request, max_bytes: int, max_records: int, images: Collection[str]
) -> list[object]:
    """Returns the records of a request, pictures as bytes.

    images: the columns of pictures. A record of JSON that is no object stays as it is, for the
    predictor to refuse.
    """
    body = await read_body(request, max_bytes)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    if kind == "multipart/form-data":
        return [await form_record(request, body, images)]
    if kind != "application/json":
        raise BadRequest(
            f"the body must be application/json or multipart/form-data; got {kind[:100]!r}", 415
        )
    records = json_records(body)
    if len(records) > max_records:
        raise BadRequest(f"a request may have {max_records} records; got {len(records)}", 413)
    return [with_pictures(record, images) for record in records]


def json_records(body: bytes) -> list[object]:
    """Returns the records in a JSON body."""
    try:
        content: Any = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest(JSON_RULE) from None
    if not isinstance(content, dict):
        raise BadRequest(f"{JSON_RULE}; got a {type(content).__name__}")
    if "records" not in content:
        return [content]
    records = content["records"]
    if not isinstance(records, list) or set(content) != {"records"}:
        raise BadRequest(f"{JSON_RULE}; got records that are no list, or more beside them")
    return records


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def with_pictures(record: object, images: Collection[str]) -> object:
    """Returns a record with its pictures decoded; what is no base64 stays text."""
    if not isinstance(record, Mapping):
        return record
    decoded = dict(record)
    for name in images:
        text = record.get(name)
        if isinstance(text, str):
            encoded = text.partition(DATA_URL)[2] if text.startswith("data:") else text
            try:
                decoded[name] = base64.b64decode(encoded, validate=True) or None
            except (binascii.Error, ValueError):
                decoded[name] = text
    return decoded


async def form_record(request: Request, body: bytes, images: Collection[str]) -> object:
    """Returns the record in a form: fields are cells, files are pictures."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, stream(), max_files=100, max_fields=10_000, max_part_size=len(body) + 1
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise BadRequest(f"the form cannot be read: {str(error)[:200]}") from None
    record: dict[str, object] = {}
    for name, value in form.multi_items():
        if name in record:
            raise BadRequest(f"a form may have each column once; got {name[:100]!r} again")
        if isinstance(value, UploadFile):
            content = await value.read()
            # A browser sends an empty file where none was chosen.
            record[name] = content or None
        else:
            record[name] = value or None
    await form.close()
    return with_pictures(record, images)
