"""What fine-tuning starts from: a run, or a model of Transformers; and how much of it is forgotten."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from primegpt.api.evaluation import loss_of_text, own_corpus
from primegpt.api.interop import imported_config, open_foreign, write_imported
from primegpt.api.runs import Run, Say, load, load_config, to_stderr
from primegpt.config import Config
from primegpt.data.feed import fixed_batches
from primegpt.errors import PrimegptError
from primegpt.evaluation.perplexity import evaluate_loss
from primegpt.run import atomic
from primegpt.run.folder import RunFolder
from primegpt.run.retention import copy_weights
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer

REREAD = 100_000  # targets of its own validation text that a base model is asked for, before and after


@dataclass(frozen=True)
class Base:
    """A model to start from. `copy_to` makes a run of it at a path: weights only, as small as it can be."""

    name: str
    config: Config
    tokenizer: Tokenizer
    copy_to: Callable[[Path], None]


def open_base(source: str | Path, checkpoint: str | int = "best", say: Say = to_stderr) -> Base:
    """The run at `source`, or the model in a folder of Transformers (or of the hub). Raises UsageError if neither."""
    if (Path(source) / "config.json").exists() or (not Path(source).exists() and not _near_runs(Path(source))):
        foreign = open_foreign(source)
        return Base(str(source), imported_config(foreign), foreign.tokenizer, partial(write_imported, foreign))
    folder = RunFolder.open(Path(source))
    config, tokenizer = load_config(folder), store.load(folder.tokenizer_dir)
    saved = folder.verified_checkpoint(checkpoint, say)

    def copy_to(path: Path) -> None:
        copy = RunFolder.create(path)
        with copy.lock(), atomic.io_errors(f"write {path}"):
            step = copy_weights(saved, copy.checkpoints_dir)
            copy.point("best", step)
            copy.point("last", step)
            store.save(tokenizer, copy.tokenizer_dir)
            for name in (folder.data_path.name, folder.config_path.name):  # config.toml last: until then it is no run
                if (folder.path / name).exists():
                    atomic.write_bytes_atomic(path / name, (folder.path / name).read_bytes())

    return Base(str(source), config, tokenizer, copy_to)


def _near_runs(path: Path) -> bool:
    """Whether a path that does not exist was rather meant for a run than for a model of the hub."""
    return path.parent.is_dir() and any((other / "config.toml").exists() for other in path.parent.glob("*"))


def forgetting(run: Run, say: Say = to_stderr) -> dict[str, Any] | None:
    """The loss on the base model's text before and after fine-tuning, in nats per token; None if there is no text.

    The text is `data.base_text`, or what the base run held out for its own validation.
    """
    base = load(run.folder.base_dir, say=lambda line: None)
    source = run.config.data.base_text
    try:
        if source:
            before, after = (loss_of_text(each, source, say=say)["loss"] for each in (base, run))
        elif base.folder.data_path.exists():
            source = "the base run's validation text"
            before, after = (_loss_on_own_text(each, base) for each in (base, run))
        else:
            return None
    except PrimegptError as error:  # the text is gone: a pity, but nothing that the new model needs
        say(f"{'base text':<10} not read again: {error}")
        return None
    return {"source": source, "before": before, "after": after}


def _loss_on_own_text(run: Run, base: Run) -> float:
    corpus = own_corpus(base, lambda line: None)
    batches = fixed_batches(base.config, corpus.val, REREAD)
    device = run.model.wte.weight.device.type
    return evaluate_loss(run.model, batches, text_bytes=corpus.val_bytes, device=device).loss
