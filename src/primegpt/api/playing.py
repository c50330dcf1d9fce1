"""The playground beside the API: runs that were named beforehand, and nothing that a request could add to them."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.api.runs import Run, load
from primegpt.api.serving import TOKEN, serve
from primegpt.run.folder import latest_run

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

PAGE = ("/", "/static/")  # holds nothing of a run, so it is given without a token


def play(
    runs: Sequence[str | Path] = (),
    *,
    token: str | None = None,
    hosts: Sequence[str] = (),
    ready: Callable[[str], None] = lambda url: None,
    **options: Any,
) -> None:
    """`serve` the first of `runs`, by default the latest in runs/, with a page that looks inside all of them.

    `ready` is told the page's address. A `token`, where there is one, is the part behind #, which browsers keep to
    themselves. Raises what `serve` does, and before it listens whatever keeps a run from being opened.
    """
    folders = [Path(run) for run in runs] or [latest_run()]
    token = token or os.environ.get(TOKEN)

    def address(url: str) -> None:
        if hosts:  # 0.0.0.0 is where to listen, and no place to go to
            url = url.replace("//0.0.0.0:", f"//{hosts[0]}:").replace("//[::]:", f"//{hosts[0]}:")
        ready(f"{url}/#token={token}" if token else f"{url}/")

    serve(folders[0], token=token, hosts=hosts, public=PAGE, routes=page_routes(folders), ready=address, **options)


def page_routes(folders: Sequence[Path]) -> "Callable[[Run], list[BaseRoute]]":
    """The routes of the page for `folders`, the first of which is opened already."""
    from primegpt.serving.playground import Playground
    from primegpt.serving.shelf import Shelf

    shelf = Shelf(folders, lambda path, step: load(path, checkpoint=step))
    for number in range(1, len(folders)):
        shelf.open(number)

    def routes(run: Run) -> "list[BaseRoute]":
        shelf.keep(0, run)
        return Playground(shelf).routes()

    return routes
