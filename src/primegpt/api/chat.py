"""A conversation with a run: prompts, settings changed on the way, history. Knows nothing of terminals."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from primegpt.api.runs import Run
from primegpt.errors import UsageError, nearest
from primegpt.generation.context import Row

# What can be set, by the name typed: the key of the configuration and its type.
SETTINGS: dict[str, tuple[str, type]] = {
    "temperature": ("temperature", float),
    "top-k": ("top_k", int),
    "top-p": ("top_p", float),
    "min-p": ("min_p", float),
    "repetition-penalty": ("repetition_penalty", float),
    "tokens": ("max_new_tokens", int),
    "seed": ("seed", int),
}
LABELS = ("genre", "emotion")
HELP = """\
Type a prompt and the model goes on with it. An empty line starts a new text.
  /temperature 0.7   /top-k 50   /top-p 0.9   /min-p 0.05   /repetition-penalty 1.1
  /tokens 300        how much to write at most
  /seed 7            the same seed and prompt give the same answer
  /genre rock  /emotion sad    for models trained on instructions; /genre off ends it
  /settings          what is set now
  /more              go on where the last answer ended
  /history           what was said so far
  quit               leave; Ctrl-C ends an answer, not the chat"""


class Turn(NamedTuple):
    prompt: str
    answer: str


class Chat:
    """One prompt after another to one run; each starts afresh, and `/more` continues the last answer.

    >>> chat = Chat(run)
    >>> print(chat.command("/temperature 0.7"))
    >>> for piece in chat.answer("Once upon a time"): print(piece, end="")

    The seed moves on by one with every answer, so that the same prompt is answered differently each time.
    """

    def __init__(self, run: Run, **settings: Any) -> None:
        self.run, self.settings = run, run.settings(**settings)
        self.labels: dict[str, str] = {}
        self.history: list[Turn] = []
        self.row: Row | None = None  # of the last answer
        self.seconds, self.tokens = 0.0, 0

    def is_command(self, line: str) -> bool:
        """Whether `line` is for the chat and not for the model."""
        return line.startswith("/") and line.strip() != "/more"

    def command(self, line: str) -> str:
        """Carry out `/name value`; what to tell about it. Raises UsageError for a name or value that is wrong."""
        name, _, value = line.strip().removeprefix("/").partition(" ")
        name, value = name.replace("_", "-"), value.strip()
        if name in SETTINGS:
            return self.set(name, value)
        if name in LABELS:
            return self.label(name, value)
        if name == "help":
            return HELP
        if name == "settings":
            values = {n: getattr(self.settings, key) for n, (key, _) in SETTINGS.items()} | self.labels
            return "\n".join(f"{n:<20} {value}" for n, value in values.items())
        if name == "history":
            return "\n\n".join(turn.prompt + turn.answer for turn in self.history) or "nothing was said yet"
        known = [*SETTINGS, *LABELS, "help", "settings", "history", "more"]
        raise UsageError(f"/{name} is not a command", f"{nearest(name, known)} /help explains them")

    def set(self, name: str, value: str) -> str:
        """Change one setting from the next answer on."""
        key, kind = SETTINGS[name]
        try:
            number = kind(value)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            now = getattr(self.settings, key)
            raise UsageError(f"/{name} needs {what}, not {value!r}", f"for example /{name} {now}") from None
        self.settings = self.run.settings(**(self.settings.model_dump() | {key: number}))
        return f"{name} is {number}"

    def label(self, kind: str, value: str) -> str:
        """Ask for songs of a genre or an emotion from now on; without a value, or `off`, no longer."""
        if value in ("", "off"):
            self.labels.pop(kind, None)
            return f"{kind} is off"
        self.run.prompt("", **{kind: value})  # raises if the model does not know it
        self.labels[kind] = value
        return f"{kind} is {value}"

    def answer(self, line: str) -> Iterator[str]:
        """The model's answer to the prompt `line`, in pieces. It may be left half read: what was read is history."""
        generator = self.run.generator(self.settings.precision, compiled=self.settings.compile)
        more = line.strip() == "/more"
        if more and self.row is None:
            raise UsageError("there is nothing to go on from yet", "type a prompt first")
        ids = self.row.ids if more and self.row else self.run.prompt(line, **self.labels)
        self.row = row = generator.row(ids, self.settings)
        self.settings = self.settings.model_copy(update={"seed": self.settings.seed + 1})
        answer, started = "", time.perf_counter()
        try:
            for piece in generator.write(row, self.settings):
                answer += piece
                yield piece
        finally:
            self.seconds, self.tokens = time.perf_counter() - started, len(row.added)
            self.history.append(Turn("" if more else line, answer))

    @property
    def speed(self) -> str:
        """Of the last answer, in words."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.tokens} tokens, {rate:.0f} tokens/s"
