"""Reading a text through the cache, in any portions and beside any other, is reading it at once."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT

MakeModel = Callable[..., GPT]
KINDS = pytest.mark.parametrize(
    ("preset", "sizes"),
    [
        ("gpt2", {}),
        ("qwen3", {}),
        ("prime", {}),
        ("qwen3", {"n_kv_head": 2}),
        ("qwen2", {"n_kv_head": 2, "rope_type": "llama3", "rope_original_context": 16}),
        ("gpt2", {"n_kv_head": 1, "head_dim": 12}),
    ],
)
CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(autouse=True)
def no_gradients() -> None:
    torch.set_grad_enabled(False)
    yield
    torch.set_grad_enabled(True)


def random_ids(B: int, T: int) -> Tensor:
    return torch.randint(100, (B, T), generator=torch.Generator().manual_seed(B * 1000 + T))


def read(model: GPT, cache: KVCache, ids: Tensor, portion: int) -> Tensor:
    """Logits of `ids` (B, T), given to the model `portion` at a time."""
    return torch.cat([model(part, cache=cache) for part in ids.split(portion, dim=1)], dim=1)


@KINDS
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
def test_any_portions_give_the_logits_of_the_whole(
    random_model: MakeModel, preset: str, sizes: dict, kernel: str
) -> None:
    model, ids = random_model(preset, **sizes).use_attention(kernel), random_ids(2, 40)
    whole = model(ids)
    for portion in (1, 3, 7, 40):
        torch.testing.assert_close(read(model, KVCache(model.config, 2, 40), ids, portion), whole, **CLOSE)


@KINDS
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@pytest.mark.parametrize("portion", [1, 3, 10])
def test_rows_of_unequal_length_do_not_see_padding(
    random_model: MakeModel, preset: str, sizes: dict, kernel: str, portion: int
) -> None:
    """Prefill padded on the right, true lengths set, then go on: each row reads as it would alone."""
    model, ids = random_model(preset, **sizes).use_attention(kernel), random_ids(3, 40)
    lengths = [2, 20, 11]
    cache, padded = KVCache(model.config, 3, 40), ids[:, :20].clone()
    for b, length in enumerate(lengths):
        padded[b, length:] = 99
    last = model(padded, cache=cache, logits_for=torch.tensor(lengths) - 1)
    cache.lengths = list(lengths)
    new = torch.stack([ids[b, length : length + 10] for b, length in enumerate(lengths)])
    found = read(model, cache, new, portion)
    assert cache.lengths == [12, 30, 21]
    for b, length in enumerate(lengths):
        alone = model(ids[b : b + 1, : length + 10])[0]
        torch.testing.assert_close(last[b, 0], alone[length - 1], **CLOSE)
        torch.testing.assert_close(found[b], alone[length:], **CLOSE)


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
@pytest.mark.parametrize("fault", ["positions", "mask"])
def test_an_off_by_one_would_be_noticed(random_model: MakeModel, preset: str, fault: str) -> None:
    """The comparisons here have teeth: with either fault, portions and unequal rows read something else."""
    right_positions, right_mask = KVCache.positions, KVCache.mask

    def positions(self: KVCache, T: int, device: torch.device) -> Tensor:
        return right_positions(self, T, device) - (1 if min(self.lengths) else 0)

    def mask(self: KVCache, T: int, device: torch.device) -> Tensor | None:
        found = right_mask(self, T, device)  # each query is denied its own slot
        return None if found is None else found & found.roll(-1, dims=-1)

    model, ids = random_model(preset), random_ids(2, 40)
    whole, wrong = model(ids), {"positions": positions, "mask": mask}[fault]
    with patch.object(KVCache, fault, wrong):
        portions = read(model, KVCache(model.config, 2, 41), ids, 7)
        cache = KVCache(model.config, 2, 41)
        model(ids[:, :20], cache=cache)
        cache.lengths = [9, 20]
        unequal = model(torch.stack([ids[0, 9:10], ids[1, 20:21]]), cache=cache)
    assert (portions - whole).abs().max() > 1e-2
    assert (unequal[0, 0] - whole[0, 9]).abs().max() > 1e-2


@KINDS
def test_rows_can_leave_change_places_and_be_copied(random_model: MakeModel, preset: str, sizes: dict) -> None:
    model, ids = random_model(preset, **sizes), random_ids(3, 20)
    cache = KVCache(model.config, 3, 20)
    model(ids[:, :15], cache=cache)
    cache.lengths = [5, 15, 9]
    cache.select([2, 0, 2])
    assert cache.lengths == [9, 5, 9]
    found = model(random_ids(3, 1), cache=cache)
    for b, (row, length) in enumerate([(2, 9), (0, 5), (2, 9)]):
        alone = model(torch.cat((ids[row : row + 1, :length], random_ids(3, 1)[b : b + 1]), dim=1))
        torch.testing.assert_close(found[b, 0], alone[0, -1], **CLOSE)


@KINDS
def test_rows_join_and_leave_one_room(random_model: MakeModel, preset: str, sizes: dict) -> None:
    """Any row in use may leave; a new one joins in its place, and nothing of the old one is seen."""
    model, ids = random_model(preset, **sizes), random_ids(6, 20)
    cache, room = KVCache(model.config, 3, 20), None
    texts: dict[int, list[int]] = {}  # by row of the cache: the ids that it holds
    cache.select([])
    for step, (leaving, joining) in enumerate([((), 2), ((), 1), ((1,), 0), ((0, 1), 2), ((), 1), ((2, 0), 1)]):
        stay = [row for row in range(len(texts)) if row not in leaving][::-1]  # in another order too
        cache.select(stay)
        texts = {b: texts[row] for b, row in enumerate(stay)}
        for _ in range(joining):
            texts[len(texts)] = []
            cache.join()
        portion = ids[: len(texts), 2 * step : 2 * step + 2]
        found = model(portion, cache=cache)
        for b, row in texts.items():
            row += portion[b].tolist()
            torch.testing.assert_close(found[b, -1], model(torch.tensor([row]))[0, -1], **CLOSE)
        room = room or cache.k.data_ptr()
        assert (cache.lengths, cache.k.data_ptr()) == ([len(row) for row in texts.values()], room)


def test_a_cleared_cache_is_as_good_as_new(random_model: MakeModel) -> None:
    model, ids = random_model("qwen3"), random_ids(2, 30)
    cache = KVCache(model.config, 2, 30)
    model(ids, cache=cache)
    room = cache.k.data_ptr()
    cache.clear()
    assert torch.equal(model(ids[:, 3:20], cache=cache), model(ids[:, 3:20], cache=KVCache(model.config, 2, 30)))
    assert cache.k.data_ptr() == room


def test_a_full_cache_refuses_more(random_model: MakeModel) -> None:
    model = random_model()
    cache = KVCache(model.config, 1, 8)
    model(random_ids(1, 8), cache=cache)
    with pytest.raises(AssertionError, match="holds 8 tokens, 9"):
        model(random_ids(1, 1), cache=cache)


@pytest.mark.parametrize("lengths", [[0, 0], [4, 4], [0, 5], [3, 1, 2]])
@pytest.mark.parametrize("T", [1, 3])
def test_positions_and_mask_by_definition(random_model: MakeModel, lengths: list[int], T: int) -> None:
    cache = KVCache(random_model().config, len(lengths), 10)
    cache.lengths = lengths
    positions, mask, S = cache.positions(T, "cpu"), cache.mask(T, "cpu"), max(lengths) + T
    visible = [[[s <= length + t for s in range(S)] for t in range(T)] for length in lengths]
    assert positions.expand(len(lengths), T).tolist() == [[length + t for t in range(T)] for length in lengths]
    if mask is None:
        assert all(all(row) for rows in visible for row in rows)
    else:
        assert mask.expand(len(lengths), 1, T, S)[:, 0].tolist() == visible


def test_a_sixteen_bit_cache_serves_a_full_precision_model(random_model: MakeModel) -> None:
    model, ids = random_model(), random_ids(2, 30)
    cache = KVCache(model.config, 2, 30, torch.bfloat16)
    found = read(model, cache, ids, 7)
    assert found.dtype == torch.float32
    difference = (found.softmax(-1) - model(ids).softmax(-1)).abs().max()
    assert 0 < difference < 0.02
