"""Back-instruction: an instruction for a text that has none, written from the text itself.

    a sad rock song about the river and the letter, with a bridge

Li et al. 2023, "Self-Alignment with Instruction Backtranslation" (arXiv:2308.06259), let a model write the instruction
that a text might answer. Here rules do: the words that tell a text from the others of its corpus, its labels, its
sections, its length and whether it rhymes, in varied wording. No line of the text is quoted whole.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import NamedTuple

from primegpt.data.songbook import GENRE_NAMES, SECTIONS
from primegpt.data.verse import pick, with_article
from primegpt.evaluation.adherence import STOP_WORDS, fold
from primegpt.evaluation.songform import parse_sections, rhyming_pair_share, words_of
from primegpt.seeds import derive_seed

Draw = Callable[[], float]  # the next uniform number in [0, 1)

CANDIDATES = 3  # words that tell a text best from the others, of which some are named
FORMED = 0.25  # how often each thing that there is to say of a text's form is said
ATTEMPTS = 20  # wordings, before what is asked for is left out
RHYMING = 0.25  # share of rhyming pairs of lines from which on a song is said to rhyme
DESCRIBED = 0.7  # how often a noun is named with the word that stands before it in the text, where one does
NOUN = 3.0  # how much sooner a word is named that is always a noun
LIKELY = 0.3  # share of the places of a word where it is seen to be a noun, from which on it is said with an article
BEFORE_NOUNS = "a an the my your his her our their this that every no some"
DETERMINERS = frozenset(BEFORE_NOUNS.split())

OF_SONGS = (
    "{what} about {themes}", "write {what} about {themes}", "write me {what} about {themes}",
    "I want {what} about {themes}", "sing {what} about {themes}", "can you write {what} about {themes}?",
    "give me {what} with {themes} in it", "let's hear {what} about {themes}", "{themes}: make {what} of that",
    "I need {what} that has {themes} in it", "please sing {what} about {themes}",
)  # fmt: skip
OF_TEXTS = (
    "{what} about {themes}", "write {what} about {themes}", "please write {what} about {themes}",
    "I want to read {what} about {themes}", "can you write {what} about {themes}?",
    "tell me, in {what}, about {themes}",
    "give me {what} with {themes} in it", "{themes}: write {what} about that", "I need {what} that has {themes} in it",
)  # fmt: skip
WITHOUT_THEMES = ("write {what}", "{what}, please", "give me {what}", "I want {what}", "go on")


class Instruction(NamedTuple):
    """What a text is said to be asked for by."""

    prompt: str
    themes: tuple[str, ...]
    """The words of the text that it names."""


@dataclass
class Frequencies:
    """In how many texts of a corpus each word stands, and how often it is seen to be a noun."""

    texts: int = 0
    holding: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    as_noun: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        self.texts += 1
        content = list(_content(text))
        self.holding.update({each.folded for each in content})
        self.places.update(each.folded for each in content)
        self.as_noun.update(each.folded for each in content if each.is_noun)

    def nounness(self, folded: str) -> float:
        """The share of the places of a word where it is seen to be a noun."""
        return self.as_noun[folded] / max(1, self.places[folded])

    def rarity(self, folded: str) -> float:
        """Near 0 for a word of every text, more the fewer have it."""
        return log((2 + self.texts) / (1 + self.holding[folded]))


def is_song(text: str) -> bool:
    """Whether a text has the header of a section that songs have."""
    return any(name in SECTIONS for name, _ in parse_sections(text))


def length_of(text: str) -> int:
    """The words of a text, its headers aside."""
    return sum(len(words_of(line)) for line in _lines(text))


def instruction_for(text: str, frequencies: Frequencies, labels: Mapping[str, str], draw: Draw) -> Instruction | None:
    """An instruction that `text` could be the answer to; None for one of which nothing can be said unquoted.

    `labels` may name a `genre` and an `emotion`.
    """
    lines = {tuple(words_of(line)) for line in _lines(text)}
    alone = {words[0] for words in lines if len(words) == 1}  # a line by themselves, so that they are not named
    candidates = [theme for theme in distinctive(text, frequencies) if theme.word not in alone]
    lines = {words for words in lines if len(words) > 1}
    for attempt in range(2 * ATTEMPTS):
        themes = _drawn(candidates, draw) if attempt < ATTEMPTS else ()
        forms = (OF_SONGS if is_song(text) else OF_TEXTS) if themes else WITHOUT_THEMES
        what = with_article(_what(text, labels))
        said = _listed([_named(theme, draw) for theme in themes])
        prompt = pick(draw, forms).format(what=what, themes=said) + "".join(_form(text, draw))
        if not quotes(prompt, lines):
            return Instruction(prompt, tuple(theme.word for theme in themes))
    return None


def quotes(prompt: str, lines: set[tuple[str, ...]]) -> bool:
    """Whether the words of a line stand in the prompt, one after another."""
    words = tuple(words_of(prompt))
    spans = (words[start:stop] for start in range(len(words)) for stop in range(start + 1, len(words) + 1))
    return any(span in lines for span in spans)


def stream_for(seed: int, index: int) -> Draw:
    """The random numbers of text number `index`."""
    return random.Random(derive_seed(seed, "instruction", index)).random


# ---- what a text is about


class Theme(NamedTuple):
    """A word that tells a text from others, and as it is named: "the river"."""

    word: str
    said: str
    score: float
    described: tuple[str, ...] = ()
    """With the words that stand before it in the text: "wide river"."""


def distinctive(text: str, frequencies: Frequencies) -> list[Theme]:
    """The words that tell a text from the others of its corpus best: those that it has often, and few others have.

    Each line counts once, however often it is sung; nouns come sooner, since they are what a text is about.
    """
    counts, forms, described = Counter[str](), dict[str, Counter[str]](), dict[str, list[str]]()
    for folded, word, _, before in _content(text):
        counts[folded] += 1
        forms.setdefault(folded, Counter())[word] += 1
        described.setdefault(folded, []).extend([f"{before} {word}"] if before else [])
    nouns = {folded: frequencies.nounness(folded) for folded in counts}
    scores = {
        folded: count * frequencies.rarity(folded) * (1 + NOUN * nouns[folded]) for folded, count in counts.items()
    }
    best = sorted(scores, key=lambda folded: (-scores[folded], folded))[:CANDIDATES]
    named = [(folded, min(forms[folded], key=lambda word: (-forms[folded][word], word))) for folded in best]
    return [
        Theme(word, f"the {word}", scores[folded], tuple(described[folded]))
        if nouns[folded] >= LIKELY
        else Theme(word, word, scores[folded])
        for folded, word in named
    ]


class _Word(NamedTuple):
    """A word of a text that says something."""

    folded: str
    word: str
    is_noun: bool
    """Whether it is seen to be one."""
    before: str
    """Such a word right before it, or "": what describes it, if it is a noun."""


def _content(text: str) -> Iterator[_Word]:
    """The words of a text that say something.

    One or two such words after an article, or the like, and before another kind of word end in a noun: "the bright
    tree by". Of more ("the street looks free") nothing is known.
    """
    for line in dict.fromkeys(_lines(text)):
        run, after = list[str](), False
        for word in [*(word.replace("’", "'") for word in words_of(line)), ""]:
            if word and word not in STOP_WORDS and len(word) > 2 and "'" not in word:
                run.append(word)
                continue
            for place, said in enumerate(run, 1):
                yield _Word(fold(said), said, after and place == len(run) <= 2, run[place - 2] if place > 1 else "")
            run, after = [], word in DETERMINERS


def _lines(text: str) -> list[str]:
    """The lines of a text without the headers of sections."""
    lines = map(str.strip, text.splitlines())
    return [line for line in lines if line and not re.fullmatch(r"\[[^\]]*\]", line)]


def _drawn(candidates: Sequence[Theme], draw: Draw) -> tuple[Theme, ...]:
    """One to three of the candidates, the better ones sooner."""
    left, drawn = list(candidates), list[Theme]()
    wanted = pick(draw, (1, 2, 2, CANDIDATES))
    while left and len(drawn) < wanted:
        point = draw() * sum(theme.score**2 for theme in left)
        for theme in left:
            point -= theme.score**2
            if point <= 0:
                break
        left.remove(theme)
        drawn.append(theme)
    return tuple(drawn)


def _named(theme: Theme, draw: Draw) -> str:
    if theme.described and draw() < DESCRIBED:
        return with_article(pick(draw, theme.described))
    return theme.said


def _listed(themes: Sequence[str]) -> str:
    return " and ".join([", ".join(themes[:-1]), themes[-1]] if len(themes) > 1 else themes)


# ---- what it is like


def _what(text: str, labels: Mapping[str, str]) -> str:
    """ "sad rock song"."""
    genre = labels.get("genre", "")
    return " ".join(
        filter(None, [labels.get("emotion"), GENRE_NAMES.get(genre, genre), "song" if is_song(text) else "text"])
    )


def _form(text: str, draw: Draw) -> Iterator[str]:
    """Some of what can be said of its form, each after a comma."""
    names = [name for name, _ in parse_sections(text)]
    extras = [name for name in ("intro", "bridge", "outro") if name in names]
    if extras and draw() < FORMED:
        yield f", with {_listed([with_article(name) for name in extras])}"
    if names and rhyming_pair_share(text) >= RHYMING and draw() < FORMED:
        yield ", with lines that rhyme"
    if draw() < FORMED:
        yield f", in about {rounded(length_of(text))} words"


def rounded(words: int) -> int:
    """A number of words as one says it."""
    step = 10 if words < 100 else 50 if words < 1000 else 500
    return max(step, round(words / step) * step)
