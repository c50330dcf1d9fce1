"""Trains two small runs and takes the playground's pictures for the documents: `make pictures`, a quarter of an hour.

    python docs/make_pictures.py [FOLDER]

FOLDER keeps the runs, so that a second call takes only the pictures; without it they are trained anew and thrown away.
Needs Chromium and playwright. The texts and numbers of the pictures are those of the runs, and may differ from one
machine to another; what docs/walk-through.md says of them is true of any run. Tests in a browser have its way to start
Chromium and to serve runs.
"""

import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

import primegpt
from primegpt.serving.security import Policy
from primegpt.serving.serve import create_app, page_routes
from primegpt.serving.server import listen, server_for

IMAGES = Path(__file__).with_name("images")
LARGEST = 150_000  # bytes of a picture
PROMPT = "a sad rock song about the river"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]  # what a container needs
SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 160}
RUNS = {
    "songs": {"model": {"preset": "gpt2"}, "data": {"template": "song"}, "train": {"max_steps": 900}},
    "plain": {"model": {"preset": "prime"}, "train": {"max_steps": 300}},
}


def train(folder: Path) -> list[Path]:
    """The runs, trained unless they are there: songs with genres and emotions, and the same as plain text."""
    for name, own in RUNS.items():
        if (folder / name).exists():
            continue
        train = {
            "batch_size": 12,
            "threads": 1,
            "learning_rate": 3e-3,
            "eval_interval": 100,
            "checkpoint_interval": 100,
        }
        settings: dict[str, Any] = {
            "tokenizer": {"kind": "bpe", "vocab_size": 1000},
            "model": SIZES | own["model"],
            "data": {"songs": 4000} | own.get("data", {}),
            "train": train | {"keep_checkpoints": "milestones"} | own["train"],
        }
        primegpt.train("songbook", out=folder / name, settings=settings)
    return [folder / name for name in RUNS]


