"""Which files a folder or a pattern stands for, and which of those that are there it leaves out."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from primegpt.data.reading.formats import is_readable, kind_of_file
from primegpt.errors import DataError

NAMED = 5  # kinds of files that are named where some are left out
_SEPARATOR = f"[{re.escape(os.sep + (os.altsep or ''))}]"
_ANY_DEPTH = re.compile(rf"(?:^|(?<={_SEPARATOR}))\*\*(?:{_SEPARATOR}|$)")  # what stands for folders in folders


@dataclass
class Found:
    """The files that a source stands for, and how many of each kind stand beside them and are left out."""

    source: str
    files: list[Path]
    left_out: Counter[str] = field(default_factory=Counter)
    patterns: list[str] = field(default_factory=list)
    """What would take the most frequent of those that are left out, if they are text."""

    def take(self, files: Iterable[Path]) -> None:
        """Take those of `files` that are text."""
        for file in files:
            if kind := kind_of_file(file):
                self.left_out[f"{file.suffix.lower() or file.name} that is {kind}"] += 1
            else:
                self.files.append(file)

    def remark(self) -> str:
        """What is left out, in a line; empty if nothing is."""
        if not self.left_out:
            return ""
        n = self.left_out.total()
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.most_common(NAMED))
        others = sum(count for _, count in self.left_out.most_common()[NAMED:])
        listed = kinds + (f" and {others:,} more" if others else "")
        return f"{self.source}: {n:,} of {n + len(self.files):,} files left out: {listed}{self._way()}"

    def _way(self) -> str:
        return f"; to take these too, name {' '.join(map(repr, self.patterns))}" if self.patterns else ""


def found_in_folder(source: str, path: Path) -> Found:
    """The text files in a folder and in the folders in it, by name and by what they hold; no hidden ones."""
    there = _files(os.path.join(glob.escape(str(path)), "**", "*"))
    found = Found(source, [])
    others: dict[str, list[Path]] = {}
    for file in there:
        if not is_readable(file):
            others.setdefault(file.suffix.lower(), []).append(file)
    for ending, files in sorted(others.items(), key=lambda item: -len(item[1])):
        found.left_out[ending or "without an ending"] += len(files)
        if ending and len(found.patterns) < NAMED and not kind_of_file(files[0]):
            found.patterns.append(os.path.join(glob.escape(source), "**", f"*{glob.escape(files[0].suffix)}"))
    found.take(file for file in there if is_readable(file))
    if not found.files:
        raise _nothing(found, "no text in this folder (.txt, .md, .jsonl, .csv, .parquet, .gz of them)")
    return found


def found_by_pattern(source: str, pattern: str) -> Found:
    """The text files that match a pattern, whatever their names."""
    found = Found(source, [])
    found.take(_files(pattern))
    if not found.files:
        raise _nothing(found, "no text in what matches" if found.left_out else "no file matches")
    return found


def identity(path: Path) -> tuple[int, int]:
    """What two names of one file have in common."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _nothing(found: Found, what: str) -> DataError:
    remark = found.remark().removeprefix(found.source)
    remedy = "" if found.patterns else "name a file, a folder with text files or another pattern"
    return DataError(f"{found.source}: {what}{remark.replace(':', ';', 1)}", remedy)


def _files(pattern: str) -> list[Path]:
    """The regular files that match, each once, in an order that every machine agrees on."""
    names: dict[tuple[int, int], list[Path]] = {}
    for path in map(Path, set(_matches(pattern))):
        if path.is_file():
            names.setdefault(identity(path), []).append(path)
    files = (min(paths, key=_order) if len(paths) > 1 else paths[0] for paths in names.values())
    return sorted(files, key=lambda path: path.parts)


def _order(path: Path) -> tuple[bool, tuple[str, ...]]:
    """A file's own name before those of links to it."""
    return path.resolve() != path.absolute(), path.parts


def _matches(pattern: str) -> Iterator[str]:
    """What a pattern matches; `**` enters each folder once, where glob's own follows links in circles."""
    found = _ANY_DEPTH.search(pattern)
    if not found:
        yield from glob.iglob(pattern)
        return
    rest = pattern[found.end() :] or "*"
    for start in glob.iglob(pattern[: found.start()]) if found.start() else ("",):
        for folder in _folders(start):
            yield from _matches(os.path.join(glob.escape(folder), rest))


def _folders(start: str) -> Iterator[str]:
    """`start` and the folders in it, those before links to them; hidden ones are left out."""
    seen, places, links = set[tuple[int, int]](), [start], list[str]()
    while places or links:
        place = places.pop() if places else links.pop(0)
        if (key := identity(Path(place))) in seen:
            continue
        seen.add(key)
        yield place
        for entry in sorted(os.scandir(place or "."), key=lambda entry: entry.name, reverse=True):
            if os.path.isdir(entry.path) and not entry.name.startswith("."):
                (links if entry.is_symlink() else places).append(os.path.join(place, entry.name))
