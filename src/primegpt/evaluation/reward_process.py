"""The process of one reward of the user's own: reads what is asked, a line of JSON each, and answers with a line.

It is run as a program and imports nothing of primegpt, so that it starts at once. It ends when its input does, even
while the user's code is running; where that holds Python's lock, as a pattern does, by an alarm, which Windows has not.
"""

import json
import os
import queue
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

Score = Callable[[str, str, Mapping[str, Any]], object]
LONGEST = 200  # characters of what somebody's exception says


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this is asked to stop as well, and ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the user's code prints is no answer
    asked: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=listen, args=(asked,), daemon=True).start()
    told = asked.get()
    try:
        alarm(told["loading"])
        score, answer = loaded(told), {"ready": True}
    except BaseException as error:
        score, answer = None, {"error": explained(error, told)}
    while True:
        alarm(0)
        print(json.dumps(answer), file=answers, flush=True)
        if score is None:
            return
        question = asked.get()["asked"]
        alarm(told["seconds"])
        answer = answered(score, question, told)


def alarm(seconds: float) -> None:
    """End this process in so many seconds, whatever it is doing; 0: no longer."""
    if sys.platform != "win32":
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def listen(asked: "queue.Queue[dict[str, Any]]") -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)


def loaded(told: Mapping[str, Any]) -> Score:
    """The function that is asked for. Raises what the file raises, and LookupError where it has no such function.

    One that an extension registers is found by primegpt, which only then is imported.
    """
    if "pattern" in told:
        pattern = re.compile(told["pattern"])
        return lambda _, completion, __: float(pattern.search(completion) is not None)
    path = Path(told["path"])
    sys.path[:0] = [str(path.resolve().parent), *told["modules"]]
    if "registered" in told:
        from primegpt import extend

        return extend.load_source(told["source"].encode(), path).find("reward", told["registered"])
    module = ModuleType("primegpt_reward")
    module.__file__ = told["path"]
    sys.modules[module.__name__] = module  # dataclasses look a class's module up
    exec(compile(told["source"], told["path"], "exec"), module.__dict__)
    score = module.__dict__.get(told["function"])
    if not callable(score):
        own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise LookupError(f"there is no function {told['function']!r}, only {', '.join(own) or 'nothing'}")
    return score


def answered(score: Score, asked: list[Any], told: Mapping[str, Any]) -> dict[str, Any]:
    try:
        value = score(*asked)
        if not isinstance(value, str) and hasattr(value, "item"):  # a tensor, or an array, of one number
            value = value.item()
        if not isinstance(value, Real):
            return {"odd": repr(value)[:LONGEST]}
        return {"value": float(value)}
    except BaseException as error:
        return {"error": explained(error, told)}


def explained(error: BaseException, told: Mapping[str, Any]) -> str:
    """`mine.py:12: ValueError: …`: the innermost line of the user's file, and what was raised there."""
    said = " ".join(f"{type(error).__name__}: {error}".split()) if str(error) else type(error).__name__
    path = told.get("path", "")
    lines = [number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    if isinstance(error, SyntaxError) and error.filename == path and error.lineno:
        lines.append(error.lineno)
    return f"{path}:{lines[-1]}: {said[:LONGEST]}" if lines else said[:LONGEST]


if __name__ == "__main__":
    main()
