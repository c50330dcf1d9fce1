"""The built-in corpus: English song lyrics from a grammar, each with the prompt it was, or was not, written to.

    >>> from primegpt.data.songbook import song, songbook
    >>> print(song(seed=0, index=7).text)
    >>> texts = [each.text for each in songbook(1000, alignment=0.5)]

A line is a clause and an ending. The ending's last word is drawn from a rhyme family, the clause fills the line to its
number of syllables, and both take their words from the genre, the emotion and the themes that the song is about. The
words are in `songbook_words`. A song is a function of (seed, index, alignment) alone, the same on every platform and
Python: nothing is drawn but `random.Random(int).random()`.
"""

import random
import re
from bisect import bisect, bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, count
from math import sqrt
from operator import eq, itemgetter
from typing import NamedTuple, TypeVar

from primegpt.data import songbook_words as words
from primegpt.errors import ConfigError
from primegpt.seeds import derive_seed

GENRES = ("pop", "rap", "rock", "rb")
EMOTIONS = ("happy", "sad", "angry", "romantic")
SECTIONS = ("intro", "verse", "chorus", "bridge", "outro")
GENRE_NAMES = {"pop": "pop", "rap": "rap", "rock": "rock", "rb": "R&B"}  # as a prompt says them

ENOUGH = 3  # rhyme words that a sound needs: neighbouring lines never end in the same one
PLAIN = 0.95  # how often a line ends in a rhyme word by itself rather than in a set phrase
BRIDGED, CHANTED = 0.8, 0.3  # how often a song that may have a bridge has one; and an intro; and an outro
LONGEST = 14  # syllables in a clause, at most

T = TypeVar("T")
Draw = Callable[[], float]  # the next uniform number in [0, 1)
Section = tuple[str, tuple[str, ...]]  # a name of SECTIONS and its lines
Slots = dict[str, tuple[str, ...]]  # what may fill each slot of a pattern
Way = tuple[tuple[str, ...], ...]  # one shape of a pattern: for each slot, its fillers of one length


@dataclass(frozen=True)
class Brief:
    """What a song is to be about. `phrases` name the themes as a prompt does: ("the river", "a lost letter")."""

    genre: str
    emotion: str
    themes: tuple[str, ...]
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Song:
    """A prompt and a song. `genre`, `emotion` and `themes` are the prompt's; `written_to` is what the lyrics are about.

    The two are the same when `aligned`, otherwise drawn independently of each other. The title is sung in the chorus.
    """

    prompt: str
    genre: str
    emotion: str
    themes: tuple[str, ...]
    title: str
    sections: tuple[Section, ...]
    aligned: bool
    written_to: Brief

    @property
    def lyrics(self) -> str:
        """The sections, each under its header, parted by a blank line."""
        return "\n\n".join("\n".join((f"[{name}]", *lines)) for name, lines in self.sections)

    @property
    def text(self) -> str:
        """The document to train on: the prompt, a blank line, the lyrics."""
        return f"{self.prompt}\n\n{self.lyrics}"


def song(seed: int, index: int, alignment: float = 1.0) -> Song:
    """Song number `index` of the songbook `seed`, found without writing the ones before it.

    With probability `alignment` its prompt asks for what it is about. The lyrics are the same at every alignment, so
    that an experiment which varies it varies nothing but the prompts. Raises ConfigError unless it is in 0..1.
    """
    if not 0 <= alignment <= 1:
        raise ConfigError(f"alignment {alignment} is not a probability", "give a number from 0 to 1")
    draw = random.Random(derive_seed(seed, "songbook", index)).random
    aligned = draw() < alignment
    written_to = asked = _brief(draw)
    prompt = _prompt(draw, asked)
    title, sections = _Writer(draw, written_to).write()
    if not aligned:
        draw = random.Random(derive_seed(seed, "songbook prompt", index)).random
        asked = _brief(draw)
        prompt = _prompt(draw, asked)
    return Song(prompt, asked.genre, asked.emotion, asked.themes, title, sections, aligned, written_to)


