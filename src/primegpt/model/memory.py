"""The memory that training and generation need, forecast from the configuration alone. Nothing here imports torch."""

from dataclasses import dataclass

from primegpt.config import Config, ModelConfig
from primegpt.model.size import (
    attention_shapes,
    block_matrix_parameters,
    block_matrix_rows,
    head_parameters,
    head_widths,
    learning_parameter_count,
    lora_parameter_count,
    matmul_parameters,
    mlp_shapes,
    parameter_breakdown,
    parameter_count,
    rows_of_logits,
)

# Holes between tensors of unlike sizes: resident memory peaks this share above what is alive (glibc, measured:
# 11 to 31%).
ALLOCATOR_OVERHEAD = 0.2

# The tensors of the logits are the largest. On a CPU they come from the heap that training keeps (hugepages.py),
# and what is made after them and stays, above all gradients, stands in the room that they had: then the next ones do
# not fit there. As shares of them, where a step makes them once (measured: 0.38), in several micro-batches (1.0, but by
# chance from 0.6 to 1.7 in one and the same program) and in slices (1.4 to 2.6 in bf16, 4.3 to 5.6 in fp32;
# docs/experiments.md, "What logits leave behind").
HOLES_ONCE, HOLES_AGAIN, HOLES_SLICES, HOLES_SLICES_FP32 = 0.4, 1.2, 2.3, 4.8

# Muon's update holds, for each entry of the matrices inside blocks, its direction before and after it is made
# orthogonal, and the batch of equal shapes at work, which is about two thirds of them in fp32 twice.
MUON_STEP_BYTES = 12

SMALL_WEIGHTS = 64 * 2**20  # bytes that the caches hold: there a smaller number format gains nothing in decoding

# As in quantize.py. int8: a byte, and for each output scales, an offset and the sum of its weights. int4: half a byte
# and, for 32 inputs, 4 bytes of scale and offset; inputs and outputs that are no multiples of these are int8.
INT8_OUTPUT_BYTES = 16
INT4_BYTES, INT4_INPUTS, INT4_OUTPUTS = 0.625, 32, 16


# Python, torch, and the kernels that a first step loads (measured: 450 to 490 MB on Linux, whatever the model).
PROCESS_BYTES = 470_000_000

ROTATION_BYTES = 16  # a position and half a head's numbers: cosines, sines and their negatives, as they are made
BATCH_BYTES = 32  # a token of a step: its id, its target, and what both are gathered in


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step, by what they hold, and their peak.

    `total` is less than the sum may be: gradients come into being while activations go. It includes the allocator's
    overhead, but not what the process held before there was a model (Python, torch, a CUDA context, the data).
    """

    weights: int
    weight_copies: int  # 16-bit ones, made and cached by autocast
    gradients: int
    optimizer: int
    activations: int  # what autograd keeps from the forward pass for the backward pass
    logits: int  # with their log-probabilities and gradients
    total: int


@dataclass(frozen=True)
class InferenceMemory:
    """Bytes of generation, by what they hold; `total` is the peak from loading on, with the allocator's overhead."""

    weights: int  # in fp32, as they were learnt
    weight_copies: int  # in the layout and the number format that decode fastest
    kv_cache: int
    activations: int  # of the widest moment of a prefill of the whole length
    logits: int
    total: int


