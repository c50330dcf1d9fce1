"""The demo: train on the songbook, write songs, and measure how much of a song they are."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from primegpt.config import RECIPES
from primegpt.data.songbook import songbook
from primegpt.inference.run import Run
from primegpt.jobs.training import train
from primegpt.run.folder import next_run_path
from primegpt.terminal import Say, to_stderr, to_stdout

SHUFFLES = 20  # one would rhyme more or less by luck
DEMO_SEED = 1  # of the prompts of the demo; the songbook that it trains on is seed 0


def demo(
    out: str | Path | None = None,
    *,
    minutes: float = 2.0,
    songs: int = 24,
    say: Say = to_stdout,
    started: float | None = None,
) -> Run:
    """Train on the songbook for `minutes`, then write `songs` songs and measure how much of a song they are."""
    path = out or next_run_path("demo")
    say(f"A songbook is written, a small GPT trains on it for about {minutes:g} minutes, and then it sings.\n")
    heard = to_stderr if say is to_stdout else say
    run = train(RECIPES / "demo.toml", out=path, minutes=minutes, say=heard, started=started)
    prompts = [song.prompt for song in songbook(songs, seed=DEMO_SEED)]
    texts = run.write_songs(prompts)
    say("\nTwo of its songs, from prompts that it has not seen:")
    for prompt, text in zip(prompts[:2], texts, strict=False):
        say(f"\n  » {prompt}\n\n" + "\n".join(f"    {line}" for line in text.strip().splitlines()))
    say(f"\nOver {songs} such songs:")
    for name, value in describe_songs(texts, run.config.data.songs):
        say(f"  {name:<38} {value}")
    offers = {
        f"primegpt play {run.folder.path}": "write in the browser, and look inside the model",
        f"primegpt report {run.folder.path}": "its curves and samples as a page",
        "primegpt train my.txt --minutes 2": "your own text",
        f"cat {run.folder.samples_dir}/*": "the same prompts, from noise to song",
    }
    width = max(map(len, offers))
    say(f'\nWhat to type next:\n  primegpt generate {run.folder.path} "a happy pop song about the train"')
    for command, told in offers.items():
        say(f"  {command:<{width}}  {told}")
    return run


def describe_songs(texts: Sequence[str], training_songs: int) -> list[tuple[str, str]]:
    """How much of a song generated `texts` are, against what chance or real songs would give."""
    from primegpt.evaluation import songform

    book = [song.lyrics for song in songbook(training_songs)]
    fresh = [song.lyrics for song in songbook(len(texts), seed=DEMO_SEED)]
    order = sum(map(songform.valid_section_order, texts)) / max(1, len(texts))
    rhymes = sum(map(songform.rhyming_pair_share, texts)) / max(1, len(texts))
    shuffled = fmean(songform.shuffled_rhyming_pair_share(texts, seed) for seed in range(SHUFFLES))
    copied = songform.copied_ngram_share(texts, book, 12)
    baseline = songform.copied_ngram_share(fresh, book, 12)
    times = f", {rhymes / shuffled:.1f} times as many" if shuffled else ""
    return [
        ("sections in an order a song can have", f"{order:.0%}"),
        ("pairs of near lines that rhyme", f"{rhymes:.1%} (shuffled lines: {shuffled:.1%}{times})"),
        ("12-word spans copied from training", f"{copied:.1%} (a fresh songbook: {baseline:.1%})"),
    ]