@contextmanager
def served(runs: list[Path], policy: Policy | None = None) -> Iterator[str]:
    """The address of a playground of `runs`, on a real socket."""
    run = primegpt.load(runs[0], device="cpu")
    app, listening = create_app(run, policy=policy, routes=page_routes(runs)(run)), listen("127.0.0.1", 0)
    server = server_for(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(20)


class Visitor:
    """Someone at the page, who takes pictures of what is seen."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def take(self, name: str) -> None:
        self.page.wait_for_timeout(700)  # transitions end
        picture = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        for colours in (256, 128, 64, 32):
            picture.quantize(colours, dither=Image.Dither.NONE).save(IMAGES / f"{name}.png", optimize=True)
            if (IMAGES / f"{name}.png").stat().st_size <= LARGEST:
                return
        raise SystemExit(f"{name}.png is larger than {LARGEST:,} bytes")

    def click(self, what: str) -> None:
        self.page.locator(what).first.click()

    def view(self, name: str) -> None:
        self.click(f"#tab-{name}")
        self.page.evaluate("scrollTo(0, 0)")

    def slide(self, what: str, value: object) -> None:
        self.page.locator(what).evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)

    def setting(self, name: str, value: int) -> None:
        more = self.page.locator("#settings details")
        more.evaluate("e => (e.open = true)")
        self.page.fill(f"#set-{name}", str(value))
        self.page.locator(f"#set-{name}").dispatch_event("change")
        more.evaluate("e => (e.open = false)")
        self.page.evaluate("scrollTo(0, 0)")

    def write(self, seed: int = 4, tokens: int = 120) -> None:
        self.page.fill("#prompt", PROMPT)
        self.setting("seed", seed)
        self.setting("max_new_tokens", tokens)
        self.click("#write")
        self.ended()
        self.page.evaluate("scrollTo(0, 0)")

    def ended(self) -> None:
        """Waits until a text is written."""
        self.page.locator("#status", has_text="a second").wait_for(state="attached")
        self.page.locator("#write:not(.stop)").wait_for(state="attached")

    def station(self, name: str) -> None:
        self.page.locator('.flow[aria-busy="false"]').wait_for()
        self.page.locator("#stations button", has_text=name).click()


def overview(person: Visitor) -> None:
    """A picture of each view."""
    page = person.page
    person.write()
    person.slide("#set-temperature", 1.1)
    person.slide("#set-top_p", 0.92)
    person.slide("#set-top_k", 10)
    person.take("playground-write")
    look(person)
    page.locator("#alternatives tr:not(.came):not(.gap) button").nth(1).click()
    page.locator("#branches li li").nth(1).wait_for()
    page.locator("#write:not(.stop)").wait_for(state="attached")
    page.wait_for_load_state("networkidle")
    person.take("playground-look")
    page.emulate_media(color_scheme="dark")
    person.take("playground-look-dark")
    page.emulate_media(color_scheme="light")
    inside(person)
    attention(person)
    person.take("playground-inside")
    training(person)
    person.take("playground-training")


def walk(person: Visitor) -> None:
    """A picture of each step of docs/walk-through.md."""
    page = person.page
    person.take("walk-1-first")
    person.write()
    person.take("walk-2-written")
    look(person)
    person.take("walk-3-why")
    page.locator("#look-sheet [aria-selected='true']").press("ArrowLeft")  # after that one it was drawn
    inside(person)
    person.take("walk-4-tokens")
    attention(person)
    person.take("walk-5-attention")
    person.station("The residual stream")
    page.locator("#followed button", has_text="came").click()
    person.take("walk-6-forming")
    person.station("Probability")
    person.take("walk-7-choice")
    training(person)
    steps = page.evaluate("fetch('play/runs').then((answer) => answer.json())")[0]["steps"]
    person.slide(".life.first input[type=range]", min(range(len(steps)), key=lambda i: abs(steps[i] - 50)))
    quiet(person)
    show_lives(person)
    person.take("walk-8-step-50")


def look(person: Visitor) -> None:
    person.view("look")
    person.page.locator("#alternatives:not([inert]) .came").wait_for()


def inside(person: Visitor) -> None:
    person.view("inside")
    person.page.locator('.flow[aria-busy="false"]').wait_for()


def attention(person: Visitor) -> None:
    """The head of block 2 that reads most from one place."""
    page = person.page
    page.select_option("#layer", label="2")
    page.locator("#mlp-strips", has_text="block 2").wait_for()
    shares = [float(head.locator("span").first.inner_text().split()[0]) for head in page.locator("#heads .head").all()]
    page.locator("#heads .head").nth(shares.index(max(shares))).click()
    person.station("Attention")


def training(person: Visitor) -> None:
    person.view("training")
    person.page.fill("#life-prompt", PROMPT)
    person.click("#life-form button")
    quiet(person)
    show_lives(person)


def show_lives(person: Visitor) -> None:
    """The texts of the checkpoints in view, below as much of the curve as there is room for."""
    person.page.locator("#lives").evaluate("e => e.scrollIntoView({ block: 'end' })")


def quiet(person: Visitor) -> None:
    """Waits until the texts of the checkpoints have stayed the same for two seconds."""
    texts = None
    while texts != (texts := person.page.locator(".life .text").all_text_contents()):
        person.page.wait_for_timeout(2000)


def visit(browser: Browser, where: str, go: Callable[[Visitor], None]) -> None:
    context = browser.new_context(viewport={"width": 1200, "height": 820}, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(where)
    page.locator("#bars li").first.wait_for()
    go(Visitor(page))
    page.goto("about:blank")  # before the server ends
    context.close()


def main(folder: Path) -> None:
    if CHROMIUM is None:
        raise SystemExit("there is no Chromium here, with which the pictures are taken")
    runs = train(folder)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for go, shown in ((overview, runs), (walk, runs[:1])):
            with served(shown) as where:
                visit(browser, where, go)
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
