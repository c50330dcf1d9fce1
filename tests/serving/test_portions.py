"""Prompts with a common beginning: read once, and the same numbers as read whole."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor

from primegpt.inference.context import CachedContext, Row
from primegpt.inference.quantize import for_decoding
from primegpt.model.gpt import GPT
from primegpt.serving import portions
from primegpt.serving.portions import PORTION, PortionedContext

MakeModel = Callable[..., GPT]
BLOCK = 512


def ids(length: int, seed: int) -> list[int]:
    random = Random(seed)
    return [random.randrange(100) for _ in range(length)]


SYSTEM = ids(2 * PORTION + 40, 0)


@torch.inference_mode()
def logits_after(context: CachedContext, *prompts: Sequence[int]) -> Tensor:
    """What follows each of the prompts, (B, V), which then leave the context."""
    for _ in prompts:
        context.cache.join()
    try:
        return context.next_logits([Row(prompt, BLOCK) for prompt in prompts])
    finally:
        context.select([])


@contextmanager
def tokens_read(model: GPT):
    """How many tokens each pass computes."""
    sizes: list[int] = []

    def count(_: Any, inputs: tuple[Tensor, ...]) -> None:
        sizes.append(inputs[0].numel())

    hook = model.register_forward_pre_hook(count)
    yield sizes
    hook.remove()


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
@pytest.mark.parametrize("lengths", [(5,), (1, 128, 129, 130, 300, 512), (512, 600)])
def test_prompts_in_portions_give_the_logits_of_prompts_read_whole(
    random_model: MakeModel, preset: str, lengths: tuple[int, ...]
) -> None:
    model = random_model(preset, block_size=BLOCK)
    prompts = [ids(length, seed) for seed, length in enumerate(lengths)]
    context = PortionedContext.with_slots(model, len(prompts), torch.float32)
    for _ in range(2):  # read, and remembered
        found = logits_after(context, *prompts)
        for prompt, logits in zip(prompts, found, strict=True):
            whole = CachedContext.with_slots(model, 1, torch.float32)
            torch.testing.assert_close(logits_after(whole, prompt)[0], logits, rtol=0, atol=1e-4)


def test_a_common_beginning_is_read_once(random_model: MakeModel) -> None:
    model = random_model("prime", block_size=BLOCK)
    context = PortionedContext.with_slots(model, 3, torch.float32)
    with tokens_read(model) as sizes:
        logits_after(context, [*SYSTEM, *ids(10, 1)], [*SYSTEM, *ids(7, 2)])
        assert sizes == [PORTION, PORTION, 2 * (40 + 10 - 1), 2]
        sizes.clear()
        logits_after(context, [*SYSTEM, *ids(20, 3)])
        assert sizes == [40 + 20 - 1, 1]
        sizes.clear()
        logits_after(context, [*SYSTEM[:PORTION], *ids(5, 4)], ids(PORTION, 5))
        assert sorted(sizes) == [2, 4, PORTION - 1], "the first portion alone is common; another text has none"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_a_text_is_the_same_bit_for_bit_whether_its_beginning_was_read_for_it_or_before(
    random_model: MakeModel, precision: Any
) -> None:
    model = for_decoding(random_model("prime", block_size=BLOCK), precision)
    dtype = model.wte.weight.dtype
    prompt, other = [*SYSTEM, *ids(30, 1)], [*SYSTEM, *ids(60, 2)]
    cold, warm = (PortionedContext.with_slots(model, 2, dtype) for _ in range(2))
    logits_after(warm, other)
    assert torch.equal(logits_after(warm, prompt), logits_after(cold, prompt))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, random_model: MakeModel) -> PortionedContext:
    """A context that keeps eight portions."""
    model = random_model("prime", block_size=BLOCK)
    a_portion = PortionedContext.with_slots(model, 1, torch.float32).cache.k[:, :1, :, :PORTION].nbytes * 2
    monkeypatch.setattr(portions, "KEPT", 8 * a_portion + 1)
    return PortionedContext.with_slots(model, 1, torch.float32)


def test_no_more_is_kept_than_there_is_room_for_and_what_is_used_stays(few: PortionedContext) -> None:
    for seed in range(10):
        logits_after(few, ids(400, seed))
        with tokens_read(few.model) as sizes:
            logits_after(few, [*SYSTEM, seed])
            assert seed == 0 or sizes == [40, 1], f"the beginning in use was forgotten before text {seed}"
    assert len(few.portions) == few.most == 8
    kept = sum(tensor.untyped_storage().nbytes() for pair in few.portions.values() for tensor in pair)
    assert kept <= portions.KEPT, "views would keep more than they show"


@torch.inference_mode()
def test_what_only_one_text_has_pushes_nothing_out(few: PortionedContext) -> None:
    """What was written, and windows that have slid, which begin at other places than prompts."""
    logits_after(few, SYSTEM)
    kept = list(few.portions)
    for seed in range(10):
        row = Row(ids(PORTION + 3, seed), BLOCK)
        row.ids += ids(300, seed + 1)
        few.cache.join()
        few.next_logits([row])
        few.select([])
        slid = Row([*ids(20, seed), *ids(BLOCK, seed + 2)], BLOCK)
        assert slid.start
        few.cache.join()
        few.next_logits([slid])
        few.select([])
    assert set(few.portions) - set(kept) <= {tuple(ids(PORTION + 3, seed)[:PORTION]) for seed in range(10)}


def test_what_is_kept_does_not_count_as_to_be_read(few: PortionedContext) -> None:
    assert few.unread(tuple(SYSTEM)) == len(SYSTEM)
    logits_after(few, SYSTEM)
    assert few.unread((*SYSTEM, 1, 2)) == 40 + 2
    assert few.unread((1, 2)) == 2
