"""Why prompts are ignored: the same model on songbooks whose prompts fit their songs more or less often.

The lyrics of all these books are the same, word for word; only the prompts differ. What a model can gain from a prompt
is bounded by what the prompt says (`prompt_entropy`), a few nats spread over a whole song. So the loss hardly tells an
aligned book from an unaligned one, while what the model writes does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import log
from statistics import fmean
from typing import Any

import numpy as np

from primegpt.config import Settings
from primegpt.data.songbook import EMOTIONS, GENRES, Song
from primegpt.data.verse import themes
from primegpt.evaluation.adherence import (
    Floats,
    adherence,
    theme_overlap,
    voice_match,
    word_overlap,
)
from primegpt.evaluation.songform import rhyming_pair_share, valid_section_order
from primegpt.experiments.arms import (
    HELD_OUT_SEED,
    SEEDS,
    TRAINING_SEED,
    Arm,
    Book,
    Measures,
    merged,
)

ALIGNMENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
ENDS = (0.0, 1.0)

# What may be thought to make a model follow its prompts, in training; tried on the least and the most aligned book.
VARIATIONS: Mapping[str, Settings] = {
    "no masking": {"data": {"mask_prompt": False}},
    "no prompt dropout": {"data": {"prompt_dropout": 0.0}},
}
# And while it writes, tried on the model of the unaligned book.
TRICKS: Mapping[str, Mapping[str, Any]] = {
    "repetition penalty 1.3": {"repetition_penalty": 1.3},
    "temperature 0.3": {"temperature": 0.3},
    "temperature 1.2": {"temperature": 1.2},
    "always the likeliest": {"temperature": 0.0},
}
NO_BANS = "control tokens not banned"  # the one trick that is no setting

# Learned positions let so small a network tell a prompt from a song by where it stands. With rotary ones and two
# layers it takes a word of the prompt for one that the song has said before, and repeats it now and then, whether that
# ever helped or not (docs/why-prompts-are-ignored.md).
SETTINGS: Settings = {
    "model": {
        "preset": "prime",
        "position": "learned",
        "embedding_norm": False,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 256,
    },
    "data": {"template": "song", "val_fraction": 0.05, "val_tokens": 4000},
    "train": {
        "learning_rate": 8e-3,
        "muon_learning_rate": 0.03,
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "attention": "explicit",
        "keep_checkpoints": 1,
    },
    "generate": {"max_new_tokens": 256, "temperature": 0.8, "top_k": 0},
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    seeds: tuple[int, ...] = SEEDS
    alignments: tuple[float, ...] = ALIGNMENTS
    max_steps: int = 700
    batch_size: int = 8
    songs: int = 6000
    """Of a training book: a little more than a run sees, so that it sees none twice."""
    held_out: int = 300
    """Songs that losses are measured on."""
    prompts: int = 100
    """Prompts that every model writes to."""
    vocab_size: int = 2048
    overrides: Settings = field(default_factory=dict)
    """Above the settings of all arms."""

    @property
    def settings(self) -> Settings:
        budget = {"max_steps": self.max_steps, "batch_size": self.batch_size, "sample_interval": self.max_steps}
        return merged(SETTINGS, {"train": budget}, self.overrides)


FULL = Size()
QUICK = replace(FULL, seeds=SEEDS[:1])  # the full experiment goes on from it


def plain(alignment: float) -> str:
    return f"alignment {alignment:g}"


def varied(alignment: float, variation: str) -> str:
    return f"{plain(alignment)}, {variation}"


def arms(size: Size) -> list[Arm]:
    """All arms, the first seed first: cut short, the experiment still holds a whole one."""
    return [arm for seed in size.seeds for arm in _arms_of(size, seed)]


def _arms_of(size: Size, seed: int) -> list[Arm]:
    books = {a: Book(size.songs, TRAINING_SEED, a) for a in size.alignments}
    return [
        *(Arm(plain(a), books[a], seed, size.settings) for a in size.alignments),
        *(
            Arm(varied(a, name), books[a], seed, merged(size.settings, layer))
            for a in ENDS
            for name, layer in VARIATIONS.items()
        ),
    ]


def held_out(size: Size, alignment: float) -> Book:
    return Book(size.held_out, HELD_OUT_SEED, alignment)


# ---- what came out


def prompt_entropy() -> float:
    """Nats that a prompt says of its song: all that the songs of a book can be cheaper for knowing it.

    The song is written to genre, emotion and themes alone, so whatever a prompt tells of it, it tells through them.
    """
    n = len(themes())
    one = 0.25 + 0.75 / n  # a single theme: asked for, or the same drawn twice
    two = 1 - one
    theme = log(n) + fmean(log(len(theme.phrases)) for theme in themes().values())  # and how it is called
    first_and_second = one * theme + two * (2 * theme + log((n - 1) / n))
    return log(len(GENRES)) + log(len(EMOTIONS)) + first_and_second - one * log(one) - two * log(two)


def findings(songs: Sequence[Song], measured: Mapping[str, Sequence[Measures]]) -> dict[str, Any]:
    """What the arms that are finished show. `measured` holds each kind's measures over its seeds.

    Adherence is of the mean score over the seeds, its interval by bootstrap over the prompts, which are the same.
    """
    kinds = {kind: _finding(songs, of_seeds) for kind, of_seeds in measured.items()}
    unaligned = measured.get(plain(ENDS[0]), ())
    tricks = {
        trick: _lifts(songs, [measures["tricks"][trick] for measures in unaligned])
        for trick in ((*TRICKS, NO_BANS) if unaligned else ())
    }
    own = [song.lyrics for song in songs]
    return {
        "kinds": kinds,
        "tricks": tricks,
        "songbook": {"adherence": _lifts(songs, [own]), "form": _form([own])},
        "prompt_entropy": prompt_entropy(),
    }


def _finding(songs: Sequence[Song], of_seeds: Sequence[Measures]) -> dict[str, Any]:
    outputs = [measures["outputs"] for measures in of_seeds]
    information = [measures["information"] for measures in of_seeds]
    losses = [measures["loss"] for measures in of_seeds]
    return {
        "seeds": len(of_seeds),
        "loss": {name: [each[name] for each in losses] for name in losses[0]},
        "adherence": _lifts(songs, outputs),
        "lift_of_seeds": [_lifts(songs, [texts])["words"]["lift"] for texts in outputs],
        "information": [each["information"] for each in information],
        "information_interval": [
            min(each["interval"][0] for each in information),
            max(each["interval"][1] for each in information),
        ],
        "tokens_of_a_song": fmean(each["tokens"] / each["songs"] for each in information),
        "form": _form(outputs),
        "samples": outputs[0][:3],
    }


def _lifts(songs: Sequence[Song], outputs: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Adherence by each measure; `outputs` holds the songs of each seed, written to the same prompts."""
    of_seeds = [_scores(songs, texts) for texts in outputs]
    return {name: asdict(adherence(np.mean([scores[name] for scores in of_seeds], axis=0))) for name in of_seeds[0]}


def _scores(songs: Sequence[Song], texts: Sequence[str]) -> dict[str, Floats]:
    return {
        "words": word_overlap([song.prompt for song in songs], texts),
        "theme": theme_overlap([song.themes for song in songs], texts),
        "genre": voice_match([song.genre for song in songs], texts, GENRES),
        "emotion": voice_match([song.emotion for song in songs], texts, EMOTIONS),
    }


def _form(outputs: Sequence[Sequence[str]]) -> dict[str, float]:
    """How much of a song the texts are, whatever they are about."""
    texts = [text for of_seed in outputs for text in of_seed]
    return {"sections": fmean(map(valid_section_order, texts)), "rhymes": fmean(map(rhyming_pair_share, texts))}
