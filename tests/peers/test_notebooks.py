"""The lessons' notebooks in Jupyter's own kernel, and what it shows of runs, completions and training."""

import runpy
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
NotebookClient = pytest.importorskip("nbclient").NotebookClient

ROOT = Path(__file__).parents[2]
PAGES = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))["PAGES"]
alike = runpy.run_path(str(ROOT / "tests" / "test_lessons.py"))["alike"]
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()


def shown(notebook: nbformat.NotebookNode) -> list[tuple[str, int]]:
    """What each cell of code prints, and how many pictures it draws."""
    found = []
    for cell in notebook.cells:
        printed = "".join(o.text for o in cell.get("outputs", []) if o.output_type == "stream")
        found.append((printed, sum("image/png" in o.get("data", {}) for o in cell.get("outputs", []))))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_notebook_runs_from_top_to_bottom_and_gives_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    said = shown(notebook)
    for (printed, drawn), (expected, pictures) in zip(shown(executed(notebook, tmp_path)), said, strict=True):
        assert alike(printed, expected), f"{printed}\nis not\n{expected}"
        assert drawn == pictures


def test_a_run_is_trained_and_shown(tmp_path):
    (tmp_path / "my.txt").write_text("the river ran under a bridge of <b>stone</b>\n" * 300, encoding="utf-8")
    cells = [
        "import primegpt\nrun = primegpt.train('my.txt', settings={'train': {'max_steps': 6, 'threads': 1}})",
        "run",
        "run.complete('the', logprobs=True, max_new_tokens=5)[0]",
    ]
    trained, run, completion = executed(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), tmp_path
    ).cells
    (live,) = [o for o in trained.outputs if o.output_type == "display_data"]  # one, drawn anew in place
    assert "step 6/6" in live.data["text/html"]
    assert "width:100.0%" in live.data["text/html"]
    assert "<polyline" in run.outputs[0].data["text/html"]
    assert run.outputs[0].data["text/plain"].startswith("Run: ")
    assert "title=" in completion.outputs[0].data["text/html"]
