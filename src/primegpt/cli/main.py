"""`primegpt`: the list of commands, and the one place where an error becomes a line and an exit code."""

import errno
import os
import signal
import sys
import time
from collections.abc import Sequence

HELP = """\
primegpt: train your own GPT from scratch on your own text.

Usage: primegpt COMMAND [ARGUMENTS]       primegpt COMMAND --help for its options

  demo                          two minutes on this CPU: from noise to songs
  train SOURCE... | CONFIG.toml train on a text, a folder, or by a recipe
  train --resume RUN            go on exactly where a run stopped
  finetune RUN|HF SOURCE...     go on with another text, all weights or --lora
  generate [RUN] [PROMPT]       continue a prompt
  chat [RUN]                    prompt after prompt, settings changed on the way
  serve [RUN]                   an OpenAI API for other programs
  play [RUN...]                 the playground in the browser: write, and look inside the model
  evaluate [RUN]                loss on any text, HellaSwag, adherence, memorisation
  import HF                     a run out of a GPT-2, Qwen3 or Llama folder
  export [RUN] --to hf | gguf   for Transformers, or for llama.cpp
  data audit SOURCE...          what a text is worth, before training; also data prepare, fetch, songbook
  tokenizer train SOURCE...     learn a tokenizer that several runs can share
  tokenizer show RUN [TEXT]     pieces, ids, unknown characters, round trip
  info RUN | CONFIG.toml        parameters, FLOPs, memory, expected time
  report RUN...                 curves, samples, settings as a web page; several runs side by side
  doctor                        what this machine can do
  bench train | decode | ...    measured beside other tools, in turns; also race, cost, gpu, serve
  experiment alignment          why prompts are ignored, shown on this machine; also experiment duplication

RUN is a run folder, by default the latest in runs/. A first try:

  primegpt train my.txt --minutes 2
  primegpt generate
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits 0, or with the code of the error that it prints in one line."""
    started, own_process = time.monotonic(), arguments is None
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
    for stream in filter(None, (sys.stdout, sys.stderr)):  # a program without a console has none
        try:
            stream.flush()
        except BrokenPipeError:  # its reader has left, as `head` does
            pass
        except OSError as error:
            code = code or complain(f"the output cannot be written: {error.strerror}", 1)
    os._exit(code)


def run(arguments: Sequence[str], started: float) -> int:
    """Carry out one command line; the exit code."""
    from primegpt.errors import PrimegptError

    # GNU OpenMP's threads spin for milliseconds while they wait for each other. When another program wants a core
    # too, that costs most of the speed; a short spin keeps what it is good for. (Read when torch is imported.)
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if not arguments or arguments in (["--help"], ["-h"]):  # answered before anything slow is imported
            print(HELP, end="")
            return 0
        from primegpt.cli.commands import execute

        return execute(arguments, started)
    except PrimegptError as error:
        return complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of standard output: all others are met where they arise
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF) or error.filename:
            raise
        return complain(f"the output cannot be written: {error.strerror}", 1)


def complain(message: str, code: int) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's, of several processes
    print(f"primegpt: {message}" if rank == "0" else f"primegpt, rank {rank}: {message}", file=sys.stderr)
    return code


def _terminate(number: int, frame: object) -> None:
    """Outside the training loop, which has a gentler handler, SIGTERM ends the process with its own code."""
    sys.exit(128 + number)
