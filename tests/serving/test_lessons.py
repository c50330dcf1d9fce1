"""The lessons as pages: all of them, with their links and pictures, and nothing besides."""

import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from primegpt.serving import lessons
from primegpt.serving.lessons import CHECKOUT, as_page
from primegpt.serving.playground import STATIC


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=lessons.routes()))


@pytest.mark.parametrize("path", sorted((CHECKOUT / "learn").glob("*.md")), ids=lambda path: path.stem)
def test_every_lesson_is_a_page_whose_links_lead_somewhere(client, path):
    page = client.get(f"/learn/{path.stem}")
    assert page.status_code == 200
    text = path.read_text(encoding="utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    assert f"<title>{title}</title>" in page.text
    fences = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    indented = re.findall(r"\n\n {4}\S", fences.sub("", text))
    assert page.text.count("<pre>") == len(fences.findall(text)) + len(indented)
    assert page.text.count("<details>") == page.text.count("</details>") == text.count("<details ")
    assert "&lt;details" not in page.text
    assert "&lt;/details" not in page.text
    assert page.text.count("<img ") == text.count("\n![")
    for link in re.findall(r'(?:href|src)="([^"#]+)', page.text):
        if link.startswith("../static/"):
            assert (STATIC / link.removeprefix("../static/")).is_file(), link
        elif link.startswith("../images/"):
            assert client.get(link.removeprefix("..")).headers["content-type"] == "image/png", link
        elif not link.startswith("https://") and link != "../":
            assert client.get(f"/learn/{link}").status_code == 200, link


def test_what_is_no_lesson_is_not_found(client):
    for path in (
        "learn/README.md",
        "learn/9-nothing",
        "learn/..%2Fdecisions",
        "learn/%2e%2e",
        "images/learn/README.md",
    ):
        assert client.get(f"/{path}").status_code == 404, path


def test_markup_is_text_and_links_elsewhere_are_words():
    page = as_page(
        "# A <b>title</b>\n\n<img src=x> [other](../model.md) [next](2-the-task.md#top) [js](javascript:x)\n"
    )
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in page
    assert "<img" not in page
    assert 'other <a href="2-the-task">next</a>' in page
    assert "javascript" not in re.sub(r"\[js\]\(javascript:x\)", "", page)
