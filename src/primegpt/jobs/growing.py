"""A file of records that is made input by input, and gone on with where it was stopped.

Until it is whole it lies beside its place, hidden: a first line that says what it is made of, then a line for what came
of each input. A line that was torn is made anew. What was to become something else is kept under another name.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from primegpt.data.reading.sources import files_of
from primegpt.errors import ConfigError, PrimegptError, UsageError
from primegpt.run.atomic import canonical_json, io_errors, write_text_atomic
from primegpt.terminal import Say


class GrowingFile:
    """Records for `path`; `made_of` decides all of them, `made` is what came of the inputs so far, in their order."""

    def __init__(self, path: str | Path, made_of: Mapping[str, Any], say: Say) -> None:
        self.path = checked_place(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")
        self.head = json.loads(canonical_json(made_of))
        head, self.made = self._left()
        done = f"{self.path}: {len(self.made):,} prompts or texts were done before"
        if self.made and head != self.head:
            say(f"{done} from other inputs or with other options, and are kept in {self._kept()}")
            self.made = []
        elif self.made:
            say(f"{done}, and are not done again")
        write_text_atomic(self.partial, "".join(json.dumps(each) + "\n" for each in (self.head, *self.made)))

    def _left(self) -> tuple[Any, list[Any]]:
        """What an earlier process has left: what that is made of, and what came of its inputs."""
        try:
            with io_errors(f"read {self.partial}"):
                lines = self.partial.read_bytes().split(b"\n")[:-1]  # what stands after the last end of a line is torn
            head, *made = map(json.loads, lines)
        except (PrimegptError, ValueError):
            return None, []
        return head, made

    def _kept(self) -> Path:
        """The new name of what an earlier process has left."""
        names = (self.partial.with_suffix(f".old{number or ''}") for number in count())
        kept = next(name for name in names if not name.exists())
        with io_errors(f"rename {self.partial}"):
            self.partial.rename(kept)
        return kept

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


def checked_place(path: str | Path, sources: Sequence[str] = ()) -> Path:
    """`path` as a place for records. Raises UsageError for one that is none, before anything is done for it.

    It is none if it is a file of `sources`, which would be lost.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path}: records are written as .jsonl", "choose another name with --out")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "make it, or choose another place with --out")
    if path.exists() and any(file.samefile(path) for source in sources for file in files_of(source)):
        raise UsageError(f"{path} is what is read", "choose another name with --out")
    return path
