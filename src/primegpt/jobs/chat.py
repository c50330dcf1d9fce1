"""A conversation with a run: prompts, settings changed on the way, history. Knows nothing of terminals."""

import json
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from primegpt.config import LABELS, GenerateConfig
from primegpt.data.template import SongTemplate
from primegpt.errors import DiskError, UsageError, nearest
from primegpt.inference.context import Row
from primegpt.inference.conversation import fitted, room_for_prompt
from primegpt.inference.run import Run
from primegpt.run.atomic import reason, write_text_atomic

# What can be set, by the name typed, and the key of the configuration: all that is a number or a name.
NAMES = {"max_new_tokens": "tokens", "num_beams": "beams"}  # where they are not those of the configuration
SETTINGS = {
    NAMES.get(key, key.replace("_", "-")): key for key, value in GenerateConfig() if type(value) in (int, float, str)
}
COMMANDS = ("help", "settings", "history", "more", "system", "forget", "undo", "save")
HELP = """\
Type a prompt and the model goes on with it. An empty line starts a new text, or a new conversation.
  /system You rhyme.   what a model of conversations is told before each of them; /system off ends it
  /forget            a new conversation, as an empty line begins
  /undo              take the last turn back
  /save talk.jsonl   keep the conversation: as a record to train on, or as text under any other name
  /temperature 0.7   /top-k 50   and every other setting of `primegpt generate` that is a number or a name
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
    labels: Mapping[str, str]


class Chat:
    """One prompt after another to one run; `/more` continues the last answer.

    A run that was trained on conversations is given what was said so far, as much of it as fits beside an answer; an
    empty line begins a new one. To any other each prompt is a text of its own.

    >>> chat = Chat(run)
    >>> print(chat.command("/temperature 0.7"))
    >>> for piece in chat.answer("Once upon a time"): print(piece, end="")

    The seed moves on by one with every answer, so that the same prompt is answered differently each time.
    """

    def __init__(self, run: Run, **settings: Any) -> None:
        self.run, self.settings = run, run.chosen(**settings)
        self.labels: dict[str, str] = {}
        self.history: list[Turn] = []
        self.begun = 0  # the turn of `history` with which the conversation began that goes on
        self.system = ""  # what the model is told before it
        self.forgotten = 0  # turns of it that did not fit into the last prompt
        self.newly_forgetful = False  # whether that one was the first with such turns
        self.row: Row | None = None  # of the last answer
        self.seconds, self.tokens = 0.0, 0

    def is_command(self, line: str) -> bool:
        """Whether `line` is for the chat and not for the model."""
        return (line.startswith("/") and line.strip() != "/more") or (self.remembers and not line.strip())

    @property
    def remembers(self) -> bool:
        """Whether the model was trained to be given what was said before."""
        return self.run.converses

    def command(self, line: str) -> str:
        """Carry out `/name value`; what to tell about it. Raises UsageError for a name or value that is wrong."""
        name, _, value = line.strip().removeprefix("/").partition(" ")
        name, value = name.replace("_", "-"), value.strip()
        if not line.strip() or name in ("forget", "system"):
            self.require_memory(name)
            return self.instruct(value) if name == "system" else self.forget()
        if name == "undo":
            return self.undo()
        if name == "save":
            return self.save(value)
        if name in SETTINGS:
            return self.set(name, value)
        if name in LABELS:
            return self.label(name, value)
        if name == "help":
            return HELP
        if name == "settings":
            values = {n: getattr(self.settings, key) for n, key in SETTINGS.items()} | self.labels
            return "\n".join(f"{n:<20} {value}" for n, value in values.items())
        if name == "history":
            return self.told(self.history) or "nothing was said yet"
        known = [*SETTINGS, *LABELS, *COMMANDS]
        raise UsageError(f"/{name} is not a command", f"{nearest(name, known)} /help explains them")

    def require_memory(self, name: str) -> None:
        """Raise UsageError for a run to which each prompt is a text of its own."""
        if not self.remembers:
            what = (
                f"/{name} is for a run that was trained on conversations, and this one is told nothing but the prompt"
            )
            raise UsageError(what, "--data.template chat trains one")

    def forget(self) -> str:
        """Begin a new conversation."""
        self.begun, self.forgotten, self.newly_forgetful, self.row = len(self.history), 0, False, None
        return "a new conversation"

    def instruct(self, text: str) -> str:
        """Tell the model `text` before the conversation, from the next answer on; `off`, or nothing, ends it."""
        self.system = "" if text == "off" else text
        return "system is " + (self.system or "off")

    def undo(self) -> str:
        """Take the last turn of the conversation back."""
        if len(self.history) == self.begun:
            raise UsageError("there is no turn to take back", "type a prompt first")
        taken, self.row = self.history.pop(), None
        return f"taken back: {taken.prompt}"

    def save(self, name: str) -> str:
        """Write what was said to a new file: .jsonl as records that can be learnt from, else as text.

        Raises UsageError where that cannot be: the conversation goes on.
        """
        try:
            return self._save(name)
        except DiskError as error:
            raise UsageError(error.what, error.remedy) from error
        except (OSError, RuntimeError, ValueError) as error:  # a folder that is closed, a ~user that is none, a NUL
            why = reason(error) if isinstance(error, OSError) else error
            raise UsageError(f"/save {name}: {why}", "name a new file: /save talk.jsonl") from error

    def _save(self, name: str) -> str:
        path, turns = Path(name).expanduser(), self.history[self.begun :]
        if not name or path.exists() or not path.parent.is_dir():
            why = "no name" if not name else "is there already" if path.exists() else "is in no folder"
            raise UsageError(f"/save {name}: {why}", "name a new file: /save talk.jsonl")
        if not turns:
            raise UsageError("nothing was said yet", "type a prompt first")
        records: Iterable[object] = map(self._record, turns)
        if self.remembers:
            records = [{"messages": self.messages(turns)}]
        as_records = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        write_text_atomic(path, as_records if path.suffix == ".jsonl" else f"{self.told(turns)}\n")
        return f"saved to {path}"

    def _record(self, turn: Turn) -> dict[str, str]:
        """One turn as the run's template has it."""
        template = self.run.template
        if not isinstance(template, SongTemplate) or template.name != SongTemplate.name:
            return {"prompt": turn.prompt, "response": turn.answer}
        labels = {getattr(template.config, f"{kind}_field"): label for kind, label in turn.labels.items()}
        return {"prompt": turn.prompt, **labels, template.answer_field: turn.answer.strip()}

    def told(self, turns: Sequence[Turn]) -> str:
        """`turns` to read."""
        return "\n\n".join(self.run.introduction(turn.prompt, chat=True) + turn.answer for turn in turns)

    def set(self, name: str, value: str) -> str:
        """Change one setting from the next answer on."""
        key = SETTINGS[name]
        now = getattr(self.settings, key)
        try:
            new = type(now)(value)
        except ValueError:
            what = "a whole number" if isinstance(now, int) else "a number"
            raise UsageError(f"/{name} needs {what}, not {value!r}", f"for example /{name} {now}") from None
        self.settings = self.run.settings(**(self.settings.model_dump() | {key: new}))
        return f"{name} is {new}"

    def label(self, kind: str, value: str) -> str:
        """Ask for songs of a genre or an emotion from now on; without a value, or `off`, no longer."""
        if value in ("", "off"):
            self.labels.pop(kind, None)
            return f"{kind} is off"
        self.run.prompt("", **{kind: value})  # raises if the model does not know it
        self.labels[kind] = value
        return f"{kind} is {value}"

    def answer(self, line: str) -> Generator[str, None, None]:
        """The model's answer to the prompt `line`, in pieces. It may be left half read: what was read is history."""
        decoder = self.run.generator(self.settings.precision, compiled=self.settings.compile)
        more = line.strip() == "/more"
        if more and self.row is None:
            raise UsageError("there is nothing to go on from yet", "type a prompt first")
        ids = self.row.ids if more and self.row else self.asked(line)
        self.row = row = decoder.row(ids, self.settings)
        self.settings = self.settings.model_copy(update={"seed": self.settings.seed + 1})
        said, answer, labels, started = "" if more else line, "", dict(self.labels), time.perf_counter()
        if more and self.history:  # one text, however often it is gone on with
            said, answer, labels = self.history.pop()
        try:
            for piece in decoder.write(row, self.settings):
                answer += piece
                yield piece
        finally:
            self.seconds, self.tokens = time.perf_counter() - started, len(row.added)
            self.history.append(Turn(said, answer, labels))

    def asked(self, line: str) -> str | list[int]:
        """What the model is given for `line`: of what was said before, the last turns that leave room for an answer."""
        if not self.remembers:
            return self.run.prompt(line, **self.labels)
        room = room_for_prompt(self.run.config.model.block_size, self.settings.max_new_tokens)
        messages, before = self.messages(self.history[self.begun :]), self.forgotten
        asked = [*messages, {"role": "user", "content": line}]
        ids, self.forgotten = fitted(self.run, asked, room, **self.labels)
        self.newly_forgetful = self.forgotten > 0 and not before
        return ids

    def messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """`turns` as the templates of the data have them, what the model is told before them first."""
        said = [("system", self.system)] if self.system else []
        for turn in turns:
            said += [("user", turn.prompt), ("assistant", turn.answer)]
        return [{"role": role, "content": text} for role, text in said]

    @property
    def speed(self) -> str:
        """Of the last answer, in words; and that the model no longer saw all of the conversation, where that is new."""
        rate = self.tokens / self.seconds if self.seconds else 0.0
        turns = "turn no longer fits" if self.forgotten == 1 else f"{self.forgotten} turns no longer fit"
        lost = f"; the first {turns}, and later ones will follow" if self.newly_forgetful else ""
        return f"{self.tokens} tokens, {rate:.0f} tokens/s{lost}"