def training_memory(config: Config) -> Memory:
    """The peak of one optimizer step of `config.model` under `config.train`, in bytes.

    Counts eager execution, fp32 weights and gradients, and a micro-batch of full windows; `auto` counts as what it
    becomes on hardware with bf16 units: bf16, and fused attention. On Linux CPUs this is within 25% of how far resident
    memory grows (tests/model/test_memory.py, run as a script, prints the table), or up to twice that where large
    logits are made several times, which leaves holes by chance; GPUs are unmeasured and keep somewhat
    less, because their norms are fused. Adapters keep what all weights would, as those on all layers do; those on
    attn.c_attn alone keep a fifth to a third less. Raises ConfigError while `vocab_size` is unset.
    """
    model, train = config.model, config.train
    tokens = train.batch_size * config.forward_rows * config.sequence_length
    gradients = 4 * learning_parameter_count(config)
    weights = (8 if train.average else 4) * (parameter_count(model) + lora_parameter_count(config))
    optimizer = optimizer_bytes(config)
    copies = 2 * matmul_parameters(model) if _value_bytes(config) == 2 else 0
    rows = rows_of_logits(tokens, model.padded_vocab_size)
    logits = rows * _logit_bytes(model)

    block = tokens * sum(block_activations(config).values())
    kept, recomputed = model.n_layer * block, 0
    if train.activation_checkpointing:  # only the residual stream is kept, and one block at a time computed again
        kept, recomputed = model.n_layer * tokens * 4 * model.n_embd, block
    kept += tokens * _end_activations(config)
    working = recomputed + tokens * _backward_bytes(config)

    backward_starts = copies + kept + max(logits, working)
    if train.gradient_accumulation_steps > 1:  # those of the micro-batches before
        backward_starts += gradients
    step_ends = gradients + max(working, _step_bytes(config))
    if (
        train.activation_checkpointing and train.device != "cuda"
    ):  # the room of what is computed again lies in pieces, of no use to the optimizer
        step_ends += kept + recomputed
    alive = weights + optimizer + max(backward_starts, step_ends) + rotation_bytes(model)
    holes = _heap_holes(config, in_slices=tokens > rows) * logits
    total = alive + round(ALLOCATOR_OVERHEAD * (alive - logits) + holes)
    return Memory(weights, copies, gradients, optimizer, kept + recomputed, logits, total)


def process_memory(config: Config) -> int:
    """The peak of the whole process of a run, in bytes; of a GPU's memory where it trains on one.

    On Linux CPUs whole `train` commands are within 20% of it (docs/experiments.md, "Memory of whole commands").
    """
    return held_bytes(config) + training_memory(config).total + batch_bytes(config)


def held_bytes(config: Config) -> int:
    """What a process holds before there is a model; a GPU holds next to nothing then."""
    return 0 if config.train.device == "cuda" else PROCESS_BYTES


def rotation_bytes(config: ModelConfig) -> int:
    """The table of angles of rotary positions, for every position of the context."""
    return ROTATION_BYTES * config.block_size * config.head_size if config.position == "rope" else 0


def batch_bytes(config: Config) -> int:
    """The ids and targets of a whole step, which are there before its first micro-batch is computed."""
    return BATCH_BYTES * config.forward_rows * config.tokens_per_step


def what_to_lower(config: Config) -> str:
    """The key that decides most of a training step's memory, micro-batches aside."""
    model, sizes, need = config.model, parameter_breakdown(config.model), training_memory(config)
    positions = model.block_size * model.n_embd if model.position == "learned" else 0
    a_parameter = (need.weights + need.weight_copies + need.gradients + need.optimizer) / max(1, sizes.total)
    shares = {
        "model.n_layer or model.n_embd": a_parameter * sizes.non_embedding,
        "tokenizer.vocab_size or model.n_embd": a_parameter * (sizes.embedding + sizes.head - positions),
        "model.block_size": a_parameter * positions + rotation_bytes(model),
        "train.sequence_length": need.activations + need.logits,
        "train.gradient_accumulation_steps": batch_bytes(config),
        "lora.rank": 16 * lora_parameter_count(config),
    }
    return max(shares, key=lambda key: shares[key])


def optimizer_bytes(config: Config) -> int:
    """Optimizer state: two fp32 moments a parameter (AdamW); Muon has one for the matrices inside blocks, and a number
    for each of their rows, which for adapters is left out."""
    if config.train.optimizer != "muon":
        return 8 * learning_parameter_count(config)
    if config.lora.rank:
        return 8 * learning_parameter_count(config) - 4 * lora_parameter_count(config)
    in_blocks, rows = block_matrix_parameters(config.model), block_matrix_rows(config.model)
    return 8 * learning_parameter_count(config) - 4 * (in_blocks - rows)


def block_activations(config: Config) -> dict[str, int]:
    """Bytes per token that autograd keeps of one block until its backward pass, by what they are.

    A matrix product keeps its input in the compute type (`value` bytes: 2 under autocast), a norm its input in fp32,
    an activation function its input or output. Per-row statistics (a few bytes) are left out.
    """
    model, value = config.model, _value_bytes(config)
    q, _ = head_widths(model)
    return {
        "norms": 2 * _norm_bytes(config),
        "qk_norm": _qk_norm_bytes(config),
        "qkv": _qkv_bytes(config),
        "scores": _score_bytes(config),
        "mask": _mask_bytes(config),
        "attention_output": value * q,
        "mlp": _mlp_bytes(config),
        "dropout": 2 * value * model.n_embd if model.dropout else 0,  # the masks of both branches
    }


