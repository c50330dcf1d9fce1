"""What the playground shows of a model's inside, against sums done by hand."""

import numpy as np
import pytest
import torch

from primegpt.model.kernels import rotate
from primegpt.serving import lens


@pytest.fixture
def ids() -> list[int]:
    return torch.randint(100, (150,), generator=torch.Generator().manual_seed(3)).tolist()


def forward(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0]


def test_next_logits_are_those_of_the_window_in_which_text_is_written(random_model, ids):
    model = random_model()
    assert torch.allclose(lens.next_logits(model, ids[:40]), forward(model, ids[:40])[-1], atol=1e-5)
    assert torch.allclose(
        lens.next_logits(model, ids), forward(model, ids[-32:])[-1], atol=1e-5
    )  # half of a block of 64


@pytest.mark.parametrize("length", [1, 2, 33, 64, 65, 96, 97, 150])
def test_each_token_but_the_first_has_the_probability_that_the_model_gave_it(random_model, ids, length):
    model = random_model()
    logprobs, ranks = lens.token_logprobs(model, ids[:length])
    assert len(logprobs) == len(ranks) == length - 1
    for at in range(1, length):  # windows of 64 start every 32 tokens; a token counts in the first that holds it
        start = 0 if at < 64 else 32 * ((at - 32) // 32)
        expected = forward(model, ids[start:at])[-1].log_softmax(-1)
        assert logprobs[at - 1] == pytest.approx(float(expected[ids[at]]), abs=1e-4)
        assert ranks[at - 1] == (expected > expected[ids[at]]).sum()


def test_attention_is_that_of_the_layer_and_sums_to_one(random_model, ids):
    model = random_model(n_layer=3)
    maps = [lens.attention(model, ids[:20], layer) for layer in range(3)]
    for found in maps:
        assert found.shape == (4, 20, 20)
        assert torch.allclose(found.sum(-1), torch.ones(4, 20), atol=1e-5)
        assert (found.triu(1) == 0).all()
    block = model.h[0]  # the first layer's queries and keys, by hand
    with torch.no_grad():
        q, k, _ = block.attn.c_attn(block.ln_1(model.embed(torch.tensor([ids[:20]])))).split(32, dim=-1)
    for head in range(4):
        own = slice(8 * head, 8 * head + 8)
        scores = (q[0, :, own] @ k[0, :, own].T / 8**0.5).masked_fill(torch.ones(20, 20).triu(1) > 0, -torch.inf)
        assert torch.allclose(maps[0][head], scores.softmax(-1), atol=1e-5)
    assert not torch.allclose(maps[0], maps[1], atol=1e-2)


def test_the_logit_lens_ends_in_what_the_model_says_and_begins_with_the_embedding(random_model, ids):
    model = random_model()
    values, found = lens.logit_lens(model, ids[:10], 5)
    assert values.shape == found.shape == (3, 10, 5)
    said = forward(model, ids[:10]).softmax(-1).topk(5)
    assert torch.allclose(values[-1], said.values, atol=1e-5)
    assert (found[-1] == said.indices).all()
    with torch.no_grad():
        first = model.logits(model.ln_f(model.embed(torch.tensor([ids[:10]]))))[0].softmax(-1).topk(5)
    assert torch.allclose(values[0], first.values, atol=1e-5)
    few, which = lens.logit_lens(model, ids[:10], 5, 3)
    assert torch.allclose(few, values[:, -3:], atol=1e-5)
    assert (which == found[:, -3:]).all()


def test_near_tokens_are_the_rows_with_the_largest_cosine(random_model):
    model = random_model()
    table = model.wte.weight.detach()[:100].numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    expected = np.argsort(-(unit @ unit[7]))[1:6]
    values, found = lens.near_tokens(model, 7, 5)
    assert found.tolist() == expected.tolist()
    assert values.numpy() == pytest.approx((unit @ unit[7])[expected], abs=1e-5)


def test_near_positions_are_cosines_of_learnt_embeddings(random_model):
    model = random_model()
    table = model.wpe.weight.detach().numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert lens.near_positions(model, 9).numpy() == pytest.approx(unit @ unit[9], abs=1e-5)


def test_near_positions_of_a_rotary_model_are_what_turning_leaves_of_a_match(random_model):
    model = random_model("qwen3", head_dim=16)
    x = torch.ones(1, 64, 1, 16)  # equal weight in each pair
    turned = rotate(x, *(table[None, :, None] for table in model.rotary))[0, :, 0]  # (T, D)
    assert torch.allclose(lens.near_positions(model, 9), turned @ turned[9] / 16, atol=1e-5)
