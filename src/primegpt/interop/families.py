"""The architectures of others that ours can be: which switches they need, and what they call each weight.

A `Family` is an architecture (GPT-2, Llama, Qwen2). A `Layout` is how one kind of file names its modules. From both,
`weight_table` lists every weight once, and that one table serves import and export, GGUF and adapters.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from primegpt.config import ModelConfig
from primegpt.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Family:
    """An architecture that other programs know.

    Attributes:
        name: its `model_type` in Transformers, and its architecture in llama.cpp if that has it.
        title: its name in sentences.
        preset: the preset of ours whose switches it has, or nearly.
        switches: what the model's configuration must say for the function to be the same.
        attention_bias: which linear layers of attention have biases: "none", "qkv" or "all"; None: "none" or "all".
        mlp_bias: whether those of an MLP do; None where the configuration decides.
        norm_gain, norm_bias: whether its norms have weights.
    """

    name: str
    title: str
    preset: str
    switches: Mapping[str, Any]
    attention_bias: str | None = None
    mlp_bias: bool | None = False
    norm_gain: bool = True
    norm_bias: bool = False

    def differences(self, config: ModelConfig) -> list[str]:
        """What keeps `config` from being this architecture, each with what it would need."""
        found = [
            f"model.{key} = {getattr(config, key)!r} (there: {value!r})"
            for key, value in self.switches.items()
            if getattr(config, key) != value
        ]
        ours, theirs = config.biased_attention, self.attention_bias
        if ours == "qkv" if theirs is None else _BIASES.index(ours) > _BIASES.index(theirs):
            found.append(f"biases of attention = {ours!r} (there: {theirs or 'all or none'!r})")
        if config.bias and self.mlp_bias is False:
            found.append("model.bias = True (there: False)")
        if self is LLAMA and config.n_embd % config.n_head:
            found.append(f"model.n_head = {config.n_head} (there: a divisor of n_embd)")
        if self is GPT2 and config.kv_heads != config.n_head:
            found.append(f"model.n_kv_head = {config.n_kv_head} (there: model.n_head)")
        if self is GPT2 and config.head_size * config.n_head != config.n_embd:
            found.append(f"model.head_dim = {config.head_dim} (there: n_embd / n_head)")
        return found

    def has_bias(self, module: str, config: ModelConfig) -> bool:
        """Whether our linear layer `module` has a bias there; where ours has none, zeros are written."""
        if module.startswith("mlp"):
            return config.bias if self.mlp_bias is None else self.mlp_bias
        biased = self.attention_bias or config.biased_attention
        return biased == "all" or (biased == "qkv" and module == "attn.c_attn")


_BIASES = ("none", "qkv", "all")
_COMMON_SWITCHES: dict[str, Any] = {"attention": "softmax", "logit_softcap": None, "embedding_norm": False}
_LLAMA_SWITCHES = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "qk_norm": False, **_COMMON_SWITCHES}
_GPT2_SWITCHES = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "qk_norm": False, **_COMMON_SWITCHES}
_NANOCHAT_SWITCHES: dict[str, Any] = {
    "attention": "softmax",
    "norm": "rmsnorm",
    "norm_gain": False,
    "position": "rope",
    "mlp": "relu2",
    "qk_norm": True,
    "embedding_norm": True,  # else what follows depends on how long an embedding is
}

# A run without biases or gains is still a GPT-2: zeros and ones are written for them.
GPT2 = Family("gpt2", "GPT-2", "gpt2", _GPT2_SWITCHES, "all", mlp_bias=True, norm_bias=True)
QWEN3 = Family("qwen3", "Qwen3", "qwen3", {**_LLAMA_SWITCHES, "qk_norm": True})
LLAMA = Family("llama", "Llama", "llama", _LLAMA_SWITCHES, mlp_bias=None)
MISTRAL = Family("mistral", "Mistral", "mistral", _LLAMA_SWITCHES, "none")
QWEN2 = Family("qwen2", "Qwen2", "qwen2", _LLAMA_SWITCHES, "qkv")
NANOCHAT = Family("nanochat", "NanoChat", "prime", _NANOCHAT_SWITCHES, norm_gain=False)
FAMILIES = {family.name: family for family in (GPT2, QWEN3, LLAMA, MISTRAL, QWEN2, NANOCHAT)}


def family_of(
    config: ModelConfig, owner: str, program: str = "Transformers", among: Iterable[str] = FAMILIES
) -> Family:
    """The architecture that `config` is, of those that `program` has.

    Raises UsageError saying why `owner` is none of them, and what would be.
    """
    differences = {name: FAMILIES[name].differences(config) for name in among}
    nearest = FAMILIES[min(differences, key=lambda n: (len(differences[n]), FAMILIES[n].preset != config.preset))]
    if not differences[nearest.name]:
        return nearest
    what = f"{owner} is an architecture that {program} does not have; from {nearest.title} it differs in "
    remedy = f"train with --model.preset {nearest.preset} to export; `primegpt generate` uses this run as it is"
    for family in FAMILIES.values():
        if not family.differences(config):
            remedy = f"`--to hf` writes it as {family.title}; or train with --model.preset {nearest.preset}"
    raise UsageError(what + ", ".join(differences[nearest.name]), remedy)


@dataclass(frozen=True)
class Layout:
    """What one kind of file calls our modules.

    Attributes:
        wte, wpe, ln_f, lm_head: names of the modules outside the blocks.
        block: what the name of a block's module begins with, `{}` being the block's number.
        modules: ours -> theirs, inside a block; several where ours is one matrix for all of them.
        transposed: whether matrices (not embeddings) are stored (in, out).
        swapped: their modules whose rows stand with the halves of each head exchanged. Who turns a pair the other way
            (NanoChat) turns the exchanged pair our way, and products of queries and keys are the same.
    """

    wte: str
    wpe: str
    ln_f: str
    lm_head: str
    block: str
    modules: Mapping[str, tuple[str, ...]] = field(hash=False)
    transposed: bool = False
    swapped: tuple[str, ...] = ()

    def without_prefix(self) -> "Layout":
        """As the model is saved when it has no head: `wte` in place of `transformer.wte`."""
        cut = self.wte.split(".")[0] + "."
        names = {key: getattr(self, key).removeprefix(cut) for key in ("wte", "wpe", "ln_f", "block")}
        return replace(self, **names)


VOCABULARY = ("wte.weight", "lm_head.weight")  # our weights with a row an id
_GPT2_MODULES = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_LLAMA_LAYOUT = Layout(
    wte="model.embed_tokens",
    wpe="",
    ln_f="model.norm",
    lm_head="lm_head",
    block="model.layers.{}.",
    modules={
        "ln_1": ("input_layernorm",),
        "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attn.q_norm": ("self_attn.q_norm",),
        "attn.k_norm": ("self_attn.k_norm",),
        "attn.c_proj": ("self_attn.o_proj",),
        "ln_2": ("post_attention_layernorm",),
        "mlp.c_gate": ("mlp.gate_proj",),
        "mlp.c_fc": ("mlp.up_proj",),
        "mlp.c_proj": ("mlp.down_proj",),
    },
)
_NANOCHAT_MODULES = {
    **{ours: theirs for ours, theirs in _LLAMA_LAYOUT.modules.items() if ours.startswith("attn.c_")},
    "mlp.c_fc": ("mlp.fc1",),
    "mlp.c_proj": ("mlp.fc2",),
}
HUGGINGFACE = {
    "gpt2": Layout(
        wte="transformer.wte",
        wpe="transformer.wpe",
        ln_f="transformer.ln_f",
        lm_head="lm_head",
        block="transformer.h.{}.",
        modules={name: (name,) for name in _GPT2_MODULES},  # nanoGPT took its names from there, and we from nanoGPT
        transposed=True,  # their "Conv1D" is a linear layer stored the other way round
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _LLAMA_LAYOUT),
    "nanochat": replace(_LLAMA_LAYOUT, modules=_NANOCHAT_MODULES, swapped=("self_attn.q_proj", "self_attn.k_proj")),
}


@dataclass(frozen=True)
class Part:
    """One tensor of theirs: `rows` rows of ours, from `start` on.

    `swap` is the width of the heads whose halves are exchanged there; 0 where rows stand as ours do.
    """

    name: str
    start: int
    rows: int
    swap: int = 0

    def arrange(self, tensor: "Tensor") -> "Tensor":
        """Our rows in their order, or theirs in ours."""
        return exchange_halves(tensor, self.swap) if self.swap else tensor


def exchange_halves(tensor: "Tensor", width: int) -> "Tensor":
    """`tensor` with the first and the second half of each head's rows exchanged, heads being `width` rows."""
    return tensor.unflatten(0, (-1, 2, width // 2)).flip(1).flatten(0, 2)


@dataclass(frozen=True)
class Weight:
    """One weight of ours, and what it is made of in a foreign file.

    Attributes:
        ours: its name in `GPT.weights()`.
        shape: its shape in ours, the vocabulary's padding rows left out.
        parts: theirs, one below the other.
        transposed: whether theirs is stored (in, out).
        default: the value of all its elements where our model has no such weight.
    """

    ours: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    transposed: bool = False
    default: float = 0.0

    def their_shape(self, part: Part) -> tuple[int, ...]:
        shape = (part.rows, *self.shape[1:])
        return shape[::-1] if self.transposed else shape


def weight_table(config: ModelConfig, family: Family, layout: Layout) -> Iterator[Weight]:
    """Every weight of a model of that family, in reading order. Lazy: a hostile `n_layer` costs nothing by itself."""
    c = config
    yield _whole("wte.weight", (c.vocab_size, c.n_embd), f"{layout.wte}.weight")
    if c.position == "learned":
        yield _whole("wpe.weight", (c.block_size, c.n_embd), f"{layout.wpe}.weight")
    for layer in range(c.n_layer):
        for module, width in norms(c).items() if family.norm_gain else ():
            name = layout.block.format(layer) + layout.modules[module][0]
            yield _whole(f"h.{layer}.{module}.weight", (width,), f"{name}.weight", 1.0)
            if family.norm_bias:
                yield _whole(f"h.{layer}.{module}.bias", (width,), f"{name}.bias")
        for module, (rows, columns) in linears(c).items():
            names = [layout.block.format(layer) + name for name in layout.modules[module]]
            ours, rows = f"h.{layer}.{module}", rows if len(names) == len(rows) else (sum(rows),)
            swaps = [c.head_size if name in layout.swapped else 0 for name in layout.modules[module]]
            parts = _stack([f"{name}.weight" for name in names], rows, swaps)
            yield Weight(f"{ours}.weight", (sum(rows), columns), parts, layout.transposed)
            if family.has_bias(module, c):
                yield Weight(f"{ours}.bias", (sum(rows),), _stack([f"{name}.bias" for name in names], rows, swaps))
    if family.norm_gain:
        yield _whole("ln_f.weight", (c.n_embd,), f"{layout.ln_f}.weight", 1.0)
    if family.norm_bias:
        yield _whole("ln_f.bias", (c.n_embd,), f"{layout.ln_f}.bias")
    if not c.tie_embeddings:
        yield _whole("lm_head.weight", (c.vocab_size, c.n_embd), f"{layout.lm_head}.weight")


def norms(config: ModelConfig) -> dict[str, int]:
    """The norms of a block, and the width of each."""
    heads = {"attn.q_norm": config.head_size, "attn.k_norm": config.head_size} if config.qk_norm else {}
    return {"ln_1": config.n_embd, **heads, "ln_2": config.n_embd}


def linears(config: ModelConfig) -> dict[str, tuple[tuple[int, ...], int]]:
    """The linear layers of a block: rows (of queries, keys and values, where they are one matrix), and columns."""
    C, D, inner = config.n_embd, config.head_size, config.mlp_size
    gate = {"mlp.c_gate": ((inner,), C)} if config.mlp == "swiglu" else {}
    return {
        "attn.c_attn": ((config.n_head * D, config.kv_heads * D, config.kv_heads * D), C),
        "attn.c_proj": ((C,), config.n_head * D),
        **gate,
        "mlp.c_fc": ((inner,), C),
        "mlp.c_proj": ((C,), inner),
    }


def _whole(ours: str, shape: tuple[int, ...], theirs: str, default: float = 0.0) -> Weight:
    return Weight(ours, shape, (Part(theirs, 0, shape[0]),), default=default)


def _stack(names: list[str], rows: tuple[int, ...], swaps: list[int]) -> tuple[Part, ...]:
    starts = [sum(rows[:i]) for i in range(len(rows))]
    return tuple(Part(*part) for part in zip(names, starts, rows, swaps, strict=True))
