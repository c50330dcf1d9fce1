"""The same weights give the same logits, the same rules keep the same tokens, and both write the same text."""

from collections.abc import Callable

import pytest
import torch

from primegpt import api
from primegpt.config import GenerateConfig
from primegpt.inference.decoder import Decoder
from primegpt.inference.logits import filtered
from primegpt.model.gpt import GPT
from primegpt.tokenizers.char import CharTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

SHAPES = [
    ("gpt2", {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "vocab_size": 101}),
    ("gpt2", {"n_layer": 3, "n_head": 2, "n_embd": 24, "block_size": 33, "vocab_size": 128, "intermediate_size": 40}),
    ("gpt2", {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 20, "vocab_size": 65, "tie_embeddings": False}),
    ("gpt2", {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 20, "vocab_size": 65, "bias": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 48, "vocab_size": 101}),
    ("qwen3", {"n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "head_dim": 16, "block_size": 64,
               "vocab_size": 80}),
    ("qwen3", {"n_layer": 2, "n_head": 6, "n_kv_head": 1, "n_embd": 24, "head_dim": 10, "intermediate_size": 50,
               "block_size": 40, "vocab_size": 70, "rope_theta": 1e6, "tie_embeddings": False}),
    ("qwen3", {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 70,
               "qk_norm": False, "bias": True}),  # that is Llama
]  # fmt: skip


@pytest.fixture
def twin(save_run, tmp_path) -> Callable[[GPT], torch.nn.Module]:
    """Transformers' model of what `primegpt export` writes."""

    def make(model: GPT) -> torch.nn.Module:
        letters = CharTokenizer(chr(0x100 + i) for i in range(model.config.vocab_size - 4))
        folder = api.export(save_run(model, letters), tmp_path / "hf", say=lambda message: None)
        theirs, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        theirs.generation_config.eos_token_id = None  # no text ends before its time
        return theirs.eval()

    return make


@pytest.mark.parametrize(("preset", "shape"), SHAPES)
@pytest.mark.parametrize("kernel", ["sdpa", "explicit"])
@torch.inference_mode()
def test_logits_are_theirs(preset: str, shape: dict, random_model, twin, kernel: str) -> None:
    model = random_model(preset, **shape).use_attention(kernel)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.config.vocab_size, (3, model.config.block_size), generator=generator)
    ours, theirs = model(ids), twin(model)(ids).logits
    assert ours.std() > 0.3  # not trivially equal
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


class Ids:
    """A tokenizer of bare ids, none of them special but an end of text that the model lacks a use for."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.eot_id, self.opening_id = vocab_size, -1, None
        self.special_tokens, self.special_kinds = {}, {}

    def decode_bytes(self, ids: list[int]) -> bytes:
        return "".join(f"{id} " for id in ids).encode()

    def decode(self, ids: list[int]) -> str:
        return self.decode_bytes(ids).decode()

    decode_within = decode

    def encode(self, text: str) -> list[int]:
        return [int(id) for id in text.split() if id.isdigit()]


@pytest.mark.parametrize(("preset", "shape"), SHAPES)
def test_greedy_text_is_theirs(preset: str, shape: dict, random_model, twin) -> None:
    model = random_model(preset, **shape)
    prompt, n = [3, 1, 4, 1, 5], model.config.block_size - 5
    (ours,) = Decoder(model, Ids(model.config.vocab_size)).generate(
        [prompt], GenerateConfig(temperature=0.0, max_new_tokens=n)
    )[0]
    theirs = twin(model).generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
    )
    assert [*prompt, *ours.ids] == theirs[0].tolist()


def test_the_rules_keep_what_their_processors_keep() -> None:
    """1,000 random cases: ties in half, -inf in some, k beyond the vocabulary; each rule alone and all at once."""
    generator = torch.Generator().manual_seed(2)

    def pick(*values: float) -> float:
        return values[int(torch.randint(len(values), (), generator=generator))]

    for case in range(1000):
        settings = GenerateConfig(
            repetition_penalty=pick(1.0, 0.7, 1.3, 5.0),
            temperature=pick(0.1, 0.7, 1.0, 2.0),
            top_k=pick(0, 1, 5, 20, 1000),
            top_p=pick(0.05, 0.5, 0.9, 0.99, 1.0),
            min_p=pick(0.0, 0.02, 0.3, 1.0),
        )
        if case % 4 == 0:  # one rule alone
            defaults = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
            del defaults[pick(*defaults)]
            settings = settings.model_copy(update=defaults)
        logits = torch.randn(4, 60, generator=generator) * 3
        logits = logits.round() if case % 2 else logits
        banned = torch.randint(60, (int(pick(0, 3, 30)),), generator=generator).unique()
        seen = torch.randint(60, (4, 7), generator=generator)
        rules = [transformers.RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)]
        if len(banned):
            rules.append(transformers.SuppressTokensLogitsProcessor(banned.tolist()))
        rules.append(transformers.TemperatureLogitsWarper(settings.temperature))
        rules += [transformers.TopKLogitsWarper(settings.top_k)] if settings.top_k else []
        rules += [transformers.TopPLogitsWarper(settings.top_p)] if settings.top_p < 1 else []
        rules += [transformers.MinPLogitsWarper(settings.min_p)] if settings.min_p else []
        theirs = logits
        for rule in rules:
            theirs = rule(seen, theirs.clone())
        ours = filtered(logits, settings, banned, seen)
        assert torch.equal(ours.isfinite(), theirs.isfinite()), settings
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.4])
def test_beam_search_is_theirs(
    random_model, twin, penalty: float, early_stopping: bool, beams: int, repetition_penalty: float
) -> None:
    """The same texts with the same scores, on a model that ends texts at different lengths."""
    model = random_model("gpt2", **{**SHAPES[0][1], "vocab_size": 12})
    with torch.no_grad():
        model.wte.weight *= 0.4  # flat enough for any token to come, the end of text too
    their_model, tokenizer, compared = twin(model), Ids(12), set()
    prompts = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3], [8], [1, 11], [6, 6]]
    for end, prompt in enumerate([*prompts, *prompts]):
        tokenizer.eot_id = end
        settings = GenerateConfig(
            num_beams=beams, length_penalty=penalty, early_stopping=early_stopping, max_new_tokens=14,
            repetition_penalty=repetition_penalty,
        )  # fmt: skip
        ours = Decoder(model, tokenizer).generate([prompt], settings, num_samples=beams)[0]
        theirs = their_model.generate(
            torch.tensor([prompt]), num_beams=beams, num_return_sequences=beams, do_sample=False,
            length_penalty=penalty, early_stopping=early_stopping, max_new_tokens=14, eos_token_id=end, pad_token_id=0,
            repetition_penalty=repetition_penalty, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        for one, ids, score in zip(ours, theirs.sequences.tolist(), theirs.sequences_scores.tolist(), strict=True):
            written = ids[len(prompt) :]
            assert one.ids == (written[: written.index(end)] if end in written else written)
            assert one.score == pytest.approx(score, abs=1e-4)
            compared.add(len(one.ids))
    # Texts of different lengths were among them; a high penalty favours the longest there can be.
    assert len(compared) > (1 if penalty > 1 else 2)
