"""Record `primegpt demo` in a terminal, and draw it as a moving picture: two minutes in a few seconds.

    make pictures
    python docs/make_recording.py --draw   # draws anew what was recorded

The recording is build/demo.cast, in asciinema's format. The picture is an SVG, whose frames are the terminal's screens:
text that any page shows without a script, and that stands still at its end for who wants no motion.
"""

import json
import os
import shlex
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from html import escape
from itertools import accumulate, chain, groupby, pairwise
from pathlib import Path
from typing import Any

import pyte

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
CAST, PICTURE = BUILD / "demo.cast", ROOT / "docs" / "images" / "demo.svg"
COMMAND = "primegpt demo"
COLUMNS, LINES = 110, 34
FRAMES, SECONDS, REST = 90, 20.0, 8.0  # of the whole picture, and of those how long its end stands
LONGEST = 0.2  # seconds that a wait in the recording takes at most: whatever else the machine did
CELL, LINE, EDGE = 8.4, 19, 16  # pixels
INK, PAPER = "#d6deeb", "#0b1220"
COLORS = {"red": "#ef6b6b", "green": "#6cc788", "brown": "#e3b341", "yellow": "#e3b341", "blue": "#6ea8fe"}
COLORS |= {"magenta": "#c792ea", "cyan": "#6fd3e0", "white": INK, "black": "#5c6b85", "default": INK}


def record() -> None:
    """Run COMMAND in a terminal and an empty folder, and write what it prints, and when."""
    began = time.monotonic()
    events = [[0.0, "o", f"\x1b[1;32m$\x1b[0m {COMMAND}\r\n"]]
    with tempfile.TemporaryDirectory() as folder:
        for text in printed(shlex.split(COMMAND), folder):
            events.append([round(time.monotonic() - began, 3), "o", text])
    head = {"version": 2, "width": COLUMNS, "height": LINES}
    CAST.write_text("".join(json.dumps(line) + "\n" for line in [head, *events]), encoding="utf-8")


def printed(command: list[str], folder: str) -> Iterator[str]:
    """What a command in that folder prints into a terminal, as it comes."""
    import fcntl
    import pty
    import termios

    child, terminal = pty.fork()
    if not child:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    while data := read(terminal):
        yield data.decode("utf-8", "replace")
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{command[0]} ended with {code}")


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # Linux' way to say that the other side is closed
        return b""


def frames() -> list[list[str]]:
    """The screens of the recording at FRAMES moments, each a line of SVG text per row; long waits are cut short."""
    events = [json.loads(line) for line in CAST.read_text(encoding="utf-8").splitlines()[1:]]
    waits = [min(later[0] - earlier[0], LONGEST) for earlier, later in pairwise(events)]
    screen = pyte.Screen(COLUMNS, LINES)
    stream, found, due = pyte.Stream(screen), list[list[str]](), 0.0
    for moment, (_, _, text) in zip(accumulate([0.0, *waits]), events, strict=True):
        while moment > due:
            found.append(rows(screen))
            due += sum(waits) / FRAMES
        stream.feed(text)
    return [*found, rows(screen)]


def rows(screen: pyte.Screen) -> list[str]:
    """Each row of the screen as the spans of a line of text, trailing blanks left out."""
    return [row([screen.buffer[line][column] for column in range(COLUMNS)]) for line in range(LINES)]


def row(cells: list[Any]) -> str:
    while cells and cells[-1].data == " ":
        cells = cells[:-1]
    return "".join(span(look, "".join(cell.data for cell in run)) for look, run in groupby(cells, key=look_of))


def look_of(cell: Any) -> tuple[str, bool]:
    return cell.fg, cell.bold


def span(look: tuple[str, bool], text: str) -> str:
    """A stretch of one colour; of the colour of all, no more than the text."""
    color, bold = COLORS.get(look[0], f"#{look[0]}"), ' font-weight="bold"' if look[1] else ""
    return escape(text) if (color, bold) == (INK, "") else f'<tspan fill="{color}"{bold}>{escape(text)}</tspan>'


def drawn(screens: list[list[str]]) -> str:
    """The picture. A line that stands in many frames is written once; a frame lasts until the next one comes."""
    lines = {line: f"l{number}" for number, line in enumerate(dict.fromkeys(chain.from_iterable(screens))) if line}
    height, width = LINES * LINE + 2 * EDGE, round(COLUMNS * CELL) + 2 * EDGE
    share, rest = 100 * (1 - REST / SECONDS) / len(screens), 100 * REST / SECONDS
    style = f"""
      text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: {INK};
        white-space: pre; }}
      .f {{ visibility: hidden; animation: f {SECONDS}s linear infinite; }}
      .e {{ animation-name: e; }}
      @keyframes f {{ {seen_for(share)} }}
      @keyframes e {{ {seen_for(share + rest)} }}
      @media (prefers-reduced-motion: reduce) {{ .f {{ animation: none; }} .e {{ visibility: visible; }} }}"""
    defined = "".join(f'<text id="{name}">{line}</text>' for line, name in lines.items())
    shown = ""
    for number, screen in enumerate(screens):
        placed = "".join(
            f'<use href="#{lines[line]}" x="{EDGE}" y="{EDGE + 14 + place * LINE}"/>'
            for place, line in enumerate(screen)
            if line
        )
        name, delay = ("f e" if number == len(screens) - 1 else "f"), number * share * SECONDS / 100
        shown += f'<g class="{name}" style="animation-delay:{delay:.2f}s">{placed}</g>\n'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="A terminal: a small GPT begins with noise, and after two minutes writes songs.">\n'
        f"<style>{style}\n</style>\n<defs>{defined}</defs>\n"
        f'<rect width="{width}" height="{height}" rx="10" fill="{PAPER}"/>\n{shown}</svg>\n'
    )


def seen_for(share: float) -> str:
    """The key frames of what is seen for so many percent of the time, from the beginning on."""
    return f"0%, {share:.3f}% {{ visibility: visible; }} {share + 0.001:.3f}%, 100% {{ visibility: hidden; }}"


def main() -> None:
    """Record and draw, as far as that is asked for."""
    BUILD.mkdir(exist_ok=True)
    if "--draw" not in sys.argv[1:]:
        record()
    PICTURE.write_text(drawn(frames()), encoding="utf-8")


if __name__ == "__main__":
    main()
