"""`primegpt play`."""

import webbrowser
from pathlib import Path


def play(
    *runs: Path,
    host: str = "127.0.0.1",
    port: int = 8321,
    token: str | None = None,
    allow_host: tuple[str, ...] = (),
    no_browser: bool = False,
) -> None:
    """Write with your model in the browser, and look inside it. The OpenAI API is there too.

    Parameters
    ----------
    runs
        Run folders, by default the latest in runs/; of several, two are shown side by side. One may be in training.
    host
        The interface to listen on. Any but the machine's own loopback needs a token.
    port
        The port to listen on; 0 for any free one.
    token
        What the page must know. Better set as PRIMEGPT_TOKEN; the address that is printed holds it.
    allow_host
        A further name by which this machine is known, without port; may be given several times.
    no_browser
        Only print the address, and open no browser.
    """
    from primegpt import api

    def ready(address: str) -> None:
        print(address, flush=True)
        if not no_browser:
            webbrowser.open(address)

    api.play(runs, host=host, port=port, token=token, hosts=allow_host, ready=ready)
