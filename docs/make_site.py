"""Build the site of the documents into site/, and check it: `make docs`.

The pages are the Markdown of this repository, laid out anew in build/docs: README.md is the first page, docs/ lies
beside it, and source files that a document links to are pages of their own. Then `zensical build`, as zensical.toml has
it. Every link of the result has to lead somewhere, and nothing may be loaded from elsewhere.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
PAGES, SITE = ROOT / "build" / "docs", ROOT / "site"
MOVED = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "licence.md",
    "docs/learn/README.md": "learn/index.md",
}
LINK = re.compile(r'(?<=\]\()[^)#\s]+|(?<=src=")[^"]+|(?<=srcset=")[^"]+')


def place_of(path: str) -> str:
    """Where a file or folder of the repository, named from its root, lies in build/docs."""
    if path in MOVED:
        return MOVED[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}/index.md" if (ROOT / path).is_dir() else f"source/{path}.md"


def main() -> None:
    """Lay out, build, check."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    waiting = [*MOVED, *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*")))]
    done = set[str]()
    while waiting:
        path = waiting.pop()
        if path not in done:
            done.add(path)
            waiting += lay_out(path)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT, check=True)
    found = list(problems())
    print("\n".join(found), file=sys.stderr)
    sys.exit(bool(found))


def lay_out(path: str) -> list[str]:
    """Write a file of the repository, or a folder of source, to where it lies in build/docs; what it links to."""
    source, target = ROOT / path, PAGES / place_of(path)
    if path.startswith("docs/") and (source.is_dir() or source.suffix == ".py"):
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix not in (".md", ".py") and source.is_file() and path != "LICENSE":
        shutil.copyfile(source, target)
        return []
    text = text_of(path)
    linked = {link: there for link in LINK.findall(text) if (there := named_by(link, path))}
    places = {link: os.path.relpath(PAGES / place_of(there), target.parent) for link, there in linked.items()}
    text = LINK.sub(lambda link: places.get(link[0], link[0]).replace(os.sep, "/"), text)
    target.write_text(text, encoding="utf-8")
    return list(linked.values())


def named_by(link: str, path: str) -> str | None:
    """What a link in the file at `path` leads to, from the root; None for what is no file of the repository."""
    there = (ROOT / path).parent / unquote(link)
    is_here = not urlsplit(link).scheme and there.exists() and there.resolve().is_relative_to(ROOT)
    return there.resolve().relative_to(ROOT).as_posix() if is_here else None


def text_of(path: str) -> str:
    """A page as Markdown, its links as they are in the repository."""
    source = ROOT / path
    if source.is_dir():
        modules = sorted(source.glob("*.py"))
        lines = [f"- [{module.name}]({source.name}/{module.name}): {first_line(module)}" for module in modules]
        return "\n".join([f"# {path}", "", *lines, ""])
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return text
    return f"# {path}\n\n````{'python' if source.suffix == '.py' else 'text'}\n{text}````\n"


def first_line(module: Path) -> str:
    """What a module says that it is."""
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").partition("\n")[0]


class Page(HTMLParser):
    """What a page has to be led to, and what it leads to or loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids, self.links, self.loaded = set[str](), list[str](), list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("canonical", "alternate", "prev", "next"):
            self.loaded.append(values.get("href", ""))
        elif "src" in values:
            self.loaded.append(values["src"])


def problems() -> Iterator[str]:
    """Links of the site that lead nowhere, and what it loads from elsewhere, a line each."""
    pages = {path: Page(path) for path in sorted(SITE.rglob("*.html"))}
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.loaded and address.scheme != "data":
                    yield f"{path.relative_to(SITE)} loads {link}"
                continue
            base = SITE if address.path.startswith("/") else path.parent
            there = (base / unquote(address.path).lstrip("/")).resolve() if address.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                yield f"{path.relative_to(SITE)} links to {link}, which is not there"
            elif address.fragment and there in pages and unquote(address.fragment) not in pages[there].ids:
                yield f"{path.relative_to(SITE)} links to {link}, where nothing has that name"
    for sheet in SITE.rglob("*.css"):
        yield from (
            f"{sheet.relative_to(SITE)} loads {link}"
            for link in re.findall(r"url\([\"']?((?:https?:)?//[^)]*)\)", sheet.read_text(encoding="utf-8"))
        )


if __name__ == "__main__":
    main()
