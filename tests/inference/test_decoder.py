"""The decode loop: cached, batched and streamed generation are one function, the plain one."""

from collections.abc import Callable, Iterator
from random import Random
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from primegpt.config import GenerateConfig
from primegpt.errors import MismatchError, NonFiniteError, UsageError
from primegpt.inference.context import CachedContext, Completion, Row, UncachedContext
from primegpt.inference.decoder import Decoder
from primegpt.inference.logits import choose
from primegpt.inference.quantize import for_decoding
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT

PRESETS = ["gpt2", "qwen3", "prime"]
MakeModel = Callable[..., GPT]
GREEDY = GenerateConfig(temperature=0.0, max_new_tokens=40)
SAMPLED = GenerateConfig(temperature=1.0, top_k=0, max_new_tokens=40, seed=3)


def rows_of(prompts: list[list[int]], block_size: int) -> list[Row]:
    return [Row(prompt, block_size, Random(0)) for prompt in prompts]


def random_prompts(*lengths: int) -> list[list[int]]:
    random = Random(1)
    return [[random.randrange(256) for _ in range(length)] for length in lengths]


@torch.inference_mode()
def largest_difference(model: GPT, prompts: list[list[int]], steps: int = 300) -> float:
    """Between the logits with and without a cache, over `steps` steps along one random text a row."""
    rows, random = rows_of(prompts, model.config.block_size), Random(2)
    cached, uncached, worst = CachedContext(model, rows, steps, torch.float32), UncachedContext(model), 0.0
    for _ in range(steps):
        difference = cached.next_logits(rows) - uncached.next_logits(rows)
        worst = max(worst, difference.abs().max().item())
        for row in rows:
            row.add(random.randrange(256), frozenset(), steps + 1)
    return worst


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("block_size", [320, 15, 2])
def test_cached_logits_equal_uncached_ones_at_each_of_300_steps(
    random_model: MakeModel, preset: str, block_size: int
) -> None:
    """Within the block, and far past it, where rows of unequal length slide at different steps."""
    model = random_model(preset, block_size=block_size)
    prompts = random_prompts(1, 7, 20) if block_size < 320 else random_prompts(5)
    assert largest_difference(model, prompts) < 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_a_cache_that_is_off_by_one_position_would_be_noticed(random_model: MakeModel, preset: str) -> None:
    """The comparison above has teeth: it fails when the cache misplaces new tokens by one."""
    right = KVCache.positions

    def wrong(self: KVCache, T: int, device: torch.device) -> Tensor:
        return right(self, T, device) + (1 if min(self.lengths) else 0)

    model = random_model(preset, block_size=256)
    with patch.object(KVCache, "positions", wrong):
        assert largest_difference(model, random_prompts(5), 20) > 1e-2


@pytest.mark.parametrize("preset", PRESETS)
def test_logits_of_unequal_prompts_in_a_batch_equal_those_of_each_alone(random_model: MakeModel, preset: str) -> None:
    model, prompts = random_model(preset, block_size=32), random_prompts(1, 2, 13, 30, 32, 45)
    with torch.inference_mode():
        rows = rows_of(prompts, 32)
        together = CachedContext(model, rows, 20, torch.float32)
        alone = [CachedContext(model, [row], 20, torch.float32) for row in rows]
        for step in range(20):
            logits = together.next_logits(rows)
            single = torch.cat([context.next_logits([row]) for context, row in zip(alone, rows, strict=True)])
            torch.testing.assert_close(logits, single, atol=1e-4, rtol=0)
            for row in rows:
                row.add(step, frozenset(), 100)


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED])
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_text_does_not_depend_on_its_batch(
    random_model: MakeModel, tokenizer, settings: GenerateConfig, use_cache: bool
) -> None:
    """Unequal prompts, several samples, past the block: each text is the one it is when written alone."""
    decoder = Decoder(random_model(block_size=24), tokenizer, use_cache=use_cache)
    prompts = ["a", "To be, or not", "the quick brown fox jumps over the lazy dog"]
    together = decoder.generate(prompts, settings, num_samples=3)
    for prompt, samples in zip(prompts, together, strict=True):
        assert decoder.generate([prompt], settings)[0][0] == samples[0]
        assert decoder.generate([prompt], settings, num_samples=3)[0] == samples


