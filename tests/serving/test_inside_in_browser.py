"""Inside and the tour in a real Chromium: the way from a token to the next guess, by mouse, touch and keyboard."""

import re
import runpy
import time
from pathlib import Path

import pytest

import primegpt
from primegpt.inference.decoder import Decoder
from primegpt.serving.lessons import found
from primegpt.tokenizers.char import CharTokenizer

shared = runpy.run_path(str(Path(__file__).with_name("test_browser.py")))
runs, address, browser, visit = (shared[name] for name in ("runs", "address", "browser", "visit"))
pytestmark, served, write = shared["pytestmark"], shared["served"], shared["write"]
STATIONS = ("tokens", "embedding", "attention", "mlp", "residual", "logits", "chances")
LETTERS = "abcdefghijklmnopqrstuvwxyz .,\n"


def number(text: str) -> float:
    """The first number of a text; minus signs are those of typography."""
    return float(re.search(r"[-+]?\d+(\.\d+)?", text.replace("−", "-").replace(",", ""))[0])


def inside(visit, nth: int = 25, of: str = "by-model", **options):
    """The page on Inside, with the nth token that the model wrote, or of the prompt, chosen."""
    page = visit(**options)
    write(page, tokens=60)
    page.click("#tab-inside")
    page.locator("#heads .head").first.wait_for(state="attached")
    page.locator(f"#inside-sheet .{of}:not(.end)").nth(nth).click()
    settle(page)
    return page


def settle(page) -> None:
    """Waits until all stations are of the token that is chosen."""
    page.locator('.flow[aria-busy="false"]').wait_for()


def test_the_flow_goes_from_the_token_to_the_choice_that_look_shows(visit):
    page = inside(visit)
    assert page.locator("#stations button").count() == len(STATIONS)
    chosen = page.locator('#inside-sheet [aria-selected="true"]').text_content()
    id = page.locator('#chips [aria-current="true"] small').text_content()
    assert f"is number {id}." in page.locator("#tokens-note").text_content()
    assert chosen.strip() in page.locator('#chips [aria-current="true"]').text_content()
    assert "came" in page.locator("#followed").text_content()
    page.locator("#followed button", has_text="came").click()
    logit = page.locator('#logits tr[aria-current="true"] .push').text_content()
    chance = page.locator("#chances .bar", has_text="•").locator(".number").text_content()
    page.click("#onward")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    cells = page.locator("#alternatives .came td").all_text_contents()
    assert number(cells[2]) == pytest.approx(number(logit), abs=0.011)
    assert cells[5] == (chance or "cut")


def test_what_the_parts_add_is_the_logit_of_each_guess(visit):
    page = inside(visit)
    for guess in page.locator("#followed button").all():
        guess.click()
        parts = page.locator("#forming tbody td.push").all_text_contents()
        start = page.locator("#forming tbody tr").first.locator("td").last.text_content()
        note = page.locator("#forming-note").text_content()
        bias = number(note.partition("final norm ")[2] or "0")
        logit = page.locator('#logits tr[aria-current="true"] .push').text_content()
        assert number(start) + sum(map(number, parts)) + bias == pytest.approx(
            number(logit), abs=0.1
        )  # two digits each
        assert number(note.partition("together ")[2]) == pytest.approx(number(logit), abs=0.011)


def test_the_text_is_tinted_by_what_the_chosen_head_reads(visit):
    page = inside(visit)
    heat = "all => all.map(e => Number(e.style.getPropertyValue('--heat')))"
    told = []
    page.locator('#heads [aria-checked="true"]').focus()
    for key in ("Home", *["ArrowRight"] * 3):
        page.keyboard.press(key)
        tints = page.locator("#inside-sheet .token").evaluate_all(heat)
        most = number(page.locator("#read-from .number").first.text_content()) / 100
        assert max(tints) ** 2 == pytest.approx(most, abs=0.002)
        assert sum(tint**2 for tint in tints) == pytest.approx(1, abs=0.02)
        told.append(page.locator("#read-from").text_content())
    assert len(set(told)) > 1
    page.select_option("#layer", label="3")
    page.locator("#reads", has_text="block 3").wait_for()
    assert page.locator("#read-from").text_content() not in told


