"""What a run writes to prompts that it has not seen: whether it keeps to them, and how much of it is copied."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from primegpt.config import DataConfig
from primegpt.data.batching.examples import read, with_prompt
from primegpt.data.layout import Example
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import CONTEXT, SUPERVISED
from primegpt.data.preparing.survey import Library
from primegpt.data.reading.sources import SONGBOOK, Document
from primegpt.data.songbook import Song, songbook
from primegpt.data.template import template_for
from primegpt.errors import DataError
from primegpt.evaluation.adherence import prompt_information, song_adherence, word_adherence
from primegpt.evaluation.memorization import Copied, copied_from
from primegpt.evaluation.scoring import encode_pair
from primegpt.inference.context import Completion
from primegpt.inference.run import Run
from primegpt.terminal import Say, to_stderr

PROMPT_SEED = 2  # of the songs that prompts are taken from; runs learn from the songbook of seed 0
OPENING = 16  # tokens of validation text that are continued where texts have no prompts
OF_THE_SONGBOOK = ("genre", "emotion", "theme")  # measures that need to know what a song was written to

Pair = tuple[list[int], list[int]]  # a context, and what truly follows it: ids, without the end of text


@dataclass(frozen=True)
class Asked:
    """A context that a run has not seen, and what truly follows it."""

    context: list[int]
    truth: list[int]
    prompt: str = ""
    """The prompt in words; empty for a place in plain text."""
    song: Song | None = None
    """The song that it is of, if it is one of the songbook."""


def refuse_without_prompts(run: Run) -> None:
    """Raise DataError for a run whose texts have no prompts, before anything is read or written."""
    if run.template is None and SONGBOOK not in run.config.data.sources:
        raise DataError(
            f"adherence needs prompts, and {run.folder.path} was trained on plain text without any",
            "measure a run on records with prompts (--data.template), or on the songbook",
        )


def unseen_prompts(run: Run, corpus: Corpus, count: int) -> list[Asked]:
    """At most `count` prompts: of new songs for a run on the songbook, else of validation records or places."""
    if SONGBOOK in run.config.data.sources:
        return [Asked(*song_pair(run, song), song.prompt, song) for song in songbook(count, seed=PROMPT_SEED)]
    if not corpus.val.has_roles:
        return [Asked(*pair) for pair in _openings(run, corpus, count)]
    records = islice(with_prompt(corpus.val, run.tokenizer), count)
    return [_asked(run, *read(corpus.val, record)) for record in records]


def given_prompts(run: Run, source: DataConfig, count: int, say: Say = to_stderr) -> list[Asked]:
    """The prompts of at most `count` records of a source, with their answers. Raises DataError for one without any."""
    template = template_for(source, run.tokenizer)
    if template is None:
        what = f"{run.folder.path} was trained on plain text, and does not know a prompt from an answer"
        raise DataError(what, "leave --prompts out: its own text is measured then")
    sees, found = run.config.model.block_size + 1, list[Asked]()
    for number, document in enumerate(islice(Library(source, say), count)):
        row = template.rows(document, number, run.tokenizer, sees)[0]
        found.append(_asked(run, row.ids, row.roles))
    return found


def comparable(run: Run, prompts: Sequence[Asked]) -> list[Asked]:
    """Those of the prompts that leave half of the block to an answer. Raises DataError unless there are two."""
    half = run.config.model.block_size // 2
    fitting = [asked for asked in prompts if len(asked.context) <= half and asked.truth]
    if len(fitting) < 2:
        few = f"of {len(prompts)} leave half of the model's block of {2 * half} tokens to an answer"
        raise DataError(
            f"adherence compares prompts with each other, and {len(fitting)} {few}",
            "raise --limit, or measure a run with more validation records or a larger block",
        )
    return fitting


def answers_to(run: Run, prompts: Sequence[Asked], say: Say = to_stderr) -> list[Completion]:
    """One text for each of the prompts, by the run's own generation settings."""
    say(f"writing {len(prompts)} texts of at most {run.config.generate.max_new_tokens} tokens")
    contexts = [asked.context for asked in prompts]
    return [samples[0] for samples in run.generator().generate(contexts, run.settings())]


def song_pair(run: Run, song: Song) -> Pair:
    """A song's prompt and its lyrics in ids, as they stood in training."""
    if run.template is None:
        prompt, lyrics = encode_pair(run.tokenizer, f"{song.prompt}\n\n", song.lyrics)
        return [run.tokenizer.eot_id, *prompt], lyrics
    example = _song_record(run, song)
    context, lyrics = example.ids[example.roles != SUPERVISED], example.ids[example.roles == SUPERVISED]
    return context.tolist(), _without_end(run, lyrics.tolist())


