"""Facts about reports: self-contained, escaped, without secrets, written whole or not at all, the same content in every form."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

from distributed import report, tables
from distributed.report import Bullets, Cell, Code, Figure, Heading, Section, Table, Text

EVIL = '<script>alert("x")</script> | & {{body}} *_`[a](b)'


class Tags(HTMLParser):
    """Collects the tags, the text outside scripts, and every address that the page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.words += data


def table() -> Table:
    rows = [[EVIL, Cell(text="63.2 ± 0.4", value=0.632, strong=True), None], ["b", 1, 0.25]]
    return Table(columns=("variant", "balanced accuracy", "p"), rows=rows, caption="a caption")


def sections() -> list[Section]:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=EVIL))
    blocks = [
        Text(EVIL),
        Heading("More"),
        Bullets([EVIL, "two"]),
        Code("python x.py <y>"),
        table(),
        Figure(figure=figure, caption=EVIL, name="f"),
    ]
    return [Section("What is shown", blocks), Section("Empty", [])]


def test_page_is_self_contained_and_small(tmp_path: Path) -> None:
    path = report.write(tmp_path, "A study", sections(), lead="made today")
    page = path.read_text()
    assert path.stat().st_size < 2_500_000
    assert Tags(page).addresses == ["#what-is-shown"]  # nothing is fetched
    assert not re.search(r"@import|url\(", page)


def test_page_without_figures_carries_no_library(tmp_path: Path) -> None:
    path = report.write(tmp_path, "A study", [Section("Words", [Text("only words")])])
    assert path.stat().st_size < 10_000


def test_users_text_stays_text() -> None:
    page = report.to_html(EVIL, sections(), lead=EVIL)
    plain = Tags(page)
    assert plain.tags.count("script") == 4  # the page's three and the figure's data: none from the users' text
    assert plain.words.count(EVIL) >= 6  # title, heading, lead, paragraph, bullet, cell, caption
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(data)["data"][0]["name"] == EVIL


def test_markdown_has_the_same_content_escaped() -> None:
    page = report.to_markdown("A study", sections())
    assert "<script>" not in page
    assert "| variant | balanced accuracy | p |" in page
    assert r"\| & {{body}} \*_\`\[a\](b) | **63.2 ± 0.4** |  |" in page
    assert "| b | 1 | 0.25 |" in page
    assert "## What is shown" in page
    assert "Empty" not in page


def test_markdown_shows_a_picture_where_there_is_one(tmp_path: Path) -> None:
    assert "(drawn in report.html)" in report.to_markdown("t", sections(), folder=tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/f.png").write_bytes(b"")
    assert "](figures/f.png)" in report.to_markdown("t", sections(), folder=tmp_path)


def test_secrets_are_blanked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc&12345678")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/tmp/where-the-token-lies")
    words = "postgresql://me:pw@host/db s3://key:secret@bucket/x abc&12345678 /tmp/where-the-token-lies mail@example.org"
    path = report.write(tmp_path, "t", [Section("s", [Code(words)])])
    for page in (path.read_text(), path.with_suffix(".md").read_text()):
        assert "postgresql://***@host/db s3://***@bucket/x *** /tmp/where-the-token-lies mail@example.org" in page
        assert "12345678" not in page


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    report.write_file(path, "old")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        report.write_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_sort_by_value_and_keep_their_precision() -> None:
    assert '<td data-value="0.632"><strong>63.2 ± 0.4</strong></td>' in tables.to_html(table())
    read = list(csv.reader(io.StringIO(tables.to_csv(table()))))
    assert read == [["variant", "balanced accuracy", "p"], [EVIL, "0.632", ""], ["b", "1.0", "0.25"]]


def test_latex_is_escaped() -> None:
    found = tables.to_latex(table(), label="tab:x")
    assert r"\textbf{63.2 $\pm$ 0.4} &  \\" in found
    assert r"$<$script$>$" in found
    assert r"\& \{\{body\}\} *\_" in found
    assert r"\begin{tabular}{lrr}" in found
    assert r"\label{tab:x}" in found


def test_long_listings_are_folded() -> None:
    page = tables.to_html(Table(columns=("a",), rows=[[1], [2]], caption="All runs", folded=True))
    assert page.startswith("<details><summary>All runs (2 rows)</summary>")


@pytest.mark.parametrize(
    ("value", "shown"), [(3, "3"), (0.123456, "0.1235"), (1e-5, "1e-05"), (float("nan"), "not a number"), (1234.5, "1234"), (2.0, "2")]
)
def test_numbers_read_plainly(value: float, shown: str) -> None:
    assert tables.number(value) == shown
