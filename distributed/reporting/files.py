"""Writes report files whole and without secrets, and makes names for files and anchors."""

from __future__ import annotations

import hashlib
import html
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import markupsafe

SECRET_VARIABLE = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|ACCESS_KEY|API_KEY")
MIN_SECRET_LENGTH = 8  # shorter values would blank ordinary words


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Writes a file so that readers see either the old content or the new, never a part.

    Secrets are blanked in text; bytes are written as they are.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = redact_secrets(content).encode() if isinstance(content, str) else content
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


def redact_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Returns the text without passwords and tokens.

    Blanked are the user:password parts of URLs and the values of environment variables whose names
    look secret, also where they are escaped for HTML.
    """
    text = re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@", r"\1***@", text)
    for variable, value in (os.environ if environment is None else environment).items():
        names_a_file = variable.endswith(("_PATH", "_FILE", "_DIR"))
        if (
            SECRET_VARIABLE.search(variable)
            and not names_a_file
            and len(value) >= MIN_SECRET_LENGTH
        ):
            for form in (value, html.escape(value), str(markupsafe.escape(value))):
                text = text.replace(form, "***")
    return text


def slug(title: str) -> str:
    """Returns a name for files and anchors, of lower-case letters, digits and hyphens.

    A digest is added where only a lost character may tell two titles apart: a letter of another
    script, a sign before a number, a symbol such as `<`.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
    lost = re.search(r"[^\w\s.,:;/'()%+=-]|[^\x00-\x7f]|(?<!\w)[+-](?=[\d.])", title)
    return f"{plain}-{hashlib.sha256(title.encode()).hexdigest()[:6]}" if lost else plain
