"""A web page in one file, out of sections, tables, texts and charts; it asks nothing of any other place.

    page = Page("songbook-1", "finished after 350 steps")
    page.section("Curves").text("Loss falls.").chart("Loss", [Series("training", [(0, 4.2), (10, 3.1)])], wide=True)
    page.write(Path("report.html"))

All text is escaped here, whatever it holds. A content security policy keeps the browser from loading anything and from
running any script but our own, should that ever fail.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from primegpt.report.chart import Series, chart, escaped
from primegpt.run.atomic import write_text_atomic

_NUMERIC = re.compile(r"[-+−~±<]?\s?[\d.,]+([eE][-+]?\d+)?\s?(%|[KMBTk]|[KMGT]?B|s|ms|min|h)?|–|")


class Strong(str):
    """A text, in a table, to be shown strongly: the best of its row."""


class Page:
    """A page under construction. Every method that adds something returns the page, so that calls can be chained."""

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.parts: list[tuple[str, str]] = []  # (what kind, HTML); neighbours of a kind stand side by side
        self.sections: list[tuple[str, list[tuple[str, str]]]] = []

    def section(self, title: str, note: str = "") -> Self:
        """Begin a section; what follows belongs to it. Before the first one things stand under the title."""
        self.parts = []
        self.sections.append((title, self.parts))
        return self.text(note) if note else self

    def text(self, text: str) -> Self:
        """A paragraph."""
        return self._add("text", f"<p>{escaped(text)}</p>")

    def tiles(self, tiles: Sequence[tuple[str, str, str]]) -> Self:
        """The figures that matter most: (name, value, remark) each."""
        shown = "".join(
            f'<div class="tile"><span>{escaped(name)}</span><b>{escaped(value)}</b>'
            f"<small>{escaped(remark)}</small></div>"
            for name, value, remark in tiles
        )
        return self._add("tiles", f'<div class="tiles">{shown}</div>')

    def notes(self, lines: Sequence[str], kind: str = "note") -> Self:
        """A list of remarks, counted where one repeats; of `kind` "warning", in a colour that is seen."""
        told = (f"{line} ({times} times)" if times > 1 else line for line, times in Counter(lines).items())
        items = "".join(f"<li>{escaped(line)}</li>" for line in told)
        return self._add("notes", f'<ul class="notes {escaped(kind)}">{items}</ul>') if lines else self

    def facts(self, rows: Sequence[tuple[str, Any]], fold: str = "") -> Self:
        """Names and values, a row each."""
        body = "".join(f"<tr><th>{_breakable(name)}</th><td>{escaped(value)}</td></tr>" for name, value in rows)
        return self._add("facts", _folded(f'<div class="scroll"><table class="facts">{body}</table></div>', fold))

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], fold: str = "", stacked: bool = False
    ) -> Self:
        """A table whose first column names the rows. Columns of numbers stand to the right; a `Strong` value is bold.

        `fold` hides it under a line with that text, to be opened. `stacked`: on a narrow screen a row is a list of its
        cells, each with the name of its column, so that nothing of them is out of sight.
        """
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        kinds = [' class="number"' if i and all(map(_is_numeric, column)) else "" for i, column in enumerate(columns)]
        head = "".join(f"<th{kind}>{escaped(name)}</th>" for name, kind in zip(header, kinds, strict=True))
        names = [f' data-name="{escaped(name)}"' for name in header] if stacked else [""] * len(header)
        kinds = list(map(str.__add__, kinds, names))
        body = "".join("<tr>" + "".join(map(_cell, row, kinds, range(len(row)))) + "</tr>" for row in rows)
        look = "table stacked" if stacked else "table"
        table = f'<table class="{look}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return self._add("table", _folded(f'<div class="scroll">{table}</div>', fold))

    def chart(self, title: str, series: Sequence[Series], **options: Any) -> Self:
        """A line chart, as `chart.chart` draws it; neighbours share a row. Nothing, if there is no point to draw."""
        drawn = chart(title, series, **options)
        return self._add("charts", drawn) if drawn else self

    def card(self, title: str, text: str, remark: str = "") -> Self:
        """A longer text as it is, line ends and all, under a title; neighbours share a row."""
        head = f"<header><b>{escaped(title)}</b> <span>{escaped(remark)}</span></header>"
        return self._add("cards", f'<article class="card">{head}<pre dir="auto">{escaped(text)}</pre></article>')

    def code(self, text: str, fold: str = "") -> Self:
        """A text as a program or a file has it."""
        return self._add("code", _folded(f'<pre class="code">{escaped(text)}</pre>', fold))

    def html(self) -> str:
        """The whole page."""
        style, script = (files("primegpt.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        links = "".join(f'<a href="#{_slug(title)}">{escaped(title)}</a>' for title, _ in self.sections)
        navigation = f"<nav>{links}</nav>" if len(self.sections) > 2 else ""
        body = "".join(
            f'<section id="{_slug(title)}"><h2>{escaped(title)}</h2>{_rendered(parts)}</section>'
            for title, parts in self.sections
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escaped(self.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
            f'<header class="top"><h1>{escaped(self.title)}</h1><p>{escaped(self.subtitle)}</p>'
            f"{navigation}</header>\n"
            f"<main>{body}</main>\n<script>{script}</script>\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> Path:
        """Put the page at `path`, whole or not at all. Raises PrimegptError when the disk refuses."""
        write_text_atomic(path, self.html())
        return path

    def _add(self, kind: str, html: str) -> Self:
        assert self.sections, "begin a section first"
        self.parts.append((kind, html))
        return self


def _rendered(parts: Sequence[tuple[str, str]]) -> str:
    """The parts of a section, neighbouring charts in one grid, and neighbouring cards."""
    shown = []
    for kind, group in groupby(parts, key=lambda part: part[0]):
        html = "".join(html for _, html in group)
        shown.append(f'<div class="{kind}">{html}</div>' if kind in ("charts", "cards") else html)
    return "".join(shown)


def _cell(value: object, kind: str, column: int) -> str:
    text = escaped(value)
    if column == 0:
        return f"<th>{text}</th>"
    return f"<td{kind}><strong>{text}</strong></td>" if isinstance(value, Strong) else f"<td{kind}>{text}</td>"


def _breakable(name: str) -> str:
    """A name such as train.gradient_accumulation_steps, to be broken after its words where a line is too short."""
    return escaped(name).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _folded(html: str, summary: str) -> str:
    return f"<details><summary>{escaped(summary)}</summary>{html}</details>" if summary else html


def _is_numeric(value: object) -> bool:
    return _NUMERIC.fullmatch(str(value)) is not None


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
