"""The playground in a real Chromium: every view used as a person would, by mouse and by keyboard, and looked at.

Pictures are left in the test's folder. PRIMEGPT_RUNS=songs:plain names two runs in place of those trained here.
"""

import os
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import primegpt
from primegpt.config import resolve, write_toml
from primegpt.inference.decoder import Decoder
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.serving.security import Policy
from primegpt.serving.serve import PAGE
from primegpt.tokenizers import store
from primegpt.tokenizers.char import CharTokenizer

playwright = pytest.importorskip("playwright.sync_api")
pictures = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "make_pictures.py"))
CHROMIUM, FLAGS, served = (pictures[name] for name in ("CHROMIUM", "FLAGS", "served"))
pytestmark = [pytest.mark.peers, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]
VIEWS = ("write", "look", "inside", "training")
PROMPT = "a sad rock song about the river"
QUICK = 500  # milliseconds until something is seen


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two runs that have learnt a little: songs with genres and emotions, and the same as plain text."""
    if given := os.environ.get("PRIMEGPT_RUNS"):
        return [Path(run) for run in given.split(os.pathsep)]
    folder = tmp_path_factory.mktemp("runs")
    shared = {
        "tokenizer": {"kind": "bpe", "vocab_size": 800},
        "train": {"max_steps": 50, "eval_interval": 15, "checkpoint_interval": 5, "keep_checkpoints": "milestones"},
    }
    shared["train"] |= {"batch_size": 12, "threads": 1, "learning_rate": 3e-3}
    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 96, "block_size": 128}
    songs = {"model": {"preset": "gpt2", **sizes}, "data": {"songs": 1500, "template": "song"}, **shared}
    plain = {"model": {"preset": "prime", **sizes}, "data": {"songs": 1500}, **shared}
    for name, settings in (("songs", songs), ("plain", plain)):
        primegpt.train("songbook", out=folder / name, settings=settings, say=lambda text: None)
    return [folder / "songs", folder / "plain"]


@pytest.fixture(scope="module")
def address(runs) -> Iterator[str]:
    with served(runs) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, address) -> Iterator[Callable]:
    """Opens the page; at the end no error may have come up in it."""
    contexts, complaints = [], []

    def open_page(width: int = 1280, height: int = 900, at: str = "", where: str = address, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.complain = lambda said: complaints.append(said.text) if said.type == "error" else None
        page.on("console", page.complain)
        page.goto(where + at)
        page.locator("#bars li").first.wait_for(state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def picture(tmp_path) -> Callable:

    def take(page, name: str, full: bool = True) -> None:
        page.wait_for_timeout(400)  # transitions end
        page.screenshot(path=tmp_path / f"playground-{name}.png", full_page=full)

    return take


def set_number(page, name: str, value: int) -> None:
    if not page.locator(f"#set-{name}").is_visible():
        page.locator("#settings summary").click()
    page.locator(f"#set-{name}").press("ControlOrMeta+a")  # filling a number's field only adds to it in Firefox
    page.keyboard.type(str(value))
    page.locator(f"#set-{name}").dispatch_event("change")
    page.locator("#settings summary").click()


def write(page, seed: int = 4, tokens: int = 120) -> None:
    page.fill("#prompt", PROMPT)
    set_number(page, "seed", seed)
    set_number(page, "max_new_tokens", tokens)
    press_write(page)


def press_write(page, prompt: str | None = None) -> None:
    """Writes a text, of another prompt if one is given, and waits until it has ended."""
    if prompt is not None:
        page.fill("#prompt", prompt)
    page.locator("#status").evaluate("e => (e.textContent = '')")
    page.click("#write")
    page.locator("#status", has_text="a second").wait_for()
    page.locator("#write:not(.stop)").wait_for()


def linked(page) -> str:
    """The link that the page copies, from its # on."""
    page.click("#link")
    page.locator("#status", has_text="A link is copied").wait_for()
    return "#" + page.evaluate("navigator.clipboard.readText()").partition("#")[2]


def slide(page, name: str, value: float) -> None:
    page.locator(f"#{name}").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)


def bars(page) -> list[tuple[str, str]]:
    rows = page.locator("#bars .bar")
    return [(row.locator(".word").text_content(), row.locator(".number").text_content()) for row in rows.all()]


def settled(element) -> str:
    """The text of an element once it has stayed the same for a second and a half, however busy the machine is."""
    text, since = None, time.monotonic()
    for _ in range(600):
        if (found := element.text_content()) != text:
            text, since = found, time.monotonic()
        if time.monotonic() - since > 1.5:
            break
        time.sleep(0.05)
    return text


def asked(page) -> list[str]:
    """The paths that the page asks for from now on."""
    paths: list[str] = []
    page.on("request", lambda request: paths.append(request.url))
    return paths