def inference_memory(config: Config, batch_size: int = 1, length: int | None = None) -> InferenceMemory:
    """The peak of opening a run and writing `batch_size` texts of `length` tokens (a block when None), in bytes.

    Counts the weights beside their copy for decoding in `generate.precision` (quantize.py), on `train.device`, fused
    attention and steps that are not compiled. `auto` counts as what it becomes on hardware with bf16 units, unless
    the plan has found none. On Linux CPUs this is within 15% of how far resident memory grows; GPUs are unmeasured.
    Raises ConfigError while `vocab_size` is unset.
    """
    model, on_cpu = config.model, config.train.device in ("auto", "cpu")
    precision = _decoding_precision(config)
    value = 2 if precision == "bf16" else 4
    q, kv = head_widths(model)
    tokens = batch_size * (length or model.block_size)
    hidden = (2 if model.mlp == "gelu" else 3) * model.mlp_size
    widest = 3 * model.n_embd + max(hidden, 2 * q + 2 * kv)
    weights = 4 * parameter_count(model)
    cache = value * tokens * model.n_layer * 2 * kv
    activations = value * tokens * widest
    logits = value * batch_size * model.padded_vocab_size
    copies, while_copying = _decoding_copies(model, precision, on_cpu)

    prefill = 2 * cache + activations  # the prompts fill a cache of their own, which is then copied
    weights += rotation_bytes(model)
    writing = weights + copies + prefill + logits + round(ALLOCATOR_OVERHEAD * prefill)
    loading = 2 * weights + 4 * head_parameters(model) if on_cpu else 0  # the file's, the model's, and one moving
    total = max(loading, weights + copies + while_copying, writing)
    return InferenceMemory(weights, copies, cache, activations, logits, total)


def _decoding_precision(config: Config) -> str:
    """`generate.precision`; for `auto` without measuring anything."""
    if config.generate.precision != "auto":
        return config.generate.precision
    large = 4 * parameter_count(config.model) > SMALL_WEIGHTS
    return "bf16" if large and config.train.precision != "fp32" else "fp32"


def _decoding_copies(config: ModelConfig, precision: str, on_cpu: bool) -> tuple[int, int]:
    """Bytes of the weights' copy for decoding, and what making it needs for a while besides."""
    matrices, parameters = matmul_parameters(config), parameter_count(config)
    if not on_cpu:
        return (2 * parameters if precision == "bf16" else 0), 0
    if precision == "fp32":  # packed; what is no matrix is shared
        return 4 * matrices, 0
    head = head_parameters(config)
    if precision in ("int8", "int4"):
        shapes = [
            *(attention_shapes(config) + mlp_shapes(config)) * config.n_layer,
            (config.n_embd, config.padded_vocab_size),
        ]
        copies = [_quantized(*shape, precision) for shape in shapes]
        # int8 has levels as floats before they are bytes, int4 puts the parts of a matrix together.
        return round(sum(copies)), 5 * head if precision == "int8" else round(copies[-1])
    plain = matrices - (head if config.tie_embeddings else 0)  # replaced by packed ones when all are there
    return 2 * (matrices + parameters - plain), 2 * plain


def _quantized(inputs: int, outputs: int, precision: str) -> float:
    """Bytes of a matrix in int4, where it fits, or in int8."""
    if precision == "int4" and inputs % INT4_INPUTS == 0 and outputs % INT4_OUTPUTS == 0:
        return INT4_BYTES * inputs * outputs
    return inputs * outputs + INT8_OUTPUT_BYTES * outputs


def _value_bytes(config: Config) -> int:
    """Bytes of a number in a matrix product."""
    return 4 if config.train.precision == "fp32" else 2


def _fused(config: Config) -> bool:
    """Whether attention runs without keeping its T x T weights. The CPU's fused kernel has no dropout."""
    dropout_kept = config.model.dropout > 0 and config.train.device in ("auto", "cpu")
    return config.train.attention != "explicit" and not dropout_kept


