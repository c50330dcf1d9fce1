"""The pictures that `make pictures` takes of the playground are there, small, and shown."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_what_is_taken_is_small_and_shown_and_nothing_is_left_over():
    taken = set(re.findall(r'\.take\("([\w-]+)"\)', (DOCS / "make_pictures.py").read_text(encoding="utf-8")))
    shown = {name for page in ("playground", "walk-through") for name in pictures(DOCS / f"{page}.md")}
    there = {
        path.stem: path for path in (DOCS / "images").glob("*.png") if path.stem.startswith(("playground", "walk"))
    }
    assert taken == shown == set(there)
    assert all(path.stat().st_size <= 150_000 for path in there.values())


def pictures(page: Path) -> list[str]:
    return re.findall(r"\]\(images/([\w-]+)\.png\)", page.read_text(encoding="utf-8"))
