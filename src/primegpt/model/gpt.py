"""A decoder-only Transformer, from first principles, in reading order: norm, rotation, attention, MLP, block, GPT.

Letters in shapes: B batch, T time (new tokens), S keys seen (T without a cache), C channels (n_embd),
H query heads, K key/value heads, D head width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from primegpt.config import ModelConfig
from primegpt.errors import MismatchError
from primegpt.model import functions
from primegpt.model.cache import KVCache, Past, remember
from primegpt.model.loss import summed_cross_entropy
from primegpt.seeds import derive_seed

Kernel = Literal["sdpa", "explicit", "sums"]


def norm(config: ModelConfig, size: int) -> nn.Module:
    """The normalisation of the configured kind over the last dimension, `size` wide."""
    if config.norm == "rmsnorm":
        return RMSNorm(size, config.norm_eps, config.norm_gain)
    return nn.LayerNorm(size, config.norm_eps, config.norm_gain, config.bias)


class RMSNorm(nn.RMSNorm):
    """x / √(mean(x²) + ε), and a learnt gain if there is one (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(x: Tensor, gain: Tensor | None, eps: float | None) -> Tensor:
    if not x.is_cpu:  # elsewhere torch has a kernel for it
        return F.rms_norm(x, x.shape[-1:], gain, eps)
    y = functions.RMSNorm.apply(x, eps)
    return y if gain is None else y * gain


def gelu(x: Tensor) -> Tensor:
    """The GELU that GPT-2 was trained with; ours where torch's slow tanh would count."""
    if x.is_cpu and torch.compiler.is_compiling():
        return functions.gelu_formula(x)
    if x.is_cpu and x.requires_grad:
        return functions.GELU.apply(x)
    return F.gelu(x, approximate="tanh")


def rotary_table(config: ModelConfig) -> Tensor:
    """(c, c) and (-s, s) of every position's cosines c and sines s, (2, block_size, D), always in fp32.

    In bf16 the angle of position 4,095 would be off by whole turns. RoPE is Su et al. 2021, arXiv:2104.09864.
    """
    half = torch.arange(0, config.head_size, 2, dtype=torch.float32, device="cpu") / config.head_size
    angles = torch.outer(torch.arange(config.block_size, dtype=torch.float32, device="cpu"), config.rope_theta**-half)
    c, s = angles.cos(), angles.sin()
    return torch.stack((torch.cat((c, c), dim=-1), torch.cat((-s, s), dim=-1)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle. x (B, T, heads, D); cos, sin (B or 1, T, 1, D)."""
    return functions.Rotation.apply(x, cos, sin)


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √D + bias), fp32 inside. q (B, H, T, D), k (B, H, S, D), bias (B or 1, 1, T, S): 0, or -∞ where
    nothing is seen."""
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1).to(q.dtype)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention as the formula reads; the same function as `F.scaled_dot_product_attention`. Returns (B, H, T, D).

    The T x S scores are kept in memory, yet for short contexts on a CPU this is faster than the fused kernel.
    """
    return F.dropout(attention_weights(q, k, bias), dropout) @ v


def summed_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same function for one query (T = 1) that sees all, its products written as sums, which a compiler merges."""
    (B, H, _, D), dtype = q.shape, q.dtype
    q, k, v = q.view(B, k.size(1), -1, 1, D).float(), k.unsqueeze(2).float(), v.unsqueeze(2).float()
    scores = (q * k).sum(dim=-1) * D**-0.5  # (B, K, H / K, S)
    return (scores.softmax(dim=-1).unsqueeze(-1) * v).sum(dim=-2).view(B, H, 1, D).to(dtype)


class Attention(nn.Module):
    """Causal multi-head self-attention; with n_kv_head < n_head, groups of queries share keys and values."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.kv_heads, config.head_size
        self.dropout = config.dropout
        self.kernel: Kernel = "sdpa"  # set from outside, by measurement
        self.c_attn = nn.Linear(config.n_embd, (self.n_head + 2 * self.n_kv_head) * self.head_dim, config.bias)
        self.c_proj = nn.Linear(self.n_head * self.head_dim, config.n_embd, config.bias)
        self.q_norm, self.k_norm = head_norm(config), head_norm(config)  # for their gains

    def forward(self, x: Tensor, view: "View", past: Past | None = None) -> Tensor:
        B, T, _ = x.shape
        qkv = self.c_attn(x).view(B, T, self.n_head + 2 * self.n_kv_head, self.head_dim)
        qk, v = qkv.split((self.n_head + self.n_kv_head, self.n_kv_head), dim=2)  # (B, T, H + K or K, D)
        qk = view.turn(self.normalise_heads(qk))
        q, k = qk.split((self.n_head, self.n_kv_head), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H or K, T, D)
        if past is not None:
            k, v = remember(past, k, v, view.slots)  # (B, K, S, D)
        y = self.attend(q, k.to(q.dtype), v.to(q.dtype), view)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, self.n_head * self.head_dim))

    def normalise_heads(self, qk: Tensor) -> Tensor:
        """RMS norm of each query and key (B, T, H + K, D), in its own format (Henry et al. 2020, arXiv:2010.04245)."""
        if self.q_norm is None or self.k_norm is None:
            return qk
        unit, gains = rms_norm(qk, None, self.q_norm.eps), (self.q_norm.weight, self.k_norm.weight)  # (D) each, or None
        if gains[0] is None:
            return unit
        per_head = torch.cat((gains[0].expand(self.n_head, -1), gains[1].expand(self.n_kv_head, -1)))  # (H + K, D)
        return unit * per_head.to(unit.dtype)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, view: "View") -> Tensor:
        dropout = self.dropout if self.training else 0.0
        grouped = self.n_kv_head != self.n_head
        if q.size(2) == 1 and view.maps is None and not dropout:
            if self.kernel == "sums" and len(q) == 1:
                return summed_attention(q, k, v)
            if q.dtype == torch.bfloat16 and q.device.type == "cpu":  # there fused attention is slow for single queries
                y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), view.mask, enable_gqa=grouped)
                return y.to(q.dtype)
        if self.kernel != "explicit" and view.maps is None:
            mask = None if view.causal else view.mask
            return F.scaled_dot_product_attention(q, k, v, mask, dropout, view.causal, enable_gqa=grouped)
        if grouped:  # query head h reads key/value head h // (H / K)
            k, v = (t.repeat_interleave(self.n_head // self.n_kv_head, dim=1) for t in (k, v))
        bias = view.bias(q)
        if view.maps is not None:
            view.maps.append(attention_weights(q, k, bias))
        return explicit_attention(q, k, v, bias, dropout)


def head_norm(config: ModelConfig) -> RMSNorm | None:
    return RMSNorm(config.head_size, config.norm_eps, config.norm_gain) if config.qk_norm else None


class MLP(nn.Module):
    """Position-wise: up, nonlinearity, down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        self.c_fc = nn.Linear(config.n_embd, config.mlp_size, config.bias)
        self.c_gate = nn.Linear(config.n_embd, config.mlp_size, config.bias) if config.mlp == "swiglu" else None
        self.c_proj = nn.Linear(config.mlp_size, config.n_embd, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.c_fc(x)  # (B, T, intermediate_size)
        if self.c_gate is not None:
            h = F.silu(self.c_gate(x)) * h  # SwiGLU: Shazeer 2020, arXiv:2002.05202
        elif self.kind == "relu2":
            h = functions.SquaredReLU.apply(h)
        else:
            h = gelu(h)
        return self.c_proj(h)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1, self.attn = norm(config, config.n_embd), Attention(config)
        self.ln_2, self.mlp = norm(config, config.n_embd), MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, view: "View", past: Past | None = None) -> Tensor:
        x = x + self.drop(self.attn(self.ln_1(x), view, past))
        return x + self.drop(self.mlp(self.ln_2(x)))


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table without values: on the meta device drawing them would import torch's compiler, for a second."""
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False)


@dataclass
class View:
    """What every block needs to know of where the tokens stand; computed once a forward pass."""

    rotation: tuple[Tensor, Tensor] | None  # cos and sin as `rotate` takes them, (B or 1, T, 1, D)
    mask: Tensor | None  # (B or 1, 1, T, S), True where visible; None = all visible, or the triangle if causal
    causal: bool  # the plain triangle, which fused kernels do without a tensor
    slots: tuple[Tensor, Tensor] | None = None  # where the cache takes in the new tokens; None: behind the others
    maps: list[Tensor] | None = None  # collects the attention maps of a trace
    added: Tensor | None = None  # the mask as explicit attention adds it, once it was asked for

    def turn(self, qk: Tensor) -> Tensor:
        """Queries and keys (B, T, heads, D) turned by their positions, if these are rotary ones."""
        if self.rotation is None:
            return qk
        cos, sin = self.rotation[0].to(qk.dtype), self.rotation[1].to(qk.dtype)
        if not torch.compiler.is_compiling():  # for the other blocks; those that share a compiled graph may not write
            self.rotation = cos, sin
        return rotate(qk, cos, sin)

    def bias(self, q: Tensor) -> Tensor | None:
        """What explicit attention adds to the scores of queries q (B, H, T, D): 0, or -∞; made once, as `turn` does."""
        if self.added is not None or not (self.causal or self.mask is not None):
            return self.added
        T, mask = q.size(2), self.mask
        mask = torch.ones(T, T, dtype=torch.bool, device=q.device).tril() if mask is None else mask
        added = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        if not torch.compiler.is_compiling():
            self.added = added
        return added


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
        with torch.device("meta"):  # shapes first, values by `initialise` alone
            self.wte = embedding(config.padded_vocab_size, config.n_embd)
            self.wpe = embedding(config.block_size, config.n_embd) if config.position == "learned" else None
            self.ln_e = norm(config, config.n_embd) if config.embedding_norm else None
            self.drop = nn.Dropout(config.dropout)
            self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
            self.ln_f = norm(config, config.n_embd)
            tied = config.tie_embeddings
            self.lm_head: nn.Module | None = (
                None if tied else nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
            )
        # Not a buffer: `model.bfloat16()` must not round the angles.
        self.rotary = rotary_table(config) if config.position == "rope" else None
        self._apply(
            lambda t: torch.empty(t.shape, dtype=t.dtype, device="cpu")
        )  # `to_empty`, which would import sympy for it
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
        logits_for: Literal["all", "last"] | Tensor = "all",
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) for every position of `ids` (B, T), or what training needs.

        - `logits_for="last"` gives (B, 1, V); a tensor (B,) names one position a row, also (B, 1, V).
        - `targets` (B, T), -100 where ignored: returns the summed fp32 cross-entropy and how many targets counted.
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
        if targets is not None:
            return summed_cross_entropy(hidden, targets, self.logits, self.config.padded_vocab_size)
        if isinstance(logits_for, Tensor):
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), logits_for].unsqueeze(1)  # (B, 1, C)
        elif logits_for == "last":
            # A product with a slice would copy the head for each row. `contiguous` keeps the strides of a single row.
            hidden = hidden[:, -1:].clone(memory_format=torch.contiguous_format)
        return self.logits(hidden)

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
        triangle = torch.ones(T, T, dtype=torch.bool, device=ids.device).tril()
        same = segments.unsqueeze(-1) == segments.unsqueeze(-2)  # (B, T, T)
        return View(rotation, (triangle & same).unsqueeze(1), causal=False)

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
    """
    config, generator = model.config, torch.Generator().manual_seed(derive_seed(seed, "init"))
    modern = config.residual_init == "zero"
    for name, parameter in model.named_parameters():
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