def songbook(songs: int, seed: int = 0, alignment: float = 1.0) -> Iterator[Song]:
    """Songs 0 to `songs` - 1 of the songbook `seed`."""
    return (song(seed, index, alignment) for index in range(songs))


# ---- reading the words


def _entries(text: str) -> dict[str, str]:
    """The lines "key: entries" of a text of `songbook_words`."""
    lines = text.strip("\n").replace("\n    ", " ").splitlines()
    return dict(line.split(": ", 1) for line in lines)


@cache
def _lexicon(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The lines "name key: entries", by name and then by key."""
    lexicon: dict[str, dict[str, tuple[str, ...]]] = {}
    for keys, entries in _entries(text).items():
        name, _, key = keys.rpartition(" ")
        lexicon.setdefault(name, {})[key] = tuple(entries.split("; "))
    return lexicon


@cache
def _of(text: str, name: str, genre: str, emotion: str) -> tuple[str, ...]:
    """What this genre and emotion may use: the entries of all, and their own twice, which gives a song its colour."""
    lexicon = _lexicon(text)[name]
    return tuple(each for key in ("any", emotion, emotion, genre, genre) for each in lexicon.get(key, ()))


def _pick(draw: Draw, items: tuple[T, ...]) -> T:
    return items[int(draw() * len(items))]


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" or phrase.startswith("R&B") else f"a {phrase}"


def _capitalised(line: str) -> str:
    return line[0].upper() + line[1:]


def words_by_voice() -> dict[str, set[str]]:
    """The words that the lists give to each genre and each emotion, and under "any" to all songs, in lower case."""
    said: dict[str, set[str]] = {}
    lists = (words.ENDINGS, words.SLOTS, words.HEADS, words.THEME_HEADS, words.CHORUS_HEADS, words.CHANTS)
    for text in lists:
        for keys, entries in _entries(text).items():
            literal = re.sub(r"{\w+}", " ", entries).lower()
            said.setdefault(keys.split()[-1], set()).update(re.findall(r"[a-z]+(?:'[a-z]+)*", literal))
    return said


# ---- the prompt


class Theme(NamedTuple):
    """A noun, its adjectives, the ways to name it in a prompt, and the words it brings to the slots of a line."""

    noun: str
    epithets: tuple[str, ...]
    phrases: tuple[str, ...]
    slots: Slots


@cache
def themes() -> dict[str, Theme]:
    """Every theme, by its noun."""
    rows = words.THEMES.strip("\n").replace("\n    ", " ").splitlines()
    return {theme.noun: theme for theme in map(_theme, rows)}


def _theme(row: str) -> Theme:
    name, *fields = (field.strip() for field in row.split("|"))
    epithets, does, touch, image = (tuple(field.split("; ")) for field in fields)
    noun = name.removeprefix("my ").rstrip("*")
    the = "my" if name.startswith("my ") else "the"
    named = (f"{epithet} {noun}" for epithet in epithets)
    phrases = (f"{the} {noun}", *(each if name.endswith("*") else _with_article(each) for each in named))
    return Theme(
        noun, epithets, phrases, {"the": (the,), "theme": (noun,), "does": does, "touch": touch, "image": image}
    )


def _brief(draw: Draw) -> Brief:
    genre, emotion = _pick(draw, GENRES), _pick(draw, EMOTIONS)
    nouns = tuple(themes())
    first, second = _pick(draw, nouns), _pick(draw, nouns)
    asked = (first,) if draw() < 0.25 or first == second else (first, second)
    return Brief(genre, emotion, asked, tuple(_pick(draw, themes()[noun].phrases) for noun in asked))


def _prompt(draw: Draw, brief: Brief) -> str:
    genre = GENRE_NAMES[brief.genre]
    return _pick(draw, _lexicon(words.PROMPTS)[""]["any"]).format(
        genre=genre,
        emotion=brief.emotion,
        a_genre=_with_article(genre),
        a_emotion=_with_article(brief.emotion),
        themes=" and ".join(brief.phrases),
    )


# ---- metre: clauses of a given number of syllables


@cache
def syllables(phrase: str) -> int:
    """The number of syllables by a spelling rule: right for nearly all of the songbook's words, near for the rest."""
    return sum(map(_word_syllables, re.findall(r"[a-z]+", phrase.lower().replace("'", ""))))


@cache
def _word_syllables(word: str) -> int:
    for number, exceptions in _lexicon(words.SYLLABLES)[""].items():
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
        text = literal[:-2] + _with_article(filler) if article else literal + filler
        groups.setdefault(syllables(text), []).append(text)
    return {size: tuple(group) for size, group in groups.items()}


@cache
def _slots(genre: str, emotion: str) -> Slots:
    return {slot: _of(words.SLOTS, slot, genre, emotion) for slot in _lexicon(words.SLOTS)}


@cache
def _clauses(heads: str, genre: str, emotion: str, noun: str = "") -> _Table:
    """Clauses that may open a line of a song of this genre and emotion, and about this theme."""
    slots = _slots(genre, emotion) | (themes()[noun].slots if noun else {})
    return _Table(_of(heads, "", genre, emotion), slots)


@cache
def _whens(genre: str, emotion: str) -> _Table:
    """What may come before a clause."""
    return _Table(["{when} "], _slots(genre, emotion))


@cache
def _leads(genre: str, emotion: str, kind: str, sung: bool) -> _Table:
    """What stands between a clause, or the sung title, and a rhyme word of this kind."""
    name = kind if kind in _lexicon(words.ENDINGS) else "noun"
    leads = [lead.replace("{prep}", kind) for lead in _of(words.ENDINGS, name, genre, emotion)]
    bound = [_bound(lead, sung) for lead in leads]
    return _Table([lead.rstrip() for lead in bound], _slots(genre, emotion))


def _bound(lead: str, sung: bool) -> str:
    """The lead with what binds it to the clause before it: a space, its own comma, or a drawn "and"."""
    if sung:  # a title ends with its own comma
        return " " + lead.lstrip("~, ")
    if lead.startswith(("~", ",")):
        return lead.replace("~", " ")
    return f"{{and}} {lead}"


# ---- rhyme


SET_PHRASES = ("tell", "aside", "np", "adv", "like")  # kinds of endings that say more than their rhyme word


class _End(NamedTuple):
    """One use of a rhyme word: its kind, and what may stand at the end of the line, with the syllables of each."""

    word: str
    kind: str
    texts: tuple[tuple[str, int], ...]


@cache
def _rhymes() -> tuple[tuple[tuple[str, str, str], ...], ...]:
    """For each rhyme family, (kind, text, emotions it is kept to) of each entry."""
    families = [_entries(paragraph) for paragraph in words.RHYMES.split("\n\n")]
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


class _Sound(NamedTuple):
    """A rhyme family: the uses of its words, and those of them that are the word by itself."""

    ends: tuple[_End, ...]
    plain: tuple[_End, ...]


@cache
def _sounds(emotion: str) -> tuple[_Sound, ...]:
    """The rhyme families that have words enough for this emotion that can end a line by themselves."""
    sounds = (_Sound(ends, _plain(ends)) for ends in _ends(emotion))
    return tuple(sound for sound in sounds if len({end.word for end in sound.plain}) >= ENOUGH)


def _plain(ends: tuple[_End, ...]) -> tuple[_End, ...]:
    """The uses in which a word stands by itself."""
    alone = (end._replace(texts=tuple(text for text in end.texts if " " not in text[0])) for end in ends)
    return tuple(end for end in alone if end.texts and end.kind not in SET_PHRASES)


@cache
def _ends(emotion: str) -> tuple[tuple[_End, ...], ...]:
    """For each rhyme family, the uses of its words that suit the emotion."""
    families = []
    for family in _rhymes():
        uses: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for kind, text, emotions in family:
            if not emotions or emotion[0] in emotions:
                uses.setdefault((text.split()[-1], kind), []).append((text, syllables(text)))
        families.append(tuple(_End(word, kind, tuple(texts)) for (word, kind), texts in uses.items()))
    return tuple(families)


# ---- the song


class Shape(NamedTuple):
    """A section's rhyme scheme, a letter a line, and its metre, the syllables of its lines in turn."""

    scheme: str
    metre: tuple[int, ...]


@cache
def _shapes(genre: str, section: str) -> tuple[Shape, ...]:
    """The shapes a genre has for a kind of section: none, for a section it does without."""
    forms = (form.split() for form in _lexicon(words.FORMS)[section].get(genre, ()))
    return tuple(Shape(scheme, tuple(map(int, metre))) for scheme, *metre in forms)


class Opening(NamedTuple):
    """What opens a line: draws so many syllables of it, or None, and never fewer than `least`."""

    draw: Callable[[int], str | None]
    least: int
    sung: bool = False


class _Writer:
    """Writes one song to its brief."""

    def __init__(self, draw: Draw, brief: Brief) -> None:
        self.draw, self.brief = draw, brief
        self.voice = (brief.genre, brief.emotion)
        self.sounds = list(_sounds(brief.emotion))  # not yet used
        self.rhymes: dict[str, _Sound] = {}  # by what is rhymed: a song has a sound for its verses, one for its chorus
        self.used: set[str] = set()  # lines, and openings but for the title
        self.hook = _hook(draw, brief)
        self.sing = _singing(self.hook, _slots(*self.voice)["cry"][0])

    def write(self) -> tuple[str, tuple[Section, ...]]:
        """The title and the sections. Only a song with a chorus of two lines has a bridge, which keeps songs short."""
        chorus = self.chorus(self.shape("chorus"))
        sections = [self.verse(self.shape("verse"), 0), chorus, self.verse(self.shape("verse"), 1), chorus]
        if len(chorus[1]) == 2 and _shapes(self.brief.genre, "bridge") and self.draw() < BRIDGED:
            sections += [self.bridge(self.shape("bridge")), chorus]
        if self.draw() < CHANTED:
            sections.insert(0, self.chant("intro"))
        if self.draw() < CHANTED:
            sections.append(self.chant("outro"))
        return " ".join(map(_capitalised, self.hook.split())), tuple(sections)

    def shape(self, section: str) -> Shape:
        return _pick(self.draw, _shapes(self.brief.genre, section))

    def verse(self, shape: Shape, first: int) -> Section:
        """Every other line is about a theme, in turn from the theme `first`."""
        nouns, anything = self.brief.themes, self.clause(words.HEADS)
        lines = len(shape.scheme)
        turns = [nouns[(first + turn) % len(nouns)] for turn in range(lines)]
        openings = [anything if i % 2 else self.clause(words.THEME_HEADS, turns[i // 2]) for i in range(lines)]
        return "verse", self.lines(shape, openings, "told")

    def chorus(self, shape: Shape) -> Section:
        """Every other line sings the title, which is about the first theme; the rest tell of the last and the first."""
        told = [self.clause(words.CHORUS_HEADS, noun) for noun in (self.brief.themes[-1], self.brief.themes[0])]
        openings = [told[i // 2] if i % 2 else self.sing for i in range(len(shape.scheme))]
        return "chorus", self.lines(shape, openings, "sung")

    def bridge(self, shape: Shape) -> Section:
        return "bridge", self.lines(shape, [self.clause(words.HEADS)] * len(shape.scheme), "told")

    def chant(self, name: str) -> Section:
        chants = _of(words.CHANTS, name, *self.voice)
        return name, (_capitalised(_pick(self.draw, chants).format(hook=self.hook)),)

    def clause(self, heads: str, noun: str = "") -> Opening:
        """A clause from these heads, about this theme; one that leaves room has something before it, often."""
        table, whens = _clauses(heads, *self.voice, noun), _whens(*self.voice)

        def draw(size: int) -> str | None:
            alone = table.draw(self.draw, size, size) if self.draw() < 0.6 else None
            if alone:
                return alone[0]
            clause, taken = table.draw(self.draw, 0, size) or ("", 0)
            when = whens.draw(self.draw, size - taken, size - taken)
            return clause if taken == size else when[0] + clause if clause and when else None

        return Opening(draw, table.least)

    def lines(self, shape: Shape, openings: list[Opening], voice: str) -> tuple[str, ...]:
        """One line a letter of the rhyme scheme, each with its own opening; the same letter of a voice, the same sound.

        A song that comes back to its two sounds is one that a small model learns to rhyme within minutes: each of the
        earlier line ends tells it the sound. With a new sound for each couplet, only one or two do.
        """
        lines, ends = [], list[str]()
        for place, (letter, opening) in enumerate(zip(shape.scheme, openings, strict=True)):
            size = shape.metre[place % len(shape.metre)]
            line, end = self.line(opening, self.sound(voice + letter), ends[-1:], size)
            lines.append(line)
            ends.append(end)
        return tuple(lines)

    def sound(self, name: str) -> _Sound:
        """The rhyme family of that name in this song, drawn when it is first asked for."""
        if name not in self.rhymes:
            self.rhymes[name] = self.sounds.pop(int(self.draw() * len(self.sounds)))
        return self.rhymes[name]

    def line(self, opening: Opening, sound: _Sound, unlike: list[str], size: int) -> tuple[str, str]:
        """A line of `size` syllables, or of a few more, and its last word: one of the sound that is not `unlike`."""
        least = max(opening.least, (size + 1) // 2)
        room = max(size - least, 4)
        for attempt in count():
            patience = attempt // 40  # seldom spent: then the line may open as another did, and grow
            end = _pick(self.draw, sound.plain if self.draw() < PLAIN else sound.ends)
            text, left = self.ending(end, room + patience, opening.sung)
            start = opening.draw(least + left) if end.word not in unlike and left >= 0 else None
            if start is None or (start in self.used and not patience):
                continue
            line = _capitalised(start + text)
            if line not in self.used and not _stumbles(f"{self.hook if opening.sung else start} {text}"):
                self.used |= {line} if opening.sung else {line, start}
                return line, end.word
        raise AssertionError("unreachable")

    def ending(self, end: _End, room: int, sung: bool) -> tuple[str, int]:
        """What follows a line's opening in at most `room` syllables, and how many it leaves: -1 if there is nothing."""
        text, taken = _pick(self.draw, end.texts)
        lead = _leads(*self.voice, end.kind, sung).draw(self.draw, 0, room - taken) if taken <= room else None
        return (f"{lead[0]} {text}", room - taken - lead[1]) if lead else ("", -1)


def _hook(draw: Draw, brief: Brief) -> str:
    """The words sung again and again: the first theme as the prompt calls it, else with a word of the mood."""
    theme, slots = themes()[brief.themes[0]], _slots(brief.genre, brief.emotion)
    asked = [each for each in theme.epithets if brief.phrases[0].endswith(f"{each} {theme.noun}")]
    form = _pick(draw, _lexicon(words.HOOKS)[""]["asked" if asked else "free"])
    epithet = asked[0] if asked else _pick(draw, slots["hue"])
    return form.format(epithet=epithet, theme=theme.noun, stuff=_pick(draw, slots["stuff"]))


def _singing(hook: str, cry: str) -> Opening:
    """The hook, once or twice, with as many a cry before it as the line has room for."""
    least = syllables(hook)

    def draw(size: int) -> str | None:
        times = 2 if size >= 2 * least else 1
        cries = size - times * least
        return (f"{cry}, " * cries + f"{hook}, " * times).rstrip() if 0 <= cries <= 2 else None

    return Opening(draw, least, sung=True)


def _stumbles(line: str) -> bool:
    """Whether a line says a long word twice, or any word twice running."""
    said = line.split()
    long = [word for word in said if len(word) > 3]
    return len(set(long)) < len(long) or any(map(eq, said, said[1:]))
