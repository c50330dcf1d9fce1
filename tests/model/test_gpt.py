"""The model against its formulas: attention, rotation, isolation, tying, initialisation."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from primegpt.config import resolve
from primegpt.errors import MismatchError
from primegpt.model.gpt import GPT, rotary_frequencies, rotary_table
from primegpt.model.kernels import attention_weights, explicit_attention, rotate

MakeModel = Callable[..., GPT]
PRESETS = ["gpt2", "qwen3", "prime"]
KINDS = pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("gpt2", {}),
        ("qwen3", {}),
        ("prime", {}),
        ("qwen3", {"n_kv_head": 2}),
        ("gpt2", {"n_kv_head": 1, "head_dim": 12}),
    ],
)
KERNELS = pytest.mark.parametrize("kernel", ["sdpa", "explicit"])


def random_ids(B: int, T: int, vocab_size: int = 100) -> Tensor:
    return torch.randint(vocab_size, (B, T), generator=torch.Generator().manual_seed(B * 1000 + T))


def small(**model: object) -> GPT:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 100}
    return GPT(resolve({"model": {**sizes, **model}}).model, seed=0)


# ---- attention


def test_attention_by_definition_in_fp64() -> None:
    """Query by query: softmax over the visible keys, then the mean of their values."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 8, generator=generator) for _ in range(3))  # (B, H, T, D)
    mask = torch.rand(2, 1, 5, 5, generator=generator) < 0.5
    mask |= torch.eye(5, dtype=torch.bool)
    expected = torch.zeros(2, 3, 5, 8, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            for t in range(5):
                seen = [s for s in range(5) if mask[b, 0, t, s]]
                scores = [math.exp(float(q[b, h, t].double() @ k[b, h, s].double()) / math.sqrt(8)) for s in seen]
                for score, s in zip(scores, seen, strict=True):
                    expected[b, h, t] += score / sum(scores) * v[b, h, s].double()
    bias = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    torch.testing.assert_close(explicit_attention(q, k, v, bias).double(), expected, atol=1e-6, rtol=1e-6)
    assert (attention_weights(q, k, bias)[~mask.expand(2, 3, 5, 5)] == 0).all()


def loss_and_gradients(model: GPT, kernel: str, **inputs: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    model.use_attention(kernel).zero_grad()
    logits = model(random_ids(3, 24), **inputs)
    total, count = model(random_ids(3, 24), targets=random_ids(3, 24), **inputs)
    (total / count).backward()
    return logits.detach(), total.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@KINDS
@pytest.mark.parametrize("isolated", [False, True])
def test_both_kernels_are_one_function(random_model: MakeModel, preset: str, sizes: dict, isolated: bool) -> None:
    """Values and gradients of every parameter within 1e-5 of each other, grouped queries and documents included."""
    model = random_model(preset, **sizes)
    segments = torch.tensor([[0] * 24, [0] * 7 + [1] * 17, [3] * 5 + [1] + [2] * 18])
    inputs = {"segments": segments} if isolated else {}
    logits, total, gradients = loss_and_gradients(model, "sdpa", **inputs)
    other_logits, other_total, other_gradients = loss_and_gradients(model, "explicit", **inputs)
    torch.testing.assert_close(logits, other_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total, other_total, atol=0, rtol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient, other_gradients[name], atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert gradient.abs().max() > 1e-4, name


@KERNELS
def test_grouped_queries_equal_repeated_keys_and_values(random_model: MakeModel, kernel: str) -> None:
    """Query heads 0, 1 read key/value head 0 and 2, 3 read 1: as if each had its own copy."""
    grouped, full = random_model(n_kv_head=2), random_model()
    weights = grouped.weights()
    for layer in range(2):
        for kind in ("weight", "bias"):
            name = f"h.{layer}.attn.c_attn.{kind}"
            q, k, v = weights[name].split((32, 16, 16))
            k, v = (t.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1) for t in (k, v))
            weights[name] = torch.cat((q, k, v))
    full.load_weights(weights)
    ids = random_ids(2, 20)
    torch.testing.assert_close(
        grouped.use_attention(kernel)(ids), full.use_attention(kernel)(ids), atol=1e-5, rtol=1e-5
    )


@KINDS
@KERNELS
def test_no_token_sees_a_later_one(random_model: MakeModel, preset: str, sizes: dict, kernel: str) -> None:
    model, ids = random_model(preset, **sizes).use_attention(kernel), random_ids(1, 20)
    edited = ids.clone()
    edited[0, 11] = (ids[0, 11] + 1) % 100
    before, after = model(ids)[0], model(edited)[0]
    assert torch.equal(before[:11], after[:11])
    assert ((before - after).abs().amax(-1) > 1e-3)[11:].all()


@KINDS
@KERNELS
def test_a_document_does_not_see_its_neighbour(random_model: MakeModel, preset: str, sizes: dict, kernel: str) -> None:
    """Editing the first document leaves the second bit-equal, and it reads as it does alone; without isolation not."""
    model, ids = random_model(preset, **sizes).use_attention(kernel), random_ids(1, 20)
    segments = torch.tensor([[0] * 8 + [1] * 12])
    positions = torch.tensor([[*range(8), *range(12)]])
    edited = ids.clone()
    edited[0, :8] = (ids[0, :8] + 1) % 100

    def second(ids: Tensor, **inputs: Tensor) -> Tensor:
        return model(ids, positions=positions, **inputs)[0, 8:]

    assert torch.equal(second(ids, segments=segments), second(edited, segments=segments))
    torch.testing.assert_close(second(ids, segments=segments), model(ids[:, 8:])[0], atol=1e-5, rtol=1e-5)
    assert (second(ids) - second(edited)).abs().max() > 1e-2


# ---- positions


def test_rotation_is_multiplication_by_a_complex_number() -> None:
    config = small(preset="qwen3", head_dim=8).config
    x = torch.randn(2, 5, 3, 8, generator=torch.Generator().manual_seed(0))  # (B, T, heads, D)
    cos, sin = rotary_table(config)[:, :5].unsqueeze(-2)
    pairs = torch.complex(x[..., :4].double(), x[..., 4:].double())
    frequencies = config.rope_theta ** -(torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    angles = torch.outer(torch.arange(5, dtype=torch.float64), frequencies)[:, None]  # (T, 1, D / 2)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    torch.testing.assert_close(rotate(x, cos, sin).double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("low", [1.0, 2.5])
def test_llama3_slows_down_what_turns_seldom_in_the_original_context(low: float) -> None:
    stretch = {"rope_type": "llama3", "rope_factor": 8.0, "rope_low_freq_factor": low, "rope_original_context": 600}
    config = small(preset="llama", head_dim=64, rope_theta=5e5, **stretch).config
    found, kinds = rotary_frequencies(config).double(), set()
    for i in range(32):
        plain = 5e5 ** (-i / 32)
        turns = 600 * plain / (2 * math.pi)
        kind, expected = "mixed", (turns - low) / (4.0 - low) * plain + (4.0 - turns) / (4.0 - low) * plain / 8.0
        if turns > 4.0:
            kind, expected = "kept", plain
        elif turns < low:
            kind, expected = "slowed", plain / 8.0
        kinds.add(kind)
        assert float(found[i]) == pytest.approx(expected, rel=1e-5)
    assert kinds == {"kept", "mixed", "slowed"}
    linear = small(preset="llama", head_dim=64, rope_theta=5e5, rope_type="linear", rope_factor=5.0).config
    plain = torch.tensor([5e5 ** (-i / 32) / 5.0 for i in range(32)], dtype=torch.float64)
    torch.testing.assert_close(rotary_frequencies(linear).double(), plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("preset", PRESETS)
def test_positions_count_from_zero_and_can_be_given(random_model: MakeModel, preset: str) -> None:
    """Rotary attention knows distances alone, so a shift of all positions changes nothing; learnt ones are absolute."""
    model, ids = random_model(preset), random_ids(2, 20)
    places = torch.arange(20).expand(2, 20)
    logits = model(ids)
    assert torch.equal(model(ids, positions=places), logits)
    moved = (model(ids, positions=places + 30) - logits).abs().max()
    spread = (model(ids, positions=places * 2) - logits).abs().max()
    assert spread > 1e-2
    assert moved > 1e-2 if preset == "gpt2" else moved < 1e-4


def test_rotary_angles_survive_sixteen_bits(random_model: MakeModel) -> None:
    model = random_model("qwen3", block_size=2048)
    before = model.rotary.clone()
    assert model.bfloat16().rotary.dtype == torch.float32
    assert torch.equal(model.rotary, before)
    assert "rotary" not in model.state_dict()


def test_rotary_angles_move_with_the_model_not_at_its_first_pass(random_model: MakeModel) -> None:
    """What an evaluation moved, without gradients, could not be learnt through."""
    assert random_model(position="rope").to("meta").rotary.device.type == "meta"


# ---- the embedding


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
def test_a_normalised_embedding_keeps_its_direction_alone(random_model: MakeModel, preset: str) -> None:
    """What enters the first block has mean square 1 (before a gain), however large the table's rows are."""
    switches = {"embedding_norm": True, "norm_gain": False, "bias": False, "tie_embeddings": False, "norm_eps": 1e-12}
    model, ids = random_model(preset, **switches), random_ids(2, 20)
    before = model.trace(ids)
    squares = before.hidden[0].square().mean(-1)
    torch.testing.assert_close(squares, torch.ones_like(squares), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        model.wte.weight.mul_(1000)
        if model.wpe is not None:
            model.wpe.weight.mul_(1000)
    torch.testing.assert_close(model.trace(ids).logits, before.logits, atol=1e-4, rtol=1e-3)
    assert model(ids, targets=ids)[0].item() == pytest.approx(
        torch.nn.functional.cross_entropy(before.logits.flatten(0, 1), ids.flatten(), reduction="sum").item(), rel=1e-4
    )


# ---- the head


def test_a_tied_head_is_one_tensor_that_learns_from_both_uses(random_model: MakeModel) -> None:
    """Its gradient is the sum of those that two separate tensors of the same values would get."""
    tied, untied = random_model(), random_model(tie_embeddings=False)
    assert not [name for name in tied.weights() if "lm_head" in name]
    untied.load_weights(tied.weights() | {"lm_head.weight": tied.weights()["wte.weight"]})
    for model in (tied, untied):
        model(random_ids(2, 20), targets=random_ids(2, 20))[0].backward()
    apart = untied.wte.weight.grad, untied.lm_head.weight.grad
    assert min(gradient.abs().max() for gradient in apart) > 1e-3
    torch.testing.assert_close(tied.wte.weight.grad, sum(apart), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_padding_rows_are_in_neither_logits_nor_loss(random_model: MakeModel, tie_embeddings: bool) -> None:
    model, ids = random_model(vocab_size=70, tie_embeddings=tie_embeddings), random_ids(2, 10, 70)
    head = model.wte if tie_embeddings else model.lm_head
    assert head.weight.shape == (128, 32)
    logits, (total, _) = model(ids), model(ids, targets=ids)
    assert logits.shape == (2, 10, 70)
    with torch.no_grad():
        head.weight[70:] = 100.0
    changed, _ = model(ids, targets=ids)
    assert torch.equal(model(ids), logits)
    assert torch.equal(changed, total)
    changed.backward()
    assert not head.weight.grad[70:].any()


def test_logits_for_some_positions(random_model: MakeModel) -> None:
    model, ids = random_model(), random_ids(3, 10)
    logits = model(ids)
    torch.testing.assert_close(model(ids, logits_for="last"), logits[:, -1:])
    some = model(ids, logits_for=torch.tensor([2, 9, 0]))
    torch.testing.assert_close(some, torch.stack((logits[0, 2:3], logits[1, 9:10], logits[2, 0:1])))


def test_targets_give_the_summed_loss_of_the_logits(random_model: MakeModel) -> None:
    model, ids, targets = random_model(), random_ids(3, 10), random_ids(3, 10)
    targets[0, 3:] = -100
    total, count = model(ids, targets=targets)
    log_p = model(ids).double().log_softmax(-1)
    expected = -sum(log_p[b, t, targets[b, t]] for b in range(3) for t in range(10) if targets[b, t] >= 0)
    assert count.item() == 23
    torch.testing.assert_close(total.double(), expected, atol=0, rtol=1e-6)


def test_the_softcap_bends_logits_into_its_interval(random_model: MakeModel) -> None:
    plain, capped = random_model(), random_model(logit_softcap=2.0)
    ids = random_ids(2, 10)
    assert plain(ids).abs().max() > 2
    assert capped(ids).abs().max() < 2
    torch.testing.assert_close(capped(ids), 2 * torch.tanh(plain(ids) / 2))
    expected = torch.nn.functional.cross_entropy(capped(ids).flatten(0, 1), ids.flatten(), reduction="sum")
    torch.testing.assert_close(capped(ids, targets=ids)[0], expected)


# ---- looking inside


@KINDS
@KERNELS
def test_a_trace_agrees_with_the_forward_pass(random_model: MakeModel, preset: str, sizes: dict, kernel: str) -> None:
    """Each layer's map, applied by hand to that layer's values, leads from one traced hidden state to the next."""
    model, ids = random_model(preset, **sizes).use_attention(kernel), random_ids(2, 12)
    trace = model.trace(ids)
    torch.testing.assert_close(trace.logits, model(ids), atol=1e-5, rtol=1e-5)
    assert (len(trace.hidden), len(trace.maps)) == (3, 2)
    assert torch.equal(trace.hidden[0], model.embed(ids))
    for layer, (block, weights) in enumerate(zip(model.h, trace.maps, strict=True)):
        x, attention = trace.hidden[layer], block.attn
        kv, D = attention.n_kv_head, attention.head_dim
        v = attention.c_attn(block.ln_1(x))[..., -kv * D :].view(2, 12, kv, D).transpose(1, 2)
        y = weights @ v.repeat_interleave(4 // kv, dim=1)
        x = x + attention.c_proj(y.transpose(1, 2).flatten(2))
        torch.testing.assert_close(trace.hidden[layer + 1], x + block.mlp(block.ln_2(x)), atol=1e-4, rtol=1e-4)
        assert weights.shape == (2, 4, 12, 12)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 12))
        assert not weights.triu(1).any()
    assert not trace.logits.requires_grad


# ---- weights


@pytest.mark.parametrize("preset", PRESETS)
def test_initialisation_follows_from_the_seed_alone(preset: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return GPT(
            resolve({"model": {"preset": preset, "n_layer": 2, "n_embd": 48, "vocab_size": 65}}).model, seed
        ).weights()

    torch.manual_seed(1)
    state, first = torch.get_rng_state(), weights(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    torch.randn(7)
    again, other = weights(5), weights(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.isfinite(tensor).all() for tensor in first.values())
    assert not torch.equal(first["wte.weight"], other["wte.weight"])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_loss_is_that_of_a_uniform_guess(preset: str) -> None:
    model = small(preset=preset, vocab_size=1000, n_embd=64)
    text = random_ids(4, 33, 1000)
    total, count = model(text[:, :-1], targets=text[:, 1:])
    assert abs(total.item() / count.item() - math.log(1000)) < 0.05


def test_initial_sizes() -> None:
    gpt2, prime = (small(preset=p, n_layer=8, n_embd=128, vocab_size=512).weights() for p in ("gpt2", "prime"))
    assert gpt2["wte.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt2["h.3.mlp.c_fc.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    assert gpt2["h.3.mlp.c_proj.weight"].std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert gpt2["h.0.attn.c_attn.bias"].abs().max() == 0
    assert (gpt2["ln_f.weight"] == 1).all()
    assert prime["h.3.mlp.c_proj.weight"].abs().max() == 0
    assert prime["h.3.mlp.c_fc.weight"].std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert prime["lm_head.weight"].std().item() == pytest.approx(0.001, rel=0.05)


def test_shapes_follow_the_configuration() -> None:
    shapes = {
        n: tuple(w.shape) for n, w in small(preset="qwen3", n_kv_head=2, head_dim=10, bias=False).weights().items()
    }
    assert shapes["h.1.attn.c_attn.weight"] == ((4 + 2 * 2) * 10, 32)
    assert shapes["h.1.attn.c_proj.weight"] == (32, 40)
    assert shapes["h.1.attn.q_norm.weight"] == (10,)
    assert shapes["h.1.mlp.c_gate.weight"] == shapes["h.1.mlp.c_fc.weight"] == (128, 32)  # 8/3 · 32, up to 64
    assert not [name for name in shapes if "bias" in name or "wpe" in name]


def test_weights_are_copied_into_the_models_own_storage(random_model: MakeModel) -> None:
    source, target = random_model("prime"), small(preset="prime")
    places = {name: tensor.data_ptr() for name, tensor in target.weights().items()}
    target.load_weights({name: tensor.bfloat16() for name, tensor in source.weights().items()})
    for name, tensor in target.weights().items():
        assert (tensor.data_ptr(), tensor.dtype) == (places[name], torch.float32)
        assert torch.equal(tensor, source.weights()[name].bfloat16().float())


def test_weights_that_do_not_fit_are_refused(random_model: MakeModel) -> None:
    model, weights = small(), random_model().weights()
    without = {name: tensor for name, tensor in weights.items() if name != "h.1.ln_2.bias"}
    short = torch.ones(9, 32)
    for wrong, message in [
        (without, "'h.1.ln_2.bias' is missing from the file"),
        (weights | {"h.7.extra": short}, "'h.7.extra' is not in the model"),
        (weights | {"wpe.weight": short}, r"'wpe.weight' has another shape: \[9, 32\] in the file, \[64, 32\]"),
    ]:
        with pytest.raises(MismatchError, match=message):
            model.load_weights(wrong)


@KERNELS
def test_attention_drops_weights_in_training(random_model: MakeModel, kernel: str) -> None:
    """In a block's attention by itself; the residual branches drop elsewhere."""
    model, x = random_model(dropout=0.5).use_attention(kernel), torch.ones(1, 16, 32).cumsum(1).sin()
    attention, view = model.h[0].attn, model.view(random_ids(1, 16), None, None)
    whole = attention(x, view)
    assert torch.equal(attention(x, view), whole)
    attention.train()
    torch.manual_seed(0)
    dropped = torch.stack([attention(x, view) for _ in range(2000)])
    assert dropped.std(0).mean() > 0.05
    torch.testing.assert_close(dropped.mean(0), whole, atol=0.15, rtol=0)


def test_dropout_works_in_training_alone(random_model: MakeModel) -> None:
    model, ids = random_model(dropout=0.3), random_ids(2, 20)
    assert torch.equal(model(ids), model(ids))
    for kernel in ("sdpa", "explicit"):
        model.use_attention(kernel).train()
        torch.manual_seed(0)
        first = model(ids)
        assert not torch.equal(model(ids), first)
        torch.manual_seed(0)
        assert torch.equal(model(ids), first)
        model.eval()
