"""Whether a text keeps to its prompt: shared words, asked-for genre, emotion and themes, and nats gained from it.

Every measure is a score of each output under each prompt, (outputs, prompts). Its diagonal is adherence, the rest
what any prompt would get; the difference is the lift. Diagnostics only: none of this ever touches gradients.

A word counts if it is not a stop word; forms of a word ("rivers", "loved") are folded by a light rule of suffixes.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from primegpt.evaluation.scoring import Ids, score_completions
from primegpt.evaluation.songform import words_of
from primegpt.model.gpt import GPT
from primegpt.seeds import derive_seed

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000

# English function words, and the words with which one asks for a text: they say nothing of what it is to be about.
STOPPED = """
a about above after again against all also am an and any are aren't as at be because been before being below
between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each even
ever every few for from further get gets give go goes going gonna got had hadn't has hasn't have haven't having he
he's her here hers herself him himself his how i i'd i'll i'm i've if in into is isn't it it's its itself just let
let's like make makes me more most much my myself never no nor not now of off on once one only or other our ours
ourselves out over own please same she she's should shouldn't so some something such than that that's the their
theirs them themselves then there there's these they they're this those through to too under until up us very was
wasn't way we we'll we're we've were weren't what when where which while who whom why will with without won't would
wouldn't yes yet you you'd you'll you're you've your yours yourself
hear lyrics poem sing song sound sounds story style tell text want write
"""
STOP_WORDS = frozenset(STOPPED.split())


# ---- words


@cache
def fold(word: str) -> str:
    """A word of lower case without its inflection: plural, possessive, -ing, -ed, final e. Not always a word itself.

    So light a rule makes mistakes ("hope" and "hop" become one); shuffled prompts gain as much by them.
    """
    word = re.sub(r"['’]s?$", "", word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = re.sub(r"ies$", "y", word) if len(word) > 4 else word
        word = re.sub(r"(?<=[sxz])es$|(?<=[cs]h)es$|s$", "", word)
    shorter = re.sub(r"(ing|ed)$", "", word)
    if shorter != word and len(shorter) > 2 and re.search(r"[aeiouy]", shorter):
        word = re.sub(r"([bdfgmnprt])\1$", r"\1", shorter)  # "running" → "run"
    return word.removesuffix("e")


def content_words(text: str) -> frozenset[str]:
    """The folded words of a text that are neither stop words nor single letters."""
    plain = (word.replace("’", "'") for word in words_of(text))
    return frozenset(fold(word) for word in plain if word not in STOP_WORDS and len(word) > 1)


# ---- scores (outputs, prompts)


def word_overlap(prompts: Sequence[str], outputs: Sequence[str]) -> Floats:
    """The share of each prompt's content words that an output has too, (outputs, prompts).

    0 for an empty output. A prompt without a content word asks for nothing: its column is nan.
    """
    return _shares([content_words(prompt) for prompt in prompts], [content_words(output) for output in outputs])


def theme_overlap(themes: Sequence[Sequence[str]], outputs: Sequence[str]) -> Floats:
    """The share of each prompt's themes ("river", "name tag") whose words an output has, (outputs, prompts)."""
    return _shares([_folded(" ".join(each)) for each in themes], [_folded(output) for output in outputs])


def voice_match(asked: Sequence[str], outputs: Sequence[str], voices: Sequence[str]) -> Floats:
    """1 where an output speaks most in the voice that a prompt asks for, (outputs, prompts).

    `voices` are the songbook's genres, or its emotions. An output's voice is the one whose telling words it uses most
    often; where k are equal each gets 1/k, and an output without any such word has none: 0.
    """
    telling = telling_words(tuple(voices))
    table = np.zeros((len(outputs), len(voices)))
    for row, output in zip(table, outputs, strict=True):
        said = Counter(words_of(output))
        counts = np.array([sum(said[word] for word in telling[voice]) for voice in voices])
        best = (counts == counts.max()) & (counts > 0)
        row[:] = best / max(1, best.sum())
    return table[:, [voices.index(each) for each in asked]]


