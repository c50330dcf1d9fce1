"""How a text is shared out among processes and machines, and what each of them leaves for the others to find.

The text is cut into equal blocks by its size alone: block k is what begins in its bytes [k * size, (k + 1) * size). A
block becomes one file of tokens a split, whoever writes it, and so the shards are the same however many shared the
work, however often one of them was killed, and in whatever order they came.

    KEY.partial/
      tokenizer/  train/  val/     as in the finished entry
      blocks/00003.json            block 3 is whole: what was written for it, with sizes and SHA-256
      request.json                 what was asked for; only where machines share the work
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from primegpt.data.preparing.shard_writer import Stretch
from primegpt.data.preparing.shards import check_hash, fingerprint_of
from primegpt.errors import ConfigError, DataError, MismatchError, quoted
from primegpt.run.atomic import write_json_atomic

# Where blocks begin decides the files of an entry: whoever changes these two raises corpus.SPLITTING.
BLOCK = 64_000_000  # bytes of text, at most, unless there would be too many
MOST = (
    128  # blocks of a text, however large: each is an open file or more of every split, and systems allow about 1,000
)
REQUEST = "request.json"
SPLITS = ("train", "val")


class Part(NamedTuple):
    """Part `index` of `count`, from 1: what one machine of several does."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index} of {self.count}"


WHOLE = Part(1, 1)


def parse_part(text: str) -> Part:
    """The part that "2/8" names. Raises ConfigError."""
    index, _, count = text.partition("/")
    if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in (index, count)):
        raise ConfigError(
            f"--shard {quoted(text)}: this is no part of a text", "write I/N, as in 2/8 for the second of eight"
        )
    part = Part(int(index), int(count))
    if not 1 <= part.index <= part.count:
        raise ConfigError(f"--shard {text}: there is no such part", "the first of N parts is 1/N, the last is N/N")
    return part


class Blocks(NamedTuple):
    """The `count` blocks of a text of `n_bytes`, each of `size` bytes but for the last."""

    n_bytes: int
    size: int
    count: int

    @classmethod
    def of(cls, n_bytes: int) -> "Blocks":
        count = min(MOST, max(1, -(-n_bytes // BLOCK)))
        return cls(n_bytes, max(1, -(-n_bytes // count)), count)

    def at(self, position: int) -> int:
        """The block of what begins after `position` bytes."""
        return min(position // self.size, self.count - 1)

    def range(self, part: Part) -> range:
        """The blocks of a part: neighbours, so that it need not read on after them; none, where parts are many."""
        return range((part.index - 1) * self.count // part.count, part.index * self.count // part.count)

    def bytes_of(self, numbers: Iterable[int]) -> int:
        return sum(min((number + 1) * self.size, self.n_bytes) - number * self.size for number in numbers)


class Record(TypedDict):
    """What is known of a finished block, in plain JSON."""

    key: str
    """The corpus that it belongs to."""
    tokenizer: str
    """The fingerprint."""
    stretches: dict[str, Stretch]
    """By split."""
    text_bytes: dict[str, int]
    """Size of the text that is to be learnt, by split."""
    train_rows: Mapping[str, int]
    """Rows in the training split, by the number of the source that they come from."""
    tally: dict[str, Any]


def record_block(unfinished: Path, number: int, record: Record) -> None:
    """Note that all files of a block are on the disk."""
    path = _record_path(unfinished, number)
    path.parent.mkdir(exist_ok=True)
    write_json_atomic(path, {**record, "fingerprint": fingerprint_of(record)})


def finished_block(unfinished: Path, number: int, key: str, tokenizer: str, *, verify: bool = False) -> Record | None:
    """What was noted of a block; None if it is not finished, or (`verify`) its files are not what they were.

    Raises MismatchError if it was made for another corpus or by another tokenizer.
    """
    path = _record_path(unfinished, number)
    record = _read_record(path)
    if not record:
        return None
    for name, theirs, ours in (("corpus", record["key"], key), ("tokenizer", record["tokenizer"], tokenizer)):
        if theirs != ours:
            raise MismatchError(
                f"{path} was made for {name} {theirs}, not {ours}",
                "prepare that part with the same text, tokenizer and settings as the others, or delete its file",
            )
    try:
        if verify:
            for split, stretch in record["stretches"].items():
                for name, entry in stretch["files"].items():
                    check_hash(unfinished / split / name, entry["sha256"])
    except (DataError, OSError):
        path.unlink(missing_ok=True)
        return None
    return record


def _read_record(path: Path) -> Record | None:
    """A record as it was written; a damaged one is removed."""
    try:
        saved = json.loads(path.read_bytes())
        if saved["fingerprint"] == fingerprint_of(saved):
            return saved
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    path.unlink(missing_ok=True)
    return None


def missing_parts(unfinished: Path, blocks: Blocks, count: int) -> list[Part]:
    """Which of `count` parts have blocks that are not finished."""
    here = [_record_path(unfinished, number).exists() for number in range(blocks.count)]
    parts = [Part(index, count) for index in range(1, count + 1)]
    return [part for part in parts if not all(here[number] for number in blocks.range(part))]


def agree(unfinished: Path, sources: Iterable[str], settings: Mapping[str, Any]) -> None:
    """Leave word of what is asked for in `unfinished`.

    Raises MismatchError if parts of the same sources wait for others beside it that was asked for otherwise: they
    would wait forever.
    """
    own = {"sources": [_where(source) for source in sources], "settings": dict(settings)}
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json_atomic(unfinished / REQUEST, own)  # before looking, so that of two at least one sees the other
    for path in sorted(unfinished.parent.glob(f"*.partial/{REQUEST}")):
        if path.parent == unfinished or not (other := _request(path)) or other["sources"] != own["sources"]:
            continue
        theirs, ours = other["settings"], own["settings"]
        name = next((name for name in {**ours, **theirs} if theirs.get(name) != ours.get(name)), "settings")
        with suppress(OSError):  # or the others would be refused because of this one
            (unfinished / REQUEST).unlink()
            unfinished.rmdir()  # unless somebody works there
        raise MismatchError(
            f"another part of {', '.join(own['sources'])} has {name} {theirs.get(name)}, this one {ours.get(name)}",
            f"give all parts the same text and settings; if that one was given up, delete {path.parent}",
        )


def _where(source: str) -> str:
    """A file or folder by its whole path, since texts of other folders may have the same name."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def _request(path: Path) -> dict[str, Any] | None:
    try:
        request = json.loads(path.read_bytes())
        return request if {"sources", "settings"} <= request.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _record_path(unfinished: Path, number: int) -> Path:
    return unfinished / "blocks" / f"{number:05d}.json"
