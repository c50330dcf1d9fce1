"""`primegpt play`."""

import sys
from pathlib import Path


def play(*runs: Path, host: str = "127.0.0.1", port: int = 8321, open_browser: bool = True) -> None:
    """Open the playground in the browser: write with your model, and look inside it.

    Parameters
    ----------
    runs
        Run folders, the latest in runs/ when none is given; two are shown side by side. One may still be training.
    host
        Address to listen on.
    port
        Port to listen on; 0 for any that is free.
    open_browser
        Open a browser window.
    """
    from primegpt import api

    raise NotImplementedError
