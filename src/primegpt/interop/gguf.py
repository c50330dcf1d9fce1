"""Models as GGUF files, which llama.cpp and what is built on it run.

llama.cpp knows how to split text by name only, so of byte-level BPE it takes GPT-2's split, which is ours, and those of
others that it has a name for. It has a SentencePiece of its own.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.config import Config, DataConfig, ModelConfig
from primegpt.errors import UsageError, nearest
from primegpt.interop import gguf_imported, gguf_tokenizer
from primegpt.interop.chat_template import chat_template, ends_of
from primegpt.interop.families import GPT2, LLAMA, MISTRAL, QWEN3, Family, Layout, Part, Weight, family_of, weight_table
from primegpt.interop.weight_files import WeightFiles
from primegpt.run import atomic
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.bpe import ByteLevelBPE, to_letters
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece import SentencePieceBPE
from primegpt.tokenizers.sentencepiece_model import BYTE_PIECES

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

DTYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCKS = {"q8_0": 32, "q4_0": 32}  # numbers that share a scale
POSITIONS, FREQUENCIES = "position_embd", "rope_freqs.weight"

_NORMS = {"ln_1": ("attn_norm",), "ln_2": ("ffn_norm",)}
_LINEARS = {"attn.c_proj": ("attn_output",), "mlp.c_fc": ("ffn_up",), "mlp.c_proj": ("ffn_down",)}
_OUTSIDE: dict[str, Any] = {"wte": "token_embd", "wpe": POSITIONS, "ln_f": "output_norm", "lm_head": "output"}
_FUSED = Layout(**_OUTSIDE, block="blk.{}.", modules={**_NORMS, **_LINEARS, "attn.c_attn": ("attn_qkv",)})
_SPLIT = Layout(
    **_OUTSIDE,
    block="blk.{}.",
    modules={
        **_NORMS,
        **_LINEARS,
        "attn.c_attn": ("attn_q", "attn_k", "attn_v"),
        "attn.q_norm": ("attn_q_norm",),
        "attn.k_norm": ("attn_k_norm",),
        "mlp.c_gate": ("ffn_gate",),
    },
)
GGUF = {"gpt2": _FUSED, **dict.fromkeys(("qwen3", "llama", "qwen2", "mistral"), _SPLIT)}
LLAMAS = (LLAMA, MISTRAL)  # one architecture there


def write_file(
    out: Path,
    config: Config,
    tokenizer: Tokenizer,
    weights: WeightFiles,
    *,
    owner: str,
    dtype: str = "f16",
) -> Family:
    """Write the GGUF file `out`, whole or not at all, and return the family its model is of.

    Matrices and token embeddings are stored as `dtype` (f32, f16, bf16, q8_0 or q4_0), all else as f32, as llama.cpp's
    own converter does; beside q4_0 the output layer is q8_0. `weights` are ours, by our names. Raises UsageError for a
    model (named `owner` in messages) or a tokenizer that llama.cpp cannot run.
    """
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype} is not a type of a GGUF file", nearest(dtype, DTYPES))
    family = family_of(config.model, owner, "llama.cpp", GGUF)
    refuse_model(config.model, family, owner)
    refuse_tokenizer(tokenizer)
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is already there", "choose another place with --out")
    from gguf import GGUFWriter

    temporary = atomic.temporary_name(out)
    with atomic.io_errors(f"write {out}"):
        atomic.make_folder(out.parent)
        writer = GGUFWriter(temporary, "llama" if family in LLAMAS else family.name)
        try:
            _describe_model(writer, config.model, family, out.stem, dtype)
            _describe_tokenizer(writer, tokenizer, config.data)
            _write_tensors(writer, config.model, family, weights, dtype)
            writer.close()
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, out)
            atomic.sync_folder(out.parent)
        except BaseException:
            writer.close()
            atomic.remove(temporary)
            raise
    return family


def refuse_model(config: ModelConfig, family: Family, owner: str) -> None:
    """Raise UsageError for what llama.cpp has of other architectures than this."""
    elsewhere = "`--to hf` takes this run as it is"
    if config.rope_type == "llama3" and family not in LLAMAS:
        raise UsageError(f"{owner} has model.rope_type = 'llama3', which llama.cpp has of Llama alone", elsewhere)
    if family is QWEN3 and config.biased_attention != "none":
        raise UsageError(f"{owner} has biases in attention, which llama.cpp's Qwen3 does not", elsewhere)


def refuse_tokenizer(tokenizer: Tokenizer) -> None:
    """Raise UsageError for a kind that llama.cpp has no like of."""
    if isinstance(tokenizer, Imported):
        gguf_imported.described(tokenizer)
    elif not isinstance(tokenizer, ByteLevelBPE | SentencePieceBPE):
        what = f"llama.cpp has no tokenizer like the kind {tokenizer.kind!r}"
        raise UsageError(what, "train with --tokenizer.kind bpe for GGUF; `--to hf` takes this run as it is")


def _describe_model(writer: "GGUFWriter", config: ModelConfig, family: Family, name: str, dtype: str) -> None:
    from gguf import LlamaFileType, RopeScalingType

    c = config
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.ALL_F32 if dtype == "f32" else LlamaFileType[f"MOSTLY_{dtype.upper()}"])
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.block_size)
    writer.add_embedding_length(c.n_embd)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.mlp_size)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.kv_heads)
    if family is GPT2:
        writer.add_layer_norm_eps(c.norm_eps)
        return
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_key_length(c.head_size)
    writer.add_value_length(c.head_size)
    writer.add_rope_dimension_count(c.head_size)
    writer.add_rope_freq_base(c.rope_theta)
    if c.rope_type == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(c.rope_factor)


def _describe_tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer, data: DataConfig) -> None:
    """The vocabulary, in llama.cpp's terms; one branch a kind that `refuse_tokenizer` lets through."""
    writer.add_bos_token_id(tokenizer.eot_id if tokenizer.bos_id is None else tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eot_id)
    template = chat_template(data, tokenizer)
    if template:
        writer.add_chat_template(template)
        writer.add_eot_token_id(ends_of(data, tokenizer)[-1])
    if isinstance(tokenizer, Imported):
        _describe_imported(writer, tokenizer, talks_as_its_makers=not template)
        return
    if isinstance(tokenizer, SentencePieceBPE):
        _describe_sentencepiece(writer, tokenizer)
    else:
        assert isinstance(tokenizer, ByteLevelBPE)
        _describe_byte_level(writer, tokenizer)
    writer.add_add_bos_token(False)  # so that ids are those that `encode` gives
    writer.add_string(gguf_tokenizer.OURS, gguf_tokenizer.described(tokenizer))  # for the way back