def test_a_chip_keeps_the_focus_and_an_error_takes_the_place_of_what_it_is_about(visit):
    page = inside(visit)
    page.locator("#chips button").nth(3).focus()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator('#chips [aria-current="true"]').evaluate("e => e === document.activeElement")
    for more in ("near", "lens-card"):
        page.click(f"#{more} summary")
    page.locator("#lens button").first.wait_for()
    page.locator("#near-tokens li").first.wait_for()

    page.remove_listener("console", page.complain)  # a browser tells of answers like these itself
    wrong = '{"error": {"message": "it does not work"}}'
    for question in ("block", "lens", "near"):
        page.route(f"**/play/{question}", lambda route: route.fulfill(status=500, body=wrong))
    page.locator("#inside-sheet .by-model:not(.end)").nth(7).click()
    for note, drawn in (("attention-note", "heads"), ("lens-said", "lens"), ("places-note", "near-tokens")):
        page.locator(f"#{note}", has_text="it does not work").wait_for()
        assert page.locator(f"#{drawn} *").count() == 0
    assert float(page.locator("#inside-sheet .token").first.evaluate("e => e.style.getPropertyValue('--heat')")) == 0
    page.unroute_all()
    page.locator("#inside-sheet .by-model:not(.end)").nth(8).click()
    page.locator("#heads .head").first.wait_for()


@pytest.mark.parametrize("touch", [False, True])
def test_every_number_can_be_reached_by_touch_and_by_keyboard(visit, touch):
    page = inside(visit, width=390 if touch else 1280, has_touch=touch)
    press = (lambda what, at: what.tap(position=at)) if touch else (lambda what, at: what.click(position=at))
    strip = page.locator("#embedding-strips .strip").first
    press(strip.locator("input"), {"x": 100, "y": 8})
    told = strip.locator("output").text_content()
    at = int(number(told.removeprefix("number ")))
    assert at > 1
    strip.locator("input").focus()
    page.keyboard.press("ArrowRight")
    assert strip.locator("output").text_content().startswith(f"number {at + 1} of 96: ")
    assert strip.locator("input").get_attribute("aria-valuetext") == strip.locator("output").text_content()

    page.click("#whole summary")
    page.locator("#map .cell").first.wait_for()
    cell = page.locator("#cell")
    first = cell.text_content()
    page.locator("#map").focus()
    page.keyboard.press("ArrowUp")
    second = cell.text_content()
    press(page.locator("#map .cell").nth(40), {"x": 4, "y": 4})
    assert len({first, second, cell.text_content()}) == 3
    assert re.fullmatch(r"“.*” reads [\d.< ]+ % from (“.*”|itself)\.", cell.text_content(), re.DOTALL)
    kept = cell.text_content()
    page.locator("#map svg").evaluate("e => (e.id = 'before')")
    page.set_viewport_size({"width": 400 if touch else 1270, "height": 900})  # as when a phone is turned
    page.locator("#map svg:not(#before)").wait_for()
    assert cell.text_content() == kept

    page.click("#lens-card summary")
    said = page.locator("#lens-said")
    page.locator('#lens [aria-pressed="true"]').wait_for()
    first = said.text_content()
    page.locator('#lens [aria-pressed="true"]').focus()
    page.keyboard.press("ArrowUp")
    assert said.text_content() != first
    assert said.text_content().count(" %") == 5
    assert page.locator('#lens [aria-pressed="true"]').evaluate("e => e === document.activeElement")
    page.click("#near summary")
    page.locator("#near-tokens .bar").first.wait_for()
    page.fill("#near-place", "3")
    assert page.locator("#near-said").text_content().startswith("place 3: ")
    sums = page.locator("#forming tfoot td").all()[-2:]
    above = page.locator("#forming tbody tr").last.locator(".push").all()
    assert [cell.bounding_box()["x"] for cell in sums] == [cell.bounding_box()["x"] for cell in above]
    assert page.locator("[title]").count() == 0  # no number is in a tooltip alone