def _song_record(run: Run, song: Song) -> Example:
    """A song as a record of a run with a template, in as many tokens as the model sees."""
    assert run.template is not None
    fields = {"prompt": song.prompt, "genre": song.genre, "emotion": song.emotion, "lyrics": song.lyrics}
    return run.template.encode(Document("", SONGBOOK, fields), 0, run.tokenizer, run.config.model.block_size + 1)


def _asked(run: Run, ids: npt.NDArray[np.integer], roles: npt.NDArray[np.uint8]) -> Asked:
    """A record up to its first answer, and this answer."""
    start = int(np.argmax(roles == SUPERVISED))
    others = np.flatnonzero(roles[start:] != SUPERVISED)
    stop = start + int(others[0]) if len(others) else len(ids)
    context = ids[:start].tolist()
    prompt = run.tokenizer.decode(context, skip_special_tokens=True)
    return Asked(context, _without_end(run, ids[start:stop].tolist()), prompt)


def _without_end(run: Run, ids: list[int]) -> list[int]:
    assert run.template is not None
    return [id for id in ids if id != run.tokenizer.token_id(run.template.stop_token)]


def _openings(run: Run, corpus: Corpus, count: int) -> list[Pair]:
    """Places in validation text: a few tokens, and how they go on."""
    length, eot = OPENING + run.config.generate.max_new_tokens, run.tokenizer.eot_id
    places = np.unique(np.linspace(0, max(0, len(corpus.val) - length), count).astype(int))
    windows = [corpus.val.slice(int(place), int(place) + length).tolist() for place in places]
    pairs = [(window[:OPENING], window[OPENING:]) for window in windows]
    return [(context, truth[: truth.index(eot)] if eot in truth else truth) for context, truth in pairs]


# ---- adherence and memorisation


def measure_adherence(
    run: Run, prompts: Sequence[Asked], outputs: Sequence[Completion], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Adherence of what the run wrote, that of the real answers as the ceiling, and prompt information.

    `left_out` names the measures that only songs of the songbook can be judged by.
    """
    songs = [asked.song for asked in prompts if asked.song]
    no_prompt = without_prompt(run, songs[0]) if songs else empty_prompt(run)
    pairs = [(asked.context, asked.truth) for asked in prompts]
    information = prompt_information(run.model, pairs, no_prompt, progress=progress)
    real = [
        asked.song.lyrics if asked.song else run.tokenizer.decode(asked.truth, skip_special_tokens=True)
        for asked in prompts
    ]
    return {
        "generated": _adherence_to(prompts, [output.text for output in outputs]),
        "real": _adherence_to(prompts, real),
        "left_out": [] if songs else list(OF_THE_SONGBOOK),
        "prompt_information": asdict(information),
    }


def without_prompt(run: Run, song: Song) -> list[int]:
    """What stands before a song whose prompt is left out, as training leaves it out."""
    if run.template is None:
        return [run.tokenizer.eot_id, *encode_pair(run.tokenizer, "\n\n", song.lyrics)[0]]
    example = _song_record(run, song)
    return example.ids[example.roles == CONTEXT].tolist()


def empty_prompt(run: Run) -> list[int]:
    """What stands before an answer to nothing."""
    assert run.template is not None
    return run.template.prompt_ids(run.tokenizer, "")


def _adherence_to(prompts: Sequence[Asked], outputs: Sequence[str]) -> dict[str, Any]:
    measures = {"words": word_adherence([asked.prompt for asked in prompts], outputs)}
    if songs := [asked.song for asked in prompts if asked.song]:
        labels = [song.genre for song in songs], [song.emotion for song in songs], [song.themes for song in songs]
        measures |= song_adherence(*labels, outputs)
    return {name: asdict(measure) for name, measure in measures.items()}


def measure_memorization(
    run: Run, corpus: Corpus, prompts: Sequence[Asked], outputs: Sequence[Completion]
) -> dict[str, Any]:
    """What the run wrote, and as much validation text, against its training text."""
    ids = [output.ids for output in outputs]
    truth = [asked.truth[: len(output)] for asked, output in zip(prompts, ids, strict=True)]
    written, held_out = (copied_from(texts, corpus.train) for texts in (ids, truth))
    return {"generated": _copied(run, written), "held_out": _copied(run, held_out)}


def _copied(run: Run, copied: Copied) -> dict[str, Any]:
    shares = {f"share_{n}": share for n, share in copied.shares.items()}
    return {**shares, "longest": copied.longest, "longest_text": run.tokenizer.decode(copied.span)}
