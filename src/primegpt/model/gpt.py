"""A decoder-only Transformer, from first principles, in reading order: norm, rotation, attention, MLP, block, GPT.

Letters in shapes: B batch, T time (new tokens), S keys seen (T without a cache), C channels (n_embd),
H query heads, K key/value heads, D head width, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.config import ModelConfig
from primegpt.errors import MismatchError
from primegpt.model.apart import apart
from primegpt.model.cache import KVCache, Past, remember
from primegpt.model.kernels import Kernel, View, attention, gelu, rms_norm, squared_relu, triangle
from primegpt.model.loss import summed_cross_entropy, token_log_probabilities
from primegpt.model.own import made, stream
from primegpt.seeds import derive_seed


class Linear(nn.Linear):
    """A linear layer whose values `initialise` draws, and nobody before."""

    def reset_parameters(self) -> None: ...


class Embedding(nn.Embedding):
    """A table of rows, likewise."""

    def reset_parameters(self) -> None: ...


class RMSNorm(nn.RMSNorm):
    """x / √(mean(x²) + ε), and a learnt gain if there is one (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def norm(config: ModelConfig, size: int) -> nn.Module:
    """The normalisation of the configured kind over the last dimension, `size` wide."""
    if "norm" in config.own:
        return made("norm", config)
    if config.norm == "rmsnorm":
        return RMSNorm(size, config.norm_eps, config.norm_gain)
    return nn.LayerNorm(size, config.norm_eps, config.norm_gain, config.bias)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """By what angle each pair of a head's dimensions turns from one position to the next, (D / 2,), fp32.

    For a context longer than the original one they are slowed down: all of them (linear: Chen et al. 2023,
    arXiv:2306.15595), or those that turn less than a few times in it (llama3: Dubey et al. 2024, arXiv:2407.21783).
    """
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
    if config.rope_type == "default":
        return config.rope_theta**-half
    fast = 1 / config.rope_theta**half  # to the bit as others compute it: far positions magnify a difference
    if config.rope_type == "linear":
        return fast / config.rope_factor
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    turns = config.rope_original_context / (2 * math.pi / fast)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * fast / config.rope_factor + share * fast


def rotary_table(config: ModelConfig) -> Tensor:
    """(c, c) and (-s, s) of every position's cosines c and sines s, (2, block_size, D), always in fp32.

    In bf16 the angle of position 4,095 would be off by whole turns. RoPE is Su et al. 2021, arXiv:2104.09864.
    """
    angles = torch.outer(torch.arange(config.block_size, dtype=torch.float32), rotary_frequencies(config))
    c, s = angles.cos(), angles.sin()
    return torch.stack((torch.cat((c, c), dim=-1), torch.cat((-s, s), dim=-1)))


class Attention(nn.Module):
    """Causal multi-head self-attention; with n_kv_head < n_head, groups of queries share keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.kv_heads, config.head_size
        self.dropout = config.dropout
        self.kernel: Kernel = "sdpa"  # set from outside, by measurement
        biased, qkv = config.biased_attention, (self.n_head + 2 * self.n_kv_head) * self.head_dim
        self.c_attn = Linear(config.n_embd, qkv, biased != "none")
        self.c_proj = Linear(self.n_head * self.head_dim, config.n_embd, biased == "all")
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps, config.norm_gain) if config.qk_norm else None
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps, config.norm_gain) if config.qk_norm else None

    def forward(self, x: Tensor, view: View, past: Past | None = None) -> Tensor:
        (B, T, _), H, K, D = x.shape, self.n_head, self.n_kv_head, self.head_dim
        qk, v = self.c_attn(x).view(B, T, H + 2 * K, D).split((H + K, K), dim=2)
        q, k = view.turn(self.normalise_heads(qk)).split((H, K), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T, D)
        if past is not None:
            k, v = remember(past, k, v, view.slots)  # (B, K, S, D)
        y = attention(q, k, v, view, self.kernel, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, H * D))

    def normalise_heads(self, qk: Tensor) -> Tensor:
        """RMS norm of each query and key (B, T, H + K, D), in its own format (Henry et al. 2020, arXiv:2010.04245)."""
        if self.q_norm is None or self.k_norm is None:
            return qk
        unit, q_gain, k_gain = rms_norm(qk, None, self.q_norm.eps), self.q_norm.weight, self.k_norm.weight
        if q_gain is None:
            return unit
        gains = torch.cat((q_gain.expand(self.n_head, -1), k_gain.expand(self.n_kv_head, -1)))  # (H + K, D)
        return unit * gains.to(unit.dtype)


class MLP(nn.Module):
    """Position-wise: up, nonlinearity, down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        self.c_fc = Linear(config.n_embd, config.mlp_size, config.bias)
        self.c_gate = Linear(config.n_embd, config.mlp_size, config.bias) if config.mlp == "swiglu" else None
        self.c_proj = Linear(config.mlp_size, config.n_embd, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.activations(x))

    def activations(self, x: Tensor) -> Tensor:
        """What each neuron says, (B, T, intermediate_size)."""
        h = self.c_fc(x)
        if self.c_gate is not None:
            return F.silu(self.c_gate(x)) * h  # SwiGLU: Shazeer 2020, arXiv:2002.05202
        return squared_relu(h) if self.kind == "relu2" else gelu(h)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1, self.attn = norm(config, config.n_embd), made("attention", config, Attention)
        self.ln_2, self.mlp = norm(config, config.n_embd), made("mlp", config, MLP)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, view: View, past: Past | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x), view, past))
        return x + self.drop(self.mlp(self.ln_2(x)))


