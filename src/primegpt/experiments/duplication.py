"""What duplication.toml makes and measures: copies of a small text, and what a model of them is worth.

Copies look like data: a larger file, and a validation loss that falls and falls, since what is held out of them stands
in the training text too. Songs that no arm has seen tell them apart, and so does what is copied.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from primegpt.data.songbook import songbook
from primegpt.evaluation.memorization import copied_from
from primegpt.inference.run import Run, load
from primegpt.jobs.answers import PROMPT_SEED
from primegpt.jobs.data import write_songbook
from primegpt.jobs.text_loss import loss_of_text, own_corpus
from primegpt.run.checkpoint import list_checkpoints
from primegpt.terminal import silent

PROMPTS, NEW_SONGS, NEW_SEED = 50, 100, 3
N = 12  # tokens of what counts as copied


def copied(out: Path, book: str, times: int) -> None:
    """The file `book`, `times` over."""
    out.write_text(Path(book).read_text(encoding="utf-8") * times, encoding="utf-8")


def best_on_the_way(run: Run) -> float:
    """The least loss on new songs of all checkpoints that were kept, in nats per token."""
    with TemporaryDirectory() as folder:
        new = str(write_songbook(Path(folder) / "new.jsonl", songs=NEW_SONGS, seed=NEW_SEED))
        steps = list_checkpoints(run.folder.checkpoints_dir)
        kept = (load(run.folder.path, checkpoint=step, say=silent) for step in steps)
        return min(loss_of_text(each, new, say=silent)["loss"] for each in kept)


def copying(run: Run) -> dict[str, float]:
    """Shares of the N-grams that stand in the training text, of what is written and of new songs; the longest span."""
    train = own_corpus(run, silent).train
    songs = list(songbook(PROMPTS, seed=PROMPT_SEED))
    written = run.complete_all([f"{song.prompt}\n\n" for song in songs])
    found = copied_from([samples[0].ids for samples in written], train)
    by_chance = copied_from([run.tokenizer.encode(song.lyrics) for song in songs], train)
    return {"written": found.shares[N], "by_chance": by_chance.shares[N], "longest": found.longest}
