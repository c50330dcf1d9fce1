"""Forecasts for GPUs that are not here, against sums that can be made by hand."""

import json

import pytest

from primegpt.cli.main import run
from primegpt.config import Config, resolve
from primegpt.errors import ConfigError
from primegpt.model.memory import training_memory
from primegpt.model.size import flops_per_token, parameter_count
from primegpt.planning.forecast import forecasts


def gpt2(**train) -> Config:
    """GPT-2 124M, half a million tokens a step."""
    steps = {"batch_size": 16, "gradient_accumulation_steps": 32, "max_steps": 1000}
    return resolve({"model": {"preset": "gpt2", "vocab_size": 50_257}, "train": steps | train})


def by_way(config: Config, gpus: int, kind: str = "h100"):
    return {(way.parallel, way.activation_checkpointing): way for way in forecasts(config, gpus, kind)}


def test_one_gpu_needs_what_the_model_of_memory_says_and_sends_nothing():
    ways = by_way(gpt2(), 1)
    alone = gpt2(device="cuda", precision="bf16", attention="sdpa")
    assert ways["ddp", False].memory == ways["fsdp", False].memory == training_memory(alone).total
    arithmetic = 16 * 32 * 1024 * flops_per_token(alone.model, 1024) / (0.4 * 989e12)
    update = 28 * parameter_count(alone.model) / 3.35e12
    assert update < 0.01 * arithmetic
    assert ways["ddp", False].step_seconds == pytest.approx(arithmetic + update)
    assert ways["fsdp", False].step_seconds == pytest.approx(arithmetic + update)
    assert ways["ddp", True].step_seconds == pytest.approx(arithmetic * 4 / 3 + update)
    assert ways["ddp", False].total_seconds == pytest.approx(1000 * (arithmetic + update))


def test_eight_gpus_share_the_arithmetic_and_send_the_gradient():
    one, eight = by_way(gpt2(), 1)["ddp", False], by_way(gpt2(), 8)["ddp", False]
    parameters = parameter_count(gpt2().model)
    sending, update = 2 * 7 / 8 * 4 * parameters / 450e9, 28 * parameters / 3.35e12
    assert eight.step_seconds == pytest.approx((one.step_seconds - update) / 8 + sending + update)
    assert eight.memory == one.memory  # ddp: the whole model on each


def test_fsdp_needs_less_the_more_there_are_and_checkpointing_less_still():
    memory = [by_way(gpt2(), gpus)["fsdp", False].memory for gpus in (2, 4, 8, 16)]
    assert memory == sorted(memory, reverse=True)
    ways = by_way(gpt2(), 8)
    assert ways["fsdp", True].memory < ways["fsdp", False].memory < ways["ddp", False].memory


def test_what_cannot_fit_is_said():
    large = {"n_layer": 48, "n_embd": 3200, "n_head": 25, "block_size": 1024, "vocab_size": 50_257}  # 6B parameters
    config = resolve({"model": large, "train": {"batch_size": 1, "gradient_accumulation_steps": 64}})
    assert not any(way.fits for way in forecasts(config, 1, "h100"))
    ways = by_way(config, 64)
    assert not ways["ddp", True].fits
    assert ways["fsdp", True].fits


def test_other_gpus_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"--gpu 'h1000' is not known; did you mean 'h100'\?"):
        forecasts(gpt2(), 8, "h1000")


def test_info_prints_a_table_or_json(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text("[tokenizer]\nkind = 'gpt2'\n[train]\nbatch_size = 16\ngradient_accumulation_steps = 32\n")
    assert run(["info", str(path), "--gpus", "8", "--gpu", "a100"], 0.0) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:5]] == ["ddp", "ddp", "fsdp", "fsdp"]
    assert "no budget" in table
    assert "nothing was measured" in table
    assert run(["info", str(path), "--gpus", "8", "--json"], 0.0) == 0
    assert {way["parallel"] for way in json.loads(capsys.readouterr().out)} == {"ddp", "fsdp"}
    assert run(["info", str(path), "--gpus", "3"], 0.0) == 2
    assert "not divisible among 3 ranks" in capsys.readouterr().err