@dataclass
class Trace:
    """Inside a forward pass: `hidden` after the embedding and each block, (B, T, C); `maps` (B, H, T, T) a layer."""

    hidden: list[Tensor]
    maps: list[Tensor]
    logits: Tensor


class GPT(nn.Module):
    """The model. `GPT(config, seed)` is initialised; the same seed gives the same weights on every device."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        assert config.vocab_size, "vocab_size comes from the tokenizer"
        self.config = config
        with torch.device("cpu"), stream(seed) if config.own else nullcontext():  # where `initialise` draws
            self.wte = Embedding(config.padded_vocab_size, config.n_embd)
            self.wpe = Embedding(config.block_size, config.n_embd) if config.position == "learned" else None
            self.ln_e = norm(config, config.n_embd) if config.embedding_norm else None
            self.drop = nn.Dropout(config.dropout)
            self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.ln_f = norm(config, config.n_embd)
            self.lm_head: nn.Module | None = None
            if not config.tie_embeddings:
                self.lm_head = Linear(config.n_embd, config.padded_vocab_size, bias=False)
            # Not a buffer: `model.bfloat16()` must not round the angles.
            self.rotary = rotary_table(config) if config.position == "rope" else None
        initialise(self, seed)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "GPT":
        """What `to`, `cuda` and the like do with every parameter; the angles move along, and keep their format."""
        super()._apply(fn, recurse)
        if self.rotary is not None:
            self.rotary = self.rotary.to(self.wte.weight.device)
        return self

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: KVCache | None = None,
        targets: Tensor | None = None,
        logprobs: bool = False,
        rule: Callable[[Tensor], Tensor] | None = None,
        logits_for: Literal["all", "last"] | Tensor = "all",
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) for every position of `ids` (B, T), or what training needs.

        - `logits_for="last"` gives (B, 1, V); a tensor (B,) names one position a row, also (B, 1, V).
        - `targets` (B, T), -100 where ignored: returns the summed fp32 cross-entropy and how many targets counted.
          With `logprobs` it returns log p of each target instead, (B, T) in fp32, 0 where ignored; a `rule` first makes
          other logits (N, V) of the model's, as generation does: a temperature, a ban.
        - `segments` (B, T) numbers the documents in a row; attention stays inside one. `positions` (B, T) overrides
          where a token stands (0, 1, 2, ... by default).
        - `cache` holds the keys and values of the tokens before `ids`, one length a row, and takes in the new ones.
        """
        if positions is None and cache is not None:
            positions = cache.positions(ids.size(1), ids.device)
        view = self.view(ids, positions, segments, cache)
        hidden = self.ln_f(self.run_blocks(self.embed(ids, positions), view, cache))
        if cache is not None:
            cache.advance(ids.size(1))
        if targets is not None and logprobs:
            logits = self.logits if rule is None else lambda rows: rule(self.logits(rows))
            return token_log_probabilities(hidden, targets, logits, self.config.padded_vocab_size)
        if targets is not None:
            return summed_cross_entropy(hidden, targets, self.logits, self.config.padded_vocab_size)
        if isinstance(logits_for, Tensor):
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), logits_for].unsqueeze(1)  # (B, 1, C)
        elif logits_for == "last":
            # A product with a slice would copy the head for each row. `contiguous` keeps the strides of a single row.
            hidden = hidden[:, -1:].clone(memory_format=torch.contiguous_format)
        return self.logits(hidden)

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    def embed(self, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """The residual stream at its source: token (and learnt position) embeddings, (B, T, C)."""
        x = self.wte(ids)
        if self.wpe is not None:
            x = x + (self.wpe.weight[: ids.size(1)] if positions is None else self.wpe(positions))
        if self.ln_e is not None:
            x = self.ln_e(x)
        return self.drop(x)

    def view(
        self, ids: Tensor, positions: Tensor | None, segments: Tensor | None, cache: KVCache | None = None
    ) -> View:
        """Rotation and visibility, shared by all blocks."""
        T = ids.size(1)
        rotation = None
        if self.rotary is not None:
            angles = self.rotary[:, :T].unsqueeze(1) if positions is None else self.rotary[:, positions]
            cos, sin = angles.unsqueeze(-2)  # (B or 1, T, 1, D) each
            rotation = cos, sin
        if cache is not None:
            assert segments is None, "a cache holds one document a row"
            first = not any(cache.lengths)  # nothing is cached yet: the triangle serves
            mask = None if first else cache.mask(T, ids.device)
            return View(rotation, mask, causal=first, slots=cache.slots(T))
        if segments is None:
            return View(rotation, None, causal=True)
        ours = "attention" not in self.config.own and not torch.compiler.is_compiling()
        if ours and (parts := apart(segments)):
            return View(rotation, None, causal=True, apart=parts)
        same = segments.unsqueeze(-1) == segments.unsqueeze(-2)  # (B, T, T)
        return View(rotation, (triangle(T, ids.device) & same).unsqueeze(1), causal=False)

    def run_blocks(self, x: Tensor, view: View, cache: KVCache | None = None) -> Tensor:
        pasts = [None] * len(self.h) if cache is None else cache.layers(x.size(1))
        for block, past in zip(self.h, pasts, strict=True):
            x = block(x, view, past)
        return x  # (B, T, C)

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., C) → logits (..., V); the padding rows of the head are never seen outside."""
        logits = F.linear(hidden, self.wte.weight) if self.lm_head is None else self.lm_head(hidden)
        logits = logits[..., : self.config.vocab_size]
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits.float() / cap)

    @torch.no_grad()
    def trace(self, ids: Tensor) -> Trace:
        """Hidden states and attention maps of one forward pass over `ids` (B, T)."""
        view = self.view(ids, None, None)
        view.maps = []
        hidden = [self.embed(ids)]
        for block in self.h:
            hidden.append(block(hidden[-1], view))
        return Trace(hidden, view.maps, self.logits(self.ln_f(hidden[-1])))

    def use_attention(self, kernel: Kernel) -> "GPT":
        """Choose the implementation of attention; the function computed is the same. "sums" is for compiled steps."""
        for module in self.modules():
            if isinstance(module, Attention):
                module.kernel = kernel
        return self

    def weights(self) -> dict[str, Tensor]:
        """Every parameter by name, detached; a tied head appears once, as the embedding."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> "GPT":
        """Copy `weights` into the model's own storage. Raises MismatchError for a missing, extra or misshapen one."""
        own = self.weights()
        for name in sorted(own.keys() ^ weights.keys()):
            raise MismatchError(f"weight {name!r} is {'missing from the file' if name in own else 'not in the model'}")
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                shapes = f"{list(weights[name].shape)} in the file, {list(tensor.shape)} in the model"
                raise MismatchError(f"weight {name!r} has another shape: {shapes}")
        for name, tensor in own.items():  # only now, so that a refused file changes nothing
            tensor.copy_(weights[name])
        return self


