"""`primegpt serve`."""

from pathlib import Path


def serve(
    run: Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allow_host: tuple[str, ...] = (),
    allow_origin: tuple[str, ...] = (),
    slots: int = 16,
    queue: int = 64,
    precision: str | None = None,
    checkpoint: str = "best",
) -> None:
    """Answer the requests of OpenAI clients with a run, many at once, until Ctrl-C.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    host
        The interface to listen on. Any but the machine's own loopback needs a token.
    port
        The port to listen on; 0 for any free one.
    token
        What clients must send as their API key. Better set as PRIMEGPT_TOKEN, which other users cannot see.
    allow_host
        A further name by which the server is known, without port; may be given several times.
    allow_origin
        Let pages of this origin (https://example.org) ask from a browser; may be given several times.
    slots
        How many texts are written at once.
    queue
        How many more may wait; what comes then is refused (429).
    precision
        Number format of the weights: auto, fp32, bf16 or int8.
    checkpoint
        best, last, or a step.
    """
    from primegpt import api

    api.serve(
        run,
        host=host,
        port=port,
        token=token,
        hosts=allow_host,
        origins=allow_origin,
        slots=slots,
        queue=queue,
        precision=precision,
        checkpoint=checkpoint,
    )
