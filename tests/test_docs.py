"""Every command and Python block of README and docs runs, with budgets cut to a few steps; lessons: test_lessons.py."""

import io
import json
import pkgutil
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import primegpt
from primegpt import extend, tokenizers
from primegpt.cli.commands import app
from primegpt.cli.main import HELP, run
from primegpt.config import recipe_path, resolve
from primegpt.data.reading.fetch import corpora_folder
from primegpt.experiments.file import find_file
from primegpt.interop.huggingface import write_model
from primegpt.interop.weight_files import WeightFiles
from primegpt.run.tensors import serialize

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = ["--train.max_steps", "3", "--train.batch_size", "2", "--generate.max_new_tokens", "8"]
SMALL += ["--train.threads", "1"]  # two that wait for each other spin, beside another process for a minute
FEW_ROWS = ["--reinforce.num_generations", "2", "--reinforce.prompts_per_step", "2", "--reinforce.max_new_tokens", "4"]
# The hub's library's own, of the client that it is built on.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
BUDGETS = ("--minutes", "--epochs", "--tokens", "--train.max_steps")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    lines = [line.split(" #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def shortened(arguments: list[str]) -> list[str]:
    """The same command on a budget of three steps; a server takes any free port, and opens no browser."""
    if arguments[:1] in (["serve"], ["play"]):
        return [*arguments, "--port", "0", *(["--no-browser"] if arguments[0] == "play" else [])]
    if arguments[:1] == ["experiment"]:
        return [arguments[0], str(small_experiment(arguments[1])), *arguments[2:]]
    if arguments[:1] not in (["train"], ["finetune"], ["reinforce"]) or "--help" in arguments:
        return arguments
    kept, resuming = list(arguments), "--resume" in arguments
    if resuming and not set(BUDGETS) & set(kept):
        return kept
    for budget in BUDGETS:
        while budget in kept:
            at = kept.index(budget)
            del kept[at : at + 2]
    if resuming:
        return [*kept, "--train.max_steps", "6"]
    if arguments[0] == "reinforce":
        return [*kept, *SMALL, *FEW_ROWS]
    recipes = [path.read_text(encoding="utf-8") for word in kept if (path := recipe_path(word))]
    songs = ["--data.songs", "60"] if any("songbook" in text for text in [*kept, *recipes]) else []
    # So few songs would have the smallest network, whose context leaves an answer no room.
    context = ["--model.block_size", "128"] if "songbook" in kept and "--model.block_size" not in kept else []
    return [*kept, *SMALL, *songs, *context]


def small_experiment(source: str) -> Path:
    """The same experiment with two steps, one seed, a tiny network and few songs, in the folder that we are in."""
    most = {"songs": 60, "n_embd": 32, "n_layer": 1, "block_size": 64, "times": 2, "batch_size": 2}
    most["max_new_tokens"] = 4

    def cut(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            return {name: cut(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [cut(item) for item in value]
        return min(value, most[key]) if isinstance(value, int) and key in most else value

    values = tomllib.loads(find_file(source).read_text(encoding="utf-8"))
    small: dict[str, Any] = cut(values) | {"budget": {"steps": 2}, "seeds": 1}
    if "quick" in small:
        small["quick"] = {"arm": list(fewer(small["quick"]["arm"]))}
    path = Path(f"small-{Path(source).stem}.toml")
    path.write_text(tomli_w.dumps(small), encoding="utf-8")
    return path


def fewer(arms: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Two arms and those that come after, three values of each grid, a thousandth of the compute or less."""
    for arm in [*arms[:2], *(arm for arm in arms[2:] if "after" in arm)]:
        for section in arm.get("grid", {}).values():
            section.update({key: values[:3] for key, values in section.items()})
        if "budget" in arm:
            arm["budget"]["flops"] /= 10_000 if "after" in arm else 1000
        yield arm


@pytest.fixture
def smollm(hub, random_model, tmp_path_factory) -> None:
    """On the hub, what is called SmolLM2-135M: the shape of it, in small."""
    learnt = tokenizers.train("bpe", ["the river ran under a bridge of stone\n" * 20], 300)
    shape = {"n_layer": 1, "n_embd": 48, "n_head": 3, "n_kv_head": 1, "vocab_size": learnt.vocab_size}
    config, weights = random_model("llama", **shape).config, tmp_path_factory.mktemp("smollm") / "model.safetensors"
    weights.write_bytes(b"".join(serialize(random_model("llama", **shape).weights())))
    made = resolve({"model": config.model_dump()})
    write_model(weights.parent / "hf", made, learnt, WeightFiles([weights]), owner="SmolLM2")
    hub.create("HuggingFaceTB/SmolLM2-135M")
    for path in (weights.parent / "hf").iterdir():
        hub.files["HuggingFaceTB/SmolLM2-135M"][path.name] = path.read_bytes()


WORDS = "the river ran under a bridge of stone and the song went on until morning\n" * 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a text and the run of a user's first command. It is copied, and trained once."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my.txt").write_text(WORDS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        assert run(["train", "my.txt", *SMALL], 0.0) == 0
    shutil.rmtree(folder / "cache")
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch, hub) -> Path:
    """A user's folder: a text, recipes, parts of their own, and a finished run; and a hub to push it to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # where shells are told what to complete
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)  # a server would answer for ever
    monkeypatch.setattr("sys.stdin", io.StringIO("the river\nquit\n"))  # what is typed into a chat
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    answer = json.dumps({"prompt": "what ran under the bridge?", "response": "the river"})
    (tmp_path / "answers.jsonl").write_text(f"{answer}\n" * 40, encoding="utf-8")
    talk = [{"role": "user", "content": "what ran?"}, {"role": "assistant", "content": "the river"}]
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps({'messages': talk})}\n" * 40, encoding="utf-8")
    question = {"ctx": "the river ran under", "endings": ["a bridge", "stone", "the song", "it"], "label": 0}
    (tmp_path / "hellaswag.jsonl").write_text(json.dumps(question) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "extending.md"
    (tmp_path / "mine.py").write_text("".join(blocks(page, "python")), encoding="utf-8")
    (tmp_path / "mine.toml").write_text("".join(blocks(page, "toml")), encoding="utf-8")
    corpus = corpora_folder() / "shakespeare" / "input.txt"  # as if it had been fetched
    corpus.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "my.txt", corpus)
    return tmp_path


# Pages of many runs, however small: ten seconds and more each.
LONG = {
    name: [pytest.mark.reliability]
    for name in ("alignment", "data", "experiments-of-your-own", "finetuning", "training", "troubleshooting")
}


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=LONG.get(page.stem, [])) for page in PAGES if commands(page)]
)
def test_commands_run(page, place, capsys, request):
    if any("SmolLM2" in line for line in commands(page)):
        request.getfixturevalue("smollm")
    for block in blocks(page, "toml"):  # an experiment by its name
        if name := re.match(r'name = "(.*)"', block):
            Path(f"{name[1]}.toml").write_text(block, encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in commands(page):
        program, *arguments = shlex.split(line)
        if program == "primegpt" and arguments[:1] == ["bench"]:
            app.parse_args(arguments, exit_on_error=False, print_error=False)  # tests/bench runs them, made small
        elif program == "primegpt":
            assert run(shortened(arguments), 0.0) == 0, f"{line}\n{capsys.readouterr().err}"
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE), line
        else:
            assert program == "pip", f"no test knows how to run {line!r}"


WITH_PYTHON = [ROOT / "README.md", ROOT / "docs" / "generation.md", ROOT / "docs" / "alignment.md"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_in_the_documents_runs(page, place, capsys):
    for block in blocks(page, "python"):
        short = block.replace("minutes=2", "settings={'train': {'max_steps': 3, 'threads': 1}}")
        short = short.replace('"minutes": 1', '"max_steps": 3, "threads": 1')
        exec(short, {"primegpt": primegpt})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_picture_is_shown_somewhere():
    told = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    pictures = [path for path in (ROOT / "docs" / "images").rglob("*") if path.is_file()]
    assert [path.name for path in pictures if path.name not in told] == []


def test_the_help_page_names_exactly_the_commands():
    listed = set(re.findall(r"^  (\w+) ", HELP.split("RUN is")[0], re.MULTILINE))
    registered = {name for name in app if not name.startswith("-")}
    assert listed == registered


def test_the_settings_are_as_the_code_has_them():
    """Every setting, its default and its help; `python docs/make_settings.py` writes them anew."""
    page = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["settings_page"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == page, "run: python docs/make_settings.py"


def test_the_reference_names_exactly_what_is_public():
    """And all of it, with public methods, has something to say of itself."""
    names = {f"primegpt.{name}" for name in primegpt.__all__ if name not in ("extend", "tokenizers")}
    names |= {
        f"primegpt.{part.__name__.split('.')[1]}.{name}" for part in (tokenizers, extend) for name in part.__all__
    }
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^::: (\S+)", page, re.MULTILINE)) == names
    for name in names:
        assert pkgutil.resolve_name(name).__doc__, name


def test_the_site_leads_to_every_page():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    layout = runpy.run_path(str(ROOT / "docs" / "make_site.py"))["place_of"]
    pages = {layout(path.relative_to(ROOT).as_posix()) for path in [*PAGES, ROOT / "CHANGELOG.md"]}
    named = re.findall(r"'([^']*\.md)'", str(site["nav"]))
    assert sorted(named) == sorted(pages)


def test_the_site_says_what_is_wrong_with_it(tmp_path):
    """Of a page that leads nowhere, or lets the reader's browser ask others for something."""
    problems = runpy.run_path(str(ROOT / "docs" / "make_site.py"))["problems"]
    problems.__globals__["SITE"] = tmp_path
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text('<p id="x">', encoding="utf-8")
    good = '<a href="a/b.html#x"></a><a href="/a/b.html"></a><a href="#y" id="y"></a><a href="https://pytorch.org"></a>'
    bad = '<a href="a/c.html"></a><a href="a/b.html#z"></a><script src="https://unpkg.com/x"></script>'
    (tmp_path / "index.html").write_text(good + bad + '<img src="//x.org/y.png">', encoding="utf-8")
    (tmp_path / "site.css").write_text("@font-face {src: url(https://fonts.gstatic.com/x)}", encoding="utf-8")
    assert list(problems()) == [
        "index.html links to a/c.html, which is not there",
        "index.html links to a/b.html#z, where nothing has that name",
        "index.html loads https://unpkg.com/x",
        "index.html loads //x.org/y.png",
        "site.css loads https://fonts.gstatic.com/x",
    ]


def test_the_layout_names_every_folder_and_files_that_are_there():
    page, package = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), ROOT / "src" / "primegpt"
    floors = {path.parent.name for path in package.glob("*/__init__.py")}
    assert floors <= set(re.findall(r"`(\w+)/`", page))
    modules = {path.stem for path in package.glob("[a-z]*.py")}
    assert modules - set(re.findall(r"`(\w+)`", page)) <= {"doctor"}
    for name in re.findall(r"`([\w/]+\.py)`", page):
        assert (package / name).exists() or (ROOT / name).exists(), name
