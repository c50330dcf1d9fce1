"""Compiled steps write what the model writes. Here graphs are run by Python; tests/reliability has the compiler."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from primegpt import api
from primegpt.bench.random_run import save_random_run
from primegpt.config import GenerateConfig
from primegpt.inference.context import CachedContext, Row
from primegpt.inference.decoder import Decoder
from primegpt.inference.quantize import CompiledStep, SummedLinear, compiled_for_decoding, for_decoding
from primegpt.model.gpt import GPT

MakeModel = Callable[..., GPT]
KINDS = [("gpt2", {}), ("qwen3", {"n_kv_head": 2}), ("prime", {})]
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 300}
GREEDY = GenerateConfig(max_new_tokens=90, temperature=0.0)


def fail(reason: str) -> None:
    raise AssertionError(reason)


@pytest.fixture(autouse=True)
def traced_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The graphs are traced, with their guards and dynamic sizes, and then run by Python."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def prompts(*lengths: int) -> list[list[int]]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randint(256, (length,), generator=drawn).tolist() for length in lengths]


@pytest.mark.parametrize(("preset", "sizes"), KINDS)
def test_logits_are_those_of_the_model(random_model: MakeModel, preset: str, sizes: dict) -> None:
    """Five unequal prompts and each alone, past the end of the context, where windows slide at different times."""
    model = random_model(preset, **sizes)
    twin = compiled_for_decoding(model, "fp32", fail)
    given = prompts(3, 40, 17, 8, 40)
    rows = [Row(ids, 64) for ids in given]
    context = CachedContext(twin, rows, 90, torch.float32)
    worst = 0.0
    for step in range(60):
        if step == 50:
            context.select([1])
            rows = rows[1:2]
        with torch.inference_mode():
            found = context.next_logits(rows)
        expected = torch.cat([model(torch.tensor([row.window]), logits_for="last")[:, 0] for row in rows])
        worst = max(worst, (found - expected).abs().max().item())
        for row, id in zip(rows, expected.argmax(-1).tolist(), strict=True):
            row.add(id, frozenset(), 90)
    assert worst < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_other_formats_stay_near(random_model: MakeModel, precision) -> None:
    """int4 beside the same levels, not compiled: those of random weights are 8% off by themselves."""
    model = random_model()
    twin = compiled_for_decoding(model, precision, fail)
    reference = for_decoding(model, "int4") if precision == "int4" else model
    for given in (prompts(9), prompts(5, 9)):
        rows = [Row(ids, 64) for ids in given]
        context = CachedContext(twin, rows, 20, twin.wte.weight.dtype)
        for _ in range(10):
            with torch.inference_mode():
                found = context.next_logits(rows).float().softmax(-1)
            expected = torch.cat([reference(torch.tensor([row.window]), logits_for="last")[:, 0] for row in rows])
            assert (found - expected.softmax(-1)).abs().sum(-1).max() < 0.15
            for row, id in zip(rows, expected.argmax(-1).tolist(), strict=True):
                row.add(id, frozenset(), 90)


def test_one_graph_serves_all_blocks_and_lengths(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(compiled_for_decoding(random_model(n_layer=3), "fp32", fail), tokenizer)
    decoder.stop_ids = frozenset()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for length in (5, 11):
        decoder.generate(prompts(length), GREEDY)
    decoder.generate(prompts(5, 5, 5), GREEDY)
    decoder.generate(prompts(3, 7, 11, 2), GREEDY)
    assert graphs["unique_graphs"] == before  # compiled before the first text: a block's and the head's


def test_weights_get_a_second_layout_with_the_second_text(random_model: MakeModel, tokenizer) -> None:
    decoder = Decoder(compiled_for_decoding(random_model(), "fp32", fail), tokenizer)
    layers = [module for module in decoder.model.modules() if isinstance(module, SummedLinear)]
    decoder.generate(prompts(5), GREEDY)
    assert not any(layer.several for layer in layers)
    decoder.generate(prompts(5, 6), GREEDY)
    assert all(layer.several for layer in layers)


def test_without_a_compiler_one_line_says_so(tmp_path, monkeypatch, capsys) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand much more")

    run = api.load(save_random_run(tmp_path / "run", TINY))
    expected = run.generate("the", compile=False, temperature=0.0, max_new_tokens=5)
    compiled = run.generate("the", compile=True, temperature=0.0, max_new_tokens=5)
    assert compiled == expected
    assert any(isinstance(module, CompiledStep) for module in run.generator(compiled=True).model.modules())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(CompiledStep, "forward", no_compiler)
    again = api.load(run.folder.path)
    assert again.generate("the", compile=True, temperature=0.0, max_new_tokens=5) == expected
    assert again.generate("the", compile=True, temperature=0.0, max_new_tokens=5) == expected
    assert capsys.readouterr().err == "not compiled: RuntimeError: no C++ compiler\n"
