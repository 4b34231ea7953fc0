"""Hostile requests of many kinds, for hostile.py.

Each kind is a function of a random generator, a good record (pictures as base64) and the columns of
pictures. It returns a request, and after how many bytes of the body the client hangs up, or None.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

TOKEN = "correct-horse"
MAX_BYTES, MAX_RECORDS = 200_000, 64  # of the service

Draw = random.Random
Record = dict[str, Any]
Request = tuple[bytes, bytes]  # the first line with the headers, and the body
Hostile = tuple[Request, int | None]


def request(
    content: bytes,
    *,
    line: bytes = b"POST /predict",
    kind: bytes = b"application/json",
    token: str = TOKEN,
    length: int | None = None,
    more: bytes = b"",
) -> Request:
    """Returns a request. length: another content-length than that of the body."""
    size = len(content) if length is None else length
    head = (
        line
        + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: "
        + kind
        + f"\r\ncontent-length: {size}\r\nauthorization: Bearer {token}\r\n".encode()
        + more
        + b"\r\n"
    )
    return head, content


def as_json(content: object) -> bytes:
    return json.dumps(content).encode()


def broken_json(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """A good body with bytes replaced, left out or repeated."""
    content = bytearray(as_json(record))
    for _ in range(draw.randint(1, 20)):
        place = draw.randrange(len(content))
        content[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 4))
    return request(bytes(content)), None


def nested(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Brackets without end, some of them inside a record."""
    depth = draw.randint(10, 60_000)
    content = draw.choice([b"[" * depth, b'{"a":' * (depth // 5), b"[" * depth + b"]" * depth])
    return request(content if draw.random() < 0.5 else b'{"records": ' + content + b"}"), None


def odd_values(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Cells of types, sizes and names that no table has."""
    odd: list[object] = [
        1e308,
        -0.0,
        10**400,
        True,
        None,
        [],
        {},
        "\ud800",
        "y" * 50_000,
        "nan",
        "1e999",
        {"a": 1},
    ]
    changed = {name: draw.choice(odd) for name in record if draw.random() < 0.5}
    if draw.random() < 0.3:
        changed |= {draw.choice(["", "a" * 5000, "__class__", "label", "../../x"]): 1}
    return request(as_json({**record, **changed})), None


def odd_records(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Lists of things that are no records, and too many records."""
    odd = [[3, None, [], "x"], [record] * (MAX_RECORDS + 1), {"a": 1}, "x", None, [], [[record]]]
    return request(as_json({"records": draw.choice(odd)})), None


def no_picture(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Paths, random bytes, and headers of pictures of huge size in the place of a picture."""
    huge = b"P6 60000 60000 255\n" + draw.randbytes(300)
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xff\xff\x00\x00\xff\xff\x08\x02"
    content = draw.choice([huge, head + draw.randbytes(500), draw.randbytes(2000), b"GIF89a"])
    text = base64.b64encode(content).decode() if draw.random() < 0.8 else "/etc/passwd"
    return request(as_json({**record, **dict.fromkeys(images, text)})), None


def damaged_picture(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """A good picture with characters of its base64 replaced, or cut short."""
    changed = dict(record)
    for name in images:
        text = str(record.get(name) or "")
        place = draw.randrange(max(1, len(text)))
        changed[name] = draw.choice([text[:place], text[:place] + "AAAA" + text[place + 4 :]])
    return request(as_json(changed)), None


def broken_form(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Forms of random bytes, of boundaries only, of one field a thousand times."""
    field = b'--x\r\ncontent-disposition: form-data; name="age"\r\n\r\n1\r\n'
    content = draw.choice(
        [draw.randbytes(5000), b"--x\r\n" * 2000, field * 1000 + b"--x--", field[:40]]
    )
    kind = draw.choice([b"multipart/form-data; boundary=x", b"multipart/form-data", b"text/xml"])
    return request(content, kind=kind), None


def too_large(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """A body over the limit, or one that claims to be."""
    if draw.random() < 0.5:
        return request(b"x" * (MAX_BYTES + draw.randint(1, 100_000))), None
    return request(b"{}", length=10**12), None


def cut_off(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """A client that hangs up in the middle of its body."""
    content = as_json(record)
    return request(content), draw.randrange(len(content))


def odd_http(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """Other methods and paths, many headers, and what is no HTTP at all."""
    line = draw.choice([b"GET /predict", b"PUT /predict", b"POST /../etc", b"GET /" + b"a" * 5000])
    more = b"".join(b"x-%d: y\r\n" % k for k in range(draw.choice([0, 50])))
    if draw.random() < 0.2:
        return (draw.randbytes(200) + b"\r\n\r\n", b""), None
    return request(b"{}", line=line, more=more), None


def wrong_token(draw: Draw, record: Record, images: tuple[str, ...]) -> Hostile:
    """A good record without the right token."""
    return request(as_json(record), token=draw.choice(["", "x", TOKEN[:-1], TOKEN * 100])), None


KINDS: dict[str, Callable[[Draw, Record, tuple[str, ...]], Hostile]] = {
    function.__name__: function
    for function in (
        broken_json,
        nested,
        odd_values,
        odd_records,
        no_picture,
        damaged_picture,
        broken_form,
        too_large,
        cut_off,
        odd_http,
        wrong_token,
    )
}
