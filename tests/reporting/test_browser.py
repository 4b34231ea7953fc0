"""Pages in a real browser, from file:// and without a network: figures, orders, verdicts.

Skipped where no Chromium is installed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distributed.reporting.cards import Answer, Card, Gallery, Picture, VerdictButton
from distributed.reporting.figure_style import empty_figure
from distributed.reporting.page import Figure, Section, to_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


def page() -> str:
    figure = empty_figure(x="decided", y="true")
    figure.add_heatmap(x=["a", "b"], y=["a", "b"], z=[[1, 0], [0, 1]], text=[["1", ""], ["", "1"]])
    figure.data[0].texttemplate = "%{text}"
    figure.update_xaxes(categoryorder="array", categoryarray=["a", "b"])
    arranged = {"as they are": {"xaxis.categoryarray": ["a", "b"]}}
    arranged["turned"] = {"xaxis.categoryarray": ["b", "a"]}
    cards = [
        Card(
            title=f"<i>{name}</i>",
            outcome="a picture",
            pictures=[Picture(name="photo", source=PIXEL, patches=[[0.5, -0.25], [0.0, 1.0]])],
            answers=[Answer("<b>x</b>", 0.5, True)],
            verdict_id=name,
        )
        for name in ('=cmd"x', "plain")
    ]
    sections = [
        Section("Figure", [Figure(figure=figure, caption="heat", arrangements=arranged)]),
        Section("Cards", [VerdictButton("Save."), Gallery(cards=cards)]),
    ]
    return to_html("Browser", sections)


def dom(html: str, folder: Path, script: str) -> str:
    """Returns the page's text after a script of the test has run in it."""
    place = folder / "page.html"
    place.write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    words = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu"]
    words += [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    words += ["--virtual-time-budget=15000", "--dump-dom", f"file://{place}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_figures_are_drawn_and_put_in_another_order(tmp_path: Path) -> None:
    script = """
    const wait = setInterval(() => {
      if (!document.documentElement.dataset.plots) return;
      clearInterval(wait);
      const pick = document.querySelector(".pick select");
      pick.selectedIndex = 1;
      pick.dispatchEvent(new Event("change"));
      setTimeout(() => {
        const axis = document.querySelector(".plot").layout.xaxis.categoryarray;
        document.body.dataset.order = axis.join();
      }, 500);
    }, 100);
    """
    shown = dom(page(), tmp_path, script)
    assert 'data-plots="1"' in shown and 'data-order="b,a"' in shown
    assert shown.count('class="for"') == 4 and shown.count('class="against"') == 2


def test_figures_fit_the_paper_while_the_page_is_printed(tmp_path: Path) -> None:
    script = """
    const width = () => document.querySelector(".plot .main-svg").getAttribute("width");
    const wait = setInterval(() => {
      if (!document.documentElement.dataset.plots) return;
      clearInterval(wait);
      const widths = [width()];
      dispatchEvent(new Event("beforeprint"));
      setTimeout(() => {
        widths.push(width());
        dispatchEvent(new Event("afterprint"));
        setTimeout(() => document.body.dataset.widths = [...widths, width()].join(), 500);
      }, 500);
    }, 100);
    """
    shown = dom(page(), tmp_path, script)
    found = re.search(r'data-widths="(\d+),(\d+),(\d+)"', shown)
    assert found is not None
    before, printed, after = map(int, found.groups())
    assert (printed, after) == (690, before)
    assert before != 690


def test_a_verdict_is_saved_without_formulas(tmp_path: Path) -> None:
    script = """
    URL.createObjectURL = blob => {
      blob.text().then(text => document.body.dataset.csv = text);
      return "#";
    };
    document.querySelector("input[data-id]").click();
    document.querySelector("button.save").click();
    """
    shown = dom(page(), tmp_path, script)
    found = re.search(r'data-csv="([^"]*)"', shown)
    assert found is not None
    text = found[1].replace("&quot;", '"')
    assert text == 'id,drop\n"\'=cmd""x",yes\n"plain",no\n'
    assert "1 of 2 rows are left out" in shown


def test_names_stay_text(tmp_path: Path) -> None:
    shown = dom(
        page(),
        tmp_path,
        "document.body.dataset.tags = document.querySelectorAll('i b, h4 i').length",
    )
    assert 'data-tags="0"' in shown and "&lt;b&gt;x&lt;/b&gt;" in shown