def _attention_bytes(config: Config) -> int:
    """Bytes of a number in unfused attention: what sdpa falls back to computes in fp32."""
    return _value_bytes(config) if config.train.attention == "explicit" else 4


def _norm_bytes(config: Config) -> int:
    """A layer norm's input, or an RMS norm's output before the gain, in fp32; and the next product's input.

    These are one and the same where neither a gain nor autocast makes another.
    """
    value = _value_bytes(config)
    same = config.model.norm == "rmsnorm" and not config.model.norm_gain and value == 4
    return config.model.n_embd * (4 if same else 4 + value)


def _qk_norm_bytes(config: Config) -> int:
    """Queries and keys after their norms, unless fused attention takes them as they are and so keeps them anyway."""
    model = config.model
    taken = _fused(config) and not model.norm_gain and model.position != "rope"
    return _value_bytes(config) * sum(head_widths(model)) if model.qk_norm and not taken else 0


def _qkv_bytes(config: Config) -> int:
    """Fused: the projection, of which v is a view, and new queries and keys. Else three contiguous copies."""
    q, kv = head_widths(config.model)
    if not _fused(config):
        return _attention_bytes(config) * 3 * q
    changed = config.model.qk_norm or config.model.position == "rope"
    return _value_bytes(config) * (q + 2 * kv + (q + kv if changed else 0))


def _score_bytes(config: Config) -> int:
    """The T attention weights of each head; with dropout also its mask, and what it has left over."""
    if _fused(config):
        return 0
    copies = 3 if config.model.dropout else 1
    return config.model.n_head * config.sequence_length * copies * _attention_bytes(config)


def _mask_bytes(config: Config) -> int:
    """Which of T keys a token sees; fused attention alone keeps it, and it is one for the whole batch, and then
    negligible, unless documents are isolated."""
    kept = config.data.isolate_documents and config.train.attention != "explicit"
    return config.sequence_length * _value_bytes(config) if kept else 0


def _mlp_bytes(config: Config) -> int:
    """The hidden layer before its nonlinearity (of GELU: the slope there) and after it.

    SwiGLU has a second one, and two products' inputs.
    """
    model, value = config.model, _value_bytes(config)
    if model.mlp != "swiglu":
        return value * 2 * model.mlp_size
    cast_again = value * model.n_embd if value == 2 else 0  # autocast makes a copy for each product
    return value * 4 * model.mlp_size + cast_again


def _end_activations(config: Config) -> int:
    """What is kept outside blocks, per token: of the last norm and the embedding's (no product's input), the mask of
    the embedding's dropout, and each token's angles where they are not the same in all rows."""
    model = config.model
    angles = model.position == "rope" and (config.data.isolate_documents or config.plan.packed_lengths)
    return (
        _norm_bytes(config)
        + (4 * model.n_embd if model.embedding_norm and not config.lora.rank else 0)
        + (4 * model.n_embd if model.dropout else 0)
        + (2 * _value_bytes(config) * model.head_size if angles else 0)
    )


def _backward_bytes(config: Config) -> int:
    """The most that the backward pass of one block adds for a while, per token.

    That is the gradient of the MLP's hidden layer, or, once that layer is gone, two gradients of the scores.
    """
    mlp = _value_bytes(config) * config.model.mlp_size
    if _fused(config):
        return mlp
    return max(mlp, 2 * _attention_bytes(config) * config.model.n_head * config.sequence_length - 2 * mlp)


def _step_bytes(config: Config) -> int:
    """What the optimizer needs for a while besides its state; AdamW, which is fused, nothing."""
    return MUON_STEP_BYTES * block_matrix_parameters(config.model) if config.train.optimizer == "muon" else 0


def _heap_holes(config: Config, *, in_slices: bool) -> float:
    """What logits leave in the heap beside themselves, as a share of them."""
    if config.train.device not in ("auto", "cpu"):
        return 0.0
    if in_slices:
        return HOLES_SLICES_FP32 if config.train.precision == "fp32" else HOLES_SLICES
    return HOLES_AGAIN if config.train.gradient_accumulation_steps > 1 else HOLES_ONCE


def _logit_bytes(config: ModelConfig) -> int:
    """Log-probabilities and two gradients in fp32; a soft cap keeps its tanh as well."""
    return (16 if config.logit_softcap else 12) * config.vocab_size
