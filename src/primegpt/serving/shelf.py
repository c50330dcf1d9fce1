"""The runs that the playground may open, given once on the command line; a request names one by number and step."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from primegpt.config import DECAY
from primegpt.errors import PrimegptError, UsageError
from primegpt.inference.run import Run
from primegpt.run.checkpoint import list_checkpoints
from primegpt.run.files import EARLY
from primegpt.run.folder import RunFolder
from primegpt.serving.examples import examples
from primegpt.serving.schema import SETTINGS
from primegpt.terminal import silent, to_stderr

# How the page may have a text written: without decay, since it shows what is drawn from as the temperature stands.
PAGE_SETTINGS = [name for name in SETTINGS if name not in DECAY]
OPEN = 4  # models kept in memory; the one that was used longest ago makes room


class Shelf:
    """Opens checkpoints of `folders` with `load(path, checkpoint)`, and keeps the last few."""

    def __init__(self, folders: Sequence[Path], load: Callable[[Path, int], Run]) -> None:
        self.folders = [RunFolder.open(Path(folder)) for folder in folders]
        self.load = load
        self.opened: OrderedDict[tuple[int, int], Run] = OrderedDict()

    def folder(self, run: int) -> RunFolder:
        """Raises UsageError for a number that no run has."""
        if not 0 <= run < len(self.folders):
            raise UsageError(f"there is no run number {run}", f"runs are numbered from 0 to {len(self.folders) - 1}")
        return self.folders[run]

    def steps(self, run: int) -> list[int]:
        """The checkpoints there are now, in order."""
        return list(list_checkpoints(self.folder(run).checkpoints_dir))

    def default_step(self, run: int) -> int:
        """That of the best checkpoint, or of the last where none is the best. Raises RunFolderError without any."""
        folder, steps = self.folder(run), self.steps(run)
        best = folder.best_step(to_stderr)
        if best in steps:
            return best
        folder.checkpoint_path("last")
        return steps[-1]

    def keep(self, run: int, opened: Run) -> None:
        """Take in a model that is open already."""
        self.opened[run, opened.step] = opened
        self.opened.move_to_end((run, opened.step))
        while len(self.opened) > OPEN:
            self.opened.popitem(last=False)

    def open(self, run: int, step: int | None = None) -> Run:
        """The model of a run at a step, by default its best. Raises UsageError, RunFolderError or CheckpointError."""
        folder = self.folder(run)
        step = self.default_step(run) if step is None else step
        opened = self.opened.get((run, step)) or self.load(folder.path, step)
        self.keep(run, opened)
        return opened

    def describe(self, run: int) -> dict[str, object]:
        """What the browser needs to know of a run before anything is computed."""
        opened = self.open(run)
        config, tokenizer, decoder = opened.model.config, opened.tokenizer, opened.generator("fp32")
        layout = opened.template.name if opened.template else "text"
        kinds = tokenizer.special_kinds if layout == "song" else {}
        return {
            "run": run,
            "name": self.folder(run).path.resolve().name,
            "step": opened.step,
            "template": layout,
            "genres": [plain_label(name, "genre") for name in kinds.get("genre", ())],
            "emotions": [plain_label(name, "emotion") for name in kinds.get("emotion", ())],
            "examples": examples(opened),
            "special": tokenizer.special_tokens,
            "banned": decoder.banned.tolist(),
            "stops": sorted(decoder.stop_ids),
            "vocab_size": tokenizer.vocab_size,
            "unit": opened.config.tokenizer.facts.unit,
            "fingerprint": tokenizer.fingerprint,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "block_size": config.block_size,
            "position": config.position,
            "parameters": sum(p.numel() for p in opened.model.parameters()),
            "generate": opened.config.generate.model_dump(
                mode="json", include={*PAGE_SETTINGS, "max_new_tokens", "stop_strings"}
            ),
            **self.progress(run),
        }

    def progress(self, run: int, after: int = 0) -> dict[str, object]:
        """How far a run is: its checkpoints, whether it trains, its metrics after the first `after` rows."""
        folder = self.folder(run)
        rows = folder.read_metrics()
        return {
            "steps": self.steps(run),
            "best": folder.pointed("best"),
            "training": folder.in_use(),
            "max_steps": self.planned_steps(run),
            "rows": len(rows),
            "metrics": [{key: row[key] for key in SHOWN if key in row} for row in rows[after:]],
        }

    def planned_steps(self, run: int) -> int | None:
        """The steps in all of a run that trains, as its newest checkpoint has them; None for others."""
        folder = self.folder(run)
        if not folder.in_use():
            return None
        try:
            newest = folder.load_newest(silent, (), resumable=False)
        except PrimegptError:  # it may go just as it is read
            return None
        return newest.state.get("train", {}).get("max_steps") if newest else None


LOSSES = ("val/loss", "val/bits_per_byte")
SHOWN = ("step", "tokens", "seconds", "tokens_per_sec", "train/loss", *LOSSES, *(EARLY + name for name in LOSSES))


def plain_label(name: str, kind: str) -> str:
    """ "<genre_rock>" → "rock": the label as a person writes it."""
    return name.strip("<>").removeprefix(f"{kind}_")