def _describe_imported(writer: "GGUFWriter", tokenizer: Imported, *, talks_as_its_makers: bool) -> None:
    """Another's; what it puts before a text and its chat template go along, unless the run was trained with ours."""
    found = gguf_imported.described(tokenizer)
    writer.add_tokenizer_model(found.model)
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    if found.scores:
        writer.add_token_scores(found.scores)
        writer.add_add_space_prefix(found.space_prefix)
    else:
        writer.add_token_merges(found.merges)
    if tokenizer.unk_id is not None:
        writer.add_unk_token_id(tokenizer.unk_id)
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(tokenizer.adds_bos and talks_as_its_makers)
    if tokenizer.chat_template and talks_as_its_makers:
        writer.add_chat_template(tokenizer.chat_template)


def _describe_byte_level(writer: "GGUFWriter", tokenizer: ByteLevelBPE) -> None:
    from gguf import TokenType

    names = {id: name for name, id in tokenizer.special_tokens.items()}
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(gguf_tokenizer.spellings(tokenizer))
    writer.add_token_types([TokenType.CONTROL if i in names else TokenType.NORMAL for i in ids])
    writer.add_token_merges([f"{to_letters(left)} {to_letters(right)}" for left, right in tokenizer.merges])


def _describe_sentencepiece(writer: "GGUFWriter", tokenizer: SentencePieceBPE) -> None:
    """llama.cpp's own SentencePiece, which merges by score. It takes a ▁ in a text for a space, as the library does."""
    from gguf import TokenType

    system, *own = tokenizer.special_kinds.values()
    specials = [*system, *(name for names in own for name in names)]
    kinds = [TokenType.UNKNOWN if name == tokenizer.unk_token else TokenType.CONTROL for name in specials]
    count = len(tokenizer.pieces)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(gguf_tokenizer.spellings(tokenizer))
    writer.add_token_types([*kinds, *[TokenType.BYTE] * len(BYTE_PIECES), *[TokenType.NORMAL] * count])
    writer.add_token_scores([*[0.0] * (len(specials) + len(BYTE_PIECES)), *(-float(rank) for rank in range(count))])
    if tokenizer.unk_id is not None and tokenizer.pad_id is not None:
        writer.add_unk_token_id(tokenizer.unk_id)
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_space_prefix(False)


