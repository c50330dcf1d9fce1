"""What ends a text, what never appears in one, and how the temperature falls."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch

from primegpt.config import GenerateConfig
from primegpt.inference.decoder import Decoder
from primegpt.model.gpt import GPT
from primegpt.tokenizers.char import CharTokenizer

MakeModel = Callable[..., GPT]
KINDS = {
    "control": ("<prompt>", "<song>", "</song>"),
    "genre": ("<genre_rock>", "<genre_pop>"),
    "emotion": ("<sad>", "<happy>"),
    "structure": ("[verse]", "[chorus]"),
    "speaker": ("<ann>",),
}
SAMPLED = GenerateConfig(temperature=1.0, top_k=0, max_new_tokens=60, seed=1)


@pytest.fixture
def song_tokenizer() -> CharTokenizer:
    return CharTokenizer("abcdefghijklmnopqrstuvwxyz \n", KINDS)


def biased(model: GPT, bias: dict[int, float]):
    """`model` with these added to its logits."""
    logits, add = model.logits, torch.zeros(model.config.vocab_size)
    for id, value in bias.items():
        add[id] = value
    return patch.object(model, "logits", lambda hidden: logits(hidden) + add)


@pytest.mark.parametrize("use_cache", [True, False])
def test_of_10000_tokens_none_is_padding_or_a_control_id(
    random_model: MakeModel, song_tokenizer: CharTokenizer, use_cache: bool
) -> None:
    """Padding raised by 100 and banned ids by 50; the structure's tokens are part of the text."""
    names, n = song_tokenizer.special_tokens, 2500
    model = random_model(vocab_size=song_tokenizer.vocab_size + 7, n_layer=1, block_size=16)
    structure = {names[name] for name in KINDS["structure"]}
    ends = {names["</song>"], names["<EOS>"]}
    banned = set(names.values()) - structure - ends
    raised = dict.fromkeys(banned, 50.0) | {names["<PAD>"]: 100.0}
    raised |= dict.fromkeys(range(song_tokenizer.vocab_size, song_tokenizer.vocab_size + 7), 100.0)
    with biased(model, raised | dict.fromkeys(ends, -100.0)):
        settings = SAMPLED.model_copy(update={"max_new_tokens": n if use_cache else 20})
        samples = Decoder(model, song_tokenizer, use_cache=use_cache).generate(["a"], settings, num_samples=4)[0]
    written = [id for sample in samples for id in sample.ids]
    assert len(written) == 4 * settings.max_new_tokens
    assert not set(written) & (banned | ends)
    assert max(written) < song_tokenizer.vocab_size
    if use_cache:
        assert structure <= set(written)


@pytest.mark.parametrize("name", ["</song>", "<EOS>"])
@pytest.mark.parametrize("beams", [1, 3])
def test_the_end_of_a_song_or_of_text_ends_it(
    random_model: MakeModel, song_tokenizer: CharTokenizer, name: str, beams: int
) -> None:
    model = random_model(vocab_size=song_tokenizer.vocab_size)
    with biased(model, {song_tokenizer.token_id(name): 100.0}):
        settings = SAMPLED.model_copy(update={"num_beams": beams})
        (sample,) = Decoder(model, song_tokenizer).generate(["a"], settings)[0]
    assert (sample.ids, sample.text, sample.finish_reason) == ([], "", "stop")


def scripted(decoder: Decoder, text: str, names: dict[str, int] | None = None):
    """`decoder` writing `text` whatever the model says."""
    script = iter(decoder.tokenizer.encode(text))
    return patch.object(decoder, "next_ids", lambda *_, **__: [next(script, decoder.tokenizer.eot_id)])


def test_stop_strings_end_the_text_before_them(random_model: MakeModel, song_tokenizer: CharTokenizer) -> None:
    decoder = Decoder(random_model(vocab_size=song_tokenizer.vocab_size), song_tokenizer)
    settings = SAMPLED.model_copy(update={"stop_strings": ("the end", "\n\n")})
    for text, expected in [("a the song the end and on", "a the song "), ("one\ntwo\n\nthree", "one\ntwo")]:
        with scripted(decoder, text):
            (sample,) = decoder.generate(["x"], settings)[0]
        assert (sample.text, sample.finish_reason) == (expected, "stop")
        assert song_tokenizer.decode(sample.ids).startswith(expected)
        assert len(sample.ids) < len(text)  # nothing was computed behind it
        with scripted(decoder, text):
            assert "".join(decoder.stream("x", settings)) == expected
    with scripted(decoder, "to the e"):  # a beginning of one, at the very end, is text
        (sample,) = decoder.generate(["x"], settings)[0]
    assert (sample.text, sample.finish_reason) == ("to the e", "stop")


def test_each_row_has_its_own_stop(random_model: MakeModel, song_tokenizer: CharTokenizer) -> None:
    decoder = Decoder(random_model(vocab_size=song_tokenizer.vocab_size), song_tokenizer)
    settings = SAMPLED.model_copy(update={"stop_strings": ("e", "th")})
    together = decoder.generate(["a", "bcd"], settings, num_samples=4)
    for prompt, samples in zip(["a", "bcd"], together, strict=True):
        assert decoder.generate([prompt], settings, num_samples=4)[0] == samples
        for sample in samples:
            assert not {"e", "th"} & {sample.text[i : i + n] for i in range(len(sample.text)) for n in (1, 2)}


