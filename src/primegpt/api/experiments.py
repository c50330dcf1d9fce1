"""The experiments carried out: books written, arms trained that are not yet, each measured once, all of it reported."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from primegpt.api.data import write_songbook
from primegpt.api.evaluation import loss_of_text, own_corpus, song_pair, without_prompt
from primegpt.api.runs import Run, Say, load, to_stderr
from primegpt.api.tokenizers import train_tokenizer
from primegpt.api.training import resume, train
from primegpt.config import DataConfig, TokenizerConfig, resolve
from primegpt.data.feed import training_batches
from primegpt.data.songbook import songbook
from primegpt.data.template import vocabulary
from primegpt.evaluation.adherence import prompt_information
from primegpt.evaluation.memorization import copied_from
from primegpt.experiments import alignment, alignment_report, duplication, duplication_report
from primegpt.experiments.arms import Arm, Book, Measures, Notes, Settings
from primegpt.run.atomic import make_folder, write_json_atomic, write_text_atomic
from primegpt.run.checkpoint import list_checkpoints
from primegpt.tokenizers import store
from primegpt.training.precision import choose_device, choose_precision

Measure = Callable[[Run, Arm], Measures]


class Place:
    """The folder of an experiment: books/, tokenizer/, runs/ and measures/ with an entry for each arm."""

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder, say
        self.notes = Notes(folder / "measures")

    def book(self, book: Book) -> Path:
        """The file of a book, written unless it is there: that of a book never changes."""
        path = self.folder / "books" / book.file
        if not path.exists():
            make_folder(path.parent)
            if book.copies == 1:
                write_songbook(path, songs=book.songs, alignment=book.alignment, seed=book.seed)
            else:
                once = self.book(replace(book, copies=1)).read_text(encoding="utf-8")
                write_text_atomic(path, once * book.copies)
        return path

    def tokenizer(self, book: Book, vocab_size: int, template: str) -> Path:
        """The tokenizer that all arms share, so that their losses are over the same tokens."""
        path = self.folder / "tokenizer"
        if not (path / store.META).exists():
            special = vocabulary(DataConfig.model_validate({"template": template}), {})
            config = TokenizerConfig(kind="bpe", vocab_size=vocab_size, special_tokens=special)
            train_tokenizer([str(self.book(book))], config, path, say=self.say)
        return path

    def carry_out(self, arms: Sequence[Arm], tokenizer: Path, measure: Measure) -> None:
        """Train and measure every arm that has no measures yet, going on with one that was interrupted."""
        for number, arm in enumerate(arms, 1):
            if self.notes.read(arm) is None:
                self.say(f"\narm {number} of {len(arms)}: {arm.kind}, seed {arm.seed}")
                run = self.trained(arm, tokenizer)
                self.notes.write(arm, measure(run, arm))

    def trained(self, arm: Arm, tokenizer: Path) -> Run:
        """The run of an arm, its last checkpoint loaded: the same budget for all."""
        path = self.folder / "runs" / arm.name
        config = resolve(
            self.machine(),
            arm.settings,
            {"tokenizer": {"path": str(tokenizer)}, "data": {"sources": (str(self.book(arm.book)),)}},
            {"train": {"seed": arm.seed}},
        )
        with redirect_stdout(sys.stderr):  # which is for the experiment's result
            if (path / "data.json").exists() and (path / "config.toml").exists():
                resume(path, say=self.say)
            else:
                train(config, out=path, overwrite=True, say=self.say)
        return load(path, checkpoint="last", say=self.say)

    def machine(self) -> Settings:
        """What the machine decides, decided once, so that it is the same for all arms."""
        path = self.folder / "machine.json"
        if not path.exists():
            device = choose_device("auto")
            write_json_atomic(path, {"train": {"device": device, "precision": choose_precision("auto", device)}})
        return json.loads(path.read_text(encoding="utf-8"))

    def finish(self, found: dict[str, Any], report: Path) -> dict[str, Any]:
        """Write results.json; the same with the paths of it and of the report."""
        results = self.folder / "results.json"
        write_json_atomic(results, found)
        return {**found, "report": str(report), "results": str(results)}


def experiment_alignment(
    out: str | Path | None = None,
    *,
    quick: bool = False,
    size: alignment.Size | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Why prompts are ignored: train on songbooks of different alignment and see what each model does with a prompt.

    Everything lies in the folder `out`; carried out again, it goes on where it was stopped, and the full experiment
    goes on from a quick one. Returns what was found, with the path of the `report`.
    """
    size = size or (alignment.QUICK if quick else alignment.FULL)
    place = Place(Path(out or "runs/alignment"), say)
    arms = alignment.arms(size)
    songs = list(songbook(size.prompts, seed=alignment.PROMPT_SEED))
    tokenizer = place.tokenizer(Book(size.songs, alignment.TRAINING_SEED), size.vocab_size, "song")
    losses = {a: place.book(alignment.held_out(size, a)) for a in size.alignments}

    def measure(run: Run, arm: Arm) -> Measures:
        pairs = [song_pair(run, song) for song in songs]

        def write(bans: bool = True, **settings: Any) -> list[str]:
            generator = run.generator()
            generator.banned = generator.banned if bans else generator.banned[:0]
            written = generator.generate([context for context, _ in pairs], run.settings(**settings))
            return [samples[0].text for samples in written]

        say("measuring: loss, songs, information")
        own, aligned = arm.book.alignment, alignment.ENDS[1]
        loss = {a: loss_of_text(run, str(losses[a]), say=say)["loss"] for a in {own, aligned}}
        found: Measures = {
            "loss": {"own": loss[own], "aligned": loss[aligned]},
            "outputs": write(),
            "information": asdict(prompt_information(run.model, pairs, without_prompt(run, songs[0]))),
        }
        if arm.kind == alignment.plain(alignment.ENDS[0]):
            tricks = {name: write(**settings) for name, settings in alignment.TRICKS.items()}
            found["tricks"] = tricks | {alignment.NO_BANS: write(bans=False)}
        return found

    place.carry_out(arms, tokenizer, measure)
    found = alignment.findings(songs, place.notes.by_kind(arms))
    report = alignment_report.write_report(place.folder, found, songs, facts(arms))
    return place.finish(found, report)


