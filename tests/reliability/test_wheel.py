"""What is installed from a wheel, far from the repository: the commands of a first hour, a recipe by its name."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from primegpt import __version__

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--model.n_layer", "1", "--model.n_head", "2", "--model.n_embd", "16", "--model.block_size", "32"),
    *("--train.max_steps", "2", "--train.batch_size", "2", "--train.threads", "1", "--generate.max_new_tokens", "4"),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """The folder of programs of a fresh environment: the wheel is installed there, and the libraries are those of here.

    Nothing is downloaded. A line of a .pth file leads to the libraries, so that a package installed here for editing
    is not found by it.
    """
    place = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)], cwd=ROOT, check=True)
    venv.create(place / "env", with_pip=False)
    folder = place / "env" / ("Scripts" if os.name == "nt" else "bin")
    [site] = (place / "env").rglob("site-packages")
    (site / "libraries.pth").write_text(str(Path(torch.__file__).parents[1]), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, *map(str, place.glob("*.whl"))], check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A user's folder."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "my.txt").write_text("the river ran under a bridge of stone\n" * 200, encoding="utf-8")
    return folder


def environment(home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return inherited | {"PRIMEGPT_CACHE": str(home / "cache"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def primegpt(programs, home):
    """Run a command there; what it writes to standard output."""

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [programs / "primegpt", *arguments], cwd=home, env=environment(home), capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


@contextlib.contextmanager
def listening(programs: Path, home: Path, *arguments: str) -> Iterator[str]:
    """The address of a server that is running."""
    command = [programs / "primegpt", *arguments, "--port", "0"]
    with subprocess.Popen(
        command, cwd=home, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    ) as process:
        try:
            assert process.stdout
            said = ""
            while not (address := re.search(r"http://[\d.]+:\d+", said)):
                line = process.stdout.readline()
                assert line, said
                said += line
            yield address[0]
        finally:
            process.kill()


def page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as response:
        return response.read().decode()


def test_what_runs_is_the_installed_package(programs, home):
    code = """
import importlib.metadata, primegpt
print(primegpt.__file__, primegpt.__version__, importlib.metadata.version("primegpt"))
print(*importlib.metadata.files("primegpt"), sep="\\n")
"""
    done = subprocess.run([programs / "python", "-c", code], cwd=home, env=environment(home), capture_output=True)
    where, said, installed, *files = done.stdout.decode().split()
    assert programs.parent in Path(where).parents
    assert said == installed == __version__
    assert {"primegpt/py.typed", "primegpt/recipes/char-10m.toml"} <= set(files)


def test_the_demo(primegpt, home):
    primegpt("demo", "--minutes", "0.05")
    assert (home / "runs" / "demo-1" / "metrics.jsonl").exists()


def test_a_recipe_by_its_name_and_what_comes_of_it(primegpt, programs, home):
    """The source of char-10m is `my.txt`, which lies in the folder; its run is reported, served and played with."""
    primegpt("train", "char-10m", "--out", "runs/river", *SMALL)
    assert primegpt("generate", "runs/river", "the", "--max-new-tokens", "4")
    primegpt("report", "runs/river")
    assert "<html" in (home / "runs" / "river" / "report.html").read_text(encoding="utf-8")
    with listening(programs, home, "serve", "runs/river") as address:
        [model] = json.loads(page(f"{address}/v1/models"))["data"]
        assert model["id"] == "river"
    with listening(programs, home, "play", "runs/river", "--no-browser") as address:
        html = page(address)
        scripts = re.findall(r'(?:src|href)="(/?[\w./-]+\.(?:js|css))"', html)
        assert scripts
        for script in scripts:
            assert page(f"{address}/{script.lstrip('/')}")