def _write_tensors(
    writer: "GGUFWriter",
    config: ModelConfig,
    family: Family,
    weights: WeightFiles,
    dtype: str,
) -> None:
    """Announce every tensor, then write one after the other."""
    import numpy as np
    from gguf.quants import quant_shape_to_byte_shape, quantize

    found = [(w, part) for w in weight_table(config, family, GGUF[family.name]) for part in w.parts]
    for weight, part in found:
        kind = _stored_as(weight, part, dtype, config)
        stored = np.dtype({"F32": "float32", "F16": "float16"}.get(kind.name, "uint8"))
        shape = weight.their_shape(part)
        in_bytes = shape if stored != np.uint8 else quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(part.name, in_bytes, stored, int(np.prod(in_bytes)) * stored.itemsize, kind)
    divisors = frequency_divisors(config)
    if divisors is not None:
        writer.add_tensor_info(FREQUENCIES, divisors.shape, divisors.dtype, divisors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for weight, part in found:
        values = _values(weight, part, config, family, weights)
        writer.write_tensor_data(quantize(values, _stored_as(weight, part, dtype, config)))
    if divisors is not None:
        writer.write_tensor_data(divisors)


def frequency_divisors(config: ModelConfig) -> "np.ndarray | None":
    """What llama.cpp divides the plain frequency of each pair by, for Llama 3's longer context."""
    if config.rope_type != "llama3":
        return None
    from primegpt.model.gpt import rotary_frequencies

    plain = rotary_frequencies(config.model_copy(update={"rope_type": "linear", "rope_factor": 1.0}))
    return (plain / rotary_frequencies(config)).numpy()


def _stored_as(weight: Weight, part: Part, dtype: str, config: ModelConfig) -> "GGMLQuantizationType":
    from gguf import GGMLQuantizationType

    if len(weight.shape) == 1 or part.name.startswith(POSITIONS):
        return GGMLQuantizationType.F32
    if weight.shape[1] % BLOCKS.get(dtype, 1):
        return GGMLQuantizationType.F16
    if dtype == "q4_0" and weight.ours == ("wte.weight" if config.tie_embeddings else "lm_head.weight"):
        return GGMLQuantizationType.Q8_0  # llama.cpp takes q6_k for the output layer, which `gguf` cannot write
    return GGMLQuantizationType[dtype.upper()]


def _values(
    weight: Weight,
    part: Part,
    config: ModelConfig,
    family: Family,
    weights: WeightFiles,
) -> "np.ndarray":
    import numpy as np

    if weight.ours not in weights.shapes:
        return np.full(weight.their_shape(part), weight.default, np.float32)
    values = np.ascontiguousarray(weights.read(weight.ours, part.start, part.start + part.rows).float().numpy())
    if family in LLAMAS and part.name.split(".")[-2] in ("attn_q", "attn_k"):
        # For this architecture alone llama.cpp rotates neighbours, (x[0], x[1]); we rotate (x[0], x[D/2]).
        pairs = values.reshape(-1, 2, config.head_size // 2, *values.shape[1:])
        values = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(values.shape))
    return values
