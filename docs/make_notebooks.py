"""Write docs/learn/*.ipynb from the lessons, which are Markdown: cells, what they print, their pictures.

python docs/make_notebooks.py              # the notebooks, from the pages and the pictures as they are
python docs/make_notebooks.py --pictures   # first run every lesson, and keep the pictures that it draws

Nothing is executed for a notebook: what a cell gives is what the page says that it gives, and a test holds pages to
that. So the two cannot drift apart.
"""

import base64
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple

LEARN = Path(__file__).with_name("learn")
PAGES = sorted(LEARN.glob("[0-9]*.md"), key=lambda page: int(page.stem.partition("-")[0]))
# A block of code, what it prints, a picture in a line of its own, an answer's lid; all else is prose.
PARTS = re.compile(
    r"^```python\n(?P<code>.*?)^```\n|^```text\n(?P<prints>.*?)^```\n|^!\[(?P<shown>[^\]]*)\]\((?P<picture>[^)]+)\)\n"
    r"|^(?P<lid></?details[^\n]*)\n",
    re.DOTALL | re.MULTILINE,
)


class Part(NamedTuple):
    """A stretch of a lesson."""

    kind: Literal["prose", "code", "prints", "picture"]
    text: str
    """Of a picture: where it lies."""
    answers: bool
    """Whether it stands in the answer to an exercise."""


def parts(page: Path) -> Iterator[Part]:
    """A lesson in order."""
    text, at, answers = page.read_text(encoding="utf-8"), 0, False
    for found in PARTS.finditer(text):
        if prose := text[at : found.start()].strip("\n"):
            yield Part("prose", prose, answers)
        at = found.end()
        if found["lid"]:
            answers = not found["lid"].startswith("</")
        elif found["code"] is not None:
            yield Part("code", found["code"], answers)
        elif found["prints"] is not None:
            yield Part("prints", found["prints"], answers)
        else:
            yield Part("picture", found["picture"], answers)
    if prose := text[at:].strip("\n"):
        yield Part("prose", prose, answers)


def outputs(page: Path) -> list[str]:
    """What each block of code prints, as the page says."""
    said: list[str] = []
    for part in parts(page):
        if part.kind == "code":
            said.append("")
        elif part.kind == "prints":
            said[-1] += part.text
    return said


def run(page: Path, folder: Path) -> list[str]:
    """What each block of code really prints, all run in order; its pictures are put into `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = iter([Path(part.text).name for part in parts(page) if part.kind == "picture"])

    def show() -> None:
        plt.savefig(folder / next(names), metadata={"Software": None})
        plt.close()

    plt.show = show  # pyrefly: ignore[bad-assignment]
    scope, printed = {"__name__": "__main__"}, []
    for number, part in enumerate(part for part in parts(page) if part.kind == "code"):
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(part.text, f"{page.name}, block {number + 1}", "exec"), scope)
        printed.append(out.getvalue())
    return printed


def notebook(page: Path) -> str:
    """The lesson as a notebook's file. In an answer the code is folded; before it is a cell to try in."""
    cells: list[dict[str, Any]] = []
    in_answer = False
    for part in parts(page):
        if part.answers and not in_answer:
            cells.append(code_cell("# yours\n"))
        in_answer = part.answers
        if part.kind == "code":
            cells.append(code_cell(part.text, folded=part.answers))
        elif part.kind == "prose":
            cells.append(prose_cell(part))
        else:
            cells[-1]["outputs"].append(printed(part) if part.kind == "prints" else drawn(page, part))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}}
    return json.dumps(whole | {"nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def prose_cell(part: Part) -> dict[str, Any]:
    """Prose; links go to the notebooks of other lessons, and what is an answer is folded."""
    text = re.sub(r"\]\((\d[\w-]*)\.md", r"](\1.ipynb", part.text)
    if part.answers:
        opened = re.sub(r"^<summary>.*?</summary>\s*", "", text)
        text = f"<details><summary>Answer</summary>\n\n{opened}\n\n</details>" if opened else "**Answer**"
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def code_cell(text: str, *, folded: bool = False) -> dict[str, Any]:
    metadata = {"jupyter": {"source_hidden": True}} if folded else {}
    source = text.rstrip("\n").splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": [], "source": source}


def printed(part: Part) -> dict[str, Any]:
    return {"name": "stdout", "output_type": "stream", "text": part.text.splitlines(keepends=True)}


def drawn(page: Path, part: Part) -> dict[str, Any]:
    picture = base64.b64encode((page.parent / part.text).read_bytes()).decode()
    data = {"image/png": picture, "text/plain": ["<a picture>"]}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def main() -> None:
    if "--pictures" in sys.argv:
        for page in PAGES:
            with tempfile.TemporaryDirectory() as folder:
                run(page, Path(folder))
                for picture in Path(folder).iterdir():
                    picture.rename(LEARN.parent / "images" / "learn" / picture.name)
    for page in PAGES:
        page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
