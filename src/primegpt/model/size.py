"""How large a model is, from its configuration alone: parameters and FLOPs, without building it.

Nothing here imports torch, so that lists of runs and reports are there at once; the tests compare every switch with the
model. Letters are those of gpt.py: T time, H query heads, K key/value heads, D head width.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from primegpt.config import Config, ModelConfig
from primegpt.errors import ConfigError

# Above this many logits at once (0.5 GB in fp32) the head runs in slices whose logits are recomputed in the backward
# pass: a third more products in the head alone, and a long batch with GPT-2's vocabulary fits. The slices are smaller
# than the limit (128 MB in fp32), because the room that each leaves in the heap is seldom one that the next fits in,
# and because they are not slower: the caches repay what is computed again (docs/experiments.md).
MAX_LOGITS, SLICE_LOGITS = 1 << 27, 1 << 25


def rows_of_logits(tokens: int, vocab_size: int) -> int:
    """Of how many of `tokens` there are logits at once."""
    return tokens if tokens * vocab_size <= MAX_LOGITS else max(1, SLICE_LOGITS // vocab_size)


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model learns, by where they are. A tied head is counted once, in `embedding`."""

    embedding: int  # tokens, padding rows included, and learnt positions
    attention: int
    mlp: int
    norms: int  # gains and biases of every norm, those of queries and keys included
    head: int  # 0 when tied

    @property
    def total(self) -> int:
        return self.non_embedding + self.embedding + self.head

    @property
    def non_embedding(self) -> int:
        """The blocks and the last norm: N of the scaling laws (Kaplan et al. 2020, arXiv:2001.08361)."""
        return self.attention + self.mlp + self.norms


def parameter_count(config: ModelConfig) -> int:
    """Number of learnt parameters: `sum(p.numel() for p in GPT(config).parameters())`.

    Raises ConfigError while `vocab_size` is unset, as everything here does that counts embeddings.
    """
    return parameter_breakdown(config).total


def parameter_breakdown(config: ModelConfig) -> Parameters:
    """The parameters by kind. Raises ConfigError while `vocab_size` is unset."""
    vocabulary = head_parameters(config)
    positions = config.block_size * config.n_embd if config.position == "learned" else 0
    return Parameters(
        embedding=vocabulary + positions,
        attention=config.n_layer * _attention_parameters(config),
        mlp=config.n_layer * _mlp_parameters(config),
        norms=_norm_parameters(config),
        head=0 if config.tie_embeddings else vocabulary,
    )


def attention_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of a block's attention matrices: the fused QKV projection and the one back."""
    q, kv = head_widths(config)
    return [(config.n_embd, q + 2 * kv), (q, config.n_embd)]


def mlp_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of a block's MLP matrices: up, for SwiGLU the gate, and down."""
    up, down = (config.n_embd, config.mlp_size), (config.mlp_size, config.n_embd)
    return [up, up, down] if config.mlp == "swiglu" else [up, down]


def block_matrix_parameters(config: ModelConfig) -> int:
    """Entries of the matrices inside all blocks: what Muon trains. In a part of an extension all numbers count."""
    shapes = {"attention": attention_shapes(config), "mlp": mlp_shapes(config)}
    known = config.extension_parameters
    each = (known.get(kind, _linear_parameters(of, bias=False)) for kind, of in shapes.items())
    return config.n_layer * sum(each)


def block_matrix_rows(config: ModelConfig) -> int:
    """Rows (outputs) of the matrices inside all blocks."""
    return config.n_layer * sum(outputs for _, outputs in attention_shapes(config) + mlp_shapes(config))


def lora_parameter_count(config: Config) -> int:
    """Parameters of the adapters of `config.lora`: rank (inputs + outputs) for each adapted matrix.

    Matrices in parts of an extension get none.
    """
    names = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", *(["mlp.c_gate"] if config.model.mlp == "swiglu" else [])]
    shapes = zip([*names, "mlp.c_proj"], attention_shapes(config.model) + mlp_shapes(config.model), strict=True)
    wanted = {target for target in config.lora.targets if not config.model.own_kind(target)}
    adapted = sum(sum(shape) for name, shape in shapes if name in wanted)
    return config.model.n_layer * config.lora.rank * adapted


def learning_parameter_count(config: Config) -> int:
    """Parameters that an optimizer moves: the adapters where there are some, else all."""
    return lora_parameter_count(config) if config.lora.rank else parameter_count(config.model)


def matmul_parameters(config: ModelConfig) -> int:
    """Entries of every matrix that a token is multiplied with: those in blocks and the head, tied or not.

    Looking up an embedding multiplies nothing.
    """
    return block_matrix_parameters(config) + head_parameters(config)


def forward_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of a forward pass, per token: 2 a matrix entry, and 4 H D T a layer for attention."""
    attention = 4 * config.n_layer * config.n_head * config.head_size * sequence_length
    return 2 * matmul_parameters(config) + attention


def flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of forward and backward pass, per token, as model FLOPs utilisation counts them.

    6 N + 12 n_layer H D T (PaLM: Chowdhery et al. 2022, arXiv:2204.02311, appendix B), N the matrix entries with the
    head. The backward pass costs twice the forward pass. By this convention attention counts as if it were not
    causal, and what activation checkpointing computes again is not counted.
    """
    return 3 * forward_flops_per_token(config, sequence_length)


def human_count(count: float) -> str:
    """A count in four digits: 10_650_000 → "10.65M"."""
    return _human(count, 4, ("", "K", "M", "B", "T"))


def human_bytes(count: float) -> str:
    """Bytes in three digits, decimal units: 1_210_000_000 → "1.21 GB"."""
    return _human(count, 3, (" B", " KB", " MB", " GB", " TB"))


def human_seconds(seconds: float) -> str:
    """90 → "1 min 30 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _human(count: float, digits: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        text = f"{count:.{digits}g}"
        if abs(float(text)) < 1000:
            return f"{float(text):g}{unit}"
        count /= 1000
    return f"{float(f'{count:.{digits}g}'):g}{units[-1]}"


def head_widths(config: ModelConfig) -> tuple[int, int]:
    """H D and K D: the width of all queries, and of all keys."""
    return config.n_head * config.head_size, config.kv_heads * config.head_size


def head_parameters(config: ModelConfig) -> int:
    if not config.vocab_size:
        raise ConfigError("model.vocab_size is not set", "it comes from the tokenizer: train or name one, or set it")
    return config.padded_vocab_size * config.n_embd


def _attention_parameters(config: ModelConfig) -> int:
    if "attention" in config.extension_parameters:
        return config.extension_parameters["attention"]
    into, back = attention_shapes(config)
    biased = config.biased_attention
    return _linear_parameters([into], biased != "none") + _linear_parameters([back], biased == "all")


def _mlp_parameters(config: ModelConfig) -> int:
    return config.extension_parameters.get("mlp", _linear_parameters(mlp_shapes(config), config.bias))


def _linear_parameters(shapes: Iterable[tuple[int, int]], bias: bool) -> int:
    return sum(inputs * outputs + (outputs if bias else 0) for inputs, outputs in shapes)


def _norm_parameters(config: ModelConfig) -> int:
    vectors = 2 if config.norm == "layernorm" and config.bias else 1  # gain and bias, or gain
    each = config.extension_parameters.get("norm", vectors * config.n_embd if config.norm_gain else 0)
    heads = 2 * config.head_size if config.qk_norm and config.norm_gain and "attention" not in config.own else 0
    wide = 2 * config.n_layer + (2 if config.embedding_norm else 1)
    return wide * each + config.n_layer * heads
