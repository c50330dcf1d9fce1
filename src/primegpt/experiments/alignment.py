"""What alignment.toml measures: how far a model of songs follows prompts, and what may be thought to make it.

The lyrics of the books in that experiment are the same, word for word; only the prompts differ. What a model can gain
from a prompt is bounded by what the prompt says (`prompt_entropy`), a few nats spread over a whole song. So the loss
hardly tells an aligned book from an unaligned one, while what the model writes does.
"""

from collections.abc import Mapping, Sequence
from math import log
from statistics import fmean
from typing import Any

from primegpt.data.songbook import EMOTIONS, GENRES, Song, songbook
from primegpt.data.verse import themes
from primegpt.evaluation.adherence import adherence, prompt_information, theme_overlap, voice_match, word_overlap
from primegpt.evaluation.songform import distinct_ngram_share, rhyming_pair_share, valid_section_order
from primegpt.experiments.analysis import Findings, Given
from primegpt.inference.run import Run
from primegpt.jobs.answers import PROMPT_SEED, song_pair, without_prompt
from primegpt.report.chart import Series
from primegpt.report.pictures import Plot

PROMPTS = 100  # that every model writes to, and none has seen

# What may be thought to make a model follow its prompts while it writes.
TRICKS: Mapping[str, Mapping[str, Any]] = {
    "nothing": {},
    "repetition penalty 1_3": {"repetition_penalty": 1.3},
    "temperature 0_3": {"temperature": 0.3},
    "temperature 1_2": {"temperature": 1.2},
    "the likeliest": {"temperature": 0.0},
}
NO_BANS = "no bans"  # of control tokens: the one trick that is no setting


def follows(run: Run) -> dict[str, float | None]:
    """Lifts of what is written to new prompts, what information they take, form and variety."""
    songs = list(songbook(PROMPTS, seed=PROMPT_SEED))
    written = _write(run, songs)
    pairs = [song_pair(run, song) for song in songs]
    information = prompt_information(run.model, pairs, without_prompt(run, songs[0]))
    return lifts(songs, written) | {
        "information": information.information,
        "sections": fmean(map(valid_section_order, written)),
        "rhymes": fmean(map(rhyming_pair_share, written)),
        "distinct": distinct_ngram_share(written),
    }


SHARE = "alignment: share of songs that are written to their prompt"
PLOTS = (  # a picture's name, its title, its y axis, and lines by the ends of their measures' names
    ("alignment-loss", "What the loss tells", "nats per token", {"own": "songs like its own", "aligned": "aligned"}),
    (
        "alignment-lift",
        "What the songs tell",
        "adherence lift",
        {"words": "words of the prompt", "theme": "themes", "genre": "genre", "emotion": "emotion"},
    ),
    ("alignment-information", "What a prompt is worth", "nats per token", {"information": "prompt information"}),
)


def analysis(given: Given) -> Findings:
    """Each measure over the alignment, the mean of the seeds with the lowest and the highest of them."""
    found: dict[float, dict[str, list[float]]] = {}
    for run in given.runs:
        word, _, share = run.arm.partition(" ")
        if word != "alignment" or "," in share:  # the others differ in more than that
            continue
        of_share = found.setdefault(float(share), {})
        for measure, value in run.values.items():
            if value is not None:
                of_share.setdefault(_short(measure), []).append(value)
    names = [_short(measure) for measure in given.measures]
    rows = [(f"{share:g}", *(_told(values.get(name)) for name in names)) for share, values in sorted(found.items())]
    own = lifts(songs := list(songbook(PROMPTS, seed=PROMPT_SEED)), [song.lyrics for song in songs])
    rows.append(("the songbook's own songs", *(_told([lift] if (lift := own.get(name)) else None) for name in names)))
    plots = []
    for name, title, y, lines in PLOTS:
        series = [_series(label, key, found) for key, label in lines.items()]
        drawn = [each for each in series if each.points]
        plots += [Plot(name, title, drawn, SHARE, y, zero=name == "alignment-loss")] if drawn else []
    return Findings(tables=[[("alignment", *names), *rows]], plots=plots)


def _short(measure: str) -> str:
    """ "words" of "primegpt.experiments.alignment:follows.words", "own" of "own.text.loss"."""
    return measure.removesuffix(".text.loss").rpartition(".")[2]


def _told(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    extremes = f" [{min(values):.2f}, {max(values):.2f}]" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{extremes}"


def _series(label: str, name: str, found: Mapping[float, Mapping[str, Sequence[float]]]) -> Series:
    known = sorted((share, values[name]) for share, values in found.items() if name in values)
    points = [(share, fmean(values)) for share, values in known]
    return Series(label, points, dots=True, intervals=[(share, min(v), max(v)) for share, v in known])


def tricks(run: Run) -> dict[str, dict[str, float | None]]:
    """Lifts of what is written with each of TRICKS, and without bans."""
    songs = list(songbook(PROMPTS, seed=PROMPT_SEED))
    found = {name: lifts(songs, _write(run, songs, **settings)) for name, settings in TRICKS.items()}
    return found | {NO_BANS: lifts(songs, _write(run, songs, bans=False))}


def lifts(songs: Sequence[Song], texts: Sequence[str]) -> dict[str, float | None]:
    """How much better each text fits its own song's prompt than the others', by each measure."""
    scores = {
        "words": word_overlap([song.prompt for song in songs], texts),
        "theme": theme_overlap([song.themes for song in songs], texts),
        "genre": voice_match([song.genre for song in songs], texts, GENRES),
        "emotion": voice_match([song.emotion for song in songs], texts, EMOTIONS),
    }
    return {name: adherence(of_songs).lift for name, of_songs in scores.items()}


def _write(run: Run, songs: Sequence[Song], bans: bool = True, **settings: Any) -> list[str]:
    decoder = run.generator()
    decoder.banned = decoder.banned if bans else decoder.banned[:0]
    written = decoder.generate([song_pair(run, song)[0] for song in songs], run.settings(**settings))
    return [samples[0].text for samples in written]


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
