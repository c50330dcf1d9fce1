"""The lessons of docs/learn print what they say, draw what they show, and are the notebooks that lie beside them."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from primegpt.report.pictures import PALETTE

ROOT = Path(__file__).parents[1]
MAKER = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))
PAGES, parts, outputs, run, notebook = (MAKER[name] for name in ("PAGES", "parts", "outputs", "run", "notebook"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def pictures(page: Path) -> list[Path]:
    return [page.parent / part.text for part in parts(page) if part.kind == "picture"]


@each_page
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries among themselves, which no reader sees
def test_lessons_print_what_they_say_and_draw_what_they_show(page, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", plt.show)  # which a lesson's run replaces
    plt.close("all")
    with plt.rc_context():  # and its code takes a style
        plt.rcdefaults()
        printed = run(page, tmp_path)
    assert len(printed) == len(outputs(page))
    for said, shown in zip(printed, outputs(page), strict=True):
        assert alike(said, shown), f"{said}\nis not\n{shown}"
    for picture in pictures(page):
        assert difference(tmp_path / picture.name, picture) < 0.015, "run: python docs/make_notebooks.py --pictures"


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def alike(one: str, other: str) -> bool:
    """The same words; and numbers within a twentieth of each other, or two of their last digit.

    Another processor rounds sums in another order, which 200 steps of training make visible.
    """
    if NUMBER.sub("", one) != NUMBER.sub("", other):
        return False
    for a, b in zip(NUMBER.findall(one), NUMBER.findall(other), strict=True):
        last = 10.0 ** -len(b.partition(".")[2])
        if abs(float(a) - float(b)) > max(0.05 * float(b), 2.1 * last):
            return False
    return True


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("loss 3.07", "loss 2.97", True),
        ("9% right", "8% right", True),
        ("loss 3.07", "loss 2.07", False),
        ("9% right", "3% right", False),
        ("loss 3.07", "loss of 3.07", False),
    ],
)
def test_outputs_are_alike_by_their_words_and_nearly_their_numbers(one, other, expected):
    assert alike(one, other) is expected


def difference(one: Path, other: Path) -> float:
    """Between two pictures: the share of their squares of 20 pixels whose means differ by more than a fiftieth.

    Another matplotlib sets letters a pixel further, and on another processor a dot may move, which is up to 1% of
    squares; another curve is a third of them.
    """
    from matplotlib.image import imread

    a, b = (imread(path)[..., :3] for path in (one, other))
    assert a.shape == b.shape
    rows, columns = (size // 20 * 20 for size in a.shape[:2])
    squares = (a - b)[:rows, :columns].reshape(rows // 20, 20, columns // 20, 20, 3)
    return float((np.abs(squares.mean(axis=(1, 3))).max(axis=-1) > 0.02).mean())


def test_pictures_of_two_lessons_differ():
    pictures = ROOT / "docs" / "images" / "learn"
    assert difference(pictures / "2-loss.png", pictures / "5-loss.png") > 0.2


@each_page
def test_a_lesson_has_a_picture_and_two_exercises_with_answers(page):
    text = page.read_text(encoding="utf-8")
    assert pictures(page)
    assert all(picture.stat().st_size < 60_000 for picture in pictures(page))
    _, _, exercises = text.partition("\n## Try it\n")
    answers = re.findall(r"^<details.*?</details>$", exercises, re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^\*\*\d\.\*\* ", exercises, re.MULTILINE)) == len(answers) == 2
    assert all("```python" in answer for answer in answers)


@each_page
def test_a_notebook_is_its_page(page):
    assert page.with_suffix(".ipynb").read_text(encoding="utf-8") == notebook(page), (
        "run: python docs/make_notebooks.py"
    )


def test_there_is_no_other_notebook_or_picture():
    learn = ROOT / "docs" / "learn"
    assert {path.stem for path in learn.glob("*.ipynb")} == {page.stem for page in PAGES}
    shown = {picture.resolve() for page in PAGES for picture in pictures(page)}
    assert {path.resolve() for path in (ROOT / "docs" / "images" / "learn").iterdir()} == shown


def test_a_notebook_says_all_that_its_page_says():
    """Every block of code, output, picture and line of prose, wherever it stands."""
    for page in PAGES:
        cells = json.loads(notebook(page))["cells"]
        whole = "".join("".join(cell["source"]) + "\n" for cell in cells)
        printed = "".join("".join(o["text"]) for cell in cells for o in cell.get("outputs", []) if "text" in o)
        text = page.read_text(encoding="utf-8")
        assert printed == "".join(re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        text = re.sub(r"^```text\n.*?^```|^!\[.*|^</?details.*", "", text, flags=re.DOTALL | re.MULTILINE)
        for line in re.sub(r"\]\((\d[\w-]*)\.md", r"](\1.ipynb", text).splitlines():
            assert line.startswith("```python") or line == "```" or line in whole, line


def test_pictures_have_the_colours_of_all_others():
    import matplotlib

    style = matplotlib.rc_params_from_file(
        ROOT / "src" / "primegpt" / "report" / "paper.mplstyle", use_default_template=False
    )
    assert tuple(style["axes.prop_cycle"].by_key()["color"]) == PALETTE
