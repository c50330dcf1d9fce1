"""`primegpt`: the list of commands, and the one place where an error becomes a line and an exit code."""

import errno
import os
import signal
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import TextIO, cast

HELP = """\
primegpt: train your own GPT from scratch on your own text.

Usage: primegpt COMMAND [ARGUMENTS]       primegpt COMMAND --help for its options

  demo                          two minutes on this CPU: from noise to songs
  train SOURCE... | RECIPE      train on a text, a folder, or by a recipe: a .toml file, or char-10m
  train --resume RUN            go on exactly where a run stopped
  finetune RUN|HF SOURCE...     go on with another text, all weights or --lora
  reinforce RUN PROMPTS...      learn from --reward: what is written well becomes likelier
  generate [RUN] [PROMPT]       continue a prompt
  chat [RUN]                    prompt after prompt, settings changed on the way
  serve [RUN]                   an OpenAI API for other programs
  play [RUN...]                 the playground in the browser: write, and look inside the model
  evaluate [RUN]                loss on any text, HellaSwag, adherence, memorisation
  import HF|GGUF                a run out of a folder or a file of others: GPT-2, Qwen3, Llama ...
  export [RUN] --to hf | gguf   for Transformers, or for llama.cpp
  push RUN OWNER/NAME           to the Hugging Face hub, with a card that says how it was made
  data audit SOURCE...          what a text is worth, before training; also data prepare, fetch, songbook
  tokenizer train SOURCE...     learn a tokenizer that several runs can share
  tokenizer show RUN [TEXT]     pieces, ids, unknown characters, round trip
  info RUN | RECIPE | TEXT      parameters, FLOPs, memory, expected time; of a run, what came of it
  trust RUN                     let the extension of a run from elsewhere run, once you have read it
  runs                          the runs there are, and what came of each
  report RUN...                 curves, samples, settings as a web page; several runs side by side
  doctor                        what this machine can do
  bench train | decode | ...    measured beside other tools, in turns; also race, cost, gpu, serve, all, compare
  experiment FILE.toml          a question about training, answered with an interval; also `experiment alignment`

RUN is a run folder, by default the latest in runs/. `primegpt --install-completion` lets the shell complete.
A first try:

  primegpt train my.txt --minutes 2
  primegpt generate
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits 0, or with the code of the error that it prints in one line."""
    started, own_process = time.monotonic(), arguments is None
    if own_process:
        open_standard_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = run(arguments, started)
    except SystemExit as ending:  # of a rank that has nothing more to do, or nothing to say
        code = ending.code
    if own_process and isinstance(code, int):
        leave_at_once(code)
    sys.exit(code)


def leave_at_once(code: int) -> None:
    """End the process without taking the interpreter apart.

    Freeing what torch holds, piece by piece, takes half a second that the system does not need; and of torchrun's
    processes gloo's threads may outlive the interpreter, which would then abort.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has left, as `head` does
        pass
    except OSError as error:
        code = code or complain(f"the output cannot be written: {error.strerror}", 1)
    with suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def open_standard_streams() -> None:
    """Give a process that was started without its standard streams (`2>&-`, a program without a console) empty ones.

    Else the first files that it opens take their numbers, and what is meant for a person goes into a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


class Unheeded:
    """A stream that nothing depends on: its reader may leave, its disk may fill up, and the command goes on."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None  # the first; what could not be written then is gone

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            self.stream.write(text)
        except OSError as error:
            self.failure = self.failure or error
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self.failure = self.failure or error


@contextmanager
def unheeded_output() -> Generator[None, None, None]:
    """For commands whose result is on the disk, of which standard output only tells: they do not end with its reader.

    What could not be written is raised when they are done.
    """
    stream = Unheeded(sys.stdout)
    with redirect_stdout(cast(TextIO, stream)):
        yield
    if stream.failure:
        raise stream.failure


def run(arguments: Sequence[str], started: float) -> int:
    """Carry out one command line; the exit code. Nothing ends because nobody reads standard error any more."""
    with redirect_stderr(cast(TextIO, Unheeded(sys.stderr))):
        return _run(arguments, started)


def _run(arguments: Sequence[str], started: float) -> int:
    from primegpt.errors import PrimegptError, UsageError, is_out_of_memory
    from primegpt.terminal import never_fail_to_print

    never_fail_to_print()
    # GNU OpenMP's threads spin for milliseconds while they wait for each other. When another program wants a core
    # too, that costs most of the speed; a short spin keeps what it is good for. (Read when torch is imported.)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if not arguments or arguments in (["--help"], ["-h"]):  # answered before anything slow is imported
            print(HELP, end="")
            return 0
        from primegpt.cli.commands import execute

        require_utf8(arguments)
        require_folder()
        return execute(arguments, started)
    except PrimegptError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        return 0
    except Exception as error:
        if is_out_of_memory(error):
            return complain("out of memory; take a smaller model, batch or text", 1)
        if line := line_of_extension(error):
            return complain(line, 1)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return complain(str(UsageError(f"{error.filename}: {error.strerror}", "give a shorter name")), 2)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EBADF) and not error.filename:
            return complain(f"the output cannot be written: {error.strerror}", 1)
        raise  # errors of other files than standard output are met where they arise


def line_of_extension(error: Exception) -> str | None:
    """What to say of an error out of a file of the user's own; None for all others."""
    extend = sys.modules.get("primegpt.extend")  # where it was not loaded there is none
    return extend.blamed(error) if extend else None


def require_utf8(arguments: Sequence[str]) -> None:
    """Raise UsageError for an argument that no text, file or configuration of ours could hold."""
    from primegpt.errors import UsageError

    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError as error:
            what = f"the argument {argument!r} is not UTF-8 at character {error.start + 1}"
            raise UsageError(what, "rename the file, or give the text in UTF-8") from None


def require_folder() -> None:
    """Raise UsageError where the folder that the command is called in was deleted: libraries end without a word."""
    from primegpt.errors import UsageError

    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"the current folder: {error.strerror}", "change to one that is there") from None


def complain(message: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's, of several processes
    with suppress(OSError):
        print(f"primegpt: {message}" if rank == "0" else f"primegpt, rank {rank}: {message}", file=sys.stderr)
    return code


def _terminate(number: int, frame: object) -> None:
    """Outside the training loop, which has a gentler handler, SIGTERM ends the process with its own code."""
    sys.exit(128 + number)
