"""Whether a text has the form of a song: sections in order, lines that rhyme, words of its own.

Measures of text alone, for what a model writes and for the songbook alike. A chorus that is sung three times must not
count three times, so every measure takes a section's text once a song.
"""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

from primegpt.data.songbook import SECTIONS, Section
from primegpt.data.verse import rhyme_families

_HEADER = re.compile(r"\[\s*([a-z-]+)[^\]]*\]\s*", re.IGNORECASE)  # [chorus], [Verse 2: Ann]
_ORDER = re.compile(r"(intro )?(verse chorus ){2}(bridge chorus )?(outro )?")


def parse_sections(text: str) -> list[Section]:
    """The sections of a song in order: (name in lower case, lines). What stands before the first header is left out."""
    sections: list[tuple[str, list[str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if header := _HEADER.fullmatch(line):
            sections.append((header[1].lower(), []))
        elif sections:
            sections[-1][1].append(line)
    return [(name, tuple(lines)) for name, lines in sections]


def valid_section_order(text: str) -> bool:
    """Whether the sections are all known, none is empty, and they follow each other as in the songbook.

    The order is an intro or none, a verse and the chorus twice, a bridge and the chorus or neither, an outro or none.
    """
    sections = parse_sections(text)
    if any(name not in SECTIONS or not lines for name, lines in sections):
        return False
    return _ORDER.fullmatch("".join(f"{name} " for name, _ in sections)) is not None


# ---- rhyme


def rhymes(word_a: str, word_b: str) -> bool:
    """Whether two different words rhyme: by the songbook's families if both are in them, else by their spelling."""
    word_a, word_b = _last_word(word_a), _last_word(word_b)
    if not word_a or not word_b or word_a == word_b:
        return False
    families = _family_of()
    if word_a in families and word_b in families:
        return families[word_a] == families[word_b]
    return _rime(word_a) == _rime(word_b)


def rhyming_pair_share(texts: str | Iterable[str]) -> float:
    """The share of line pairs that rhyme, of all pairs one or two lines apart within a section of a song.

    Every rhyme scheme shows in it: a section rhymed AABB or ABAB has 2 of its 5 pairs, one rhymed ABCB has 1. Lines
    that end in the same word do not rhyme. 0.0 where there is no pair.
    """
    sections = [lines for text in _as_texts(texts) for _, lines in _distinct_sections(text)]
    return _pair_share(sections)


def shuffled_rhyming_pair_share(texts: str | Iterable[str], seed: int = 0) -> float:
    """`rhyming_pair_share` once the lines of all the texts are shuffled: how much would rhyme by chance.

    The words and the lengths of the sections stay, so the ratio of the two shares is what the writer's order adds.
    """
    sections = [lines for text in _as_texts(texts) for _, lines in _distinct_sections(text)]
    draw = random.Random(seed).random
    lines = iter(sorted((line for section in sections for line in section), key=lambda _: draw()))
    return _pair_share([tuple(islice(lines, len(section))) for section in sections])


def _pair_share(sections: Iterable[Sequence[str]]) -> float:
    pairs = rhyming = 0
    for lines in sections:
        ends = [_last_word(line) for line in lines]
        for apart in (1, 2):
            for word_a, word_b in zip(ends, ends[apart:], strict=False):
                pairs += 1
                rhyming += rhymes(word_a, word_b)
    return rhyming / pairs if pairs else 0.0


def distinct_ngram_share(texts: Sequence[str], n: int = 4) -> float:
    """The share of all runs of `n` words in `texts` that are different ones (Li et al. 2016, arXiv:1510.03055)."""
    found = [run for text in texts for run in zip(*(words_of(text)[first:] for first in range(n)), strict=False)]
    return len(set(found)) / max(1, len(found))


def _distinct_sections(text: str) -> list[Section]:
    return list(dict.fromkeys(parse_sections(text)))


def _as_texts(texts: str | Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts


def _last_word(line: str) -> str:
    words = words_of(line)
    return words[-1] if words else ""


@cache
def _family_of() -> dict[str, int]:
    return {word.lower(): number for number, family in enumerate(rhyme_families()) for word in family}


@cache
def _rime(word: str) -> str:
    """The end of a word from its last stressed vowel, guessed from its spelling.

    An unstressed ending (-ing, -er, -ly ...) is not enough, so it takes the vowel before it along.
    """
    ending = re.search(r"(?<=[aeiouy])[^aeiouy]*(ing|ed|er|ers|es|est|en|ly|y|le|ness|less|tion)$", word)
    stem = word[: ending.start(1)] if ending else word
    vowel = re.search(r"[aeiouy]+[^aeiouy]*e?$" if not ending else r"[aeiouy]+[^aeiouy]*$", stem)
    return word[vowel.start() :] if vowel else word


# ---- copying


def copied_ngram_share(texts: str | Iterable[str], training_texts: Iterable[str], n: int = 12) -> float:
    """The share of the n-grams of words in `texts` that the training texts have too; each counts once a text.

    Only the n-grams of `texts` are held in memory, the training texts are read once. 0.0 where no text has n words.
    """
    wanted = [set(_ngrams(text, n)) for text in _as_texts(texts)]
    anywhere = set().union(*wanted)
    copied = {ngram for text in training_texts for ngram in _ngrams(text, n) if ngram in anywhere}
    total = sum(map(len, wanted))
    return sum(len(ngrams & copied) for ngrams in wanted) / total if total else 0.0


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = words_of(text)
    return zip(*(words[start:] for start in range(n)), strict=False)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: letters, with apostrophes inside."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", text.lower())
