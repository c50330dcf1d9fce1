"""The alignment experiment (alignment_arms.py) carried out, and what it found: a table, plots and a page."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from primegpt.data.songbook import Song, songbook
from primegpt.evaluation.adherence import prompt_information
from primegpt.experiments.alignment_arms import (
    ALIGNMENTS,
    ENDS,
    FULL,
    NO_BANS,
    QUICK,
    TRICKS,
    VARIATIONS,
    Size,
    arms,
    findings,
    held_out,
    plain,
    varied,
)
from primegpt.experiments.arms import PROMPT_SEED, TRAINING_SEED, Arm, Book, Findings, Measures, Place, facts
from primegpt.inference.run import Run
from primegpt.jobs.answers import song_pair, without_prompt
from primegpt.jobs.evaluation import loss_of_text
from primegpt.report.chart import Series
from primegpt.report.page import Page
from primegpt.report.pictures import Plot, draw_intervals
from primegpt.terminal import Say, to_stderr

HEADER = ("arm", "loss", "on aligned", "lift: words", "themes", "genre", "emotion", "information")
LEGEND = (
    "Loss: nats per token of held-out songs, under prompts as aligned as those of the arm's own book, and under "
    "aligned ones. Lift: how much better a song fits its own prompt than the others, with a 95% interval. Information: "
    "by what the loss of an aligned song rises under another song's prompt, in nats per token."
)


def table(found: Findings) -> list[tuple[str, ...]]:
    """A row an arm, a row a trick, and the songbook's own songs, which no model can surpass; the columns of HEADER."""
    rows = [_row(kind, finding) for kind, finding in found["kinds"].items()]
    tricks = [(f"{plain(ENDS[0])}, {name}", "", "", *_lifts(lifts), "") for name, lifts in found["tricks"].items()]
    return [*rows, *tricks, ("the songbook's own songs", "", "", *_lifts(found["songbook"]["adherence"]), "")]


def _row(kind: str, finding: Findings) -> tuple[str, ...]:
    low, high = finding["information_interval"]
    information = f"{fmean(finding['information']):+.3f} [{low:+.3f}, {high:+.3f}]"
    losses = [_mean_and_spread(finding["loss"][name]) for name in ("own", "aligned")]
    return (kind, *losses, *_lifts(finding["adherence"]), information)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {(max(values) - min(values)) / 2:.3f}" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def _lifts(adherence: Findings) -> list[str]:
    return [_lift(adherence[name]) for name in ("words", "theme", "genre", "emotion")]


def _lift(measured: Findings) -> str:
    if measured["lift"] is None:
        return "–"
    low, high = measured["interval"]
    return f"{measured['lift']:+.2f} [{low:+.2f}, {high:+.2f}]"


def conclusions(found: Findings) -> list[str]:
    """The finding in sentences, as far as the arms are there."""
    kinds = found["kinds"]
    if not all(plain(end) in kinds for end in ENDS):
        return []
    none, full = (kinds[plain(end)] for end in ENDS)
    losses = [fmean(each["loss"]["own"]) for each in (none, full)]
    bound = found["prompt_entropy"] / full["tokens_of_a_song"]
    said = [
        f"Validation loss on song tokens: {losses[0]:.3f} without alignment, {losses[1]:.3f} with; it moves by "
        f"{losses[0] - losses[1]:.3f} nats, {losses[0] / losses[1] - 1:.1%}. All that a prompt says of a song is "
        f"{found['prompt_entropy']:.1f} nats, {bound:.3f} a token.",
        f"Adherence lift (words of the prompt): {_lift(none['adherence']['words'])} without alignment, "
        f"{_lift(full['adherence']['words'])} with; the songbook itself: "
        f"{_lift(found['songbook']['adherence']['words'])}.",
        f"Sections in an order that a song can have: {none['form']['sections']:.0%} and "
        f"{full['form']['sections']:.0%} of the songs; near lines that rhyme: {none['form']['rhymes']:.1%} and "
        f"{full['form']['rhymes']:.1%}.",
    ]
    rescues = [*(varied(ENDS[0], name) for name in VARIATIONS), *found["tricks"]]
    lifts = {name: _measured(found, name) for name in rescues}
    best = max((name for name in rescues if lifts[name]), key=lambda name: lifts[name]["lift"], default=None)
    if best:
        said.append(
            f"The best that masking, dropout or decoding does for unaligned data: {_lift(lifts[best])} ({best})."
        )
    return said


def _measured(found: Findings, name: str) -> Findings:
    """The adherence in words of an arm, or of a trick; empty where it is not there."""
    if name in found["tricks"]:
        return found["tricks"][name]["words"]
    return found["kinds"][name]["adherence"]["words"] if name in found["kinds"] else {}


