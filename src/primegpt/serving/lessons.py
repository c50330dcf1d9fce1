"""The lessons, docs/learn, as pages beside the playground: its cards link to them, and they need no network.

The text is Markdown of this repository, not of a user or a model; markup within it is shown as text all the same.
"""

import html
import re
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Route

INSTALLED = Path(__file__).with_name("lessons")  # in a wheel
CHECKOUT = Path(__file__).parents[3] / "docs"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="../static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="../static/style.css">
<link rel="stylesheet" href="../static/lesson.css">
<script type="module" src="../static/lesson.js"></script>
</head>
<body>
<header class="top">
<p class="brand"><a href="../">prime<span>gpt</span></a></p>
<nav><a href="README">All lessons</a></nav>
</header>
<main class="reading">
{body}</main>
</body>
</html>
"""


# The one markup that lessons have: an answer that is folded up. Rendered as text first, as all markup is.
ANSWER = re.compile(r"<p>&lt;details markdown=&quot;1&quot;&gt;&lt;summary&gt;([\w ]+)&lt;/summary&gt;</p>")


def routes() -> list[BaseRoute]:
    """The lessons, and their pictures where Markdown expects them: `../images/learn` as seen from `learn`."""
    return [Route("/learn/{name}", lesson), Route("/images/learn/{name}", picture)]


def found(part: str, pattern: str) -> dict[str, Path]:
    """The files of a folder by name. What is asked for is looked up here, and never becomes a path."""
    folder = INSTALLED if INSTALLED.is_dir() else CHECKOUT
    return {path.name: path for path in (folder / part).glob(pattern)}


async def lesson(request: Request) -> Response:
    path = found("learn", "*.md").get(f"{request.path_params['name']}.md")
    if path is None:
        raise HTTPException(404)
    return HTMLResponse(as_page(path.read_text(encoding="utf-8")))


async def picture(request: Request) -> Response:
    path = found("images/learn", "*.png").get(request.path_params["name"])
    if path is None:
        raise HTTPException(404)
    return FileResponse(path)


def as_page(text: str) -> str:
    """A lesson's Markdown as a whole page."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(text)
    for token in tokens:
        if token.children:
            token.children = with_links(token.children)
    title = re.sub(r"^#+ *", "", text.lstrip().partition("\n")[0])
    body = ANSWER.sub(r"<details><summary>\1</summary>", reader.renderer.render(tokens, reader.options, {}))
    return PAGE.format(title=html.escape(title), body=body.replace("<p>&lt;/details&gt;</p>", "</details>"))


def with_links(tokens: list[Token]) -> list[Token]:
    """Links to lessons lead to their pages here, those to addresses stay; of all others the words alone stay."""
    kept: list[Token] = []
    dropped = False
    for token in tokens:
        if token.type == "link_open":
            target = str(token.attrGet("href"))
            own = re.fullmatch(r"([\w-]+)\.md(#.*)?", target)
            if own:
                token.attrSet("href", own[1])
            dropped = not own and not target.startswith("https://")
        if not (dropped and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept
