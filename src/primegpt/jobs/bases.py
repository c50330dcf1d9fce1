"""What fine-tuning starts from, with rows for what is new, and what is forgotten by it.

That is a run, or a model of others: a Transformers folder, a GGUF file, an id on the hub.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from primegpt.config import TOKENIZER_KINDS, Config, ModelConfig, PlanRecord, write_toml
from primegpt.data.preparing.survey import Library, numbered
from primegpt.data.reading.sources import is_read_once, source_bytes
from primegpt.data.template import layout_for
from primegpt.errors import DataError, MismatchError, UsageError, quoted
from primegpt.inference.run import load_config
from primegpt.interop.families import VOCABULARY
from primegpt.interop.gguf_file import is_gguf
from primegpt.jobs.interop import carried_by, carry, imported_config, open_foreign, write_imported
from primegpt.jobs.text_loss import reading_of
from primegpt.run import atomic
from primegpt.run.checkpoint import Checkpoint
from primegpt.run.extensions import extension_in, open_extension
from primegpt.run.folder import RunFolder
from primegpt.run.saving import copy_weights
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer

POSITIONS = "wpe.weight"
BYTES_PER_TOKEN = 4  # or a little less, of usual text in pieces


@dataclass(frozen=True)
class Base:
    """A model to start from. `copy_to` makes a run of it at a path: weights only, as small as it can be."""

    name: str
    config: Config
    tokenizer: Tokenizer
    copy_to: Callable[[Path], None]
    has_text: bool = False
    """Whether its own validation text is known, so that it can be read again."""


def open_base(source: str | Path, checkpoint: str | int = "best", say: Say = to_stderr) -> Base:
    """The run at `source`, or the model in a folder of Transformers, a GGUF file or the hub. Raises UsageError."""
    path = Path(source)
    is_foreign = is_gguf(path) or (path / "config.json").exists()
    if is_foreign or (not path.exists() and not _near_runs(path)):
        foreign = open_foreign(source)
        return Base(str(source), imported_config(foreign), foreign.tokenizer, partial(write_imported, foreign))
    folder = RunFolder.open(path)
    tokenizer, saved = store.load(folder.tokenizer_dir), folder.load_checkpoint(checkpoint, say, (), lazily=True)
    config = load_config(folder, say, saved)
    extension = open_extension(folder, config) if config.model.own else None

    def copy_to(path: Path) -> None:
        copy = RunFolder.create(path)
        with copy.lock(), atomic.io_errors(f"write {path}"):
            step = copy_weights(saved.path, copy.checkpoints_dir)
            copy.point("best", step)
            copy.point("last", step)
            store.save(tokenizer, copy.tokenizer_dir)
            carry(carried_by(folder, say), copy)
            if extension:
                atomic.write_bytes_atomic(copy.extension_path, extension.source)
            elif config.model.extension:  # of parts that only training uses: the base does without
                with suppress(MismatchError):
                    atomic.write_bytes_atomic(copy.extension_path, extension_in(folder, config)[0])
            if folder.data_path.exists():
                atomic.write_bytes_atomic(copy.data_path, folder.data_path.read_bytes())
            atomic.write_text_atomic(copy.config_path, write_toml(config))  # last: until then it is no run
            copy.seal()

    return Base(str(source), config, tokenizer, copy_to, has_text=folder.data_path.exists())


def _near_runs(path: Path) -> bool:
    """Whether a path that does not exist was rather meant for a run than for a model of the hub."""
    return path.parent.is_dir() and any((other / "config.toml").exists() for other in path.parent.glob("*"))


def refuse_itself(base: str | Path, out: Path) -> None:
    """Raise UsageError where the new run would take the place of the one that it is to begin with."""
    if out.exists() and Path(base).exists() and out.samefile(base):
        raise UsageError(
            f"{out} is the model to begin with, and a new run there would replace it", "choose another --out"
        )


def require_base_text(base: Base, config: Config) -> None:
    """Raise DataError if `data.base_text` could not be read again: as the base reads it, before training and after."""
    if not (source := config.data.base_text):
        return
    if is_read_once(source):
        raise DataError(f"data.base_text = {quoted(source)} is a pipe, and it is read twice", "save it to a file")
    try:
        read = reading_of(base.config, source, tokenizer=base.tokenizer)
        layout = layout_for(read, base.tokenizer)
        for number, document in islice(numbered(Library(read, silent)), 1):
            if layout:
                layout.parts(document, number)
    except DataError as error:
        raise DataError(f"data.base_text: {error.what}", error.remedy) from None


def reread_targets(base: Base, config: Config) -> int:
    """About how many targets `forgetting` would ask each of the two models for."""
    if source := config.data.base_text:
        size = source_bytes([source], songs=config.data.songs) or 0
        by_character = TOKENIZER_KINDS[base.tokenizer.kind].unit == "character"
        return size if by_character else size // BYTES_PER_TOKEN
    return PlanRecord().reread_targets if base.has_text else 0


def base_weights(
    folder: RunFolder, config: Config, checkpoint: Checkpoint | None, say: Say
) -> dict[str, Tensor] | None:
    """What a fine-tuned run starts from, with rows for the ids that it adds.

    None for a run from scratch, and for one that goes on from a `checkpoint` that has all weights. Raises
    RunFolderError or MismatchError where base/ does not hold them.
    """
    plan, adapted = config.plan, config.lora.rank > 0
    by_an_earlier_version = adapted and checkpoint and not plan.run
    if (checkpoint and not adapted) or not (plan.base or folder.base_dir.exists() or by_an_earlier_version):
        return None
    base = folder.base(plan.base)
    saved = base.load_checkpoint("best", say, {"model"})
    return grown(saved.tensors["model"], load_config(base, say, saved).model, config.model)


def grown(weights: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> dict[str, Tensor]:
    """`weights` of the model `old` for the model `new`, which has more ids or a longer block and is the same otherwise.

    A new token starts as the mean of the old ones: as input it is like any of them, as output it is no likelier than
    they are on average, so that what the model writes hardly changes at first (Hewitt 2021, "Initializing new word
    embeddings for pretrained language models"). A new learnt position starts as the last one, its nearest.
    """
    result = dict(weights)
    for name in VOCABULARY:
        if name in weights and new.vocab_size > old.vocab_size:
            known = weights[name][: old.vocab_size]  # (V, C), without the padding
            rows = known.new_zeros(new.padded_vocab_size, known.size(1))
            rows[: old.vocab_size] = known
            rows[old.vocab_size : new.vocab_size] = known.mean(0)
            result[name] = rows
    if POSITIONS in weights and new.block_size > old.block_size:
        known = weights[POSITIONS]  # (block_size, C)
        result[POSITIONS] = torch.cat([known, known[-1:].expand(new.block_size - old.block_size, -1)])
    return result
