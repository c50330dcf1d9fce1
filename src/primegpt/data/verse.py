"""The verse of the songbook: the words of a genre, an emotion and a theme, clauses of so many syllables, and rhymes.

All of it is read from songbook_words.txt; songbook.py writes songs of it.
"""

import re
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.resources import files
from itertools import accumulate
from math import sqrt
from operator import itemgetter
from typing import NamedTuple, TypeVar

ENOUGH = 3  # rhyme words that a sound needs: neighbouring lines never end in the same one
LONGEST = 14  # syllables in a clause, at most

T = TypeVar("T")
Draw = Callable[[], float]  # the next uniform number in [0, 1)
Slots = dict[str, tuple[str, ...]]  # what may fill each slot of a pattern
Way = tuple[tuple[str, ...], ...]  # one shape of a pattern: for each slot, its fillers of one length


# ---- reading the words


@cache
def word_lists() -> dict[str, str]:
    """The lists of songbook_words.txt, by their names."""
    text = files("primegpt.data").joinpath("songbook_words.txt").read_text(encoding="utf-8")
    names_and_lists = re.split(r"^== (\w+)\n", re.sub(r"^#.*\n", "", text, flags=re.M), flags=re.M)[1:]
    return dict(zip(names_and_lists[::2], (each.strip("\n") for each in names_and_lists[1::2]), strict=True))


def lines_of(text: str) -> list[str]:
    """The lines of a list, each with the indented ones that go on with it."""
    return text.replace("\n    ", " ").splitlines()


def _entries(text: str) -> dict[str, str]:
    """The lines "key: entries" of a list."""
    return dict(line.split(": ", 1) for line in lines_of(text))


