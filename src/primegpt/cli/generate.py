"""Commands that write with a run: `generate`, `chat` (the terminal around a conversation), `serve` and `play`."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from primegpt.cli.shared import Checkpoint, Json, RunPath, Sampling, given_sampling, show, show_json, show_pieces
from primegpt.errors import DataError, UsageError
from primegpt.terminal import to_stderr

if TYPE_CHECKING:
    from primegpt.jobs.chat import Chat
import webbrowser

from primegpt.cli.shared import Host, Port

JsonLines = Annotated[
    Json, Parameter(help="Print one JSON object a text: prompt, text, token ids, log-probabilities, finish reason.")
]


def generate(
    run: RunPath = None,
    prompt: str | None = None,
    *,
    prompts: Path | None = None,
    num_samples: int = 1,
    genre: str | None = None,
    emotion: str | None = None,
    checkpoint: Checkpoint = "best",
    as_json: JsonLines = False,
    sampling: Annotated[Sampling | None, Parameter(name="*")] = None,
) -> None:
    """Continue a prompt with a trained model; the text goes to standard output as it is written.

    Settings of generation that are not given are the run's own.

    Parameters
    ----------
    prompt
        The text to continue, or `-` to read it from standard input; an empty one starts a new document.
    prompts
        A text file with one prompt a line; they are written side by side.
    num_samples
        How many different continuations of each prompt.
    genre
        For a model trained on instructions: the prompt asks for a song of this genre.
    emotion
        Likewise, of this emotion.
    """
    from primegpt import api

    run, prompt = run_and_prompt(run, prompt)
    texts, asked = given_prompts(prompt, prompts), {"genre": genre, "emotion": emotion, **given_sampling(sampling)}
    opened = api.load(run, checkpoint=checkpoint)
    for remark in (remark for text in texts for remark in opened.remarks(text)):
        to_stderr(f"primegpt: {remark}")
    if len(texts) == num_samples == 1 and not as_json:
        pieces = opened.stream(texts[0], **asked)  # refuses bad settings before anything is printed
        show(opened.introduction(texts[0]), end="")
        show_pieces(pieces)
        return
    found = opened.complete_all(texts, num_samples=num_samples, logprobs=as_json, **asked)
    completions = [(text, c) for text, samples in zip(texts, found, strict=True) for c in samples]
    if as_json:
        for text, completion in completions:
            show_json(api.completion_facts(text, completion), indent=None)
        return
    for number, (text, completion) in enumerate(completions, 1):
        to_stderr(f"── {number} " + "─" * 60)
        show(opened.introduction(text) + completion.text)


def run_and_prompt(run: Path | None, prompt: str | None) -> tuple[Path | None, str | None]:
    """`primegpt generate "a prompt"` means the latest run: one word that is no folder is the prompt."""
    if run is not None and prompt is None and not os.path.exists(run) and not looks_like_path(str(run)):
        return None, str(run)
    return run, prompt


def looks_like_path(text: str) -> bool:
    return "/" in text and " " not in text


def not_utf8() -> DataError:
    return DataError("standard input is not UTF-8", "convert it, for example with iconv -t utf-8")


def piped_text() -> str:
    """All of standard input. Raises DataError if it is not UTF-8."""
    try:
        text = sys.stdin.read()
        text.encode("utf-8")
    except UnicodeError as error:
        raise not_utf8() from error
    return text.removeprefix("\ufeff")  # which some programs put before all that they pipe


def given_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompts of the command line, of standard input (`-`) or of a file. Raises UsageError or DataError."""
    if file is None:
        return [piped_text().removesuffix("\n") if prompt == "-" else prompt or ""]
    if prompt:
        raise UsageError("a prompt and --prompts are both given", "give one of them")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise DataError(f"--prompts {file}: {reason}", "name a text file with one prompt a line") from error
    if not (found := [line for line in text.split("\n") if line.strip()]):
        raise DataError(f"--prompts {file}: no prompt in it", "write one a line")
    return found


def chat(
    run: RunPath = None,
    *,
    checkpoint: Checkpoint = "best",
    sampling: Annotated[Sampling | None, Parameter(name="*")] = None,
) -> None:
    """Prompt after prompt, with settings changed on the way (/help). Piped input is one prompt a line.

    Settings of generation that are not given are the run's own; the seed is that of the first answer, each further one
    takes the next.
    """
    from primegpt import api

    opened = api.load(run, checkpoint=checkpoint)
    conversation = api.Chat(opened, **given_sampling(sampling))
    to_stderr(f"{opened.folder.path}, step {opened.step:,}. A prompt, /help, or quit.")
    for line in lines():
        if line.strip() in ("quit", "exit", "/quit"):
            break
        try:
            if conversation.is_command(line):
                to_stderr(conversation.command(line))
            else:
                answer(conversation, line)
        except UsageError as error:
            to_stderr(str(error))


def answer(conversation: "Chat", line: str) -> None:
    """Print the answer as it is written, then its speed. Ctrl-C ends the answer alone."""
    more = line.strip() == "/more"
    for remark in conversation.run.remarks("" if more else line):
        to_stderr(remark)
    pieces = conversation.answer(line)
    try:
        answered = conversation.run.template or conversation.run.converses
        introduction = conversation.run.introduction(line, chat=True)
        if more or (answered and sys.stdin.isatty()):
            introduction = ""  # a question that was typed stands there already
        show(introduction, end="")
        show_pieces(pieces, column=len(introduction.rpartition("\n")[2]))
    except KeyboardInterrupt:
        show()
        to_stderr("stopped")
    finally:
        pieces.close()
    to_stderr(conversation.speed if conversation.tokens else "nothing more: the text has ended")


def lines() -> Iterator[str]:
    """What is typed, with editing and recall where there is a terminal, until it ends.

    Raises DataError for what is not UTF-8.
    """
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # Windows has none
            import readline  # noqa: F401 - gives input() its line editing
    while True:
        try:
            line = input("» ") if interactive else next(sys.stdin).rstrip("\r\n")
            line.encode("utf-8")
        except KeyboardInterrupt:
            to_stderr("\nquit leaves the chat")
            continue
        except (EOFError, StopIteration):
            return
        except UnicodeError as error:
            raise not_utf8() from error
        yield line


def serve(
    run: RunPath = None,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: str | None = None,
    allow_host: tuple[str, ...] = (),
    allow_origin: tuple[str, ...] = (),
    slots: int = 16,
    queue: int = 64,
    precision: str | None = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Answer the requests of OpenAI clients with a run, many at once, until Ctrl-C.

    Parameters
    ----------
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
        Number format of the weights: auto, fp32, bf16, int8 or int4.
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


def play(
    *runs: Path,
    host: Host = "127.0.0.1",
    port: Port = 8321,
    token: str | None = None,
    allow_host: tuple[str, ...] = (),
    no_browser: bool = False,
) -> None:
    """Write with your model in the browser, and look inside it. The OpenAI API is there too.

    Parameters
    ----------
    runs
        Run folders, by default the latest in runs/; of several, two are shown side by side. One may be in training.
    token
        What the page must know. Better set as PRIMEGPT_TOKEN; the address that is printed holds it.
    allow_host
        A further name by which this machine is known, without port; may be given several times.
    no_browser
        Only print the address, and open no browser.
    """
    from primegpt import api

    def ready(address: str) -> None:
        show(address)
        if not no_browser:
            webbrowser.open(address)

    api.play(runs, host=host, port=port, token=token, hosts=allow_host, ready=ready)
