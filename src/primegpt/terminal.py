r"""Text as a terminal, a log or a page may have it: nothing in it is an order to whoever shows it.

A model writes any byte, and texts and file names hold any. Escape sequences, carriage returns and overrides of the
writing direction make a terminal show something else than what is there; they are shown as `\x1b`, `\r`, `\u202e`.
Line ends and tabs stay. Whatever prints text of a model or of data passes it through `printable`; Python and `--json`
give the text itself.
"""

import codecs
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from statistics import fmean
from typing import Any, NamedTuple

# Signs of our own, for logs of Windows and old terminals.
PLAIN = {"─": "-", "»": ">", "…": "...", "–": "-", "×": "x", "→": "->", "±": "+-", "≈": "~", "✓": "+", "✗": "x"}

Say = Callable[[str], None]

# C0 but tab and line feed, delete, C1, bidirectional overrides and isolates, what UTF-8 cannot spell, noncharacters.
_ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str) -> str:
    r"""`text` with its control characters spelt out; a line end of two characters is one.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return _ORDERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def printable_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """`printable` for a text that comes piece by piece, which may part the two characters of a line end."""
    held = ""
    for piece in pieces:
        text = held + piece
        held = "\r" if text.endswith("\r") else ""
        yield printable(text.removesuffix(held) if held else text)
    yield printable(held)


def wrapped(pieces: Iterable[str], width: int, column: int = 0) -> Iterator[str]:
    """A text that comes piece by piece, with its lines ended between words before they are wider than `width`.

    It begins at `column`. A word is held until it is whole or wider than a line. Such a one stays as it is and goes on
    as it comes: a language without spaces is one word.
    """
    from rich.cells import cell_len  # not for the help page

    held, spaces = "", ""  # of the word that comes, and what stands before it
    too_wide = False  # of the word that comes the beginning is written already
    for char in chain.from_iterable(pieces):
        if too_wide and not char.isspace():
            column += cell_len(char)
            yield char
            continue
        if not char.isspace():
            held += char
            too_wide = cell_len(held) > width
            if not too_wide:
                continue
        if held:
            text, column = _placed(spaces, held, cell_len(held), column, width)
            yield text
            held = spaces = ""
        if char.isspace():
            spaces, too_wide = spaces + char, False
        if char == "\n":
            yield spaces
            spaces, column = "", 0
    yield _placed(spaces, held, cell_len(held), column, width)[0]


def _placed(spaces: str, word: str, cells: int, column: int, width: int) -> tuple[str, int]:
    """A word of so many cells with the spaces before it, or on a line of its own, and the column after it."""
    if column and word and column + len(spaces) + cells > width:
        return "\n" + word, cells
    return spaces + word, column + len(spaces) + cells


class Table(NamedTuple):
    """What is shown in columns: their heads, rows that begin with a name, and a note for below."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of `values` as a row of bars: the mean of each stretch, from the lowest to the highest of them."""
    known = [value for value in values if math.isfinite(value)]
    width = min(width, len(known))
    ends = [round(place * len(known) / width) for place in range(width + 1)] if width else []
    means = [fmean(known[start:end]) for start, end in pairwise(ends)]
    low, high = min(means, default=0.0), max(means, default=0.0)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


MOST_MEANS = 256  # of a course: several times as many as there are bars


class Course:
    """The course of values that keep coming, kept as at most MOST_MEANS means of equally long stretches."""

    def __init__(self) -> None:
        self.means: list[float] = []
        self.stretch = 1  # values a mean is of
        self.total, self.count = 0.0, 0  # of the stretch that is not complete yet
        self.drawn: dict[int, str] = {}

    def add(self, value: float) -> None:
        if not math.isfinite(value):
            return
        self.total, self.count = self.total + value, self.count + 1
        if self.count == self.stretch:
            self.means.append(self.total / self.stretch)
            self.total, self.count = 0.0, 0
            self.drawn.clear()
        if len(self.means) == MOST_MEANS:
            self.means = [fmean(pair) for pair in zip(self.means[::2], self.means[1::2], strict=True)]
            self.stretch *= 2

    def bars(self, width: int) -> str:
        """Its `sparkline`, drawn anew only once another stretch is complete."""
        if width not in self.drawn:
            self.drawn[width] = sparkline(self.means, width)
        return self.drawn[width]


def to_stderr(text: str) -> None:
    """Where progress and warnings go, so that standard output holds results alone."""
    print(printable(text), file=sys.stderr, flush=True)


def to_stdout(text: str) -> None:
    """Where results go."""
    print(printable(text), flush=True)


def silent(text: str) -> None:
    """For those who want to hear nothing, and for processes beside the one that speaks."""


def as_json(value: object, indent: int | None = None) -> str:
    """`value` as JSON to print: readable in any script, yet with the escapes of `printable` in JSON's own spelling.

    NaN and infinities, which JSON has not, become null.
    """
    import json  # not for the help page

    plain = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") != "utf8"
    text = json.dumps(finite(value), indent=indent, ensure_ascii=plain, allow_nan=False)
    return _ORDERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def finite(value: Any) -> Any:
    """`value` with null for every NaN and infinity in it, which JSON cannot spell."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def never_fail_to_print() -> None:
    """What the encoding of an output does not have is spelt out from now on, where printing it would be an error."""
    codecs.register_error("spelt", _spelt)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelt")


def _spelt(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking), error.end