@cache
def lexicon_of(listed: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The lines "name key: entries" of a list, by name and then by key."""
    lexicon: dict[str, dict[str, tuple[str, ...]]] = {}
    for keys, entries in _entries(word_lists()[listed]).items():
        name, _, key = keys.rpartition(" ")
        lexicon.setdefault(name, {})[key] = tuple(entries.split("; "))
    return lexicon


@cache
def words_of(listed: str, name: str, genre: str, emotion: str) -> tuple[str, ...]:
    """What this genre and emotion may use: the entries of all, and their own twice, which gives a song its colour."""
    lexicon = lexicon_of(listed)[name]
    return tuple(each for key in ("any", emotion, emotion, genre, genre) for each in lexicon.get(key, ()))


def pick(draw: Draw, items: tuple[T, ...]) -> T:
    return items[int(draw() * len(items))]


def with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" or phrase.startswith("R&B") else f"a {phrase}"


def capitalised(line: str) -> str:
    return line[0].upper() + line[1:]


def words_by_voice() -> dict[str, set[str]]:
    """The words that the lists give to each genre and each emotion, and under "any" to all songs, in lower case."""
    said: dict[str, set[str]] = {}
    for listed in ("endings", "slots", "heads", "theme_heads", "chorus_heads", "chants"):
        for keys, entries in _entries(word_lists()[listed]).items():
            literal = re.sub(r"{\w+}", " ", entries).lower()
            said.setdefault(keys.split()[-1], set()).update(re.findall(r"[a-z]+(?:'[a-z]+)*", literal))
    return said


class Theme(NamedTuple):
    """A noun, its adjectives, the ways to name it in a prompt, and the words it brings to the slots of a line."""

    noun: str
    epithets: tuple[str, ...]
    phrases: tuple[str, ...]
    slots: Slots


@cache
def themes() -> dict[str, Theme]:
    """Every theme, by its noun."""
    return {theme.noun: theme for theme in map(_theme, lines_of(word_lists()["themes"]))}


def _theme(row: str) -> Theme:
    name, *fields = (field.strip() for field in row.split("|"))
    epithets, does, touch, image = (tuple(field.split("; ")) for field in fields)
    noun = name.removeprefix("my ").rstrip("*")
    the = "my" if name.startswith("my ") else "the"
    named = (f"{epithet} {noun}" for epithet in epithets)
    phrases = (f"{the} {noun}", *(each if name.endswith("*") else with_article(each) for each in named))
    return Theme(
        noun, epithets, phrases, {"the": (the,), "theme": (noun,), "does": does, "touch": touch, "image": image}
    )


# ---- metre: clauses of a given number of syllables


@cache
def syllables(phrase: str) -> int:
    """The number of syllables by a spelling rule: right for nearly all of the songbook's words, near for the rest."""
    return sum(map(_word_syllables, re.findall(r"[a-z]+", phrase.lower().replace("'", ""))))


@cache
def _word_syllables(word: str) -> int:
    for number, exceptions in lexicon_of("syllables")[""].items():
        if word in exceptions:
            return int(number)
    vowels = len(re.findall(r"[aeiouy]+", word))
    silent = re.search(r"[^aeiouy]e$|[^aeiouytd]ed$|[^aeioucgsxzh]es$|[^aeiouy]e(ly|less|ful)$", word)
    if silent and not re.search(r"[^aeiouy]le$", word):
        vowels -= 1
    return max(1, vowels)


class _Table:
    """All the ways to fill some patterns, sorted by syllables, so that a clause of a given length is drawn at once."""

    def __init__(self, patterns: Iterable[str], slots: Slots) -> None:
        filed: list[tuple[int, float, Way]] = []
        for pattern, times in Counter(patterns).items():
            filed += [(size, times * weight, way) for size, weight, way in _weighed(_ways(pattern, slots))]
        filed.sort(key=itemgetter(0))
        self.sizes = [size for size, _, _ in filed]
        self.weights = [0.0, *accumulate(weight for _, weight, _ in filed)]
        self.ways = [way for _, _, way in filed]
        self.least = self.sizes[0]
        self.shorter = [bisect_left(self.sizes, size) for size in range(LONGEST + 1)]  # how many ways are shorter

    def draw(self, draw: Draw, least: int, most: int) -> tuple[str, int] | None:
        """A clause of `least` to `most` syllables and how many it has, if there is one."""
        low, high = self.shorter[min(least, LONGEST)], self.shorter[min(most + 1, LONGEST)]
        if low >= high:
            return None
        floor = self.weights[low]
        at = bisect(self.weights, floor + draw() * (self.weights[high] - floor), low + 1, high) - 1
        return "".join([fillers[int(draw() * len(fillers))] for fillers in self.ways[at]]), self.sizes[at]


def _weighed(ways: list[tuple[int, int, Way]]) -> Iterator[tuple[int, float, Way]]:
    """Weights for a pattern's ways: of two patterns, the one that can say more is likelier, by a square root."""
    total: Counter[int] = Counter()
    for size, number, _ in ways:
        total[size] += number
    for size, number, way in ways:
        yield size, number / total[size] * sqrt(total[size]), way


def _ways(pattern: str, slots: Slots) -> list[tuple[int, int, Way]]:
    """(syllables, number of clauses, way) for each combination of lengths of the fillers of a pattern's slots."""
    ways: list[tuple[int, int, Way]] = [(0, 1, ())]
    for literal, slot in re.findall(r"([^{]*)(?:\{(\w+)\}|$)", pattern):
        if literal or slot:
            by_size = _by_size(literal, slots[slot] if slot else ("",))
            ways = [(a + b, m * len(group), (*way, group)) for a, m, way in ways for b, group in by_size.items()]
    return [way for way in ways if way[0] < LONGEST]


@cache
def _by_size(literal: str, fillers: tuple[str, ...]) -> dict[int, tuple[str, ...]]:
    """The text before a slot followed by each of the slot's fillers, grouped by syllables."""
    article = literal.endswith(" a ")
    groups: dict[int, list[str]] = {}
    for filler in fillers:
        text = literal[:-2] + with_article(filler) if article else literal + filler
        groups.setdefault(syllables(text), []).append(text)
    return {size: tuple(group) for size, group in groups.items()}


@cache
def slots_of(genre: str, emotion: str) -> Slots:
    return {slot: words_of("slots", slot, genre, emotion) for slot in lexicon_of("slots")}


@cache
def clauses_of(heads: str, genre: str, emotion: str, noun: str = "") -> _Table:
    """Clauses that may open a line of a song of this genre and emotion, and about this theme."""
    slots = slots_of(genre, emotion) | (themes()[noun].slots if noun else {})
    return _Table(words_of(heads, "", genre, emotion), slots)


@cache
def whens_of(genre: str, emotion: str) -> _Table:
    """What may come before a clause."""
    return _Table(["{when} "], slots_of(genre, emotion))


@cache
def leads_of(genre: str, emotion: str, kind: str, sung: bool) -> _Table:
    """What stands between a clause, or the sung title, and a rhyme word of this kind."""
    name = kind if kind in lexicon_of("endings") else "noun"
    leads = [lead.replace("{prep}", kind) for lead in words_of("endings", name, genre, emotion)]
    bound = [_bound(lead, sung) for lead in leads]
    return _Table([lead.rstrip() for lead in bound], slots_of(genre, emotion))


def _bound(lead: str, sung: bool) -> str:
    """The lead with what binds it to the clause before it: a space, its own comma, or a drawn "and"."""
    if sung:  # a title ends with its own comma
        return " " + lead.lstrip("~, ")
    if lead.startswith(("~", ",")):
        return lead.replace("~", " ")
    return f"{{and}} {lead}"


# ---- rhyme


SET_PHRASES = ("tell", "aside", "np", "adv", "like")  # kinds of endings that say more than their rhyme word


class End(NamedTuple):
    """One use of a rhyme word: its kind, and what may stand at the end of the line, with the syllables of each."""

    word: str
    kind: str
    texts: tuple[tuple[str, int], ...]


@cache
def _rhymes() -> tuple[tuple[tuple[str, str, str], ...], ...]:
    """For each rhyme family, (kind, text, emotions it is kept to) of each entry."""
    families = [_entries(paragraph) for paragraph in word_lists()["rhymes"].split("\n\n")]
    return tuple(
        tuple((kind, *_text_and_emotions(entry)) for kind, entries in family.items() for entry in entries.split("; "))
        for family in families
    )


def _text_and_emotions(entry: str) -> tuple[str, str]:
    text, _, emotions = entry.partition("/")
    return text, emotions


@cache
def rhyme_families() -> tuple[frozenset[str], ...]:
    """The sets of words that rhyme with each other; a word is in one at most."""
    return tuple(frozenset(text.split()[-1] for _, text, _ in family) for family in _rhymes())


class Sound(NamedTuple):
    """A rhyme family: the uses of its words, and those of them that are the word by itself."""

    ends: tuple[End, ...]
    plain: tuple[End, ...]


@cache
def sounds_of(emotion: str) -> tuple[Sound, ...]:
    """The rhyme families that have words enough for this emotion that can end a line by themselves."""
    sounds = (Sound(ends, _plain(ends)) for ends in _ends(emotion))
    return tuple(sound for sound in sounds if len({end.word for end in sound.plain}) >= ENOUGH)


def _plain(ends: tuple[End, ...]) -> tuple[End, ...]:
    """The uses in which a word stands by itself."""
    alone = (end._replace(texts=tuple(text for text in end.texts if " " not in text[0])) for end in ends)
    return tuple(end for end in alone if end.texts and end.kind not in SET_PHRASES)


@cache
def _ends(emotion: str) -> tuple[tuple[End, ...], ...]:
    """For each rhyme family, the uses of its words that suit the emotion."""
    families = []
    for family in _rhymes():
        uses: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for kind, text, emotions in family:
            if not emotions or emotion[0] in emotions:
                uses.setdefault((text.split()[-1], kind), []).append((text, syllables(text)))
        families.append(tuple(End(word, kind, tuple(texts)) for (word, kind), texts in uses.items()))
    return tuple(families)
