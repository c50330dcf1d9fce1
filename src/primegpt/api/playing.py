"""The playground as an application: runs that were named beforehand, and nothing that a request could add to them."""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette

from primegpt.api.runs import load
from primegpt.run.folder import latest_run
from primegpt.serving.app import create_app
from primegpt.serving.playground import Playground
from primegpt.serving.security import Policy
from primegpt.serving.shelf import Shelf

PAGE = ("/health", "/", "/static/")  # holds nothing of a run, so it is given without a token


def playground(runs: Sequence[str | Path] = (), *, policy: Policy | None = None) -> Starlette:
    """The page that looks inside `runs`, by default the latest in runs/. Raises RunFolderError or CheckpointError.

    Each is opened once now, so that what cannot be opened is told before a browser is.
    """
    folders = [Path(run) for run in runs] or [latest_run()]
    shelf = Shelf(folders, lambda path, step: load(path, checkpoint=step))
    for number in range(len(folders)):
        shelf.open(number)
    return create_app(shelf.open(0), policy=policy or Policy(public=PAGE), routes=Playground(shelf).routes())
