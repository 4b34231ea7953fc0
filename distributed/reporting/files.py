"""Writes report files whole and without secrets, and makes names for files and anchors."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from distributed.runtime.redaction import redact


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that readers see either the old content or the new, never a part.

    Secrets are blanked in text; bytes are written as they are.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = redact(content).encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # it can only be read by setting it
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is private; a report is not
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def slug(title: str) -> str:
    """Returns a name for files and anchors, of lower-case letters, digits and hyphens.

    A digest is added where only a lost character may tell two titles apart: a letter of another
    script, a sign before a number, a symbol such as `<`.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    lost = re.search(r"[^\w\s.,:;/'()%+=-]|[^\x00-\x7f]|(?<!\w)[+-](?=[\d.])", title)
    return f"{plain}-{hashlib.sha256(title.encode()).hexdigest()[:6]}" if lost else plain