# ---- temperature decay


def temperatures(decoder: Decoder, prompt: str | list[int], settings: GenerateConfig, ids: list[int]) -> list[float]:
    """Those with which each of `ids` was drawn."""
    seen, script = [], iter(ids)

    def watched(context, rows, settings, logprobs=False) -> list[int]:
        given = decoder.temperatures(rows, settings)
        seen.append(settings.temperature if given is None else given[0])
        return [next(script)]

    with patch.object(decoder, "next_ids", watched):
        decoder.generate([prompt], settings.model_copy(update={"max_new_tokens": len(ids)}))
    return seen


def test_the_temperature_decays_behind_the_chorus(random_model: MakeModel, song_tokenizer: CharTokenizer) -> None:
    decoder = Decoder(random_model(vocab_size=song_tokenizer.vocab_size), song_tokenizer)
    chorus, letter = song_tokenizer.token_id("[chorus]"), song_tokenizer.encode("a")[0]
    settings = GenerateConfig(temperature=1.0)
    found = temperatures(decoder, "b", settings, [letter, chorus, letter, letter, chorus, letter])
    assert found == pytest.approx([1, 1, 0.98, 0.98**2, 0.98**3, 0.98**4])
    found = temperatures(decoder, "b", settings, [chorus] + [letter] * 60)
    assert found[-1] == 0.5  # the floor
    assert found == sorted(found, reverse=True)
    for prompt in ([letter, chorus], [chorus, letter, letter]):  # it stands in the prompt: written tokens count
        assert temperatures(decoder, prompt, settings, [letter, letter]) == pytest.approx([0.98, 0.98**2])
    low = settings.model_copy(update={"temperature": 0.3})
    assert temperatures(decoder, "b", low, [chorus, letter, letter]) == [0.3, 0.3, 0.3]  # never raised to the floor
    other = settings.model_copy(update={"decay_trigger": "a", "temperature_decay": 0.5, "temperature_floor": 0.1})
    assert temperatures(decoder, "b", other, [letter] * 5) == [1, 0.5, 0.25, 0.125, 0.1]


def test_without_the_trigger_in_the_tokenizer_nothing_decays(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(random_model(), tokenizer)
    found = temperatures(decoder, "b", GenerateConfig(temperature=1.0), list(b"[chorus] and so on"))
    assert set(found) == {1.0}


def test_decay_is_what_is_sampled_with(random_model: MakeModel, song_tokenizer: CharTokenizer) -> None:
    """A floor of almost 0: behind the trigger the text is greedy."""
    model = random_model(vocab_size=song_tokenizer.vocab_size)
    decoder, chorus = Decoder(model, song_tokenizer), song_tokenizer.token_id("[chorus]")
    cold = SAMPLED.model_copy(update={"temperature_decay": 1e-9, "temperature_floor": 0.0})
    greedy = SAMPLED.model_copy(update={"temperature": 0.0})
    assert decoder.generate([[5, chorus]], cold)[0][0].ids == decoder.generate([[5, chorus]], greedy)[0][0].ids
    assert decoder.generate([[5, 6]], cold)[0][0].ids != decoder.generate([[5, 6]], greedy)[0][0].ids


# ---- log-probabilities, repetition


@torch.no_grad()
def test_log_probabilities_are_the_models_own(random_model: MakeModel, tokenizer) -> None:
    """Whatever the rules did, they are those of one forward pass over the finished text."""
    model = random_model()
    settings = GenerateConfig(max_new_tokens=12, temperature=0.7, top_k=5, repetition_penalty=1.5)
    for num_beams in (1, 3):
        chosen = settings.model_copy(update={"num_beams": num_beams})
        for sample in Decoder(model, tokenizer).generate(["ab", "c"], chosen, num_samples=2, logprobs=True)[0]:
            ids = sample.prompt_ids + sample.ids
            expected = model(torch.tensor([ids]))[0].log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None])
            added = expected[len(sample.prompt_ids) - 1 :, 0]
            torch.testing.assert_close(torch.tensor(sample.logprobs), added, atol=1e-4, rtol=0)
    assert Decoder(model, tokenizer).generate(["ab"], settings)[0][0].logprobs is None


def test_a_high_penalty_writes_every_token_once(random_model: MakeModel, tokenizer) -> None:
    model = random_model()
    logits = model.logits
    with patch.object(model, "logits", lambda hidden: logits(hidden) + 50.0):  # all positive: a penalty of 1e6 is a ban
        settings = GenerateConfig(temperature=0.0, repetition_penalty=1e6, max_new_tokens=60)
        samples = Decoder(model, tokenizer).generate(["a", "the prompt too"], settings)
    for (sample,) in samples:
        assert len(set(sample.ids)) == len(sample.ids)
        assert not set(sample.ids) & set(sample.prompt_ids)
