"""What a completion is worth: measures by name, functions of the user's own, and weighted sums of them.

>>> reward = parse(["words", "0.5*rhyme", "-0.1*mine.py:score"])
>>> reward(prompts, completions, records)
[0.61, 0.4]

A reward is a function of the prompt, the completion and the record that the prompt comes from.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from primegpt.data.reading.records import Document
from primegpt.data.songbook import EMOTIONS, GENRES
from primegpt.data.template import plain
from primegpt.errors import DataError, UsageError, listed, nearest, quoted
from primegpt.evaluation.adherence import theme_overlap, voice_match, word_overlap
from primegpt.evaluation.reward_code import SECONDS, Code, pattern_of, read_function
from primegpt.evaluation.songform import parse_sections, rhyming_pair_share, valid_section_order, words_of

Record = Mapping[str, Any]

_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*(.+)", re.DOTALL)


class Known(NamedTuple):
    """A reward that has a name: how it scores, and the field of the record that it reads."""

    score: Callable[[str, str, Any], float]
    """Of the prompt, the completion, and what `read` has made of the field."""
    field: str = ""
    read: Callable[[Any], Any] = lambda value: value
    """Raises ValueError, saying what the field has to hold."""


# ---- Scores


def _words(prompt: str, completion: str, _: None) -> float:
    """The share of the prompt's content words that the completion has; 0 where the prompt has none."""
    return _number(word_overlap([prompt], [completion])[0, 0])


def _themes(_: str, completion: str, themes: Sequence[str]) -> float:
    """The share of the words of the record's themes that the completion has."""
    return _number(theme_overlap([themes], [completion])[0, 0])


def _voice(voices: Sequence[str]) -> Callable[[str, str, str], float]:
    """1 where the completion speaks most in the asked voice; of k that it speaks equally often, 1/k."""
    return lambda _, completion, asked: _number(voice_match([asked], [completion], voices)[0, 0])


def _rhyme(_: str, completion: str, __: None) -> float:
    """The share of the pairs of lines, one or two apart, that rhyme; without section headers a stanza is a section."""
    if not parse_sections(completion):
        stanzas = re.split(r"\n[^\S\n]*\n", completion)
        completion = "\n\n".join(f"[verse]\n{stanza}" for stanza in stanzas)
    return rhyming_pair_share(completion)


def _sections(_: str, completion: str, __: None) -> float:
    """1 if the sections follow each other as those of a song do, else 0."""
    return float(valid_section_order(completion))


def _length(_: str, completion: str, target: float) -> float:
    """The smaller of the number of words and the target, divided by the larger: 1 at the target, 1/2 at its double."""
    words = len(words_of(completion))
    return min(words, target) / max(words, target)


def _exact(_: str, completion: str, answer: str) -> float:
    """1 if the completion is the record's answer, white space at its ends and its amount in between aside."""
    return float(completion.split() == answer.split())


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else float(value)  # nan: the prompt asks for nothing


# ---- What they read of a record


def _read_themes(value: Any) -> list[str]:
    if isinstance(value, list | tuple) and value and all(isinstance(theme, str) and theme.strip() for theme in value):
        return list(value)
    raise ValueError('a list of texts, such as ["river", "letter"]')


