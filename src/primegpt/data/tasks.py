"""Questions with one right answer, made rather than collected: what a small model answers is right or wrong.

add     12 + 7          19
sort    sort k c x      c k x
count   count a in baca 2
spell   spell romu      r o m u
copy    copy kxq        kxq

A level makes them harder: more digits, more letters. One question in ten belongs to the held-out set, as a hash of what
is asked decides: it is the same tenth whatever the seed, and a question in another order (7 + 12) is the same question.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, NamedTuple

from primegpt.errors import UsageError, nearest, quoted, require_within
from primegpt.seeds import derive_seed

MAX_LEVEL = 20
HELD_OUT = 10  # of so many questions one is held out
VOWELS = "aeiou"
CONSONANTS = "bcdfghjklmnpqrstvwxyz"
FEW_LETTERS = "abcde"  # of strings in which one is counted
PATIENCE = 20  # draws for each question that is known, before there are taken to be no others

Draw = Callable[[], float]  # the next uniform number in [0, 1)


class Drawn(NamedTuple):
    """A question, its answer, and what it asks in one order: questions that have that in common are the same."""

    question: str
    answer: str
    same: tuple[object, ...]


@dataclass(frozen=True)
class Task:
    """A question of a kind and a level, with its answer."""

    kind: str
    level: int
    question: str
    answer: str

    @property
    def record(self) -> dict[str, Any]:
        """As a conversation, with the answer by itself, which the reward `exact` reads."""
        said = (("user", self.question), ("assistant", self.answer))
        messages = [{"role": role, "content": content} for role, content in said]
        return {"messages": messages, "answer": self.answer, "kind": self.kind, "level": self.level}


def _pick(draw: Draw, letters: str) -> str:
    return letters[int(draw() * len(letters))]


def _letters(draw: Draw, letters: str, count: int) -> str:
    return "".join(_pick(draw, letters) for _ in range(count))


def _add(draw: Draw, level: int) -> Drawn:
    """Two numbers of at most `level` digits."""
    a, b = (int(draw() * 10**level) for _ in range(2))
    return Drawn(f"{a} + {b}", str(a + b), tuple(sorted((a, b))))


def _sort(draw: Draw, level: int) -> Drawn:
    """`level` + 2 letters."""
    letters = _letters(draw, ascii_lowercase, level + 2)
    ordered = " ".join(sorted(letters))
    return Drawn(f"sort {' '.join(letters)}", ordered, (ordered,))


def _count(draw: Draw, level: int) -> Drawn:
    """How often a letter stands among 4 times `level` letters."""
    letter, text = _pick(draw, FEW_LETTERS), _letters(draw, FEW_LETTERS, 4 * level)
    return Drawn(f"count {letter} in {text}", str(text.count(letter)), (letter, text))


def _spell(draw: Draw, level: int) -> Drawn:
    """A word that nobody has said yet, of 2 times `level` + 2 letters."""
    word = "".join(_pick(draw, CONSONANTS) + _pick(draw, VOWELS) for _ in range(level + 1))
    return Drawn(f"spell {word}", " ".join(word), (word,))


def _copy(draw: Draw, level: int) -> Drawn:
    """3 times `level` letters."""
    text = _letters(draw, ascii_lowercase, 3 * level)
    return Drawn(f"copy {text}", text, (text,))


KINDS: dict[str, Callable[[Draw, int], Drawn]] = {
    "add": _add,
    "sort": _sort,
    "count": _count,
    "spell": _spell,
    "copy": _copy,
}


def tasks(
    kind: str, records: int, *, levels: Sequence[int] = (1,), held_out: bool = False, seed: int = 0
) -> Iterator[Task]:
    """`records` different questions of a kind, of each level in turn; those of the held-out tenth, or all others.

    Raises UsageError for an unknown kind, and where there are not so many.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no task {quoted(kind)}", nearest(kind, KINDS))
    if not levels or len(set(levels)) < len(levels):
        raise UsageError(f"levels {quoted(list(levels))}", f"give each once, 1 to {MAX_LEVEL}")
    for level in levels:
        require_within("level", level, 1, MAX_LEVEL)
    known = set[str]()  # of all levels: a sum of two digits is also one of three at most
    streams = {level: _different(kind, level, held_out, seed, known) for level in levels}
    for number in range(records):
        level = levels[number % len(levels)]
        task = next(streams[level], None)
        if task is None:
            which = "held-out questions" if held_out else "questions that are not held out"
            found = number // len(levels)
            raise UsageError(
                f"level {level} of {kind!r} has about {found:,} {which}", "ask for fewer records, or a higher level"
            )
        yield task


def is_held_out(kind: str, same: Sequence[object]) -> bool:
    """Whether what is asked belongs to the held-out tenth."""
    return derive_seed(0, "held-out task", kind, repr(tuple(same))) % HELD_OUT == 0


def _different(kind: str, level: int, held_out: bool, seed: int, known: set[str]) -> Iterator[Task]:
    """Questions of the wanted side that are not `known`, to which they are added, until no new one is found."""
    draw = random.Random(derive_seed(seed, "tasks", kind, level)).random
    missed, rarity = 0, HELD_OUT if held_out else 1
    while missed < PATIENCE * rarity * (len(known) + 10):
        drawn = KINDS[kind](draw, level)
        if drawn.question in known or is_held_out(kind, drawn.same) != held_out:
            missed += 1
            continue
        known.add(drawn.question)
        missed = 0
        yield Task(kind, level, drawn.question, drawn.answer)
