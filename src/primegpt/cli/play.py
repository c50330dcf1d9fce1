"""`primegpt play`."""

import secrets
import sys
import webbrowser
from pathlib import Path


def play(
    *runs: Path,
    host: str = "127.0.0.1",
    port: int = 8321,
    allow_host: tuple[str, ...] = (),
    no_browser: bool = False,
) -> None:
    """Write with your model in the browser, and look inside it.

    Parameters
    ----------
    runs
        Run folders, by default the latest in runs/; of several, two are shown side by side. One may be in training.
    host
        Address to listen on. Off this machine a token is needed, which the address that is printed holds.
    port
        Port to listen on; 0 for any that is free.
    allow_host
        A further name that this machine is called by in the browser.
    no_browser
        Do not open a browser window, only print the address.
    """
    from primegpt.api.playing import PAGE, playground
    from primegpt.serving.security import LOOPBACK, Policy
    from primegpt.serving.server import listen, server_for

    token = None if host in LOOPBACK else secrets.token_urlsafe(24)
    policy = Policy(LOOPBACK | {host, *allow_host}, token=token, public=PAGE)
    with listen(host, port) as listening:
        app = playground(runs, policy=policy)
        name = allow_host[0] if allow_host else host
        address = f"http://{name}:{listening.getsockname()[1]}/" + (f"#token={token}" if token else "")
        print(address, flush=True)
        print("The playground is open there. Ctrl-C ends it.", file=sys.stderr, flush=True)
        if not no_browser:
            webbrowser.open(address)
        server_for(app).run(sockets=[listening])
