"""`primegpt chat`: the terminal around a conversation."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from primegpt.errors import UsageError


def chat(
    run: Path | None = None,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    checkpoint: str = "best",
) -> None:
    """Prompt after prompt, with settings changed on the way (/help). Piped input is one prompt a line.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    temperature
        Divides the logits; 0 always takes the likeliest token.
    top_k
        Sample among the k likeliest tokens only; 0 for all.
    top_p
        Sample among the fewest tokens whose probabilities reach p.
    min_p
        Sample among tokens with at least this share of the likeliest one's probability.
    max_new_tokens
        Tokens to add.
    seed
        Seed of the first answer; each further one takes the next.
    precision
        Number format of the weights: auto, fp32, bf16 or int8.
    compile
        Compile the step of one token: starts some seconds later, writes faster. On CPUs; needs a C++ compiler.
    checkpoint
        best, last, or a step.
    """
    from primegpt import api

    opened = api.load(run, checkpoint=checkpoint)
    settings: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
        "precision": precision,
        "compile": compile,
    }
    conversation = api.Chat(opened, **settings)
    tell(f"{opened.folder.path}, step {opened.step:,}. A prompt, /help, or quit.")
    for line in lines():
        if line.strip() in ("quit", "exit", "/quit"):
            break
        try:
            if conversation.is_command(line):
                tell(conversation.command(line))
            else:
                answer(conversation, line)
        except UsageError as error:
            tell(str(error))


def answer(conversation: Any, line: str) -> None:
    """Print the answer as it is written, then its speed. Ctrl-C ends the answer alone."""
    for remark in conversation.run.remarks(line):
        tell(remark)
    pieces = conversation.answer(line)
    try:
        if line.strip() != "/more":
            print(line, end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print()
        tell("stopped")
    finally:
        pieces.close()
    tell(conversation.speed)


def lines() -> Iterator[str]:
    """What is typed, with editing and recall where there is a terminal, until it ends."""
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - gives input() its line editing
    while True:
        try:
            line = input("» ") if interactive else next(sys.stdin).rstrip("\r\n")
        except KeyboardInterrupt:
            tell("\nquit leaves the chat")
            continue
        except (EOFError, StopIteration):
            return
        yield line


def tell(text: str) -> None:
    """About the chat, not of the model: on standard error, so that piped output holds texts alone."""
    print(text, file=sys.stderr, flush=True)