def test_canvases_are_in_the_colours_of_the_theme(visit):
    page = inside(visit, color_scheme="light")
    pixels = "all => all.map(e => e.toDataURL()).join()"
    canvases = page.locator("#view-inside canvas")
    light = canvases.evaluate_all(pixels)
    page.emulate_media(color_scheme="dark")
    page.wait_for_timeout(600)
    dark = canvases.evaluate_all(pixels)
    assert dark != light
    page.click("#theme")  # light, as chosen
    page.wait_for_timeout(600)
    assert canvases.evaluate_all(pixels) == light
    assert "darker" not in page.locator("#view-inside").text_content()


KINDS = {
    "qwen3": {"preset": "qwen3", "n_kv_head": 2, "head_dim": 16},
    "llama": {"preset": "llama", "n_kv_head": 1},
    "prime": {"preset": "prime", "logit_softcap": 4.0, "embedding_norm": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_be_followed(visit, random_model, save_run, kind):
    tokenizer = CharTokenizer.train([LETTERS])
    folder = save_run(random_model(vocab_size=tokenizer.vocab_size, **KINDS[kind]), tokenizer, kind)
    primegpt.load(folder, device="cpu")
    with served([folder]) as where:
        page = inside(visit, nth=2, of="by-prompt", where=where)  # what such a model writes may end at once
        page.select_option("#layer", label="2")
        page.locator("#mlp-strips", has_text="block 2").wait_for()
        note = page.locator("#forming-note").text_content()
        logit = page.locator('#logits tr[aria-current="true"] .push').text_content()
        end = "bends to " if kind == "prime" else "together "
        assert number(note.partition(end)[2]) == pytest.approx(number(logit), abs=0.011)
        assert "turns what it compares" in page.locator("#embedding-note").text_content()
        page.goto("about:blank")


def test_the_tour_can_be_left_gone_on_with_and_is_remembered_as_done(visit):
    page = visit()
    assert page.locator("#tour.fresh").count() == 1
    page.locator("#tour").focus()
    page.keyboard.press("Enter")
    titles = []
    guide = page.locator(".guide")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Next, which writes a text
    page.locator("#guide-title", has_text="2 of").wait_for()
    assert page.locator("#write-sheet .by-model").count() > 0
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#guide-title", has_text="3 of").wait_for()
    assert page.locator("#tab-look").get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    assert guide.count() == 0
    assert page.locator("#tour").evaluate("e => e === document.activeElement")
    page.reload()
    page.locator("#bars li").first.wait_for(state="attached")
    page.click("#tour")
    page.locator("#guide-title", has_text="3 of").wait_for()  # where it was left
    views = []
    while True:
        titles.append(page.locator("#guide-title").text_content())
        views.append(page.locator('[role="tab"][aria-selected="true"]').text_content())
        assert page.locator(".toured").count() == 1, titles[-1]
        assert page.locator(".toured").is_visible()
        if guide.locator("button", has_text="Done").count():
            break
        guide.locator("button", has_text="Next").click()
        page.locator("#guide-title", has_text=f"{len(titles) + 3} of").wait_for()
    assert list(dict.fromkeys(views)) == ["Look", "Inside", "Training"]
    questions = (
        "Why was this token chosen",
        "Which earlier tokens",
        "How did the guess form",
        "What could it do early",
    )
    assert all(any(question in title for title in titles) for question in questions)
    guide.locator("button", has_text="Done").click()
    page.reload()
    page.locator("#bars li").first.wait_for(state="attached")
    assert page.locator("#tour.fresh").count() == 0
    assert guide.count() == 0


def test_the_tour_is_left_while_it_writes_and_keeps_the_prompt(visit, tmp_path, monkeypatch):
    step = Decoder.next_ids

    def slow_step(*given, **more):
        time.sleep(0.03)
        return step(*given, **more)

    monkeypatch.setattr(Decoder, "next_ids", slow_step)
    with served([shared["parrot"](tmp_path / "parrot", shared["WORDS"])]) as where:
        page = visit(where=where)
        page.fill("#prompt", "the")
        page.click("#tour")
        page.locator(".guide .primary").click()
        page.locator("#write-sheet .by-model").nth(3).wait_for(state="attached")
        assert page.locator(".guide .primary").is_disabled()
        page.locator(".guide button", has_text="Leave").click()
        page.locator("#write:not(.stop)").wait_for()
        page.wait_for_timeout(400)
        assert page.locator(".guide").count() == 0
        assert page.input_value("#prompt") == "the"
        page.goto("about:blank")


def test_each_station_leads_to_its_lesson(visit):
    page = inside(visit)
    links = page.locator(".station .lesson a")
    assert links.count() == len(STATIONS)
    page.click("#theme")
    page.click("#theme")  # dark
    addresses = {link.evaluate("e => e.href"): link.text_content() for link in links.all()}
    for where, name in addresses.items():
        page.goto(where)
        lesson = re.search(r"Lesson (\d)", name)[1]
        assert page.locator("h1").text_content().startswith(f"{lesson}. ")
        assert page.locator("pre").count() > 0
        assert page.locator("html").get_attribute("data-theme") == "dark"
        sizes = page.locator("img").evaluate_all("all => all.map((e) => e.complete && e.naturalWidth)")
        assert all(sizes)
        assert len(sizes) == page.content().count("<img ")
    page.click("text=All lessons")
    assert page.locator(".reading ol a").count() == len(found("learn", "[0-9]*.md"))
    page.locator(".reading ol a").first.click()
    page.locator("h1", has_text="1. ").wait_for()


CUT = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
LINES = "all => all.map(e => { const r = new Range(); r.selectNodeContents(e); return r.getClientRects().length; })"


@pytest.mark.parametrize("width", [390, 1024])
def test_no_number_is_broken_and_nothing_is_out_of_sight(visit, width):
    page = inside(visit, width=width)
    assert page.locator(".head .adds").evaluate_all(CUT) == []
    page.locator("#followed button").last.click()
    assert set(page.locator("#forming .meter span").evaluate_all(LINES)) == {1}
    page.click("#tab-look")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    assert page.locator("#view-look .scroll").evaluate_all(CUT) == []
    chosen = page.locator(".model select").evaluate_all("all => all.map(e => e.offsetWidth)")
    assert min(chosen) > 60
    assert width > 390 or sum(chosen) > 0.6 * width  # the names of runs have what there is


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_the_flow_the_tour_and_a_lesson_are_accessible_and_whole(visit, width, scheme, tmp_path):
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js").read_text("utf-8")
    page = inside(visit, width=width, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)

    def check(what: str) -> None:
        page.evaluate(axe)
        violations = page.evaluate("axe.run().then((found) => found.violations)")
        serious = [
            f"{v['id']}: {v['help']} {[n['html'][:160] for n in v['nodes']][:4]}"
            for v in violations
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], what
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{what} is wider than the screen"
        page.screenshot(path=tmp_path / f"{what}-{width}-{scheme}.png", full_page=True)

    for more in ("near", "whole", "lens-card"):
        page.click(f"#{more} summary")
    page.locator('#lens [aria-pressed="true"]').wait_for()
    page.wait_for_timeout(500)
    check("inside")
    page.click("#tour")
    page.locator(".guide").wait_for()
    check("tour")
    page.goto(page.locator(".lesson a").nth(2).evaluate("e => e.href"))
    check("lesson")
