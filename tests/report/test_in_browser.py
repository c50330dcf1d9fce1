"""A page in a real Chromium: whole at every width, no number broken, values of the steps that they are of."""

import runpy
from pathlib import Path

import pytest

from primegpt.experiments.comparison import compare
from primegpt.experiments.page import write_page
from primegpt.report.chart import Series
from primegpt.report.page import Page

playwright = pytest.importorskip("playwright.sync_api")
pictures = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_pictures.py"))
CHROMIUM, FLAGS = pictures["CHROMIUM"], pictures["FLAGS"]
pytestmark = [pytest.mark.peers, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]
LINES = "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length; }"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def address(tmp_path) -> str:
    page = Page("a-run-with-a-very-long-name-that-nobody-would-type", "Finished").section("Results")
    page.tiles([("validation loss", "1.4321", "nats per character"), ("tokens seen", "178.1K", "")])
    page.facts([("train.gradient_accumulation_steps", "12"), ("parameters", "344,064"), ("sources", "a/" * 60)])
    words = "of the matrix-product rate measured here, which is that of one thread"
    rows = [["parameters", "10,345,064", "10,345,064", "10,345,064"], ["utilisation", *[f"28.1% {words}"] * 3]]
    page.table(["", "first", "second", "third"], rows)
    batches = [(step, 4 - step / 10) for step in range(20)]
    page.chart("Loss", [Series("batches", batches), Series("validation text, fixed part", batches[::6])])
    return page.write(tmp_path / "page.html").as_uri()


@pytest.mark.parametrize("width", [360, 390, 1024, 1440])
def test_nothing_is_wider_than_the_screen_and_no_number_is_broken(browser, address, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for number in ("1.4321", "178.1K", "344,064", "10,345,064", "12"):
        for cell in page.get_by_text(number, exact=True).all():
            assert cell.evaluate(LINES) == 1, number
    area = page.locator("figure .area").bounding_box()
    for share in (0.0, 0.3, 0.6, 1.0):
        page.mouse.move(area["x"] + share * (area["width"] - 1), area["y"] + 40)
        box = page.locator("figure .box").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    page.close()


def test_the_page_of_an_experiment_is_whole_on_a_phone(browser, tmp_path):
    """The verdict stood out of sight, and a difference was broken in three."""
    losses = {"with": {1: 2.2079, 2: 2.2134, 3: 2.2021}, "without": {1: 2.2115, 2: 2.2163, 3: 2.2068}}
    compared = compare("text.loss", losses, lower_is_better=True)
    path = write_page(tmp_path, name="n", question="q?", comparisons=[compared], curves={}, samples={}, source="",
                      facts=[])  # fmt: skip
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto(path.as_uri())
    scroll = page.locator(".scroll").first
    assert scroll.evaluate("e => e.scrollWidth <= e.clientWidth")
    cells = page.locator(".stacked td")
    assert cells.count() == 6
    assert all(cell.evaluate("e => e.offsetHeight") < 40 for cell in cells.all())  # one line
    assert "behind" in scroll.inner_text()
    named = "e => getComputedStyle(e, '::before').content"
    assert [cell.evaluate(named) for cell in cells.all()[:3]] == ['"mean ± spread"', '"difference [95%]"', '"verdict"']
    page.close()


def test_on_paper_a_heading_stays_with_its_text_and_no_sheet_is_left_empty(browser, tmp_path):
    """Cards longer than a sheet began on the next one, and a sheet with the heading alone came before them."""
    drawn = Page("p", "s").section("Curves")
    for name in ("Loss", "Speed", "Memory"):
        drawn.chart(name, [Series("a", [(0, 1.0), (9, 2.0)])])
    drawn.section("Samples", "What it wrote.").card("step 0", "a line\n" * 100)
    page = browser.new_page(viewport={"width": 718, "height": 1045})  # of a sheet of A4 without its margins
    page.goto(drawn.table(["", "a"], [["b", "1"]]).write(tmp_path / "p.html").as_uri())
    sheets = page.pdf(format="A4").count(b"/Type /Page\n")
    page.emulate_media(media="print")
    assert sheets < 5  # the text begins on the sheet of the curves
    tops = [chart.bounding_box()["y"] for chart in page.locator("figure").all()]
    assert len(set(tops)) == 2  # the first has a row of its own
    assert page.locator("tbody th").evaluate("e => getComputedStyle(e).position") == "static"
    page.close()


def test_the_pointer_finds_steps_where_the_first_ones_have_room(browser, tmp_path):
    losses = [(0, 4.0), (9, 3.0), (99, 2.0), (999, 1.0)]
    page = browser.new_page()
    drawn = Page("p", "s").section("Curves").chart("Loss", [Series("a", losses)], counted=True)
    page.goto(drawn.write(tmp_path / "p.html").as_uri())
    area = page.locator("figure .area").bounding_box()
    for share, told in ((0.02, "step 0"), (0.35, "step 9"), (0.6, "step 99"), (0.9, "step 999")):
        page.mouse.move(area["x"] + share * area["width"], area["y"] + 40)
        assert page.locator("figure .box").inner_text().split("\n")[0] == told
        dot, at = page.locator("figure .dot").bounding_box(), ("0", "9", "99", "999").index(told.split()[1])
        assert dot["x"] + dot["width"] / 2 - area["x"] == pytest.approx(at / 3 * area["width"], abs=2)
    page.close()


def test_a_value_says_of_which_step_it_is(browser, address):
    page = browser.new_page()
    page.goto(address)
    page.locator("figure").focus()
    page.keyboard.press("Home")
    told = page.locator("figure .box").inner_text().split("\n")
    assert told == ["step 0", "4 batches", "4 validation text, fixed part"]
    page.keyboard.press("ArrowRight")
    told = page.locator("figure .box").inner_text().split("\n")
    assert told == ["step 1", "3.9 batches", "4 validation text, fixed part at 0"]
    page.close()
