"""Models in from GGUF files, a tensor at a time.

model = open_model(Path("SmolLM2-135M-Q8_0.gguf"))  # checked: names, shapes and types, before a weight is read

What the metadata says is put into the words of a config.json, and read by those who read that: each setting that we do
not have is refused in one place, wherever it comes from.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.config import ModelConfig
from primegpt.config.sections import MAX_FACTOR
from primegpt.errors import RESTORE, UsageError, listed, quoted
from primegpt.interop import hf_config
from primegpt.interop.chat_template import layout_of
from primegpt.interop.families import GPT2, LLAMA, MISTRAL, Family, weight_table
from primegpt.interop.gguf import FREQUENCIES, GGUF, frequency_divisors
from primegpt.interop.gguf_file import GGUFFile
from primegpt.interop.gguf_tokenizer import read_tokenizer
from primegpt.interop.huggingface import ForeignModel
from primegpt.interop.weight_files import StoredTensors, checked_table
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.gguf_vocabulary import TEMPLATE

if TYPE_CHECKING:
    from torch import Tensor

HEAD, EMBEDDING = "output.weight", "token_embd.weight"
ARCHITECTURES = [name for name in GGUF if name != MISTRAL.name]  # a Mistral is a "llama" there

# GGUF's keys after the architecture's name -> config.json's
_GPT2_KEYS = {
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
_LLAMA_KEYS = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_OPTIONAL = {"attention.head_count_kv", "attention.key_length", "rope.freq_base"}  # llama.cpp has a default for them
_CHECKED = {"attention.head_count_kv", "attention.value_length", "rope.dimension_count", "attention.causal"}
_SAID_ELSEWHERE = {"vocab_size"}  # by the shape of the embedding
_SCALING = "rope.scaling."


def open_model(path: Path, tokenizer: Tokenizer | None = None) -> ForeignModel:
    """Read and check a GGUF file but for the weights' values.

    `tokenizer` takes the place of the file's own. Raises UsageError, one line that names the key or the tensor, for an
    architecture, a setting, a tokenizer or a file that cannot be used.
    """
    file = GGUFFile(path)
    family, model = _read_settings(file)
    also = {FREQUENCIES} if model.position == "rope" else set()
    expected = weight_table(model, family, GGUF[family.name])
    table = checked_table(file, expected, path, "its metadata", family, also)
    tokenizer = tokenizer or read_tokenizer(file.metadata, str(path))
    if tokenizer.vocab_size > model.vocab_size:
        what = f"{path}: the tokenizer has {tokenizer.vocab_size} ids, the model only {model.vocab_size}"
        raise UsageError(what, "they do not belong together")
    model = model.model_copy(update={"vocab_size": tokenizer.vocab_size})  # what lies beyond is padding, like ours
    weights: StoredTensors = _Halves(file, model.head_size) if family is LLAMA else file
    layout = layout_of(file.metadata.get(TEMPLATE), tokenizer)
    return ForeignModel(path, family, model, {}, tokenizer, weights, table, origin="gguf", layout=layout)


class _Halves:
    """The tensors of a file of the architecture "llama", for which alone llama.cpp rotates neighbours in each head.

    Its rows of queries and keys stand as (x[0], x[D/2], x[1], …), and are given back as (x[0], x[1], …, x[D/2], …).
    """

    def __init__(self, file: GGUFFile, head_size: int) -> None:
        self.file, self.head_size = file, head_size
        self.shapes, self.files = file.shapes, file.files

    def read(self, name: str) -> "Tensor":
        tensor = self.file.read(name)
        if name.split(".")[-2] not in ("attn_q", "attn_k"):
            return tensor
        pairs = tensor.view(-1, self.head_size // 2, 2, *tensor.shape[1:])
        return pairs.transpose(1, 2).reshape(tensor.shape)


def _read_settings(file: GGUFFile) -> tuple[Family, ModelConfig]:
    """The family and the model that the metadata describes. Raises UsageError for what we do not have."""
    where, metadata = str(file.path), file.metadata
    _refuse_parts(where, metadata)
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        what = f"{where}: general.architecture = {quoted(name)} cannot be imported"
        raise UsageError(what, f"primegpt holds {listed(ARCHITECTURES, str)}")
    settings = _Keys(where, name, metadata)
    values: dict[str, Any] = {"model_type": name, "vocab_size": len(file.shapes.get(EMBEDDING, ()))}
    if not values["vocab_size"]:
        raise UsageError(f"{where} lacks the tensor {EMBEDDING!r}", RESTORE)
    values["tie_word_embeddings"] = HEAD not in file.shapes
    if name == GPT2.name:
        keys = _GPT2_KEYS
        values |= settings.translated(keys) | dict.fromkeys(hf_config.GPT2_DROPOUTS, 0.0)
        settings.require("attention.head_count_kv", values["n_head"])
    else:
        keys = _LLAMA_KEYS
        values |= settings.translated(keys)
        values |= {"num_key_value_heads": values["num_attention_heads"]} | values  # where nothing is said
        values |= {"head_dim": values["hidden_size"] // max(1, values["num_attention_heads"])} | values
        values |= settings.scaled_rotation()
        settings.require("attention.value_length", values["head_dim"])
        settings.require("rope.dimension_count", values["head_dim"])
        if name == LLAMA.name:
            biased = (("attention_bias", "attn_q"), ("mlp_bias", "ffn_up"))
            values |= {key: f"blk.0.{layer}.bias" in file.shapes for key, layer in biased}
    settings.require("attention.causal", True)
    settings.refuse_others(keys)
    family, model = hf_config.read_model_settings(values, where)
    return family, _with_divisors(file, model)


def _with_divisors(file: GGUFFile, model: ModelConfig) -> ModelConfig:
    """`model` with its rotary positions stretched, if the file divides frequencies as those of Llama 3 are."""
    if FREQUENCIES not in file.shapes or model.position != "rope":
        return model
    if tuple(file.shapes[FREQUENCIES].shape) == (model.head_size // 2,):
        divisors = file.read(FREQUENCIES).numpy()
        if (divisors == 1).all():
            return model
        if divisors.min() > 0 and 1 <= divisors.max() < MAX_FACTOR:
            stretch = {"rope_type": "llama3", "rope_factor": float(divisors.max())}
            stretched = model.model_copy(update=stretch)  # the rest is what Llama 3 has, and our defaults
            if model.rope_type == "default" and abs(frequency_divisors(stretched) / divisors - 1).max() < 1e-4:
                return stretched
    raise UsageError(f"{file.path}: {FREQUENCIES} scales its rotary positions", "primegpt has Llama 3's way only")


def _refuse_parts(where: str, metadata: Mapping[str, Any]) -> None:
    """Raise UsageError for a file that is not a whole model by itself."""
    parts = _single(where, "split.count", metadata.get("split.count", 1))
    if parts not in (0, 1):
        what = f"{where} is one of {quoted(parts)} parts of a model"
        raise UsageError(what, "join them: llama-gguf-split --merge FIRST-PART OUT.gguf")
    kind = _single(where, "general.type", metadata.get("general.type", "model"))
    if kind != "model":
        raise UsageError(f"{where} holds {quoted(kind)}, not a model", "name the model's own file")


def _single(where: str, key: str, value: Any) -> int | float | str:
    """`value`, once it is certain that it is no list."""
    if not isinstance(value, int | float | str):
        raise UsageError(f"{where}: {key} is a list, where one value is expected", RESTORE)
    return value


class _Keys:
    """The keys of an architecture, of unknown origin."""

    def __init__(self, where: str, name: str, metadata: Mapping[str, Any]) -> None:
        self.where, self.prefix = where, f"{name}."
        self.values = {
            key.removeprefix(self.prefix): value for key, value in metadata.items() if key.startswith(self.prefix)
        }

    def translated(self, keys: Mapping[str, str]) -> dict[str, Any]:
        """config.json's words for `keys`, each one number. Raises UsageError if one is missing, or is none."""
        found = {}
        for key, theirs in keys.items():
            if key not in self.values and key in _OPTIONAL:
                continue
            value = self.values.get(key)
            if not isinstance(value, int | float) or isinstance(value, bool):
                said = "is missing" if value is None else f"= {quoted(value)} is not one number for all layers"
                raise UsageError(f"{self.where}: {self.prefix}{key} {said}", "primegpt holds models of equal layers")
            found[theirs] = value
        return found

    def scaled_rotation(self) -> dict[str, Any]:
        """What is said of rotary positions for longer contexts, as config.json has it."""
        said = {key.removeprefix(_SCALING): self.single(key) for key in self.values if key.startswith(_SCALING)}
        kind = said.pop("type", "linear" if said.get("factor") else "none")  # as llama.cpp has it
        return {} if kind == "none" else {"rope_scaling": {"rope_type": kind, **said}}

    def single(self, key: str, default: Any = None) -> int | float | str:
        """The one value of `key`. Raises UsageError for a list."""
        return _single(self.where, f"{self.prefix}{key}", self.values.get(key, default))

    def require(self, key: str, expected: Any) -> None:
        value = self.single(key, expected)
        if value != expected:
            what = f"{self.where}: {self.prefix}{key} = {quoted(value)} is not supported"
            raise UsageError(what, f"primegpt has {expected} here only")

    def refuse_others(self, keys: Mapping[str, str]) -> None:
        """Raise UsageError for a setting that might make it another function."""
        for key, value in self.values.items():
            known = key in {*keys, *_CHECKED, *_SAID_ELSEWHERE} or key.startswith(_SCALING)
            nothing = isinstance(value, int | float | str) and not value
            if not known and not nothing:
                what = f"{self.where}: {self.prefix}{key} = {quoted(value)} is not supported"
                raise UsageError(what, "primegpt has no such setting")