def test_a_text_streams_in_and_can_be_stopped(visit, monkeypatch):
    steps, step = [], Decoder.next_ids

    def slow_step(*given, **more):
        time.sleep(0.03)
        steps.append(time.monotonic())
        return step(*given, **more)

    monkeypatch.setattr(Decoder, "next_ids", slow_step)
    page = visit()
    page.fill("#prompt", PROMPT)
    page.select_option("#genre", "rock")
    page.select_option("#emotion", "sad")
    page.click("#write")
    written = page.locator("#write-sheet .by-model")
    written.nth(3).wait_for(state="attached")
    early = written.count()
    written.nth(early + 5).wait_for(state="attached")
    page.keyboard.press("Escape")
    page.locator("#write:not(.stop)").wait_for()
    stopped = time.monotonic()
    page.locator("#status", has_text="stopped").wait_for()
    page.wait_for_timeout(500)
    assert early < written.count() <= len(steps) <= written.count() + 8  # what was under way, and no more
    assert max(steps) < stopped + 0.3
    sheet = page.locator("#write-sheet").text_content()
    assert sheet.startswith(f"<prompt><genre_rock><sad>{PROMPT}")
    page.click("#write")
    page.locator("#write.stop").wait_for()
    written.nth(25).wait_for(state="attached")
    page.click("#write")
    page.locator("#write:not(.stop)").wait_for()
    assert not page.locator("#write-sheet").text_content().startswith(sheet)  # the seed has moved on


def test_what_is_typed_is_answered_before_it_is_sent(visit):
    page = visit()
    before = bars(page)
    page.locator("#prompt").press_sequentially("a happy pop song about the", delay=10)
    page.locator("#bars").evaluate(
        "(list, old) => new Promise((done) => { const look = () =>"
        " list.textContent === old ? setTimeout(look, 50) : done(); look(); })",
        page.locator("#bars").text_content(),
    )
    assert bars(page) != before
    assert page.locator("#write-sheet .token").count() == 0
    page.locator("#bars .bar").nth(2).click()  # goes on from the prompt by hand
    page.locator("#write-sheet .by-hand").wait_for(state="attached")
    page.locator("#bars .bar").nth(1).click()
    page.locator("#write-sheet .by-hand").nth(1).wait_for(state="attached")
    assert "a happy pop song about the" in page.locator("#write-sheet").text_content()


def test_nothing_that_was_written_is_lost(visit, picture):
    page = visit()
    sheet, examples = page.locator("#write-sheet"), page.locator("#examples button")
    picture(page, "first")
    set_number(page, "max_new_tokens", 400)
    prompt = examples.nth(1).evaluate("e => e.firstChild.textContent")
    examples.nth(1).click()
    page.locator("#write.stop").wait_for()
    page.locator("#write:not(.stop)").wait_for()
    assert page.input_value("#prompt") == prompt
    assert examples.first.is_hidden()
    assert sheet.evaluate("e => e.scrollHeight > e.clientHeight && e.scrollTop === 0")  # its beginning is in view
    first = sheet.text_content()
    page.fill("#prompt", PROMPT)
    page.locator("#write-sheet.stale").wait_for()  # the bars are of another text than the sheet
    assert "as it is typed" in page.locator("#bars-note").text_content()
    set_number(page, "max_new_tokens", 20)
    page.click("#write")
    page.locator("#write-sheet:not(.stale) .by-model").nth(15).wait_for(state="attached")
    page.locator("#write:not(.stop)").wait_for()
    second = sheet.text_content()
    assert PROMPT in second
    page.click("#tab-look")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    page.locator("#alternatives tr:not(.came):not(.gap) button").first.click()  # a branch, and back
    page.locator("#branches li li").nth(1).wait_for()
    page.locator("#write:not(.stop)").wait_for(state="attached")
    third = page.locator("#look-sheet").text_content()
    page.click("#undo")
    assert page.locator("#look-sheet").text_content() == second != third
    page.reload()
    page.locator("#look-sheet .token").first.wait_for()
    assert page.locator("#look-sheet").text_content() == second
    assert page.locator("#branches li li").count() == 2  # the branch is there too
    page.click("#tab-write")
    assert page.input_value("#prompt") == PROMPT
    page.locator("#earlier button").nth(1).click()
    assert sheet.text_content() == first
    assert page.input_value("#prompt") == prompt
    picture(page, "earlier")
    page.keyboard.press("Control+z")
    assert sheet.text_content() == second
    page.select_option("#run", "1")
    page.locator("#facts", has_text=page.locator("#run option").nth(1).text_content()).wait_for()
    assert sheet.locator(".token").count() == 0  # of another vocabulary
    page.select_option("#run", "0")
    page.locator("#write-sheet .token").first.wait_for()
    assert sheet.text_content() == second


