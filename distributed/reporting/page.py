"""Writes a report twice from the same sections: a self-contained HTML page that works offline, and Markdown.

Everything from users (class names, paths, errors) is escaped, and passwords in URLs and the values of secret environment variables are
blanked. Plotly's library is packed into the page once, compressed: a page with figures weighs about 2 MB, one without a few kilobytes.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distributed.reporting import tables
from distributed.reporting.tables import ReportTable, escape_markdown

PAGES = Path(__file__).parent / "templates"
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|ACCESS_KEY|API_KEY")


@dataclass(frozen=True)
class Text:
    words: str


@dataclass(frozen=True)
class Heading:
    words: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    words: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plotly figure. The caption says what to see, for readers who cannot see it too; name is that of its PNG in figures/."""

    figure: Any
    caption: str
    name: str = ""


Block = Text | Heading | Bullets | Code | Figure | ReportTable


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


def write_report(
    folder: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    name: str = "report",
) -> Path:
    """Writes folder/report.html and folder/report.md, each whole or not at all; sections without blocks are left out."""
    target = Path(folder) / f"{name}.html"
    write_atomically(target, to_html(title, sections, lead=lead))
    write_atomically(
        target.with_suffix(".md"), to_markdown(title, sections, lead=lead, folder=Path(folder))
    )
    return target


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Readers see the old content or the new, never a part; secrets are blanked in text."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = redact_secrets(content).encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's file is private; a report is not
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def redact_secrets(words: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without user:password parts of URLs and without the values of environment variables that look secret."""
    words = re.sub(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@\"'<>]+@", r"\1***@", words)
    for variable, value in (os.environ if environment is None else environment).items():
        if (
            SECRET.search(variable)
            and not variable.endswith(("_PATH", "_FILE", "_DIR"))
            and len(value) >= 8
        ):
            words = words.replace(value, "***").replace(html.escape(value), "***")
    return words


def slug(words: str) -> str:
    """A name for files and anchors. What only a lost character tells apart (another script, a sign) gets a digest."""
    plain = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "section"
    lost = re.search(r"[^\w\s.,:;/'()%+=-]|[^\x00-\x7f]|(?<!\w)[+-](?=[\d.])", words)
    return f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:6]}" if lost else plain


def to_html(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    sections = [s for s in sections if s.blocks]
    links = " ".join(f'<a href="#{slug(s.title)}">{html.escape(s.title)}</a>' for s in sections)
    body = "\n".join(
        f'<section id="{slug(s.title)}">\n<h2>{html.escape(s.title)}</h2>\n'
        + "\n".join(map(_block_html, s.blocks))
        + "\n</section>"
        for s in sections
    )
    plots = any(isinstance(b, Figure) for s in sections for b in s.blocks)
    parts = {
        "title": html.escape(title),
        "lead": html.escape(lead),
        "links": links,
        "body": body,
        "scripts": _plot_scripts() if plots else "",
    }
    page = (PAGES / "page.html").read_text(encoding="utf-8")
    return re.sub(
        r"\{\{(\w+)\}\}", lambda m: parts[m[1]], page
    )  # one pass: users' text with {{body}} in it stays text


@functools.cache
def _plot_scripts() -> str:
    from plotly.offline import get_plotlyjs

    packed = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (PAGES / "page_plots.html").read_text(encoding="utf-8").replace("{{library}}", packed)


def _block_html(block: Block) -> str:
    match block:
        case Text(words):
            return f"<p>{html.escape(words)}</p>"
        case Heading(words):
            return f"<h3>{html.escape(words)}</h3>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(i)}</li>" for i in items) + "</ul>"
        case Code(words):
            return f"<pre><code>{html.escape(words)}</code></pre>"
        case ReportTable():
            return tables.to_html(block)
        case Figure():
            plain = block.figure.to_json().replace(
                "<", "\\u003c"
            )  # a class named </script> must not end the script
            height = (block.figure.layout.height or 420) if hasattr(block.figure, "layout") else 420
            return (
                f'<figure><figcaption>{html.escape(block.caption)}</figcaption><div class="plot" style="height:{height}px">'
                f'<div class="wait">Drawing the figure…</div><script type="application/json">{plain}</script></div></figure>'
            )
    raise AssertionError(f"no such block: {type(block)}")


def to_markdown(
    title: str, sections: Sequence[Section], *, lead: str = "", folder: Path | None = None
) -> str:
    parts = [f"# {escape_markdown(title)}"] + ([escape_markdown(lead)] if lead else [])
    for section in (s for s in sections if s.blocks):
        parts += [
            f"## {escape_markdown(section.title)}",
            *(_block_markdown(b, folder) for b in section.blocks),
        ]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block: Block, folder: Path | None) -> str:
    match block:
        case Text(words):
            return escape_markdown(words)
        case Heading(words):
            return f"### {escape_markdown(words)}"
        case Bullets(items):
            return "\n".join(f"- {escape_markdown(i)}" for i in items)
        case Code(words):
            return "\n".join(f"    {line}" for line in words.splitlines())
        case ReportTable():
            return tables.to_markdown(block)
        case Figure():
            picture = f"figures/{block.name}.png"
            if block.name and folder and (folder / picture).exists():
                return f"![{escape_markdown(block.caption)}]({picture})"
            return f"Figure: {escape_markdown(block.caption)} (drawn in report.html)"
    raise AssertionError(f"no such block: {type(block)}")
