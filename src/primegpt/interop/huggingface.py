"""Models in and out of Transformers folders, a tensor at a time.

folder = open_model("gpt2-folder")            # checked: names, shapes and types, before a weight is read
write_model(out, config, tokenizer, weights)  # AutoModelForCausalLM and AutoTokenizer open it, with no code of ours
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from primegpt.config import Config, ModelConfig
from primegpt.errors import UsageError, nearest
from primegpt.interop import chat_template, hf_config
from primegpt.interop.carried import GENERATION, LICENCES, generation_config, read_carried
from primegpt.interop.families import (
    GPT2,
    HUGGINGFACE,
    VOCABULARY,
    Family,
    Layout,
    Part,
    Weight,
    family_of,
    weight_table,
)
from primegpt.interop.tokenizer_files import read_tokenizer, tokenizer_files
from primegpt.interop.weight_files import (
    INDEX,
    StoredTensors,
    WeightFiles,
    checked_table,
    index_of,
    is_pickle,
    open_folder,
    read_json,
    shard,
)
from primegpt.run import atomic
from primegpt.run.tensors import serialize_lazily
from primegpt.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2 * 10**9
CONFIG = "config.json"
# Masks and angles that older versions of Transformers saved with the weights; they follow from the configuration.
BUFFERS = re.compile(r".*\.attn\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
# What torch.compile, DDP, FSDP and activation checkpointing put before the names of modules, or into them.
WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HUB_FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.bpe", "tokenizer.model", "*.tiktoken", chat_template.FILE)
HUB_FILES += (*LICENCES, *(name.lower() for name in LICENCES))


# In


@dataclass(frozen=True)
class ForeignModel:
    """A model of others whose every tensor is known to be there and to have the right shape.

    Attributes:
        folder: where it is, a Transformers folder or a GGUF file.
        model: our configuration of it; `vocab_size` is the tokenizer's, rows beyond it are padding.
        generate: what its generation_config.json says, as our [generate] section.
        carried: files that go out with it again.
        left_out: how many of its last positions are not in `model`, since attention slides there.
        layout: the name of the layout of conversations that it was trained with, if it is one of ours.
    """

    folder: Path
    family: Family
    model: ModelConfig
    generate: dict[str, Any]
    tokenizer: Tokenizer
    weights: StoredTensors
    table: dict[str, Weight]
    origin: Literal["transformers", "gguf"] = "transformers"
    carried: Mapping[str, bytes] = field(default_factory=dict)
    left_out: int = 0
    layout: str | None = None

    def shapes(self) -> "dict[str, Tensor]":
        """Our weights by name, fp32, without storage; the vocabulary padded as our model wants it."""
        import torch

        return {name: torch.empty(self._shape(weight), device="meta") for name, weight in self.table.items()}

    def read(self, name: str) -> "Tensor":
        """Our weight `name`, made from theirs: fp32, (out, in), padding rows zero."""
        import torch

        weight = self.table[name]
        tensor = torch.zeros(self._shape(weight))
        for part in weight.parts:
            rows = self.model.vocab_size if name in VOCABULARY else part.rows
            stored = self.weights.read(part.name)
            tensor[part.start : part.start + rows] = part.arrange(stored.T if weight.transposed else stored[:rows])
        return tensor

    def _shape(self, weight: Weight) -> tuple[int, ...]:
        padded = (self.model.padded_vocab_size, *weight.shape[1:])
        return padded if weight.ours in VOCABULARY else weight.shape


def open_model(folder: Path, tokenizer: Tokenizer | None = None) -> ForeignModel:
    """Read and check a Transformers folder but for the weights' values. Nothing in it is executed.

    `tokenizer` takes the place of the folder's own. Raises UsageError, one line that names the file or the tensor, for
    an architecture, a setting, a tokenizer or a file that cannot be used.
    """
    if not (folder / CONFIG).exists():
        files = sorted(folder.glob("*.gguf"))
        other = f"name the GGUF file itself, {files[0]}" if files else "name a folder as Transformers saves it"
        raise UsageError(f"{folder} holds no {CONFIG}", other)
    values = read_json(folder, CONFIG)
    family, model = hf_config.read_model_settings(values, str(folder / CONFIG))
    left_out = 0 if family is GPT2 else values["max_position_embeddings"] - model.block_size
    generate: dict[str, Any] = {}
    if (folder / GENERATION).exists():
        where = str(folder / GENERATION)
        generate = hf_config.read_generation_settings(read_json(folder, GENERATION), where)
    weights = open_folder(folder)
    table = _checked_table(folder, family, model, weights)
    tokenizer = tokenizer or read_tokenizer(folder)
    if tokenizer.vocab_size > model.vocab_size:
        what = f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {model.vocab_size}"
        raise UsageError(what, "they do not belong together")
    model = model.model_copy(update={"vocab_size": tokenizer.vocab_size})  # what lies beyond is padding, like ours
    layout = chat_template.layout_of(chat_template.read_template(folder), tokenizer)
    return ForeignModel(
        *(folder, family, model, generate, tokenizer, weights, table),
        carried=read_carried(folder),
        left_out=left_out,
        layout=layout,
    )


def _checked_table(folder: Path, family: Family, model: ModelConfig, weights: WeightFiles) -> dict[str, Weight]:
    """Our weights by name, once it is certain that the files hold exactly what they are made of."""
    layout = _layout_of(weights, HUGGINGFACE[family.name])
    head = f"{layout.lm_head}.weight"
    has_copy = model.tie_embeddings and head in weights.shapes
    also = {name for name in weights.shapes if BUFFERS.fullmatch(name)} | ({head} if has_copy else set())
    table = checked_table(weights, weight_table(model, family, layout), folder, CONFIG, family, also)
    if has_copy:
        _require_tied(weights, head, table["wte.weight"].parts[0].name)
    return table


def _layout_of(weights: WeightFiles, layout: Layout) -> Layout:
    """`layout`, or what it is without a head, once the names are without what a wrapper has put before or into them."""
    weights.rename(lambda name: WRAPPERS.sub("", name))
    for known in (layout, layout.without_prefix()):
        embedding = f"{known.wte}.weight"
        if embedding in weights.shapes:
            return known
        found = [name for name in weights.shapes if name.endswith(f".{embedding}")]
        if len(found) == 1:
            weights.rename(methodcaller("removeprefix", found[0].removesuffix(embedding)))
            return known
    return layout.without_prefix()


def refuse_non_finite(model: ForeignModel) -> None:
    """Raise UsageError, naming the tensor, for a weight that is NaN or infinite. Reads every weight once."""
    import torch

    for weight in model.table.values():
        for part in weight.parts:
            wrong = int((~torch.isfinite(model.weights.read(part.name).float())).sum())
            if wrong:
                what = f"{model.weights.files[part.name]}: tensor {part.name!r} holds {wrong:,} NaN or infinite values"
                raise UsageError(what, "its training diverged, or the file is damaged: take another checkpoint")


def _require_tied(weights: WeightFiles, head: str, embedding: str) -> None:
    same = weights.shapes[head].shape == weights.shapes[embedding].shape
    if not same or not weights.read(head).equal(weights.read(embedding)):
        what = f"{weights.files[head]}: tensor {head!r} differs from {embedding!r}, yet config.json ties them"
        raise UsageError(what, "set tie_word_embeddings to false in config.json if they are meant to differ")


def find_folder(source: str) -> Path:
    """The folder that `source` names, or that the hub id `source` was downloaded to. Raises UsageError."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise _refused_file(path)
    if not HUB_ID.fullmatch(source) or source.startswith(("runs/", "./")):
        siblings = [str(entry) for entry in path.parent.glob("*") if entry.is_dir()] if path.parent.is_dir() else []
        raise UsageError(f"there is no folder {source}", nearest(source, siblings) if siblings else "check the path")
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(source, allow_patterns=list(HUB_FILES), ignore_patterns=["*/*"]))
    except Exception as error:  # the library's own errors are of many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"there is no folder {source}, and it could not be fetched from the Hugging Face hub ({reason})"
        raise UsageError(what, "download it where there is a network, and name its folder") from error


