"""The built-in corpus: English song lyrics from a grammar, each with the prompt it was, or was not, written to.

    >>> from primegpt.data.songbook import song, songbook
    >>> print(song(seed=0, index=7).text)
    >>> texts = [each.text for each in songbook(1000, alignment=0.5)]

A line is a clause and an ending. The ending's last word is drawn from a rhyme family, the clause fills the line to its
number of syllables, and both take their words from the genre, the emotion and the themes that the song is about. The
words are in songbook_words.txt. A song is a function of (seed, index, alignment) alone, the same on every platform and
Python: nothing is drawn but `random.Random(int).random()`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count
from operator import eq
from typing import NamedTuple

from primegpt.data.verse import (
    Draw,
    End,
    Sound,
    capitalised,
    clauses_of,
    leads_of,
    lexicon_of,
    pick,
    slots_of,
    sounds_of,
    syllables,
    themes,
    whens_of,
    with_article,
    words_of,
)
from primegpt.errors import ConfigError
from primegpt.seeds import derive_seed

GENRES = ("pop", "rap", "rock", "rb")
EMOTIONS = ("happy", "sad", "angry", "romantic")
SECTIONS = ("intro", "verse", "chorus", "bridge", "outro")
GENRE_NAMES = {"pop": "pop", "rap": "rap", "rock": "rock", "rb": "R&B"}  # as a prompt says them

PLAIN = 0.95  # how often a line ends in a rhyme word by itself rather than in a set phrase
BRIDGED, CHANTED = 0.8, 0.3  # how often a song that may have a bridge has one; and an intro; and an outro

Section = tuple[str, tuple[str, ...]]  # a name of SECTIONS and its lines


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


# ---- the prompt


def _brief(draw: Draw) -> Brief:
    genre, emotion = pick(draw, GENRES), pick(draw, EMOTIONS)
    nouns = tuple(themes())
    first, second = pick(draw, nouns), pick(draw, nouns)
    asked = (first,) if draw() < 0.25 or first == second else (first, second)
    return Brief(genre, emotion, asked, tuple(pick(draw, themes()[noun].phrases) for noun in asked))


def _prompt(draw: Draw, brief: Brief) -> str:
    genre = GENRE_NAMES[brief.genre]
    return pick(draw, lexicon_of("prompts")[""]["any"]).format(
        genre=genre,
        emotion=brief.emotion,
        a_genre=with_article(genre),
        a_emotion=with_article(brief.emotion),
        themes=" and ".join(brief.phrases),
    )


# ---- the song


class Shape(NamedTuple):
    """A section's rhyme scheme, a letter a line, and its metre, the syllables of its lines in turn."""

    scheme: str
    metre: tuple[int, ...]


@cache
def _shapes(genre: str, section: str) -> tuple[Shape, ...]:
    """The shapes a genre has for a kind of section: none, for a section it does without."""
    forms = (form.split() for form in lexicon_of("forms")[section].get(genre, ()))
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
        self.sounds = list(sounds_of(brief.emotion))  # not yet used
        self.rhymes: dict[str, Sound] = {}  # by what is rhymed: a song has a sound for its verses, one for its chorus
        self.used: set[str] = set()  # lines, and openings but for the title
        self.hook = _hook(draw, brief)
        self.sing = _singing(self.hook, slots_of(*self.voice)["cry"][0])

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
        return " ".join(map(capitalised, self.hook.split())), tuple(sections)

    def shape(self, section: str) -> Shape:
        return pick(self.draw, _shapes(self.brief.genre, section))

    def verse(self, shape: Shape, first: int) -> Section:
        """Every other line is about a theme, in turn from the theme `first`."""
        nouns, anything = self.brief.themes, self.clause("heads")
        lines = len(shape.scheme)
        turns = [nouns[(first + turn) % len(nouns)] for turn in range(lines)]
        openings = [anything if i % 2 else self.clause("theme_heads", turns[i // 2]) for i in range(lines)]
        return "verse", self.lines(shape, openings, "told")

    def chorus(self, shape: Shape) -> Section:
        """Every other line sings the title, which is about the first theme; the rest tell of the last and the first."""
        told = [self.clause("chorus_heads", noun) for noun in (self.brief.themes[-1], self.brief.themes[0])]
        openings = [told[i // 2] if i % 2 else self.sing for i in range(len(shape.scheme))]
        return "chorus", self.lines(shape, openings, "sung")

    def bridge(self, shape: Shape) -> Section:
        return "bridge", self.lines(shape, [self.clause("heads")] * len(shape.scheme), "told")

    def chant(self, name: str) -> Section:
        chants = words_of("chants", name, *self.voice)
        return name, (capitalised(pick(self.draw, chants).format(hook=self.hook)),)

    def clause(self, heads: str, noun: str = "") -> Opening:
        """A clause from these heads, about this theme; one that leaves room has something before it, often."""
        table, whens = clauses_of(heads, *self.voice, noun), whens_of(*self.voice)

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

    def sound(self, name: str) -> Sound:
        """The rhyme family of that name in this song, drawn when it is first asked for."""
        if name not in self.rhymes:
            self.rhymes[name] = self.sounds.pop(int(self.draw() * len(self.sounds)))
        return self.rhymes[name]

    def line(self, opening: Opening, sound: Sound, unlike: list[str], size: int) -> tuple[str, str]:
        """A line of `size` syllables, or of a few more, and its last word: one of the sound that is not `unlike`."""
        least = max(opening.least, (size + 1) // 2)
        room = max(size - least, 4)
        for attempt in count():
            patience = attempt // 40  # seldom spent: then the line may open as another did, and grow
            end = pick(self.draw, sound.plain if self.draw() < PLAIN else sound.ends)
            text, left = self.ending(end, room + patience, opening.sung)
            start = opening.draw(least + left) if end.word not in unlike and left >= 0 else None
            if start is None or (start in self.used and not patience):
                continue
            line = capitalised(start + text)
            if line not in self.used and not _stumbles(f"{self.hook if opening.sung else start} {text}"):
                self.used |= {line} if opening.sung else {line, start}
                return line, end.word
        raise AssertionError("unreachable")

    def ending(self, end: End, room: int, sung: bool) -> tuple[str, int]:
        """What follows a line's opening in at most `room` syllables, and how many it leaves: -1 if there is nothing."""
        text, taken = pick(self.draw, end.texts)
        lead = leads_of(*self.voice, end.kind, sung).draw(self.draw, 0, room - taken) if taken <= room else None
        return (f"{lead[0]} {text}", room - taken - lead[1]) if lead else ("", -1)


def _hook(draw: Draw, brief: Brief) -> str:
    """The words sung again and again: the first theme as the prompt calls it, else with a word of the mood."""
    theme, slots = themes()[brief.themes[0]], slots_of(brief.genre, brief.emotion)
    asked = [each for each in theme.epithets if brief.phrases[0].endswith(f"{each} {theme.noun}")]
    form = pick(draw, lexicon_of("hooks")[""]["asked" if asked else "free"])
    epithet = asked[0] if asked else pick(draw, slots["hue"])
    return form.format(epithet=epithet, theme=theme.noun, stuff=pick(draw, slots["stuff"]))


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