def experiment_duplication(
    out: str | Path | None = None,
    *,
    quick: bool = False,
    size: duplication.Size | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """What copies are worth: the same compute on a small text, on copies of it, and on as much varied text.

    The folder `out` and the result are as in `experiment_alignment`.
    """
    size = size or (duplication.QUICK if quick else duplication.FULL)
    place = Place(Path(out or "runs/duplication"), say)
    arms = duplication.arms(size)
    tokenizer = place.tokenizer(duplication.varied(size), size.vocab_size, "text")
    held_out = place.book(duplication.held_out(size))
    prompts = [song.prompt for song in songbook(size.prompts, seed=duplication.PROMPT_SEED)]

    def measure(run: Run, arm: Arm) -> Measures:
        say("measuring: loss over the steps, songs, copies")
        steps = list_checkpoints(run.folder.checkpoints_dir)
        curve = [
            (step, loss_of_text(load(run.folder.path, checkpoint=step, say=say), str(held_out), say=say)["loss"])
            for step in steps
        ]
        corpus = own_corpus(run, say)
        written = [samples[0] for samples in run.complete_all([f"{prompt}\n\n" for prompt in prompts])]
        fresh = [run.tokenizer.encode(song.lyrics) for song in songbook(size.prompts, seed=duplication.PROMPT_SEED)]
        copied, by_chance = (
            copied_from(texts, corpus.train) for texts in ([completion.ids for completion in written], fresh)
        )
        judged = run.folder.read_metrics()
        return {
            "held_out": curve,
            "own": [(line["step"], line["val/loss"]) for line in judged if "val/loss" in line],
            "copied": copied.shares,
            "by_chance": by_chance.shares,
            "longest": copied.longest,
            "longest_text": run.tokenizer.decode(copied.span),
            "text_bytes": corpus.train_bytes,
            "epochs": training_batches(run.config, corpus).epoch(run.step),
            "warnings": json.loads(run.folder.data_path.read_text(encoding="utf-8"))["audit"]["warnings"],
            "samples": [completion.text for completion in written[:2]],
        }

    place.carry_out(arms, tokenizer, measure)
    found = duplication.findings(place.notes.by_kind(arms))
    report = duplication_report.write_report(place.folder, found, prompts, facts(arms))
    return place.finish(found, report)


def facts(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """What all arms have in common, in words."""
    settings = {section: dict(arms[0].settings.get(section, {})) for section in ("model", "data", "train", "generate")}
    seeds = sorted({arm.seed for arm in arms})
    shown = [(name, ", ".join(f"{key} {value}" for key, value in values.items())) for name, values in settings.items()]
    return [("primegpt", version("primegpt")), ("seeds", ", ".join(map(str, seeds))), *shown]
