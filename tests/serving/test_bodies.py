"""Facts about the bodies of requests: records from JSON and forms, and one line for every other."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

pytest.importorskip("starlette")

from starlette.requests import Request

from distributed.serving.bodies import BadRequest, read_records
from distributed.serving.counts import Counts, as_text

PICTURE = b"\x89PNG not really"


def request_of(body: bytes, kind: str = "application/json", declared: int | None = None) -> Request:
    headers = [(b"content-type", kind.encode())]
    if declared is not None:
        headers.append((b"content-length", str(declared).encode()))
    parts = [body[:7], body[7:]]

    async def receive() -> dict[str, object]:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def read(request: Request, max_bytes: int = 10_000, max_records: int = 3) -> list[object]:
    return asyncio.run(read_records(request, max_bytes, max_records, ("photo",)))


def test_json_is_one_record_or_a_list() -> None:
    text = base64.b64encode(PICTURE).decode()
    record = {"photo": text, "age": 3.5, "site": "arm"}
    wanted = {**record, "photo": PICTURE}
    assert read(request_of(json.dumps(record).encode())) == [wanted]
    assert read(request_of(json.dumps({"records": [record, {}]}).encode())) == [wanted, {}]
    url = {"photo": f"data:image/png;base64,{text}"}
    assert read(request_of(json.dumps(url).encode())) == [{"photo": PICTURE}]
    assert read(request_of(b'{"photo": "photos/1.png"}')) == [{"photo": "photos/1.png"}]


def test_a_form_is_one_record() -> None:
    mark = "xyz"
    body = (
        (
            f'--{mark}\r\nContent-Disposition: form-data; name="age"\r\n\r\n3,5\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="site"\r\n\r\n\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n'
            "Content-Type: image/png\r\n\r\n"
        ).encode()
        + PICTURE
        + f"\r\n--{mark}--\r\n".encode()
    )
    kind = f"multipart/form-data; boundary={mark}"
    assert read(request_of(body, kind)) == [{"age": "3,5", "site": None, "photo": PICTURE}]


@pytest.mark.parametrize(
    ("body", "kind", "status", "message"),
    [
        (b"{", "application/json", 400, "the body must be JSON"),
        (b"\xff\xfe", "application/json", 400, "the body must be JSON"),
        (b'{"age": NaN}', "application/json", 400, "the body must be JSON"),
        (b"[" * 5000 + b"]" * 5000, "application/json", 400, "the body must be JSON"),
        (b'{"age": 1' + b"0" * 6000 + b"}", "application/json", 400, "the body must be JSON"),
        (b"[1]", "application/json", 400, "got a list"),
        (b'{"records": 3}', "application/json", 400, "records that are no list"),
        (b'{"records": [1, 2, 3, 4]}', "application/json", 413, "may have 3 records; got 4"),
        (b"x" * 10_001, "application/json", 413, "may have 10,000 bytes"),
        (b"age=3", "application/x-www-form-urlencoded", 415, "must be application/json or"),
        (b"nothing", "multipart/form-data", 400, "the form cannot be read"),
        (b"nothing", "multipart/form-data; boundary=x", 400, "the form cannot be read"),
    ],
)
def test_everything_else_is_one_line(body: bytes, kind: str, status: int, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        read(request_of(body, kind))
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    request = request_of(b"{}", declared=10**12)
    with pytest.raises(BadRequest, match="10,000 bytes"):
        read(request)
    with pytest.raises(BadRequest, match="10,000 bytes"):
        read(request_of(b"{}", declared=-5))


def test_counts_add_up_and_are_written_for_prometheus() -> None:
    first, second, total = Counts(), Counts(), Counts()
    first.request(200, 0.02)
    first.records(3, 1)
    second.request(400, 3.0)
    for counts in (first, second):
        total.add(counts.take())
    assert first.take() == {}
    lines = as_text(total.values).splitlines()
    assert 'longtail_requests_total{status="200"} 1' in lines
    assert 'longtail_requests_total{status="400"} 1' in lines
    assert "longtail_records_total 3" in lines
    assert "longtail_refused_records_total 1" in lines
    assert 'longtail_request_seconds_bucket{le="0.025"} 1' in lines
    assert 'longtail_request_seconds_bucket{le="+Inf"} 2' in lines
    assert "longtail_request_seconds_sum 3.02" in lines
    assert "# TYPE longtail_request_seconds histogram" in lines