@cache
def telling_words(voices: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """For each genre (or emotion), the words that the songbook's lists give to it and to no other."""
    from primegpt.data.verse import words_by_voice

    said = words_by_voice()
    lists = Counter(word for voice in voices for word in said[voice])
    return {voice: frozenset(word for word in said[voice] if lists[word] == 1) for voice in voices}


def _folded(text: str) -> frozenset[str]:
    return frozenset(map(fold, words_of(text)))


def _shares(wanted: Sequence[frozenset[str]], said: Sequence[frozenset[str]]) -> Floats:
    """The share of each set of words that another set has too, (said, wanted); nan for an empty set."""
    vocabulary = {word: n for n, word in enumerate(sorted(frozenset().union(*wanted)))}
    asked, given = np.zeros((len(wanted), len(vocabulary))), np.zeros((len(said), len(vocabulary)))
    for row, words in zip(asked, wanted, strict=True):
        row[[vocabulary[word] for word in words]] = 1
    for row, words in zip(given, said, strict=True):
        row[[vocabulary[word] for word in words if word in vocabulary]] = 1
    sizes = asked.sum(1)
    return given @ asked.T / np.where(sizes, sizes, np.nan)


# ---- adherence and its lift


@dataclass(frozen=True)
class Adherence:
    """How far outputs keep to their own prompts, and how far to any. None where there is nothing to compare."""

    own: float | None
    """Mean score under the own prompt, 0 to 1."""
    shuffled: float | None
    """Mean score under the prompts of the others: the expectation over all shuffles."""
    lift: float | None
    """`own` - `shuffled`: 0 for a writer that does not read its prompts."""
    interval: tuple[float, float] | None
    """95%, by bootstrap over the pairs."""
    pairs: int
    skipped: int
    """Pairs left out because their prompt asks for nothing."""


def adherence(scores: Floats, seed: int = 0) -> Adherence:
    """Own score, shuffled score and lift of `scores` (N outputs, N prompts), output i written to prompt i."""
    usable = ~np.isnan(np.diagonal(scores))
    scores, skipped = scores[usable][:, usable], int((~usable).sum())
    n = len(scores)
    own = float(np.diagonal(scores).mean()) if n else None
    if own is None or n < 2:
        return Adherence(own, None, None, None, n, skipped)
    shuffled = (scores.sum() - np.trace(scores)) / (n * (n - 1))
    times = _resampled(n, derive_seed(seed, "bootstrap", "adherence"))  # (R, N): how often pair i was drawn
    # Pairs are resampled, not scores: that a prompt met by chance, or an output, is easy to match shows in all of its
    # row and column. A pair that is drawn twice is never its own shuffle.
    drawn_own = times @ np.diagonal(scores) / n
    others = np.einsum("rn,rn->r", times @ scores, times) - times**2 @ np.diagonal(scores)
    counts = n**2 - (times**2).sum(1)
    lifts = drawn_own[counts > 0] - others[counts > 0] / counts[counts > 0]
    return Adherence(own, float(shuffled), float(own - shuffled), _interval(lifts), n, skipped)


def word_adherence(prompts: Sequence[str], outputs: Sequence[str], seed: int = 0) -> Adherence:
    """How much of the prompts' words comes back in the outputs written to them."""
    return adherence(word_overlap(prompts, outputs), seed)


def song_adherence(
    genres: Sequence[str],
    emotions: Sequence[str],
    themes: Sequence[Sequence[str]],
    outputs: Sequence[str],
    seed: int = 0,
) -> dict[str, Adherence]:
    """Whether songs have the genre, emotion and themes that their prompts ask for, where the songbook knows them."""
    from primegpt.data.songbook import EMOTIONS, GENRES

    return {
        "genre": adherence(voice_match(genres, outputs, GENRES), seed),
        "emotion": adherence(voice_match(emotions, outputs, EMOTIONS), seed),
        "theme": adherence(theme_overlap(themes, outputs), seed),
    }


# ---- prompt information


@dataclass(frozen=True)
class PromptInformation:
    """The loss of the same song tokens under three contexts, in nats per song token."""

    own: float
    shuffled: float
    """Under the prompt of another song."""
    none: float
    information: float
    """`shuffled` - `own`: what the model takes from the right prompt; 0 if it has learnt to ignore prompts."""
    interval: tuple[float, float]
    """95% of `information`, by bootstrap over the songs."""
    songs: int
    tokens: int
    cut: int
    """Songs of which only the beginning fitted into a block after every prompt."""


def prompt_information(
    model: GPT,
    pairs: Sequence[tuple[Ids, Ids]],
    no_prompt: Ids,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PromptInformation:
    """Score each song of `pairs` (context ids, song ids) under its own, another's, and the context `no_prompt`.

    A context is all that stands before the song, laid out as in training. At least two songs with a token are
    needed. Under all three contexts the same tokens of a song are scored.
    """
    assert len(pairs) > 1, "a shuffle needs two songs"
    contexts, songs = zip(*pairs, strict=True)
    room = model.config.block_size + 1 - max(len(no_prompt), *map(len, contexts))
    assert room > 0, "the longest prompt fills the block"
    order = np.random.default_rng(derive_seed(seed, "shuffled prompts")).permutation(len(pairs))
    partner = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # one cycle: no song keeps its prompt
    items = [
        (context, [song[:room]])
        for i, song in enumerate(songs)
        for context in (contexts[i], contexts[partner[i]], no_prompt)
    ]
    scores = score_completions(model, items, progress=progress)
    losses = -np.array([score.logprob for (score,) in scores]).reshape(-1, 3)  # (songs, own / shuffled / none)
    tokens = np.array([len(song[:room]) for song in songs], float)
    own, shuffled, none = (losses.sum(0) / tokens.sum()).tolist()
    times = _resampled(len(pairs), derive_seed(seed, "bootstrap", "information"))
    gains = times @ (losses[:, 1] - losses[:, 0]) / np.maximum(times @ tokens, 1)
    cut = sum(len(song) > room for song in songs)
    return PromptInformation(own, shuffled, none, shuffled - own, _interval(gains), len(pairs), int(tokens.sum()), cut)


def _resampled(n: int, seed: int) -> Floats:
    """How often each of n things is drawn in each resample, (RESAMPLES, n)."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