def test_a_text_leaves_the_page_and_a_link_brings_it_back(visit):
    allowed = {"permissions": ["clipboard-read", "clipboard-write"]}
    page = visit(**allowed)
    slide(page, "set-temperature", 1.25)
    page.select_option("#genre", "rock")
    write(page, seed=77, tokens=30)
    first = page.locator("#write-sheet").text_content()
    slide(page, "set-temperature", 0.75)
    press_write(page)  # a branch beside it, with the next seed
    text = page.locator("#write-sheet").text_content()
    assert text != first
    slide(page, "set-temperature", 1.9)  # of no text yet
    page.click("#copy")
    page.locator("#status", has_text="copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied
    assert copied in "".join(page.locator("#write-sheet .token:not(.special)").all_text_contents())
    with page.expect_download() as download:
        page.click("#save")
    assert Path(download.value.path()).read_text(encoding="utf-8") == copied
    assert download.value.suggested_filename.endswith(".txt")
    beginning = linked(page)
    assert "up to where" not in page.locator("#status").text_content()
    other = visit(at=beginning)
    other.wait_for_function("document.getElementById('prompt').value !== ''")
    assert other.input_value("#prompt") == PROMPT
    assert other.input_value("#set-seed") == "78"
    assert other.input_value("#genre") == "rock"
    assert other.input_value("#set-temperature") == "0.75"
    assert other.url.endswith("#write")
    press_write(other)
    assert other.locator("#write-sheet").text_content() == text
    page.reload()
    page.locator("#bars .bar").nth(1).click()
    page.locator("#write-sheet .by-hand").wait_for(state="attached")
    assert linked(page) == beginning  # it can say no more
    assert "up to where" in page.locator("#status").text_content()


def test_the_bars_follow_a_text_as_it_comes_on_one_scale(visit, monkeypatch):
    step = Decoder.next_ids

    def slow_step(*given, **more):
        time.sleep(0.05)
        return step(*given, **more)

    monkeypatch.setattr(Decoder, "next_ids", slow_step)
    page = visit()
    page.fill("#prompt", PROMPT)
    page.click("#write")
    page.locator("#write-sheet .by-model").nth(3).wait_for(state="attached")
    seen = set()
    for _ in range(40):
        seen.add(page.locator("#bars").text_content())
        page.wait_for_timeout(200)
        if len(seen) > 3:
            break
    assert page.locator("#write.stop").is_visible()
    assert len(seen) > 3
    page.keyboard.press("Escape")
    page.locator("#write:not(.stop)").wait_for()
    page.wait_for_load_state("networkidle")
    number, width = "e.querySelector('.number').textContent", "parseFloat(e.querySelector('.drawn').style.width)"
    shown = page.locator("#bars .bar").evaluate_all(f"all => all.map((e) => [{number}, {width}])")  # of one moment
    for told, width in shown:
        share = told.removeprefix("< ").removesuffix(" %")
        assert not share or abs(width - float(share)) < 0.06


def test_the_bars_follow_the_settings_without_a_question_to_the_server(visit, picture):
    page = visit()
    write(page, tokens=63)
    page.wait_for_load_state("networkidle")
    paths, seen = asked(page), [bars(page)]
    for name, value in (("temperature", 1.6), ("top_k", 2), ("temperature", 0.5), ("top_p", 0.05)):
        slide(page, f"set-{name}", value)
        seen.append(bars(page))
    assert all(one != other for one, other in pairwise(seen))
    assert [number != "" for _, number in seen[2]] == [True] * 3 + [False] * (len(seen[2]) - 3)  # the third value is 3
    assert seen[-1][0][1] == "100 %"
    assert all(number == "" for _, number in seen[-1][1:])
    assert paths == []
    slide(page, "set-temperature", 1.1)
    slide(page, "set-top_p", 0.92)
    slide(page, "set-top_k", 10)
    picture(page, "write")


def test_another_choice_branches_and_the_first_text_stays(visit, picture):
    page = visit()
    write(page)
    page.click("#tab-look")
    page.locator('#look-sheet .token[aria-label$="percent"]').first.wait_for()
    tints = page.locator("#look-sheet .token").evaluate_all(
        "all => all.map(e => Number(e.style.getPropertyValue('--heat')))"
    )
    assert max(tints) > 0.2
    assert min(tints) < 0.05
    first = page.locator("#look-sheet").text_content()
    page.locator("#look-sheet .by-model:not(.end)").nth(14).click()
    page.locator("#alternatives:not([inert]) .came").wait_for()
    shares = page.locator("#alternatives td:nth-child(5)").all_text_contents()
    assert any(share.endswith("%") for share in shares)
    page.locator("#alternatives tr:not(.came) button").nth(1).click()
    page.locator("#branches li li").nth(1).wait_for()
    page.locator("#write:not(.stop)").wait_for(state="attached")
    page.locator("#look-sheet .by-hand").wait_for()
    page.locator('#look-sheet .by-model[aria-label$="percent"]').nth(20).wait_for(state="attached")
    assert page.locator("#look-sheet").text_content() != first
    page.locator("#look-sheet .by-model:not(.end)").nth(25).click()  # a branch of the branch
    page.locator("#alternatives tr:not(.came) button").nth(0).click()
    page.locator("#branches li li li").nth(1).wait_for()
    page.locator("#write:not(.stop)").wait_for(state="attached")
    page.wait_for_timeout(800)
    picture(page, "look")
    page.locator("#branches ul ul > li > button").first.click()
    assert page.locator("#look-sheet").text_content() == first


def test_look_begins_with_the_greatest_surprise_and_has_the_rules_beside_it(visit):
    page = visit()
    write(page)
    page.click("#tab-look")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    heat = "all => all.map(e => Number(e.style.getPropertyValue('--heat')))"
    chosen = page.locator('#look-sheet [aria-selected="true"]')
    assert chosen.evaluate_all(heat) == [max(page.locator("#look-sheet .by-model").evaluate_all(heat))]
    rank = page.locator("#alternatives .came td").first.text_content()
    note = page.locator("#place-note").text_content()
    assert int(rank.replace(",", "")) > 16  # of a model that has learnt so little
    assert f"the {rank}" in note
    assert page.locator("#alternatives .gap").count() == 1
    heats = page.locator("#look-sheet .by-model").evaluate_all(heat)
    page.locator("#look-sheet .by-model").nth(heats.index(min(heats))).click()
    page.locator("#alternatives tr:nth-child(1).came").wait_for()
    bar = page.locator("#alternatives .came .meter").evaluate("e => getComputedStyle(e).backgroundImage")
    assert "gradient" in bar  # of the token that came too
    shares = page.locator("#alternatives td:last-child").all_text_contents()
    paths = asked(page)
    slide(page, "set-temperature", 0.2)
    assert page.locator("#alternatives td:last-child").all_text_contents() != shares
    assert paths == []
    assert (
        page.locator("#look-sheet .by-prompt").first.evaluate("e => getComputedStyle(e).textDecorationStyle")
        == "dotted"
    )
    said = page.locator("#look-status").text_content()
    page.click("#tab-write")
    assert page.locator("#set-temperature").input_value() == "0.2"  # the same control
    assert "nats" in said
    assert "nats" in page.locator("#bars-note").text_content()


def test_inside_shows_heads_layers_and_neighbours(visit, picture):
    page = visit()
    write(page)
    page.click("#tab-inside")
    about = page.evaluate("fetch('play/runs').then((answer) => answer.json())")[0]
    page.locator("#heads .head").nth(about["n_head"] - 1).wait_for()
    assert page.locator("#heads .head").count() == about["n_head"]
    for more in ("near", "whole", "lens-card"):
        page.click(f"#{more} summary")
    page.locator("#map .cell").first.wait_for()
    cells = page.locator("#map svg").inner_html()
    page.locator('#heads [aria-checked="true"]').focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#heads .head").nth(1).get_attribute("aria-checked") == "true"
    page.keyboard.press("ArrowRight")
    assert page.locator("#map svg").inner_html() != cells
    page.select_option("#layer", label="3")
    page.locator('#map[aria-label*="block 3"]').wait_for()
    assert page.locator("#lens tbody tr").count() == about["n_layer"] + 1
    assert page.locator("#near-tokens .bar").count() == 12
    assert page.locator("#near-positions path").count() == 1
    said = page.locator("#inside-status").text_content()
    page.locator("#inside-sheet .token:not(.end)").nth(30).click()
    page.locator("#map .line").wait_for(state="attached")
    page.wait_for_timeout(500)
    assert page.locator("#inside-status").text_content() != said
    picture(page, "inside")


def test_the_slider_goes_through_a_runs_life_beside_another(visit, picture, runs):
    page = visit()
    page.click("#tab-training")
    page.fill("#life-prompt", PROMPT)
    page.click("#life-form button")
    assert page.locator(".life").count() == 2
    texts = set()
    slider = page.locator(".life.first input[type=range]")
    checkpoints = len(RunFolder(runs[0]).read_metrics()) and int(slider.get_attribute("max")) + 1
    assert checkpoints >= 5
    for at in (0, checkpoints // 2, checkpoints - 1):
        slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", at)
        texts.add(settled(page.locator(".life.first .text")))
    assert len(texts) == 3
    again = settled(page.locator(".life.first .text"))
    slider.focus()
    page.keyboard.press("ArrowLeft")
    settled(page.locator(".life.first .text"))
    page.keyboard.press("ArrowRight")
    assert settled(page.locator(".life.first .text")) == again  # the same checkpoint, prompt and seed
    assert page.locator("#curves path").count() == 4
    picture(page, "training")


def test_the_curve_grows_while_a_run_trains(visit, runs, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(runs[1], live)
    with RunFolder(live).lock(), served([live]) as where:  # as the process that trains holds it
        page = visit(where=where, at="#training")
        page.locator("#live").wait_for()
        before = page.locator("#curves circle").count()
        page.locator("#curves").focus()
        page.keyboard.press("Home")
        told = page.locator("#curves .box").inner_text()
        last = RunFolder(live).read_metrics()[-1]
        RunFolder(live).append_metrics({**last, "step": last["step"] + 50, "val/loss": 1.0})
        page.locator("#curves circle").nth(before).wait_for()
        assert page.locator("#curves .box").inner_text() == told  # who reads a point goes on reading it
        page.keyboard.press("End")
        assert page.locator("#curves .box").inner_text().startswith(f"step {last['step'] + 50},")
        page.goto("about:blank")  # before the server goes, which it asks again and again


def test_charts_tell_values_and_change_their_scales(visit, runs):
    page = visit(at="#training")
    page.locator("#curves circle").nth(3).wait_for()
    rows = RunFolder(runs[0]).read_metrics()
    losses = {row["step"]: row[key] for row in rows for key in ("early/val/loss", "val/loss") if key in row}
    alone = page.locator("#beside option").first
    page.select_option("#beside", alone.get_attribute("value"))
    page.locator(".life").nth(1).wait_for(state="detached")
    assert page.locator("#legend li").all_text_contents() == ["songs, validation text", "songs, training batches"]
    page.locator("#curves").focus()
    page.keyboard.press("End")
    told = page.locator("#curves .box").inner_text().split("\n")
    assert told[0] == "step 50, nats per token"
    assert f"{losses[50]:.3f} songs, validation text" in told
    page.keyboard.press("Home")
    assert f"{losses[0]:.3f} songs, validation text" in page.locator("#curves .box").inner_text()
    frame = page.locator("#curves svg").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] - 12, frame["y"] + 60)
    assert page.locator("#curves .box").inner_text().split("\n")[0].startswith("step 50,")

    def path(kind: str) -> str:
        return page.locator(f"#curves path.{kind}").get_attribute("d")

    def heights(kind: str) -> list[float]:
        return [float(point.split()[1]) for point in path(kind)[1:].split("L")]

    rough = heights("train")
    slide(page, "smoothing", 0.9)
    assert sum(abs(b - a) for a, b in pairwise(heights("train"))) < sum(abs(b - a) for a, b in pairwise(rough))
    before = path("val")
    page.select_option("#steps-scale", "even")
    xs = [float(point.split()[0]) for point in path("val")[1:].split("L")]
    assert path("val") != before
    steps = sorted(losses)
    assert (xs[1] - xs[0]) / (xs[-1] - xs[0]) == pytest.approx((steps[1] - steps[0]) / steps[-1], abs=2e-3)
    before = path("val")
    page.select_option("#loss-scale", "log")
    assert path("val") != before
    ours = page.locator("#curves path.val").evaluate("e => getComputedStyle(e).stroke")
    page.select_option("#run", "1")
    page.locator("#legend li", has_text="plain").first.wait_for()
    theirs = page.locator("#curves path.val").first.evaluate("e => getComputedStyle(e).stroke")
    assert theirs != ours
    page.select_option("#beside", "0")
    page.locator(".life").nth(1).wait_for()
    colours = page.locator("#curves path.val").evaluate_all("all => all.map((e) => getComputedStyle(e).stroke)")
    assert colours == [theirs, ours]  # those of the runs, whichever stands first
    assert "bits per byte" in page.locator(".life").first.inner_text()  # as the chart has it
    assert "bits per byte" in page.locator(".life").nth(1).inner_text()


def test_a_run_that_trains_says_how_far_it_is_and_its_newest_is_followed(visit, runs, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(runs[1], live)
    with RunFolder(live).lock(), served([live]) as where:
        folder = RunFolder(live)
        last = next(row for row in reversed(folder.read_metrics()) if "lr" in row)
        folder.append_metrics({**last, "step": 40, "seconds": 20.0, "tokens_per_sec": 1234.4})
        page = visit(where=where, at="#training")
        now = page.locator(".life .now", has_text="1,234 tokens a second")
        now.wait_for()
        assert now.text_content() == "step 40 of 50, 1,234 tokens a second, 5 s left"
        slider = page.locator(".life input[type=range]")
        assert slider.input_value() == slider.get_attribute("max")
        newest = int(slider.get_attribute("max"))
        model = folder.load_checkpoint("last", pytest.fail)
        save_checkpoint(folder.checkpoints_dir, 60, {"model": model.tensors["model"]}, model.state, resumable=False)
        page.locator(".life h2", has_text="step 60").wait_for()
        assert slider.input_value() == str(newest + 1)
        slider.focus()
        page.keyboard.press("Home")  # who looks at another one is left alone
        assert not page.locator("#follow").is_checked()
        page.wait_for_timeout(2500)
        assert slider.input_value() == "0"
        page.check("#follow")
        assert slider.input_value() == str(newest + 1)
        for by in ("#curves svg", ".life .buttons button"):  # nor is one who chooses on the curve, or plays
            page.check("#follow")
            page.locator(by).click()
            assert not page.locator("#follow").is_checked()
        page.goto("about:blank")


def test_a_checkpoint_that_is_gone_is_told_of_with_a_way_on(visit, runs, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(runs[1], live)
    with served([live]) as where:
        page = visit(where=where)
        best = page.input_value("#step")
        gone = next(
            step for step in page.locator("#step option").evaluate_all("all => all.map(e => e.value)") if step != best
        )
        shutil.rmtree(RunFolder(live).checkpoint_path(int(gone)))  # as training lets go of it
        page.remove_listener("console", page.complain)  # which is told of the refusal, too
        page.select_option("#step", gone)
        page.locator("#gone", has_text=f"Step {gone} of live is no longer kept.").wait_for()
        assert page.locator("#step option:checked").text_content() == f"{gone}, gone"
        assert page.locator("#onto").text_content() == f"Go on with step {best}, best"
        page.click("#onto")
        page.locator("#gone").wait_for(state="hidden")
        assert page.input_value("#step") == best
        assert gone not in page.locator("#step option").evaluate_all("all => all.map(e => e.value)")
        press_write(page, PROMPT)


def test_a_checkpoint_that_is_gone_of_the_run_beside_is_noticed_too(visit, runs, tmp_path):
    live = tmp_path / "live"
    shutil.copytree(runs[1], live)
    with served([runs[0], live]) as where:
        page = visit(where=where, at="#training")
        slider = page.locator(".life.other input[type=range]")
        slider.wait_for()
        settled(page.locator(".life.other .text"))
        most = int(slider.get_attribute("max"))
        shutil.rmtree(min(RunFolder(live).checkpoints_dir.glob("step-*")))
        page.remove_listener("console", page.complain)  # which is told of the refusal, too
        slider.focus()
        page.keyboard.press("Home")
        page.locator(f".life.other input[max='{most - 1}']").wait_for()
        assert settled(page.locator(".life.other .text"))
        assert page.locator("#gone").is_hidden()


def test_an_error_of_what_is_typed_is_told_until_something_else_is(visit):
    page = visit()
    page.remove_listener("console", page.complain)
    refusal = {"status": 400, "json": {"error": {"message": "this cannot be spelt"}}}
    page.route("**/play/encode", lambda route: route.fulfill(**refusal))
    page.fill("#prompt", "a")
    page.locator("#status.bad", has_text="this cannot be spelt").wait_for()
    page.unroute("**/play/encode")
    page.fill("#prompt", "b")
    page.locator("#status:not(.bad)").wait_for(state="attached")
    assert page.locator("#status").text_content() == ""


def test_the_prompt_is_the_same_in_every_view_and_run(visit):
    page = visit()
    page.fill("#prompt", PROMPT)
    page.click("#tab-training")
    assert page.input_value("#life-prompt") == PROMPT
    assert settled(page.locator(".life.first .text")).startswith(PROMPT)
    page.fill("#life-prompt", "a happy pop song about the moon")
    page.keyboard.press("Enter")
    assert settled(page.locator(".life.other .text")).startswith("a happy pop song about the moon")
    page.select_option("#run", "1")
    page.locator("#facts", has_text="plain").wait_for()
    page.click("#tab-write")
    assert page.input_value("#prompt") == "a happy pop song about the moon"


def test_another_run_writes_and_reads_beside(visit, tmp_path, picture):
    words, same = parrot(tmp_path / "words", WORDS), parrot(tmp_path / "same", WORDS)
    digits = parrot(tmp_path / "digits", "0123456789" * 8)
    with served([words, same, digits]) as where:
        page = visit(where=where)
        assert page.locator("#other-write").is_hidden()
        page.select_option("#beside", "1")
        page.locator("#other-write").wait_for()
        set_number(page, "max_new_tokens", 30)
        press_write(page, "the")
        theirs = settled(page.locator("#other-write-text"))
        assert theirs == page.locator("#write-sheet").text_content()  # the same weights, settings and seed
        picture(page, "beside")
        page.click("#tab-look")
        page.locator("#other-look-status", has_text="bits per byte").wait_for()
        assert page.locator("#other-look-sheet .token").count() == page.locator("#look-sheet .token").count()
        told = page.locator("#other-look-status").text_content()
        assert told.split(" bits")[0] == told.split("same, ")[1].split(" to ")[0]
        page.select_option("#beside", "2")  # of another alphabet
        page.locator("#other-look-title", has_text="digits").wait_for()
        page.locator("#other-look-status", has_text="does not know").wait_for()
        assert page.locator("#other-look-sheet .token").count() == 0
        page.click("#tab-write")  # where it has written nothing yet
        page.locator("#other-write-title", has_text="digits").wait_for()
        assert settled(page.locator("#other-write-text")).startswith("the23456")
        press_write(page, "fox")
        page.click("#tab-look")
        page.click("#undo")
        page.click("#tab-write")
        assert settled(page.locator("#other-write-text")).startswith("the23456")  # beside the text that is shown
        page.select_option("#beside", "")
        page.locator("#other-write").wait_for(state="hidden")


def test_another_run_is_opened_whole_in_every_view(visit, tmp_path):
    with served([parrot(tmp_path / "words", WORDS), parrot(tmp_path / "digits", "0123456789" * 8)]) as where:
        page = visit(where=where)
        texts = {}
        for run, prompt in (("0", "the"), ("1", "12")):
            page.select_option("#run", run)
            page.locator("#facts", has_text="digits" if run == "1" else "words").wait_for()
            set_number(page, "max_new_tokens", 20)
            press_write(page, prompt)
            texts[run] = page.locator("#write-sheet").text_content()
        for view, place in (("look", "#alternatives:not([inert]) .came"), ("inside", '.flow[aria-busy="false"]')):
            page.click(f"#tab-{view}")
            for run in ("0", "1", "0", "1"):
                page.locator(place).wait_for()
                page.select_option("#run", run)
                page.locator(f"#{view}-sheet", has_text=texts[run][:6]).wait_for()
                assert page.locator(f"#{view}-sheet").text_content() == texts[run]


def test_it_is_used_without_a_mouse(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the text"
    page.locator("#prompt").focus()
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    page.locator("#write-sheet .by-model").nth(20).wait_for(state="attached")
    page.locator("#write:not(.stop)").wait_for()
    page.locator("#tab-write").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-look").get_attribute("aria-selected") == "true"
    page.locator("#look-sheet .token").nth(3).wait_for(state="attached")
    chosen = page.locator('#look-sheet [aria-selected="true"]')
    chosen.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.locator("#alternatives:not([inert]) .came").wait_for()
    assert chosen.evaluate("e => e === document.activeElement")
    page.locator("#alternatives tr:not(.came) button").first.focus()
    page.keyboard.press("Enter")
    page.locator("#branches li li").nth(1).wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")])
def test_accessible_and_whole_in_light_and_dark_wide_and_narrow(visit, picture, width, scheme):
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js")
    page = visit(width, 800, color_scheme=scheme, reduced_motion="reduce", bypass_csp=True)  # axe needs eval
    write(page)
    page.evaluate(axe.read_text(encoding="utf-8"))
    for view in VIEWS:
        page.click(f"#tab-{view}")
        page.wait_for_timeout(1500)
        found = page.evaluate("axe.run().then((found) => found.violations)")
        serious = [
            f"{v['id']}: {v['help']} {[n['html'][:120] for n in v['nodes']][:4]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], view
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the screen"
        if view in ("write", "look"):
            page.select_option("#beside", "1")
            page.locator(f"#other-{view}").wait_for()
            page.wait_for_timeout(1500)
            beside = page.evaluate("axe.run().then((found) => found.violations)")
            assert [v["id"] for v in beside if v["impact"] in ("serious", "critical")] == [], view
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{view}: two runs are too wide"
            page.select_option("#beside", "")
        if (width, scheme) in ((1280, "dark"), (360, "light")):
            picture(page, f"{view}-{'dark' if width > 360 else 'narrow'}")
    moving = page.evaluate("document.getAnimations().length")
    assert moving == 0


def test_the_theme_can_be_chosen_and_is_remembered(visit):
    page = visit(color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.click("#theme")
    assert page.evaluate(paper) == light
    page.click("#theme")
    dark = page.evaluate(paper)
    assert dark != light
    page.reload()
    page.locator("#bars li").first.wait_for()
    assert page.evaluate(paper) == dark


def test_a_browser_that_keeps_nothing_shows_the_page_all_the_same(visit, tmp_path):
    with served([parrot(tmp_path / "parrot", WORDS)]) as where:
        page = visit(where=where)
        for name in ("localStorage", "sessionStorage"):
            page.add_init_script(f"Object.defineProperty(window, '{name}', {{ get() {{ throw new DOMException() }} }})")
        page.reload()
        press_write(page, "the")
        page.click("#theme")
        page.click("#tour")
        page.locator(".guide button", has_text="Leave").click()
        page.goto(f"{where}learn/1-tokens")
        assert page.locator("html").get_attribute("data-theme") == "auto"


def test_the_first_paint_is_quick_and_little_is_sent(visit):
    """Nothing is kept from one visit to the next. The quickest of a few is the page's own time on a busy machine."""
    paints = list[float]()
    while not paints or (min(paints) >= QUICK and len(paints) < 10):
        page = visit()
        paints += page.evaluate(
            "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)"
        )
    size = page.evaluate(
        "performance.getEntriesByType('resource').filter((e) => e.name.includes('/static/'))"
        ".reduce((sum, e) => sum + e.encodedBodySize, 0)"
    )
    print(f"first paint after {', '.join(f'{paint:.0f}' for paint in paints)} ms, {size:,} bytes of assets")
    assert min(paints) < QUICK
    assert 20_000 < size < 250_000


MARKUP = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "![leak](http://leak.invalid/?q=1)<svg onload=alert(1)>[a](javascript:alert(1))<style>*{display:none}</style>"
)


def parrot(folder: Path, text: str) -> Path:
    """A run whose model writes `text`, whatever it is asked: place n of it says character n + 1."""
    tokenizer = CharTokenizer.train([text])
    config = resolve({"model": {"preset": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 128, "block_size": 512}})
    config = config.with_values(model={"vocab_size": tokenizer.vocab_size, "tie_embeddings": False})
    config = config.with_values(tokenizer={"kind": "char"}, generate={"max_new_tokens": len(text)})
    model = GPT(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name == "ln_f.weight" else 0.0)
        for place, id in enumerate([*tokenizer.encode(text), tokenizer.eot_id]):
            model.wpe.weight[place, id] = 1.0
        model.lm_head.weight.copy_(10 * torch.eye(*model.lm_head.weight.shape))
    run = RunFolder.create(folder)
    store.save(tokenizer, run.tokenizer_dir)
    state = {"fingerprints": {"tokenizer": tokenizer.fingerprint}}
    save_checkpoint(run.checkpoints_dir, 0, {"model": model.weights()}, state, resumable=False)
    run.append_metrics({"step": 0, "val/loss": 3.0})
    run.config_path.write_text(write_toml(config), encoding="utf-8")
    return run.path


WORDS = "the quick brown fox jumps over the lazy dog, and then the dog jumps over the fox. "


def test_two_tabs_keep_each_others_texts(visit, tmp_path):
    with served([parrot(tmp_path / "parrot", WORDS)]) as where:
        page = visit(where=where)
        other = page.context.new_page()
        other.goto(where)
        other.locator("#bars li").first.wait_for()
        for tab, prompt in ((page, "the"), (other, "fox"), (page, "dog")):
            press_write(tab, prompt)
        other.reload()  # what it keeps as it goes is not the whole list of an hour ago
        other.locator("#earlier button").nth(2).wait_for()
        assert other.locator("#earlier span").all_text_contents() == ["dog", "fox", "the"]
        for tab, nth in ((page, 1), (other, 2)):  # both work on the same text
            tab.locator("#bars .bar").nth(nth).click()
            tab.locator("#write-sheet .by-hand").wait_for(state="attached")
        page.goto("about:blank")
        other.reload()
        other.click("#tab-look")
        other.locator("#branches li").first.wait_for()
        assert other.locator("#branches li li").count() == 2
        third = page.context.new_page()
        third.goto(where)
        third.locator("#earlier button").nth(2).wait_for()
        other.on("dialog", lambda dialog: dialog.accept())
        other.click("#tab-write")
        other.click("#forget")
        third.locator("#earlier-card").wait_for(state="hidden")
        press_write(third, "quick")  # does not bring them back
        assert third.locator("#earlier span").all_text_contents() == ["quick", "dog"]


def test_a_text_too_large_to_keep_leaves_the_others(visit, tmp_path):
    little = """const set = Storage.prototype.setItem;
        Storage.prototype.setItem = function (key, value) {
          if (value.length > 4000) throw new DOMException("full", "QuotaExceededError");
          return set.call(this, key, value);
        };"""
    with served([parrot(tmp_path / "parrot", WORDS * 4)]) as where:
        page = visit(where=where)
        page.add_init_script(little)
        page.reload()
        page.locator("#bars li").first.wait_for()
        set_number(page, "max_new_tokens", 20)
        press_write(page, "the")
        set_number(page, "max_new_tokens", 300)
        press_write(page, "dog")
        assert page.locator("#earlier span").all_text_contents() == ["dog", "the"]  # as long as the page is open
        set_number(page, "max_new_tokens", 20)
        press_write(page, "fox")
        page.reload()
        page.locator("#earlier button").nth(1).wait_for()
        assert page.locator("#earlier span").all_text_contents() == ["fox", "the"]


def test_undo_and_what_is_being_written_stay_in_their_vocabulary(visit, tmp_path, monkeypatch):
    step = Decoder.next_ids

    def slow_step(*given, **more):
        time.sleep(0.05)
        return step(*given, **more)

    with served([parrot(tmp_path / "words", WORDS), parrot(tmp_path / "digits", "0123456789" * 8)]) as where:
        page = visit(where=where)
        sheet, undo = page.locator("#write-sheet"), page.locator("#undo")
        press_write(page, "the")
        text = sheet.text_content()
        monkeypatch.setattr(Decoder, "next_ids", slow_step)
        page.fill("#prompt", "fox fox")
        page.click("#write")
        page.locator("#write-sheet", has_text="fox fox").wait_for()  # and no longer the text before
        page.locator("#write-sheet .by-model").nth(3).wait_for(state="attached")
        page.select_option("#run", "1")
        page.locator("#facts", has_text="digits").wait_for()
        page.locator("#write:not(.stop)").wait_for()
        monkeypatch.setattr(Decoder, "next_ids", step)
        assert undo.is_disabled()
        press_write(page, "12")
        page.keyboard.press("Escape")
        undo.click()
        assert sheet.text_content() == ""
        assert undo.is_disabled()
        page.select_option("#run", "0")
        page.locator("#write-sheet .by-model").nth(3).wait_for(state="attached")
        assert "fox fox" in sheet.text_content()
        undo.click()
        assert sheet.text_content() == text


def test_a_writing_that_is_halted_leaves_the_text_that_is_opened_alone(visit, tmp_path, monkeypatch):
    step = Decoder.next_ids

    def slow_step(*given, **more):
        time.sleep(0.05)
        return step(*given, **more)

    with served([parrot(tmp_path / "parrot", WORDS * 5)]) as where:
        page = visit(360, 400, where=where)  # so that the sheet has to be scrolled
        set_number(page, "seed", 7)
        press_write(page, "the")
        press_write(page, "dog")
        set_number(page, "seed", 50)
        monkeypatch.setattr(Decoder, "next_ids", slow_step)
        page.fill("#prompt", "fox")
        page.click("#write")
        page.locator("#write-sheet .by-model").nth(3).wait_for(state="attached")
        page.locator("#earlier button").last.click()  # halts it
        page.locator("#write-sheet", has_text="the quick").wait_for()
        page.locator("#write-sheet").evaluate("e => (e.scrollTop = 50)")
        page.locator("#write:not(.stop)").wait_for()
        assert page.input_value("#set-seed") == "7"
        assert page.locator("#write-sheet").evaluate("e => e.scrollTop") == 50
        assert page.locator("#status").text_content() == ""


def test_a_link_to_what_is_not_served_says_so(visit, tmp_path):
    with served([parrot(tmp_path / "first", WORDS), parrot(tmp_path / "parrot", WORDS)]) as where:
        for run, step, said in (("songs", 0, "run songs,"), ("parrot", 77, "step 77 of parrot,"), ("parrot", 0, "")):
            page = visit(where=where, at=f"#write&run={run}&step={step}&text=the")
            page.wait_for_function("document.getElementById('prompt').value === 'the'")
            page.wait_for_load_state("networkidle")
            status = page.locator("#status").text_content()
            assert said in status
            assert ("not here" in status) == bool(said)
            assert page.input_value("#run") == ("1" if run == "parrot" else "0")


def test_markup_that_a_model_writes_stays_text(visit, tmp_path):
    folder = parrot(tmp_path / "<img src=x onerror=alert(1)>", MARKUP)
    with served([folder]) as where:
        page = visit(where=where)
        paths, dialogs = asked(page), []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
        page.fill("#prompt", "")
        page.click("#write")
        page.locator("#write:not(.stop)").wait_for()
        page.locator("#status", has_text="tokens").wait_for()
        assert MARKUP in page.locator("#write-sheet").text_content()
        for view in VIEWS:
            page.click(f"#tab-{view}")
            page.wait_for_timeout(800)
            if view == "look":
                page.locator("#look-sheet .token").nth(4).click()
                page.locator("#alternatives:not([inert]) .came").wait_for()
        assert MARKUP[:90] in settled(page.locator(".life .text"))
        assert page.title() == "primegpt playground"
        assert dialogs == []
        assert [path for path in paths if not path.startswith(where)] == []
        assert page.locator("script").count() == 1
        assert page.locator("img, iframe, object, style, a[href^=javascript]").count() == 0
        # And were it parsed as markup after all, the policy would not let it run.
        page.remove_listener("console", page.complain)
        page.evaluate(
            "text => { document.body.insertAdjacentHTML('beforeend', text.replace(/<style.*/, '')); }", MARKUP
        )
        page.wait_for_timeout(300)
        assert page.title() == "primegpt playground"
        assert [path for path in paths if "leak" in path] == []


def test_the_token_in_the_address_opens_the_run_and_is_not_left_there(visit, runs):
    with served(runs[:1], Policy(token="a token of twenty letters", public=("/health", *PAGE))) as where:
        page = visit(where=where, at="#token=a%20token%20of%20twenty%20letters")
        write(page)
        assert "token" not in page.url
        page.reload()
        page.locator("#bars li").first.wait_for()


def test_every_address_that_is_asked_is_the_servers_own(visit, address):
    page = visit()
    paths = asked(page)
    write(page)
    for view in VIEWS:
        page.click(f"#tab-{view}")
        page.wait_for_timeout(600)
    assert len(paths) > 8
    assert {path for path in paths if not path.startswith(address)} == set()