def _refused_file(path: Path) -> UsageError:
    """What is said of a file in place of a folder: what it is, and the way that keeps its tokenizer."""
    if is_pickle(path) and not (path.parent / CONFIG).exists():
        what = f"{path} is a pickle, which could run code when it is opened, and no {CONFIG} beside it says what it is"
        return UsageError(what, "docs/interop.md has the script that makes a folder, tokenizer included, of nanoGPT's")
    return UsageError(f"{path} is a file", f"name the folder that it is in, {path.parent}")


# Out


def write_model(
    out: Path,
    config: Config,
    tokenizer: Tokenizer,
    weights: WeightFiles,
    *,
    owner: str,
    shard_bytes: int = SHARD_BYTES,
    carried: Mapping[str, bytes] = MappingProxyType({}),
) -> Family:
    """Write a Transformers folder at `out`, whole or not at all, and return the family it is of.

    `weights` are ours, by our names; `carried` came along with the model that it began from. Raises UsageError if
    the model (named `owner` in messages) or its tokenizer cannot be expressed, or if something is at `out`.
    """
    family = family_of(config.model, owner)
    refuse_unless_free(out)
    template = chat_template.chat_template(config.data, tokenizer)
    their_shapes, their_reader = exported(config.model, family, weights)
    shards = shard(their_shapes, shard_bytes)
    files: dict[str, Any] = {
        CONFIG: [atomic.canonical_json(hf_config.model_settings(config.model, family, tokenizer))],
        **{name: [content] for name, content in carried.items()},
        GENERATION: [generation_config(config, tokenizer, carried)],
        **{name: [content] for name, content in tokenizer_files(tokenizer, config.model.block_size).items()},
        **({chat_template.FILE: [template.encode()]} if template else {}),
    }
    for name, tensors in shards.items():
        files[name] = serialize_lazily({tensor: their_shapes[tensor] for tensor in tensors}, their_reader)
    if len(shards) > 1:
        files[INDEX] = [atomic.canonical_json(index_of(shards, their_shapes))]
    write_folder(out, files)
    return family


