"""A page must hold all it needs, and nothing that it is given may become markup."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from primegpt.errors import PrimegptError
from primegpt.report.chart import Series
from primegpt.report.page import Page, Strong
from primegpt.report.pictures import PALETTE

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'><b>&amp;"
VOID = {"meta", "br", "path", "wbr"}  # `path` closes itself


class Reader(HTMLParser):
    """The elements of a page, its text, and whether what was opened was closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def everything(text: str) -> Page:
    """A page that has `text` in every place that takes one."""
    page = Page(text, text).section(text, text).text(text).tiles([(text, text, text)]).notes([text], "warning")
    page.facts([(text, text)]).table(["", text], [[text, Strong(text)]], fold=text).card(text, text, text).code(text)
    line = Series(text, [(0, 1.0), (1, 2.0)])
    return page.chart(text, [line], x=text, y=text, verticals=[(0.5, text)], horizontals=[(1.5, text)])


def test_markup_in_a_text_stays_text():
    harmless, evil = Reader(everything("x").html()), Reader(everything(EVIL).html())
    assert [tag for tag, _ in evil.elements] == [tag for tag, _ in harmless.elements]
    assert [set(attributes) for _, attributes in evil.elements] == [set(a) for _, a in harmless.elements]
    assert evil.words.count(EVIL) >= 15


def test_characters_that_html_cannot_hold_are_spelt_out(tmp_path):
    path = Page("t").section("s").card("c", "a\x00\x1b\ud800\r\nb\tc").write(tmp_path / "page.html")
    assert r"a\x00\x1b\ud800" + "\nb\tc" in Reader(path.read_text(encoding="utf-8")).words


def test_nothing_is_asked_of_another_place():
    html = everything("x").html()
    assert not re.search(r"https?://|@import|url\(|<link|<iframe|fetch\(", html)
    reader = Reader(html)
    assert not [a for _, a in reader.elements if "src" in a or "onclick" in a or "onload" in a]
    assert all((a["href"] or "").startswith("#") for tag, a in reader.elements if tag == "a")


def test_only_our_own_script_may_run():
    """The policy names the hash of exactly the text between the script tags, as browsers compute it."""
    html = everything("x").html()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in Reader(html).elements if a.get("http-equiv") == "Content-Security-Policy")
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_a_long_name_breaks_after_its_words():
    reader = Reader(Page("t").section("s").facts([("train.max_steps", "12.5_0")]).html())
    assert reader.count("wbr") == 2  # of the name alone: a value stays whole
    assert "train.max_steps" in reader.words


def test_a_remark_that_repeats_is_counted():
    html = Page("t").section("s").notes(["slow", "odd", "slow", "slow"]).html()
    assert "<li>slow (3 times)</li><li>odd</li>" in html


def test_pictures_and_page_have_the_colours_of_the_playground():
    page = files("primegpt.report").joinpath("page.css").read_text(encoding="utf-8")
    playground = files("primegpt.serving").joinpath("static", "style.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"--(\w+): (#\w+);", page.partition("@media")[0]))
    dark = dict(re.findall(r"--(\w+): (#\w+);", page.partition("@media")[2]))
    shared = {"paper": "paper", "ink": "ink", "soft": "quiet", "line": "hair", "well": "raised"}
    shared |= {"given": "c1", "surprise": "c2", "second": "c3"}
    for theirs, ours in shared.items():
        (pair,) = re.findall(rf"--{theirs}: light-dark\((#\w+), (#\w+)\)", playground)
        assert pair == (light[ours], dark[ours])
    assert tuple(light[f"c{number}"] for number in range(1, 9)) == PALETTE


def test_columns_of_numbers_stand_to_the_right():
    rows = [["loss", "1.234", "char"], ["time", "–", "1 min"], ["size", "12k", "x"]]
    html = Page("t").section("s").table(["", "a", "b"], rows).html()
    assert html.count('class="number"') == 4  # the head of column a, and its cells
    assert '<td class="number">–</td>' in html


def test_neighbours_share_a_row_and_an_empty_chart_is_left_out():
    page = Page("t").section("s")
    line = Series("a", [(0, 1.0), (1, 2.0)])
    page.chart("one", [line]).chart("two", [line]).chart("none", [Series("b", [])]).text("between").chart(
        "three", [line]
    )
    reader = Reader(page.html())
    assert sum(a.get("class") == "charts" for _, a in reader.elements) == 2
    assert reader.count("figure") == 3


def test_links_lead_to_sections():
    page = Page("t").section("The first").section("Second, of 3").section("Third")
    elements = Reader(page.html()).elements
    assert (
        [a["href"] for tag, a in elements if tag == "a"]
        == [f"#{a['id']}" for tag, a in elements if tag == "section"]
        == ["#the-first", "#second-of-3", "#third"]
    )


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(PrimegptError, match=r"could not write .*: (No such file|Not a directory)"):
        Page("t").section("s").write(Path(tmp_path / "nowhere" / "page.html"))
