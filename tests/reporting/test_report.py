"""Reports are self-contained, escaped, without secrets, and written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import pytest

from distributed.reporting import files, tables
from distributed.reporting.page import (
    Bullets,
    Code,
    Figure,
    Heading,
    Section,
    Text,
    to_html,
    to_markdown,
    write_report,
)
from distributed.reporting.tables import ReportTable, TableCell

EVIL = '<script>alert("x")</script> | & {{body}} *_`[a](b)'


class Tags(HTMLParser):
    """Collects the tags, the text outside scripts, and every address that the page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        if self.lasttag not in ("script", "style"):
            self.text += data


def table() -> ReportTable:
    rows = [[EVIL, TableCell(text="63.2 ± 0.4", value=0.632, strong=True), None], ["b", 1, 0.25]]
    return ReportTable(
        columns=("variant", "balanced accuracy", "p"), rows=rows, caption="a caption"
    )


def table_page(shown: ReportTable) -> str:
    """Returns a page that has only this table."""
    return to_html("A study", [Section("Results", [shown])])


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
    path = write_report(tmp_path, "A study", sections(), lead="made today")
    page = path.read_text()
    assert path.stat().st_size < 2_500_000
    assert Tags(page).addresses == ["#what-is-shown"]  # nothing is fetched
    assert not re.search(r"@import|url\(", page)


def test_page_without_figures_carries_no_library(tmp_path: Path) -> None:
    path = write_report(tmp_path, "A study", [Section("Words", [Text("only words")])])
    assert path.stat().st_size < 10_000


def test_users_text_stays_text() -> None:
    page = to_html(EVIL, sections(), lead=EVIL)
    plain = Tags(page)
    assert (
        plain.tags.count("script") == 4
    )  # the page's three and the figure's data: none from the users' text
    assert plain.text.count(EVIL) >= 6  # title, heading, lead, paragraph, bullet, cell, caption
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert json.loads(data)["data"][0]["name"] == EVIL


def test_markdown_has_the_same_content_escaped() -> None:
    page = to_markdown("A study", sections())
    assert "<script>" not in page
    assert "| variant | balanced accuracy | p |" in page
    assert r"\| &amp; {{body}} \*\_\`\[a\](b) | **63.2 ± 0.4** |  |" in page
    assert "| b | 1 | 0.25 |" in page
    assert "## What is shown" in page
    assert "Empty" not in page


def test_markdown_shows_a_picture_where_there_is_one(tmp_path: Path) -> None:
    assert "(drawn in report.html)" in to_markdown("t", sections(), folder=tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/f.png").write_bytes(b"")
    assert "](figures/f.png)" in to_markdown("t", sections(), folder=tmp_path)


def test_secrets_are_blanked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "abc&12345678")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/tmp/where-the-token-lies")
    text = (
        "postgresql://me:pw@host/db s3://key:secret@bucket/x abc&12345678"
        " /tmp/where-the-token-lies mail@example.org"
    )
    path = write_report(tmp_path, "t", [Section("s", [Code(text)])])
    for page in (path.read_text(), path.with_suffix(".md").read_text()):
        assert (
            "postgresql://me:***@host/db s3://***@bucket/x ***"
            " /tmp/where-the-token-lies mail@example.org" in page
        )
        assert "12345678" not in page


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    files.write_atomically(path, "old")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_numbers_sort_by_value_and_keep_their_precision() -> None:
    assert '<td data-value="0.632"><strong>63.2 ± 0.4</strong></td>' in table_page(table())
    read = list(csv.reader(io.StringIO(tables.to_csv(table()))))
    assert read == [["variant", "balanced accuracy", "p"], [EVIL, "0.632", ""], ["b", "1", "0.25"]]


def test_markdown_emphasises_nothing_that_is_a_users() -> None:
    assert (
        tables.escape_markdown("__init__ few_shot ~~x~~ $y$ &lt;")
        == r"\_\_init\_\_ few_shot \~\~x\~\~ \$y\$ &amp;lt;"
    )


def test_latex_runs_no_command_of_a_name() -> None:
    assert tables.escape_latex("\\input{/etc/passwd}") == r"\textbackslash{}input\{/etc/passwd\}"
    assert tables.escape_latex("~^") == r"\textasciitilde{}\textasciicircum{}"
    for character in "&%$#_{}":
        assert tables.escape_latex(character) == f"\\{character}"


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''@x", "=")


def test_csv_holds_no_formula_and_gives_every_text_back() -> None:
    plain = ("a", "", "'", "'a", "-0.5", "+1e-05", "1", "a=b", " =1", "−1")
    shown = ReportTable(columns=("=cmd", "n"), rows=[(text, -0.5) for text in FORMULAS + plain])
    header, *rows = csv.reader(io.StringIO(tables.to_csv(shown)))
    assert header == ["'=cmd", "n"]
    assert [row[0] for row in rows] == [*(f"'{text}" for text in FORMULAS), *plain]
    assert {row[1] for row in rows} == {"-0.5"}, "numbers stay numbers"
    assert tuple(tables.from_csv_text(row[0]) for row in rows) == FORMULAS + plain


def test_latex_is_escaped() -> None:
    latex = tables.to_latex(table(), label="tab:x")
    assert r"\textbf{63.2 $\pm$ 0.4} &  \\" in latex
    assert r"$<$script$>$" in latex
    assert r"\& \{\{body\}\} *\_" in latex
    assert r"\begin{tabular}{lrr}" in latex
    assert r"\label{tab:x}" in latex
    first = tables.to_latex(
        ReportTable(columns=("a", "b"), rows=[["[x]", 1], ["*", 2], ["x ≥ 1", 3]]),
        label="tab:my%study",
    )
    assert "{}[x] & 1" in first, "else an option of the line before"
    assert "{}* & 2" in first
    assert r"x $\ge$ 1" in first
    assert r"\label{tab:my-study}" in first


@pytest.mark.parametrize(
    ("one", "other"),
    [("图像", "表格"), ("λ = 0.5", "τ = 0.5"), ("margin −1", "margin 1"), ("a < 1", "a > 1")],
)
def test_names_that_differ_in_what_a_file_name_loses_stay_apart(one: str, other: str) -> None:
    assert files.slug(one) != files.slug(other)
    assert re.fullmatch(r"[a-z0-9-]+", files.slug(one))
    assert (
        files.slug("concatenation + balanced softmax (5 %)") == "concatenation-balanced-softmax-5"
    )


def test_long_listings_are_folded() -> None:
    page = table_page(ReportTable(columns=("a",), rows=[[1], [2]], caption="All runs", folded=True))
    assert "<details><summary>All runs (2 rows)</summary>" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.123456, "0.1235"),
        (1e-5, "1e-05"),
        (float("nan"), "not a number"),
        (1234.5, "1234"),
        (2.0, "2"),
    ],
)
def test_numbers_read_plainly(value: float, text: str) -> None:
    assert tables.format_number(value) == text


def test_wide_figures_and_tables_are_made_for_narrow_screens_and_for_paper() -> None:
    figure = Figure(figure=go.Figure(), caption="c", min_width=640)
    assert "min-width:640px" in to_html("t", [Section("s", [figure])])
    plain = to_html("t", [Section("s", [Figure(figure=go.Figure(), caption="c")])])
    assert 'style="height:420px"' in plain
    for columns, is_wide in ((10, False), (11, True)):
        shown = ReportTable(columns=("c",) * columns, rows=[(1,) * columns])
        assert ('class="sortable wide"' in table_page(shown)) == is_wide
