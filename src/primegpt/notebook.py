"""What a notebook shows of a run, of a text that it wrote, and of training: HTML in one piece.

No file, script or style beside it, so that it stays what it is when the notebook is saved, sent on, or shown without
a kernel. All that comes from outside is escaped. Letters and ground are the notebook's own; the two colours are seen on
a light one and on a dark one.
"""

import math
import sys
from collections.abc import Sequence
from html import escape

from primegpt.terminal import printable

CALM, WARM = "#148f8f", "#e0590f"
WIDTH, HEIGHT = 360, 90  # of a curve, in pixels
DEAREST = 6.0  # nats, from where on a token's ground is as warm as can be
SMALL = "font-size:.85em;opacity:.8"

Points = Sequence[tuple[float, float | None]]


def html(text: object) -> str:
    """`text` as HTML, fit for attributes too; control characters are spelt out."""
    return escape(printable(str(text)))


def in_notebook() -> bool:
    """Whether this is a Jupyter kernel; IPython in a terminal is none."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def card(name: str, lines: Sequence[str], curves: Sequence[tuple[str, Points]]) -> str:
    """A run: its name, what is known of it, its loss."""
    rows = "".join(f'<div style="{SMALL}">{html(line)}</div>' for line in lines)
    return f'<div style="line-height:1.5"><b>{html(name)}</b>{rows}{drawn(curves)}</div>'


def drawn(curves: Sequence[tuple[str, Points]]) -> str:
    """Curves as an SVG with a legend that says where each ends; "" where none has two points."""
    known = [(name, [(x, y) for x, y in points if y is not None and math.isfinite(y)]) for name, points in curves]
    known = [(name, points) for name, points in known if len(points) > 1]
    if not known:
        return ""
    xs, ys = zip(*[point for _, points in known for point in points], strict=True)
    left, across, low, up = min(xs), (max(xs) - min(xs)) or 1.0, min(ys), (max(ys) - min(ys)) or 1.0
    lines, legend, summary = "", "", []
    for (name, points), color in zip(known, (CALM, WARM), strict=False):
        places = [
            f"{2 + (WIDTH - 4) * (x - left) / across:.1f},{2 + (HEIGHT - 4) * (1 - (y - low) / up):.1f}"
            for x, y in points
        ]
        lines += f'<polyline points="{" ".join(places)}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        (first, begin), (last, end) = points[0], points[-1]
        legend += f'<span style="color:{color}">━</span> {html(name)} {end:.3f} &ensp;'
        summary.append(f"{name}: {begin:.3f} at step {first:g}, {end:.3f} at step {last:g}")
    shape = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" style="max-width:100%;display:block"'
    title = f"<title>{html('; '.join(summary))}</title>"
    return f'<svg role="img" {shape}>{title}{lines}</svg><div style="{SMALL}">{legend}</div>'


def shaded(pieces: Sequence[str], logprobs: Sequence[float]) -> str:
    """A text token by token, the warmer the less likely each was; its probability under the pointer."""
    spans = []
    for piece, logprob in zip(pieces, logprobs, strict=True):
        heat = min(1.0, max(0.0, -logprob / DEAREST))
        ground = f"background:rgba(224,89,15,{0.6 * heat:.2f})"
        spans.append(f'<span style="{ground}" title="{math.exp(logprob):.1%}">{html(piece)}</span>')
    return "".join(spans)


def completion(text: str, pieces: Sequence[str] | None, logprobs: Sequence[float] | None, why: str) -> str:
    """A text that was written, with the probability of each token where these are known."""
    known = pieces is not None and logprobs is not None and len(pieces) == len(logprobs) > 0
    body = shaded(pieces, logprobs) if known and pieces and logprobs else html(text)
    facts = "ended by itself" if why == "stop" else "ended at its length"
    if known and logprobs:
        mean = -sum(logprobs) / len(logprobs)
        facts += f"; {len(logprobs)} tokens, {mean:.2f} nats each; the warmer, the less likely"
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere">{body}</div><div style="{SMALL}">{facts}</div>'


def progress(done: float, now: str, losses: Sequence[tuple[float, float]], told: Sequence[str]) -> str:
    """Training at this moment: how much is done (0 to 1), a line of figures, the loss so far, what was said."""
    share = f"{100 * min(1.0, max(0.0, done)):.1f}%"
    bar = f'<div style="width:{share};height:6px;border-radius:3px;background:{CALM}"></div>'
    frame = f'<div style="max-width:{WIDTH}px;border-radius:3px;background:rgba(128,128,128,.25)">{bar}</div>'
    said = "\n".join(map(html, told))
    log = f'<pre style="{SMALL};max-height:16em;overflow:auto;white-space:pre-wrap">{said}</pre>' if said else ""
    return f"<div>{frame}<div>{html(now)}</div>{drawn([('training loss', losses)])}{log}</div>"