@torch.no_grad()
def initialise(model: GPT, seed: int) -> None:
    """Every weight's first value, from the stream (seed, "init") alone.

    - norms: gain 1, bias 0; biases: 0.
    - matrices and embeddings: N(0, 0.02), as GPT-2.
    - projections into the residual stream (`c_proj`): GPT-2 scales them by 1/sqrt(2 n_layer), so that the sum of
      all branches starts with the variance of one; `residual_init = "zero"` starts every branch at nothing, which
      lets a higher learning rate through (Zhang et al. 2019, arXiv:1901.09321).
    - with zero branches the other matrices are N(0, 1/fan_in), and an untied head starts near zero, N(0, 0.001), so
      that the first loss is ln V.
    - parts of an extension are as they made themselves, but for what a `Linear` or an `Embedding` of ours holds.
    """
    config, generator = model.config, torch.Generator().manual_seed(derive_seed(seed, "init"))
    modern = config.residual_init == "zero"
    for name, parameter in model.named_parameters():
        if config.own_kind(name) and not isinstance(_owner(model, name), Linear | Embedding):
            continue
        if parameter.dim() == 1:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif name.endswith("c_proj.weight"):
            std = 0.0 if modern else 0.02 * (2 * config.n_layer) ** -0.5
            parameter.normal_(0.0, std, generator=generator) if std else parameter.zero_()
        elif name.startswith("lm_head"):
            parameter.normal_(0.0, 0.001 if modern else 0.02, generator=generator)
        else:
            std = parameter.size(1) ** -0.5 if modern and name.startswith("h.") else 0.02
            parameter.normal_(0.0, std, generator=generator)


def _owner(model: GPT, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])