def _read_voice(voices: Sequence[str], kind: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if isinstance(value, str) and plain(value, kind) in voices:
            return plain(value, kind)
        raise ValueError(f"one of {listed(voices)}")

    return read


def _read_target(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9:
        return float(value)
    raise ValueError("a number of words above 0")


def _read_answer(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 19.0, as tables have it where other rows have none
    if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
        return str(value)
    raise ValueError("a text or a number")


KNOWN = {
    "words": Known(_words),
    "themes": Known(_themes, "themes", _read_themes),
    "genre": Known(_voice(GENRES), "genre", _read_voice(GENRES, "genre")),
    "emotion": Known(_voice(EMOTIONS), "emotion", _read_voice(EMOTIONS, "emotion")),
    "rhyme": Known(_rhyme),
    "sections": Known(_sections),
    "length": Known(_length, "length", _read_target),
    "exact": Known(_exact, "answer", _read_answer),
}
NOTHING: Mapping[str, Mapping[str, str]] = MappingProxyType({})
FORMS = (*KNOWN, "length:WORDS", "regex:PATTERN", "FILE.py:function")


# ---- A reward


@dataclass(frozen=True)
class Part:
    """One of the rewards that a sum is of."""

    name: str
    """As it was asked for, without its weight."""
    weight: float
    known: Known | None = None
    code: Code | None = None
    """The process that scores, where it is no known one but a pattern or a function of the user's own."""

    @property
    def field(self) -> str:
        """The field of the record that it reads, "" if it is known to read none."""
        return self.known.field if self.known else ""

    def value_in(self, record: Record, place: str) -> Any:
        """What the record says of it. Raises DataError, naming the place, where it does not."""
        if not self.known or not self.field:
            return None
        if self.field not in record:
            there = listed(record) or "nothing"
            what = f"{place}: the reward {quoted(self.name)} reads the field {quoted(self.field)}"
            raise DataError(f"{what}, and there is only {there}", "give every record one, or leave the reward out")
        value = record[self.field]
        try:
            return self.known.read(value)
        except ValueError as error:
            what = f"{place}: {self.field} = {quoted(value)}"
            raise DataError(what, f"the reward {quoted(self.name)} reads {error}") from None

    def scores(
        self, prompts: Sequence[str], completions: Sequence[str], records: Sequence[Record], places: Sequence[str]
    ) -> list[float]:
        """The reward of each completion, without its weight."""
        asked = list(zip(prompts, completions, records, places, strict=True))
        if self.code:
            return self.code.scores(asked)
        assert self.known
        score = self.known.score
        return [score(prompt, completion, self.value_in(record, place)) for prompt, completion, record, place in asked]


@dataclass(frozen=True)
class Reward:
    """A weighted sum of rewards, as `parse` makes it of their names."""

    parts: tuple[Part, ...]
    fingerprint: str = field(default="", repr=False)
    """The SHA-256 of all that decides its value: names, weights, the files of functions."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its parts, as they were asked for."""
        return tuple(part.name for part in self.parts)

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of a record that it reads; a function of one's own may read others."""
        return tuple(dict.fromkeys(part.field for part in self.parts if part.field))

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        records: Sequence[Record],
        places: Sequence[str] | None = None,
    ) -> list[float]:
        """What each completion is worth. `places` say in messages where the records stand.

        Raises DataError for a record without a field that is needed, and RewardError where a function of the user's
        raises, takes too long, returns no finite number, or two numbers for the same completion.
        """
        return self.weighted(self.by_name(prompts, completions, records, places))

    def by_name(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        records: Sequence[Record],
        places: Sequence[str] | None = None,
    ) -> dict[str, list[float]]:
        """The values of each part, without its weight."""
        places = places or [f"record {number}" for number in range(1, len(records) + 1)]
        return {part.name: part.scores(prompts, completions, records, places) for part in self.parts}

    def weighted(self, by_name: Mapping[str, Sequence[float]]) -> list[float]:
        """The sums of what `by_name` found."""
        weights = [part.weight for part in self.parts]
        return [sum(map(float.__mul__, weights, row)) for row in zip(*by_name.values(), strict=True)]

    def check(self, records: Iterable[Document]) -> None:
        """Find what cannot be judged before anything is written to any of `records`.

        Raises DataError for the first without a field that is needed, and RewardError for a file that cannot be run, or
        has no such function.
        """
        for document in records:
            for part in self.parts:
                part.value_in(document.fields, document.place or document.source)
        for part in self.parts:
            if part.code:
                part.code.start()


def parse(
    specs: str | Sequence[str], *, seconds: float = SECONDS, own: Mapping[str, Mapping[str, str]] = NOTHING
) -> Reward:
    """The reward that `specs` name: the sum of NAME, NAME:ARGUMENT or FILE.py:function, each perhaps after "WEIGHT*".

    A function of the user's, and a pattern, may take `seconds` for a completion. `own` are rewards of theirs by name,
    with what a process is told of each. Raises UsageError for what is no
    reward; whether a file can be run is found by `Reward.check`, or when it is first asked.
    """
    specs = [specs] if isinstance(specs, str) else specs
    if not specs:
        raise UsageError("no reward was given", f"name one: {listed(FORMS, str)}")
    parts = [_part(*divided(spec), seconds, own) for spec in specs]
    names = [part.name for part in parts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"the reward {quoted(twice)} is named twice", "give it one weight: 2*NAME")
    said = [f"{part.weight!r}*{part.name}{part.code.source if part.code else ''}" for part in parts]
    return Reward(tuple(parts), hashlib.sha256("\0".join(said).encode()).hexdigest())


def divided(spec: str) -> tuple[float, str]:
    """The weight and the name of a reward that was asked for. Raises UsageError for a weight that is none."""
    weighted = _WEIGHT.fullmatch(spec)
    weight, name = (float(weighted[1]), weighted[2]) if weighted else (1.0, spec)
    if not math.isfinite(weight) or not weight:
        raise UsageError(f"the reward {quoted(spec)} has the weight {weight:g}", "leave it out, or give it another")
    return weight, name


def _part(weight: float, name: str, seconds: float, own: Mapping[str, Mapping[str, str]]) -> Part:
    kind, _, argument = name.partition(":")
    if kind == "regex" and argument:
        return Part(name, weight, code=Code(name, pattern_of(name, argument), seconds))
    if kind == "length" and argument:
        return Part(name, weight, Known(_length_of(name, argument)))
    if name in KNOWN:
        return Part(name, weight, KNOWN[name])
    if name in own:
        return Part(name, weight, code=Code(name, own[name], seconds))
    if ".py:" in name:
        return Part(name, weight, code=Code(name, read_function(name), seconds))
    raise UsageError(f"there is no reward {quoted(name)}", nearest(name, (*FORMS, *own)))


def _length_of(name: str, argument: str) -> Callable[[str, str, Any], float]:
    try:
        target = _read_target(float(argument))
    except ValueError:
        raise UsageError(f"the reward {quoted(name)} names no length", "length:120 is 120 words") from None
    return lambda prompt, completion, _: _length(prompt, completion, target)
