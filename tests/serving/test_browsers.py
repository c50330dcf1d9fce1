"""What a first visit needs, in Chromium and in Firefox: all else that the page does is tested in Chromium alone.

Firefox is the one of the system, driven by WebDriver BiDi; Playwright's own is another build, which has to be fetched.
"""

import runpy
import shutil
from pathlib import Path

import pytest

shared = runpy.run_path(str(Path(__file__).with_name("test_browser.py")))
playwright, runs, address, visit = (shared[name] for name in ("playwright", "runs", "address", "visit"))
CHROMIUM, FLAGS, PROMPT, write, slide = (shared[name] for name in ("CHROMIUM", "FLAGS", "PROMPT", "write", "slide"))
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = pytest.mark.peers


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def browser(request):
    found = {"chromium": CHROMIUM, "firefox": FIREFOX}[request.param]
    if found is None:
        pytest.skip(f"there is no {request.param} here")
    how = {"args": FLAGS} if request.param == "chromium" else {"channel": "moz-firefox"}
    with playwright.sync_playwright() as started:
        opened = getattr(started, request.param).launch(executable_path=found, **how)
        try:
            opened.new_page().close()
        except playwright.Error as error:  # 1.65 sets media features, which Firefox 153 has no command for
            pytest.skip(f"this Playwright cannot drive this {request.param}: {error.message.splitlines()[0]}")
        yield opened
        opened.close()


def test_a_text_is_written_branched_taken_back_and_kept(visit):
    page = visit()
    page.fill("#prompt", PROMPT)
    page.locator("#bars-note", has_text="as it is typed").wait_for()
    write(page, tokens=40)
    text = page.locator("#write-sheet").text_content()
    assert PROMPT in text
    before = page.locator("#bars").text_content()
    slide(page, "set-temperature", 0.5)
    assert page.locator("#bars").text_content() != before  # the rules are applied in the page
    page.click("#tab-look")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    page.locator("#alternatives tr:not(.came):not(.gap) button").first.click()
    page.locator("#branches li li").nth(1).wait_for()
    page.locator("#write:not(.stop)").wait_for(state="attached")
    assert page.locator("#look-sheet").text_content() != text
    page.click("#undo")
    assert page.locator("#look-sheet").text_content() == text
    page.reload()
    page.locator("#look-sheet .token").first.wait_for()
    assert page.locator("#look-sheet").text_content() == text


def test_the_flow_is_gone_through_by_keyboard(visit):
    page = visit()
    write(page, tokens=30)
    page.click("#tab-inside")
    page.locator("#inside-sheet .by-model:not(.end)").nth(9).click()
    page.locator('.flow[aria-busy="false"]').wait_for()
    assert page.locator("#heads .head canvas").count() == page.locator("#heads .head").count() > 0
    page.locator('#heads [aria-checked="true"]').focus()
    said = page.locator("#reads").text_content()
    page.keyboard.press("ArrowRight" if "Head 1 " in said else "ArrowLeft")
    assert page.locator("#reads").text_content() != said
    page.click("#whole summary")
    page.locator("#map .cell").first.wait_for()
    cell = page.locator("#cell").text_content()
    page.locator("#map").focus()
    page.keyboard.press("ArrowUp")
    assert page.locator("#cell").text_content() != cell


def test_a_runs_life_is_drawn_and_its_first_checkpoint_writes(visit):
    page = visit(at="#training")
    page.locator("#curves circle").nth(2).wait_for()
    slider = page.locator(".life.first input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    page.locator(".life.first h2", has_text="step 0").wait_for()
    page.fill("#life-prompt", PROMPT)
    page.keyboard.press("Enter")
    page.locator(".life.first .text", has_text=PROMPT).wait_for()


@pytest.mark.parametrize("width", [390, 1440])
def test_no_view_is_wider_than_the_screen(visit, width):
    page = visit(width)
    write(page, tokens=20)
    for view in shared["VIEWS"]:
        page.click(f"#tab-{view}")
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
