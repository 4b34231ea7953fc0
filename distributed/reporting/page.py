"""Writes a report twice from the same sections: an HTML page that works offline, and Markdown.

Everything from users (class names, paths, errors) is escaped, and passwords in URLs and the values
of secret environment variables are blanked. Plotly's library is packed into the page once and
compressed: a page with figures weighs about 2 MB, one without a few kilobytes.
"""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from distributed.reporting import tables
from distributed.reporting.cards import Gallery, VerdictButton
from distributed.reporting.files import slug, write_atomically
from distributed.reporting.tables import ReportTable, escape_markdown

DEFAULT_HEIGHT = 420  # of a figure, in pixels
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    template: ClassVar[str] = "text"  # the macro in blocks.html.j2 that writes the block
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    template: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    template: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Text whose lines and spaces are kept, such as a command or a configuration."""

    template: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plotly figure.

    caption: what there is to see, for readers who cannot see the figure too.
    name: the name of its PNG file in figures/, without the suffix.
    arrangements: changes of the layout by name, such as orders of an axis; the reader picks one.
    min_width: in pixels; on a narrower screen the figure is scrolled sideways. 0: it is shrunk.
    """

    template: ClassVar[str] = "figure"
    figure: go.Figure
    caption: str
    name: str = ""
    arrangements: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    min_width: int = 0

    @property
    def height(self) -> int:
        return self.figure.layout.height or DEFAULT_HEIGHT

    @property
    def json(self) -> Markup:
        """The figure as JSON for a script element: a class named </script> does not end it."""
        return Markup(self.figure.to_json().replace("<", "\\u003c"))

    def arrangement_json(self, name: str) -> str:
        """An arrangement as JSON for an attribute, which the template escapes."""
        return json.dumps(self.arrangements[name])


Block = Text | Heading | Bullets | Code | Figure | Gallery | VerdictButton | ReportTable


@dataclass(frozen=True)
class Section:
    """A part of a report with its title. A section without blocks is left out."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return slug(self.title)


def write_report(
    folder: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    lead: str = "",
    name: str = "report",
) -> Path:
    """Writes folder/NAME.html and folder/NAME.md and returns the path of the page.

    Each file is written whole or not at all.
    """
    target = Path(folder) / f"{name}.html"
    write_atomically(target, to_html(title, sections, lead=lead))
    markdown = to_markdown(title, sections, lead=lead, folder=Path(folder))
    write_atomically(target.with_suffix(".md"), markdown)
    return target


def to_html(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """Returns the whole page. lead is the line under the title."""
    has_figures = any(isinstance(block, Figure) for s in sections for block in s.blocks)
    return TEMPLATES.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        sections=[section for section in sections if section.blocks],
        plotly_library=_packed_plotly() if has_figures else "",
    )


@functools.cache
def _packed_plotly() -> str:
    """Returns plotly's JavaScript, compressed and in base 64."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def to_markdown(
    title: str, sections: Sequence[Section], *, lead: str = "", folder: Path | None = None
) -> str:
    """Returns the report as Markdown.

    folder: where figures/ is looked for; a figure without a PNG file there is only mentioned.
    """
    parts = [f"# {escape_markdown(title)}"] + ([escape_markdown(lead)] if lead else [])
    for section in sections:
        if section.blocks:
            parts.append(f"## {escape_markdown(section.title)}")
            parts += [_block_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block_markdown(block: Block, folder: Path | None) -> str:
    match block:
        case Text(text) | VerdictButton(text):
            return escape_markdown(text)
        case Heading(text):
            return f"### {escape_markdown(text)}"
        case Bullets(items):
            return "\n".join(f"- {escape_markdown(item)}" for item in items)
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case ReportTable():
            return tables.to_markdown(block)
        case Gallery():
            return tables.to_markdown(block.as_table())
        case Figure():
            picture = f"figures/{block.name}.png"
            if block.name and folder and (folder / picture).exists():
                return f"![{escape_markdown(block.caption)}]({picture})"
            return f"Figure: {escape_markdown(block.caption)} (drawn in report.html)"