def exported(
    model: ModelConfig, family: Family, weights: WeightFiles
) -> "tuple[dict[str, Tensor], Callable[[str], Tensor]]":
    """Their tensors by name: shapes without storage, and a function that makes one when it is needed. All fp32."""
    import torch

    parts: dict[str, tuple[Weight, Part]] = {}
    for weight in weight_table(model, family, HUGGINGFACE[family.name]):
        parts |= {part.name: (weight, part) for part in weight.parts}

    def read_theirs(name: str) -> "Tensor":
        weight, part = parts[name]
        if weight.ours not in weights.shapes:
            return torch.full(weight.their_shape(part), weight.default)
        tensor = part.arrange(weights.read(weight.ours, part.start, part.start + part.rows).float())
        return tensor.T.contiguous() if weight.transposed else tensor

    their_shapes = {name: torch.empty(w.their_shape(part), device="meta") for name, (w, part) in parts.items()}
    return their_shapes, read_theirs


def refuse_unless_free(out: Path) -> None:
    """Raise UsageError if something is at `out` that would be lost."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise UsageError(f"{out} is already there", "choose another place with --out")


def write_folder(out: Path, files: Mapping[str, Any]) -> None:
    """A new folder with `files` (name -> chunks of bytes), whole or not at all. Raises PrimegptError."""
    temporary = atomic.temporary_name(out)
    with atomic.io_errors(f"write {out}"):
        atomic.make_folder(out.parent)
        atomic.remove(temporary)
        try:
            temporary.mkdir()
            for name, chunks in files.items():
                atomic.write_synced(temporary / name, chunks)
            atomic.sync_folder(temporary)
            if out.is_dir():  # an empty one: Windows renames onto nothing
                out.rmdir()
            temporary.rename(out)
            atomic.sync_folder(out.parent)
        except BaseException:
            atomic.remove(temporary)
            raise
