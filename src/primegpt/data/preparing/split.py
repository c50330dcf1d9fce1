"""Which of the text is held out for validation.

Of a few texts the ends are, so that each of them, and each language, is on both sides; of many, whole documents. Every
source and every file of records has its share of its own. Nothing here depends on the seed of a run: runs of different
seeds learn from the same text and are judged on the same.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from primegpt.data.preparing.survey import Run, Survey, numbered, survey
from primegpt.data.reading.sources import Document, split_at_byte, utf8_size
from primegpt.errors import DataError
from primegpt.seeds import derive_seed

FEW = 50  # text files of a source, up to which the end of each is held out
SHORTEST_END = 100  # bytes on average; ends shorter than that are no text to be judged by
OFF = 0.2  # of the share asked for: how far whole documents may be from it
EXACT_SPLIT = 200_000  # documents; with more of them, each is drawn by itself, which needs no list of all of them


@dataclass(frozen=True)
class Split:
    """Which documents are held out as a whole, and of which the end is, from which byte on."""

    whole: bytearray
    """For each document, whether all of it is."""
    ends: Mapping[int, int]
    """Document -> byte."""

    def assign(self, documents: Iterable[Document]) -> Iterator[tuple[str, int, Document]]:
        """("train" or "val", number, document) for each document or part of one, in order."""
        position, opened = 0, set[str]()  # of a document that is cut: bytes before this part; where it has begun
        for number, document in numbered(documents):
            if number not in self.ends:
                yield ("val" if self.whole[number] else "train"), number, document
                continue
            if not document.continues:
                position, opened = 0, set[str]()
            before, after = split_at_byte(document.text, max(0, self.ends[number] - position))
            position += utf8_size(document.text)
            for name, text in (("train", before), ("val", after)):
                if text:
                    yield name, number, replace(document, text=text, continues=name in opened)
                    opened.add(name)

    def held_bytes(self, surveyed: Survey) -> dict[int, int]:
        """Bytes of each source that are held out."""
        held = {}
        for group, runs in surveyed.sources().items():
            numbers = range(runs[0][1].start, runs[-1][1].stop)
            ends = {number: self.ends[number] for number in numbers if number in self.ends} if self.ends else {}
            held[group] = _bytes(surveyed, ends, (number for number in numbers if self.whole[number]))
        return held

    def remarks(self, surveyed: Survey, sources: Sequence[str], val_fraction: float) -> Iterator[str]:
        """What a user may not expect, a line each: how several files were parted, and what could not be had."""
        if surveyed.n_documents == 1:
            return
        if len(surveyed.runs) > 1 or surveyed.runs[0].file is None:
            n, n_ends, n_whole = surveyed.n_documents, len(self.ends), self._whole(range(surveyed.n_documents))
            ends = f"the end of {'each' if n_ends == n else f'{n_ends:,}'} of {n:,} texts" if n_ends else ""
            whole = f"{n_whole:,} of {n:,} as a whole" if n_whole else ""
            yield f"held out for validation: {', and '.join(filter(None, (ends, whole)))}"
        held = self.held_bytes(surveyed)
        for group in held:
            if not held[group]:
                yield f"nothing of {sources[group]} is held out for validation: it is too small"
        share = sum(held.values()) / surveyed.n_bytes
        if not _is_near(share, val_fraction):
            yield f"data.val_fraction = {val_fraction:g}, but documents of these sizes make it {share:.2g}"

    def _whole(self, numbers: range) -> int:
        return self.whole.count(1, numbers.start, numbers.stop)


def choose_split(
    surveyed: Survey,
    val_fraction: float,
    *,
    keeps_whole: Callable[[int], bool] = lambda group: False,
    sources: Sequence[str] = ("the text",),
    weighted: bool = False,
) -> Split:
    """Hold out `val_fraction` of each source; `keeps_whole` tells of which the documents, records, cannot be cut.

    Raises DataError if there is too little to hold anything out, or, where sources are `weighted`, anything of one.
    """
    split = Split(bytearray(surveyed.n_documents), ends := dict[int, int]())
    for group, runs in surveyed.sources().items():
        missing = 0.0  # bytes by which the files before have not met their share
        for numbers, are_files in _strata(runs, val_fraction):
            size = surveyed.bytes_in(numbers)
            budget = val_fraction * size
            most = OFF * min(budget, size - budget)  # a large file before must not take all of a small one, or nothing
            carried = max(-most, min(missing, most))
            cut, whole = _held_out(surveyed, numbers, val_fraction, budget + carried, keeps_whole(group), are_files)
            missing += budget - _bytes(surveyed, cut, whole)
            ends |= cut
            for number in whole:
                split.whole[number] = 1
    held = split.held_bytes(surveyed)
    nothing = [sources[group] for group in held if not held[group]]
    if len(nothing) == len(held) or (weighted and nothing):
        name = nothing[0] if weighted else ", ".join(sources)
        what = "is a single record" if all(map(keeps_whole, held)) else "is too short"
        raise DataError(f"{name} {what}: data.val_fraction = {val_fraction} cannot be held out", "add text")
    return split


def _strata(runs: Sequence[tuple[Run, range]], val_fraction: float) -> Iterator[tuple[Sequence[int], bool]]:
    """Documents of a source, of these runs, that are parted by themselves, and whether they are text files.

    Those of a file of records, if a document of it can be held out; all others of the source together.
    """
    if len(runs) == 1:
        yield runs[0][1], runs[0][0].file is None
        return
    others, are_files = list[int](), True
    for run, numbers in runs:
        if run.file is not None and len(numbers) * val_fraction >= 1:
            yield numbers, False
        else:
            others += numbers
            are_files = are_files and run.file is None
    if others:
        yield others, are_files


def _held_out(
    surveyed: Survey, numbers: Sequence[int], val_fraction: float, budget: float, records: bool, are_files: bool
) -> tuple[dict[int, int], Sequence[int]]:
    """About `budget` bytes of these documents: of which the end, from which byte on, and which as a whole."""
    if records:
        return {}, hold_out(surveyed, numbers, budget)
    if len(numbers) == 1 or (are_files and len(numbers) <= min(FEW, budget / SHORTEST_END)):
        return _ends(surveyed, numbers, val_fraction), ()
    large = [number for number in numbers if surveyed.sizes[number] > budget]  # which could never be held out
    ends = _ends(surveyed, large, val_fraction)
    rest = [number for number in numbers if number not in ends] if ends else numbers
    whole = hold_out(surveyed, rest, budget - _bytes(surveyed, ends, ()))
    if _is_near(_bytes(surveyed, ends, whole), budget):
        return ends, whole
    return _ends(surveyed, numbers, val_fraction), ()


def _ends(surveyed: Survey, numbers: Iterable[int], val_fraction: float) -> dict[int, int]:
    """Where the held-out end of each begins, but for those that are too small: together they are the fraction."""
    ends, size, kept = dict[int, int](), 0, 0
    for number in numbers:
        own = surveyed.sizes[number]
        size += own
        byte = min(own, max(1, int(size * (1 - val_fraction)) - kept))
        if byte < own:
            ends[number] = byte
        kept += byte
    return ends


def hold_out(surveyed: Survey, numbers: Sequence[int], budget: float) -> Sequence[int]:
    """Documents of `numbers`, drawn until their bytes reach the budget; at least one on each side if there are two."""
    if len(numbers) < 2:
        return ()
    sizes = surveyed.sizes
    if len(numbers) > EXACT_SPLIT:
        threshold = int(budget / surveyed.bytes_in(numbers) * 2**32)
        return array("Q", (number for number in numbers if _draw(number) % 2**32 < threshold))
    drawn = sorted(numbers, key=_draw)
    # One long book among short ones must not become the validation text by bad luck.
    fitting = [number for number in drawn if sizes[number] <= budget] or [min(drawn, key=sizes.__getitem__)]
    reached = list(accumulate((sizes[number] for number in fitting), initial=0))
    most = len(numbers) - 1
    found = fitting[: min(max(1, bisect_left(reached, budget)), most)]
    if _is_near(surveyed.bytes_in(found), budget):
        return found
    packed = _packed(surveyed, fitting, budget)[:most]
    return min((found, packed), key=lambda some: abs(surveyed.bytes_in(some) - budget))


def _packed(surveyed: Survey, drawn: Sequence[int], budget: float) -> list[int]:
    """Of documents in the order drawn those that still fit into the budget and what it may be off by."""
    packed, size = [drawn[0]], surveyed.sizes[drawn[0]]
    for number in drawn[1:]:
        if size < (1 - OFF) * budget and size + surveyed.sizes[number] <= (1 + OFF) * budget:
            packed.append(number)
            size += surveyed.sizes[number]
    return packed


def split_documents(documents: Sequence[Document], val_fraction: float) -> tuple[list[Document], list[Document]]:
    """Training and validation documents of texts that are all at hand."""
    assigned = list(choose_split(survey(documents), val_fraction).assign(documents))
    train, val = ([document for name, _, document in assigned if name == wanted] for wanted in ("train", "val"))
    return train, val


def _bytes(surveyed: Survey, ends: Mapping[int, int], whole: Iterable[int]) -> int:
    return sum(surveyed.sizes[number] - byte for number, byte in ends.items()) + surveyed.bytes_in(whole)


def _is_near(found: float, asked: float) -> bool:
    return abs(found - asked) <= OFF * asked


def _draw(number: int) -> int:
    return derive_seed(0, "validation split", number)
