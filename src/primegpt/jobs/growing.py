"""A file of records that is made input by input, and gone on with where it was stopped.

Until it is whole it lies beside its place, hidden: a first line that says what it is made of, then a line for what came
of each input. A line that was torn is made anew.
"""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from primegpt.errors import ConfigError, PrimegptError, UsageError
from primegpt.run.atomic import canonical_json, io_errors, write_text_atomic
from primegpt.terminal import Say


class GrowingFile:
    """Records for `path`; `made_of` decides all of them, `made` is what came of the inputs so far, in their order."""

    def __init__(self, path: str | Path, made_of: Mapping[str, Any], say: Say) -> None:
        self.path = checked_place(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self.head = json.loads(canonical_json(made_of))
        self.made = self._left()
        if self.made:
            say(f"{self.path}: {len(self.made):,} prompts or texts were done before, and are not done again")
        write_text_atomic(self.partial, "".join(json.dumps(each) + "\n" for each in (self.head, *self.made)))

    def _left(self) -> list[Any]:
        """What an earlier process that was to make the same has left."""
        try:
            with io_errors(f"read {self.partial}"):
                lines = self.partial.read_bytes().split(b"\n")[:-1]  # what stands after the last end of a line is torn
            head, *made = map(json.loads, lines)
        except (PrimegptError, ValueError):
            return []
        return made if head == self.head else []

    def add(self, made: Any) -> None:
        """What came of the next input."""
        self.made.append(made)
        with io_errors(f"write {self.partial}"), open(self.partial, "ab") as file:
            file.write(json.dumps(made).encode() + b"\n")

    def finish(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Put the records in their place, whole or not at all."""
        write_text_atomic(self.path, "".join(json.dumps(record) + "\n" for record in records))
        with suppress(OSError):
            os.unlink(self.partial)


def checked_place(path: str | Path) -> Path:
    """`path` as a place for records. Raises UsageError for one that is none, before anything is done for it."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path}: records are written as .jsonl", "choose another name with --out")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "make it, or choose another place with --out")
    return path