def plots(found: Findings) -> list[Plot]:
    """Loss, lift and information over alignment."""
    aligned = {a: found["kinds"][plain(a)] for a in ALIGNMENTS if plain(a) in found["kinds"]}
    ceiling = found["songbook"]["adherence"]["words"]["lift"]

    def losses(name: str) -> Series:
        measured = {a: each["loss"][name] for a, each in aligned.items()}
        label = {"own": "on songs like its own book's", "aligned": "on aligned songs"}[name]
        spread = [(a, min(values), max(values)) for a, values in measured.items()]
        return Series(label, [(a, fmean(values)) for a, values in measured.items()], dots=True, intervals=spread)

    def lifts(name: str, label: str) -> Series:
        measured = {a: each["adherence"][name] for a, each in aligned.items()}
        points = [(a, each["lift"]) for a, each in measured.items()]
        return Series(label, points, dots=True, intervals=[(a, *each["interval"]) for a, each in measured.items()])

    information = Series(
        "information",
        [(a, fmean(each["information"])) for a, each in aligned.items()],
        dots=True,
        intervals=[(a, *each["information_interval"]) for a, each in aligned.items()],
    )
    x = "alignment: share of songs that are written to their prompt"
    return [
        Plot("loss", "What validation loss tells", [losses("own"), losses("aligned")], x, "nats per song token", True),
        Plot(
            "lift",
            "What the songs tell",
            [lifts("words", "words of the prompt"), lifts("theme", "themes"), lifts("genre", "genre")],
            x,
            "adherence lift",
            horizontals=[(ceiling, "words, the songbook's own songs"), (0.0, "")],
        ),
        Plot(
            "information",
            "What the model takes from a prompt",
            [information],
            x,
            "nats per song token",
            horizontals=[(0.0, "")],
        ),
    ]


def write_report(folder: Path, found: Findings, songs: Sequence[Song], facts: Sequence[tuple[str, str]]) -> Path:
    """report.html in `folder`, and the pictures beside it."""
    page = Page(
        "Why prompts are ignored", "The same model on songbooks whose prompts fit their songs more or less often"
    )
    page.section("What came out").notes(conclusions(found))
    for plot in plots(found):
        plot.add_to(page)
        plot.draw(folder)
    _draw_rescues(folder / "rescue.png", found)
    page.section("Arms", LEGEND).table(HEADER, table(found))
    for number, song in enumerate(songs[:2]):
        page.section(f"Prompt {number + 1}: {song.prompt}")
        for end in ENDS:
            if plain(end) in found["kinds"]:
                page.card(plain(end), found["kinds"][plain(end)]["samples"][number].strip())
        page.card("the songbook's own song", song.lyrics)
    page.section("Set-up").facts(facts)
    return page.write(folder / "report.html")


def _draw_rescues(path: Path, found: Findings) -> None:
    names = [plain(ENDS[0]), *(varied(ENDS[0], name) for name in VARIATIONS), *found["tricks"], plain(ENDS[1])]
    measured = {name: _measured(found, name) for name in names}
    rows = [(name, each["lift"], *each["interval"]) for name, each in measured.items() if each]
    if rows:
        draw_intervals(
            path, "Does anything but the data bring it back?", rows, "adherence lift, words", [plain(ENDS[1])]
        )


def experiment_alignment(
    out: str | Path | None = None,
    *,
    quick: bool = False,
    size: Size | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Why prompts are ignored: train on songbooks of different alignment and see what each model does with a prompt.

    Everything lies in the folder `out`; carried out again, it goes on where it was stopped, and the full experiment
    goes on from a quick one. Returns what was found, with the path of the `report`.
    """
    size = size or (QUICK if quick else FULL)
    place = Place(Path(out or "runs/alignment"), say)
    chosen = arms(size)
    songs = list(songbook(size.prompts, seed=PROMPT_SEED))
    tokenizer = place.tokenizer(Book(size.songs, TRAINING_SEED), size.vocab_size, "song")
    losses = {a: place.book(held_out(size, a)) for a in size.alignments}

    def measure(run: Run, arm: Arm) -> Measures:
        pairs = [song_pair(run, song) for song in songs]

        def write(bans: bool = True, **settings: Any) -> list[str]:
            decoder = run.generator()
            decoder.banned = decoder.banned if bans else decoder.banned[:0]
            written = decoder.generate([context for context, _ in pairs], run.settings(**settings))
            return [samples[0].text for samples in written]

        say("measuring: loss, songs, information")
        own, aligned = arm.book.alignment, ENDS[1]
        loss = {a: loss_of_text(run, str(losses[a]), say=say)["loss"] for a in {own, aligned}}
        found: Measures = {
            "loss": {"own": loss[own], "aligned": loss[aligned]},
            "outputs": write(),
            "information": asdict(prompt_information(run.model, pairs, without_prompt(run, songs[0]))),
        }
        if arm.kind == plain(ENDS[0]):
            tricks = {name: write(**settings) for name, settings in TRICKS.items()}
            found["tricks"] = tricks | {NO_BANS: write(bans=False)}
        return found

    place.carry_out(chosen, tokenizer, measure)
    found = findings(songs, place.notes.by_kind(chosen))
    report = write_report(place.folder, found, songs, facts(chosen))
    return place.finish(found, report)
