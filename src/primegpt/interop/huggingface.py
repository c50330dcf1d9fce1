"""Models in and out of Transformers folders, a tensor at a time.

folder = open_model("gpt2-folder")            # checked: names, shapes and types, before a weight is read
write_model(out, config, tokenizer, weights)  # AutoModelForCausalLM and AutoTokenizer open it, with no code of ours
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.config import Config, ModelConfig
from primegpt.errors import UsageError, nearest
from primegpt.interop import hf_config
from primegpt.interop.families import HUGGINGFACE, Family, Part, Weight, family_of, weight_table
from primegpt.interop.tokenizer_files import read_tokenizer, tokenizer_files
from primegpt.interop.weight_files import INDEX, RESTORE, WeightFiles, index_of, open_folder, read_json, shard
from primegpt.run import atomic
from primegpt.run.tensors import serialize_lazily
from primegpt.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2 * 10**9
VOCABULARY = ("wte.weight", "lm_head.weight")  # weights with a row an id
CONFIG, GENERATION = "config.json", "generation_config.json"
# Masks and angles that older versions of Transformers saved with the weights; they follow from the configuration.
BUFFERS = re.compile(r".*\.attn\.(bias|masked_bias)|.*\.rotary_emb\.inv_freq")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
HUB_FILES = ("*.json", "*.safetensors", "merges.txt", "vocab.bpe", "tokenizer.model")


# In


@dataclass(frozen=True)
class ForeignModel:
    """A Transformers folder whose every tensor is known to be there and to have the right shape.

    Attributes:
        model: our configuration of it; `vocab_size` is the tokenizer's, rows beyond it are padding.
        generate: what its generation_config.json says, as our [generate] section.
    """

    folder: Path
    family: Family
    model: ModelConfig
    generate: dict[str, Any]
    tokenizer: Tokenizer
    weights: WeightFiles
    table: dict[str, Weight]

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
            tensor[part.start : part.start + rows] = stored.T if weight.transposed else stored[:rows]
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
        raise UsageError(f"{folder} holds no {CONFIG}", "name a folder as Transformers saves it")
    family, model = hf_config.read_model_settings(read_json(folder, CONFIG), str(folder / CONFIG))
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
    return ForeignModel(folder, family, model, generate, tokenizer, weights, table)


def _checked_table(folder: Path, family: Family, model: ModelConfig, weights: WeightFiles) -> dict[str, Weight]:
    """Our weights by name, once it is certain that the files hold exactly what they are made of."""
    layout = HUGGINGFACE[family.name]
    layout = layout if f"{layout.wte}.weight" in weights.shapes else layout.without_prefix()
    table, used = {}, set()
    for weight in weight_table(model, family, layout):
        for part in weight.parts:
            if part.name not in weights.shapes:
                raise UsageError(f"{folder} lacks the tensor {part.name!r}", RESTORE)
            found, expected = tuple(weights.shapes[part.name].shape), weight.their_shape(part)
            where = weights.files[part.name]
            if found != expected:
                shapes = f"has the shape {list(found)}, config.json asks for {list(expected)}"
                raise UsageError(f"{where}: tensor {part.name!r} {shapes}", RESTORE)
            if not weights.shapes[part.name].is_floating_point():
                raise UsageError(f"{where}: tensor {part.name!r} does not hold floating-point numbers", RESTORE)
            used.add(part.name)
        table[weight.ours] = weight
    head = f"{layout.lm_head}.weight"
    if model.tie_embeddings and head in weights.shapes:
        _require_tied(weights, head, table["wte.weight"].parts[0].name)
        used.add(head)
    for name in sorted(weights.shapes.keys() - used):
        if not BUFFERS.fullmatch(name):
            raise UsageError(f"{weights.files[name]} holds the tensor {name!r}, which no {family.title} model has")
    return table


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
        raise UsageError(f"{source} is a file", "name the folder that it is in")
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


# Out


def write_model(
    out: Path,
    config: Config,
    tokenizer: Tokenizer,
    weights: WeightFiles,
    *,
    owner: str,
    shard_bytes: int = SHARD_BYTES,
) -> Family:
    """Write a Transformers folder at `out`, whole or not at all, and return the family it is of.

    `weights` are ours, by our names. Raises UsageError if the model (named `owner` in messages) or its tokenizer cannot
    be expressed, or if something is at `out`.
    """
    family = family_of(config.model, owner)
    refuse_unless_free(out)
    their_shapes, their_reader = exported(config.model, family, weights)
    shards = shard(their_shapes, shard_bytes)
    files: dict[str, Any] = {
        CONFIG: [atomic.canonical_json(hf_config.model_settings(config.model, family, tokenizer))],
        GENERATION: [atomic.canonical_json(hf_config.generation_settings(config.generate, tokenizer))],
        **{name: [content] for name, content in tokenizer_files(tokenizer, config.model.block_size).items()},
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
        tensor = weights.read(weight.ours, part.start, part.start + part.rows).float()
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
