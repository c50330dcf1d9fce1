"""The same weights give the same logits, the same rules keep the same tokens, and both write the same text."""

from collections.abc import Callable

import pytest
import torch

from primegpt import api
from primegpt.config import GenerateConfig
from primegpt.generation.generator import Generator
from primegpt.generation.logits import filtered
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
        self.vocab_size, self.eot_id = vocab_size, -1
        self.pad_id = self.unk_id = self.bos_id = None

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


@pytest.mark.parametrize(("preset", "shape"), SHAPES)
def test_greedy_text_is_theirs(preset: str, shape: dict, random_model, twin) -> None:
    model = random_model(preset, **shape)
    prompt, n = [3, 1, 4, 1, 5], model.config.block_size - 5
    (ours,) = Generator(model, Ids(model.config.vocab_size)).generate(
        [prompt], GenerateConfig(temperature=0.0, max_new_tokens=n)
    )[0]
    theirs = twin(model).generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=n, min_new_tokens=n, pad_token_id=0
    )
    assert [*prompt, *ours.ids] == theirs[0].tolist()


def test_the_rules_keep_what_their_processors_keep() -> None:
    """500 random cases, half of them full of ties, where the order among equals decides."""
    generator = torch.Generator().manual_seed(2)
    for case in range(500):
        pick = torch.rand(3, generator=generator)
        settings = GenerateConfig(
            temperature=[0.1, 0.7, 1.0, 2.0][int(pick[0] * 4)],
            top_k=[1, 5, 20, 1000][int(pick[1] * 4)],
            top_p=[0.05, 0.5, 0.9, 0.99][int(pick[2] * 4)],
        )
        logits = torch.randn(4, 60, generator=generator) * 3
        logits = logits.round() if case % 2 else logits
        rules = [
            transformers.TemperatureLogitsWarper(settings.temperature),
            transformers.TopKLogitsWarper(settings.top_k),
            transformers.TopPLogitsWarper(settings.top_p),
        ]
        theirs = logits
        for rule in rules:
            theirs = rule(None, theirs)
        ours = filtered(logits, settings)
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), atol=1e-5, rtol=1e-5)
