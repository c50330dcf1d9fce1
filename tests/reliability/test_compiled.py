"""With a real compiler: what compiled steps write is what the model writes."""

import shutil

import pytest
import torch

from primegpt import api
from primegpt.bench.random_run import save_random_run
from primegpt.inference.quantize import CompiledStep

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64, "vocab_size": 300}


@pytest.mark.reliability
@pytest.mark.skipif(not shutil.which("g++"), reason="no compiler is on this machine")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_compiled_texts(tmp_path, capfd, precision) -> None:
    run = api.load(save_random_run(tmp_path / "run", SIZES))
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.normal_(0.0, 0.2)
    settings = {"precision": precision, "temperature": 0.0, "max_new_tokens": 40}
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    plain = run.complete_all(prompts, logprobs=True, **settings)
    compiled = run.complete_all(prompts, logprobs=True, compile=True, **settings)
    alone = [run.complete(prompt, logprobs=True, compile=True, **settings) for prompt in prompts]
    assert capfd.readouterr().err == ""
    generator = run.generator(precision, compiled=True)
    assert any(isinstance(module, CompiledStep) for module in generator.model.modules())
    for (expected,), *others in zip(plain, compiled, alone, strict=True):
        for (found,) in others:
            near = 1e-4 if precision == "fp32" else 0.1
            assert found.logprobs[0] == pytest.approx(expected.logprobs[0], abs=near)
            if precision == "fp32":
                assert found.ids == expected.ids
                assert found.logprobs == pytest.approx(expected.logprobs, abs=near)