def plain_greedy(model: GPT, ids: list[int], stop: int, banned: list[int], steps: int) -> list[int]:
    """Greedy decoding as one would first write it, the rule past the block included."""
    window, added = list(ids), []
    while len(added) < steps:
        if len(window) > model.config.block_size:
            window = window[-(model.config.block_size // 2) :]
        logits = model(torch.tensor([window]))[0, -1]
        logits[banned] = -torch.inf
        if (id := int(logits.argmax())) == stop:
            break
        window.append(id)
        added.append(id)
    return added


@pytest.mark.parametrize("preset", PRESETS)
@torch.no_grad()
def test_greedy_equals_a_plain_loop(random_model: MakeModel, tokenizer, preset: str) -> None:
    model = random_model(preset, block_size=16)
    for prompt in ("x", "sixteen letters!", "more than sixteen letters"):
        expected = plain_greedy(model, list(prompt.encode()), 256, [257, 258, 259], 40)
        found = Decoder(model, tokenizer).generate([prompt], GREEDY)[0][0]
        assert found == Completion(list(prompt.encode()), expected, tokenizer.decode(expected), found.finish_reason)


def test_the_model_sees_the_last_half_of_the_block_once_it_is_full(random_model: MakeModel) -> None:
    (row,) = rows_of([[0, 1, 2, 3, 4, 5, 6]], 8)
    seen = []
    for id in range(7, 14):
        seen.append(row.window)
        row.add(id, frozenset(), 100)
    assert seen[0] == [0, 1, 2, 3, 4, 5, 6]
    assert seen[1] == [0, 1, 2, 3, 4, 5, 6, 7]  # full, and still whole
    assert seen[2] == [5, 6, 7, 8]
    assert seen[6] == [5, 6, 7, 8, 9, 10, 11, 12]
    assert row.window == [10, 11, 12, 13]
    assert rows_of([list(range(8))], 8)[0].window == list(range(8))
    assert rows_of([list(range(9))], 8)[0].window == [5, 6, 7, 8]  # a long prompt is cut alike


def test_rows_end_at_stop_ids_and_leave_the_batch(random_model: MakeModel, tokenizer) -> None:
    """With every other id a stop id, texts end after a few tokens, each at another step."""
    decoder = Decoder(random_model("qwen3"), tokenizer)
    decoder.stop_ids = frozenset(range(0, 257, 8))
    sizes, next_logits = [], CachedContext.next_logits

    def watched(self: CachedContext, rows: list[Row]) -> Tensor:
        sizes.append((len(rows), len(self.cache.lengths)))
        return next_logits(self, rows)

    with patch.object(CachedContext, "next_logits", watched):
        texts = [t for s in decoder.generate(["one", "two and more", "3"], SAMPLED, num_samples=4) for t in s]
    lengths = [len(text.ids) + (text.finish_reason == "stop") for text in texts]
    assert len(set(lengths)) > 4  # they did end apart
    assert sizes == [(n, n) for step in range(max(lengths)) if (n := sum(length > step for length in lengths))]
    for text in texts:
        assert not set(text.ids) & decoder.stop_ids
        assert (text.finish_reason == "length") == (len(text.ids) == SAMPLED.max_new_tokens)
    alone = [t for prompt in ("one", "two and more", "3") for t in decoder.generate([prompt], SAMPLED)[0]]
    assert alone == texts[::4]


def test_equal_prompts_are_read_once(random_model: MakeModel, tokenizer) -> None:
    model, shapes = random_model(), []
    forward = model.forward

    def watched(ids: Tensor, **rest: object) -> Tensor:
        shapes.append(tuple(ids.shape))
        return forward(ids, **rest)

    with patch.object(model, "forward", watched):
        Decoder(model, tokenizer).generate(["abcdef", "xyz"], GenerateConfig(max_new_tokens=3), num_samples=5)
    assert shapes == [(2, 5), (10, 1), (10, 1), (10, 1)]


def test_a_cache_has_room_for_what_will_be_written_and_for_one_block(random_model: MakeModel) -> None:
    model = random_model(block_size=64)
    for prompt, new, room in [(5, 3, 7), (5, 60, 64), (5, 1000, 64), (64, 1, 64), (70, 3, 34), (1, 1, 1)]:
        rows = rows_of(random_prompts(prompt), 64)
        assert CachedContext(model, rows, new, torch.float32).cache.max_length == room + 1  # never used


def test_samples_follow_from_the_seed_alone(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)

    def texts(seed: int, num_samples: int) -> list[str]:
        settings = SAMPLED.model_copy(update={"seed": seed})
        return [sample.text for sample in decoder.generate(["The"], settings, num_samples=num_samples)[0]]

    torch.manual_seed(1)
    state, first = torch.get_rng_state(), texts(7, 4)
    assert torch.equal(torch.get_rng_state(), state)  # nothing is drawn from the default generator
    torch.manual_seed(2)
    assert texts(7, 4) == first
    assert texts(7, 2) == first[:2]
    assert len(set(first + texts(8, 4))) == 8


def test_a_longer_text_begins_with_the_shorter_one(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)
    short = decoder.generate(["x"], SAMPLED.model_copy(update={"max_new_tokens": 7}))[0][0]
    assert decoder.generate(["x"], SAMPLED)[0][0].ids[:7] == short.ids


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_that_are_no_text_are_never_written(random_model: MakeModel, tokenizer, temperature: float) -> None:
    """Padding, unknown, beginning of text, model ids beyond the tokenizer's: however likely the model finds them."""
    model = random_model(vocab_size=300)
    logits = model.logits

    def biased(hidden: Tensor) -> Tensor:
        return logits(hidden) + 100.0 * (torch.arange(300) > 256)

    with patch.object(model, "logits", biased):
        settings = GenerateConfig(temperature=temperature, max_new_tokens=60)
        samples = Decoder(model, tokenizer).generate(["a"], settings, num_samples=4)[0]
    assert max(id for sample in samples for id in sample.ids) < 256


def test_the_end_of_text_id_stops_even_where_it_is_also_the_beginning(random_model: MakeModel, tokenizer) -> None:
    tokenizer.special_tokens["<BOS>"] = tokenizer.eot_id  # as in GPT-2's vocabulary
    model = random_model()
    logits = model.logits
    with patch.object(model, "logits", lambda hidden: logits(hidden) + 100.0 * (torch.arange(260) == 256)):
        (sample,) = Decoder(model, tokenizer).generate(["a"], SAMPLED)[0]
    assert sample == Completion([97], [], "", "stop")


def test_streamed_pieces_join_to_the_generated_text(random_model: MakeModel, tokenizer) -> None:
    """Random bytes: mostly no UTF-8 at all, which must not upset the joining."""
    for preset in PRESETS:
        decoder = Decoder(random_model(preset, block_size=16), tokenizer)
        for settings in (SAMPLED, GREEDY):
            pieces = list(decoder.stream("é", settings))
            assert "".join(pieces) == decoder.generate(["é"], settings)[0][0].text
            assert all(pieces)
            assert len(pieces) > 1 or settings is GREEDY


def test_streaming_writes_whole_characters(random_model: MakeModel, tokenizer) -> None:
    text, decoder = "naïve 日本語 👩‍🚀!", Decoder(random_model(), tokenizer)
    script: Iterator[int] = iter(text.encode())
    with patch.object(decoder, "next_ids", lambda *_, **__: [next(script, tokenizer.eot_id)]):
        assert list(decoder.stream("", SAMPLED)) == list(text)
    script = iter("né".encode()[:2])  # ends inside a character
    with patch.object(decoder, "next_ids", lambda *_, **__: [next(script, tokenizer.eot_id)]):
        assert list(decoder.stream("", SAMPLED)) == ["n", "\ufffd"]


def test_where_prompts_begin(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)

    def start(prompt: str | list[int], start_document: bool | None = None) -> list[int]:
        settings = GenerateConfig(max_new_tokens=1, start_document=start_document)
        return decoder.generate([prompt], settings)[0][0].prompt_ids

    assert start("ab") == [97, 98]
    assert start("ab", False) == [97, 98]
    assert start("ab", True) == [256, 97, 98]
    assert start([97, 98], True) == [97, 98]
    assert start("") == start("", True) == start([]) == [256]
    with pytest.raises(UsageError, match="holds the id 260; ids run from 0 to 259"):
        start([1, 260])
    with pytest.raises(UsageError, match="holds the id -1"):
        start([-1])


def test_where_prompts_of_another_model_begin(random_model: MakeModel, tokenizer, monkeypatch) -> None:
    """Its own beginning of text stands before a text; once it was trained here, what was trained does."""
    monkeypatch.setattr(tokenizer, "opening_id", 259)
    decoder = Decoder(random_model(), tokenizer)

    def start(prompt: str | list[int], start_document: bool | None = None) -> list[int]:
        return decoder.encode(prompt, GenerateConfig(start_document=start_document))

    assert start("ab") == [259, 97, 98]
    assert start("ab", False) == [97, 98]
    assert start("ab", True) == [256, 97, 98]
    assert [start([97, 98], given) for given in (None, False, True)] == [[97, 98]] * 3
    assert (start(""), start([]), start("", False), start("", True)) == ([259], [259], [256], [256])


def test_nothing_asked_nothing_written(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)
    assert decoder.generate([], SAMPLED) == []
    assert decoder.generate(["a"], SAMPLED, num_samples=0) == [[]]


def test_dropout_is_off_while_a_token_is_computed_and_training_mode_returns(random_model: MakeModel, tokenizer) -> None:
    model = random_model(dropout=0.5)
    expected = Decoder(model, tokenizer).generate(["abc"], SAMPLED)
    model.train()
    assert Decoder(model, tokenizer).generate(["abc"], SAMPLED) == expected
    assert all(module.training for module in model.modules())
    for _ in Decoder(model, tokenizer).stream("abc", SAMPLED):
        assert model.training  # also between the tokens of a stream, and when it is left half-read
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        break
    model(torch.tensor([[1, 2]]), targets=torch.tensor([[2, 3]]))[0].backward()  # and the model can still learn


def test_training_mode_returns_after_a_failure(random_model: MakeModel, tokenizer) -> None:
    model = random_model().train()
    with torch.no_grad():
        model.ln_f.weight[0] = torch.nan
    for settings in (GREEDY, SAMPLED):
        with pytest.raises(NonFiniteError, match="logits are not finite"):
            Decoder(model, tokenizer).generate(["abc"], settings)
    assert model.training


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(random_model: MakeModel, tokenizer) -> None:
    with pytest.raises(MismatchError, match="tokenizer has 260 ids, the model 65"):
        Decoder(random_model(vocab_size=65), tokenizer)


def test_who_reads_the_loop_may_end_a_row(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)
    rows = [decoder.row("a", SAMPLED), decoder.row("b", SAMPLED)]
    steps = []
    for extended in decoder.decode_loop(rows, SAMPLED):
        steps.append(len(extended))
        if len(rows[0].added) == 3:
            rows[0].finish_reason = "stop"
    assert steps[:5] == [2, 2, 2, 1, 1]
    assert rows[0].added == decoder.generate(["a"], SAMPLED)[0][0].ids[:3]
    assert decoder.completion(rows[1]) == decoder.generate(["b"], SAMPLED)[0][0]


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # RMSNorm's remark on its speed
@pytest.mark.parametrize("preset", PRESETS)
def test_sixteen_bits(random_model: MakeModel, tokenizer, preset: str) -> None:
    """As a copy for decoding and with 16-bit weights the text is generated, and near the fp32 one's distribution."""
    model = random_model(preset)
    prompts = random_prompts(5, 9)
    rows = rows_of(prompts, 64)
    with torch.inference_mode():
        expected = CachedContext(model, rows, 1, torch.float32).next_logits(rows).softmax(-1)
    for decoder in (
        Decoder(for_decoding(model, "bf16"), tokenizer),
        Decoder(random_model(preset).bfloat16(), tokenizer),
    ):
        with patch("primegpt.inference.decoder.choose", wraps=choose) as seen:
            assert [len(samples) for samples in decoder.generate(prompts, SAMPLED, num_samples=2)] == [2, 2]
        logits = seen.call_args.args[0]
        assert (logits.dtype, logits.requires_grad) == (torch.bfloat16, False)
        context = decoder.context(rows, SAMPLED)
        with torch.inference_mode():
            found = context.next_logits(rows).float().softmax(-1)
        assert context.cache.k.dtype == torch.bfloat16
        assert (found - expected).abs().sum(-1).max() < 0.15


def test_names_of_tokens_that_clients_invent_are_not_kept_for_ever(random_model, tokenizer):
    decoder = Decoder(random_model(), tokenizer)
    assert [decoder.trigger(name) for name in ("a", "ab", "<PAD>")] == [ord("a"), None, 257]
    for number in range(300):
        decoder.trigger(f"[{number}]")
    assert decoder.trigger.cache_info().currsize <= 100
