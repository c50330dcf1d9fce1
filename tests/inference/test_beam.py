"""Beam search against an exhaustive one."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from primegpt.config import GenerateConfig
from primegpt.errors import UsageError
from primegpt.inference.decoder import Decoder
from primegpt.model.gpt import GPT

MakeModel = Callable[..., GPT]


class Letters:
    """Four letters, an end of text and a banned id."""

    vocab_size, eot_id, opening_id = 6, 4, None
    special_tokens = {"<EOT>": 4, "<PAD>": 5}  # noqa: RUF012 - a stub
    special_kinds = {"system": ("<EOT>", "<PAD>")}  # noqa: RUF012

    def encode(self, text: str) -> list[int]:
        return ["abcd".index(letter) for letter in text]

    def decode_bytes(self, ids: list[int]) -> bytes:
        return "".join("abcd"[id] for id in ids).encode()

    def decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode()

    decode_within = decode


@torch.no_grad()
def exhaustive(model: GPT, prompt: list[int], steps: int, power: float) -> list[tuple[float, list[int]]]:
    """Every text of at most `steps` letters, ended by the end of text if shorter, with its score; the best first."""
    found = []
    for length in range(1, steps + 1):
        for ids in product(range(5), repeat=length):
            ends = ids[-1] == 4
            if 4 in ids[:-1] or not (ends or length == steps):
                continue
            logprobs = model(torch.tensor([[*prompt, *ids]]))[0].log_softmax(-1)
            total = sum(logprobs[len(prompt) - 1 + t, id].item() for t, id in enumerate(ids))
            found.append((total / length**power, [id for id in ids if id != 4]))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("preset", ["gpt2", "prime"])
@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -1.0])
def test_enough_beams_find_the_best_texts_there_are(random_model: MakeModel, preset: str, power: float) -> None:
    model = random_model(preset, vocab_size=6, n_layer=1, n_embd=16)
    expected = exhaustive(model, [0, 2], 4, power)
    settings = GenerateConfig(num_beams=len(expected), length_penalty=power, max_new_tokens=4)
    found = Decoder(model, Letters()).generate(["ac"], settings, num_samples=20)[0]
    assert [sample.ids for sample in found] == [ids for _, ids in expected[:20]]
    assert [sample.score for sample in found] == pytest.approx([score for score, _ in expected[:20]], abs=1e-4)
    for sample in found:
        assert sample.finish_reason == ("length" if len(sample.ids) == 4 else "stop")
        assert sample.text == Letters().decode(sample.ids)


def test_more_beams_never_find_a_worse_text_here_and_one_is_greedy(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)
    greedy = decoder.generate(["ab"], GenerateConfig(temperature=0.0, max_new_tokens=20), logprobs=True)[0][0]
    settings = GenerateConfig(num_beams=4, max_new_tokens=20, length_penalty=0.0)
    best = decoder.generate(["ab"], settings)[0][0]
    assert best.score > sum(greedy.logprobs)
    assert best.score == pytest.approx(sum(best.logprobs), abs=1e-3)


def test_beams_go_on_past_the_block(random_model: MakeModel, tokenizer) -> None:
    """The windows of all beams slide together; cached and uncached search agree."""
    model, settings = random_model(block_size=12), GenerateConfig(num_beams=3, max_new_tokens=30)
    cached = Decoder(model, tokenizer).generate(["abc", "defghijklmnop"], settings)
    uncached = Decoder(model, tokenizer, use_cache=False).generate(["abc", "defghijklmnop"], settings)
    assert [s[0].ids for s in cached] == [s[0].ids for s in uncached]
    assert len(cached[0][0].ids) == 30


def test_a_stop_string_ends_a_beam(random_model: MakeModel) -> None:
    model = random_model(vocab_size=6, n_layer=1, n_embd=16)
    settings = GenerateConfig(num_beams=3, max_new_tokens=8, stop_strings=("b",), length_penalty=0.0)
    for sample in Decoder(model, Letters()).generate(["a"], settings, num_samples=3)[0]:
        assert "b" not in sample.text
        assert Letters().decode(sample.ids).count("b") <= 1


def test_streaming_and_samples_of_a_search(random_model: MakeModel, tokenizer) -> None:
    decoder, settings = Decoder(random_model(), tokenizer), GenerateConfig(num_beams=2, max_new_tokens=5)
    assert list(decoder.stream("a", settings)) == [decoder.generate(["a"], settings)[0][0].text]
    with pytest.raises(UsageError, match="3 texts are asked of a search with 2 beams"):
        decoder.generate(["a"], settings, num_samples=3)
