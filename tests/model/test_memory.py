"""Forecasts of memory against autograd's records and the process itself.

`python tests/model/test_memory.py` prints the table of measured and forecast memory of training.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt.bench.random_run import save_random_run
from primegpt.config import Config, resolve
from primegpt.device import choose_precision
from primegpt.hugepages import keep_in_huge_pages
from primegpt.inference.quantize import Int8Linear, for_decoding
from primegpt.inference.run import load, load_config
from primegpt.model import memory, size
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.model.lora import add_lora
from primegpt.run.folder import RunFolder
from primegpt.training.optimizers import Optimizers

# ---- what a training step holds


def saved_bytes(config: Config) -> int:
    """Bytes of every storage that autograd keeps of one forward pass, weights aside."""
    model, train = GPT(config.model).use_attention(kernel_of(config)), config.train
    if config.lora.rank:
        add_lora(model, config.lora)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(train.precision):
        model(**inputs_of(config))
    return sum(count for address, count in saved.items() if address not in weights)


def kept_bytes(config: Config) -> int:
    """The same by forecast: activations, what autocast made of the weights, and the logits' log-probabilities."""
    forecast = memory.training_memory(config)
    log_probabilities = 4 * config.train.batch_size * config.sequence_length * config.model.vocab_size
    return forecast.activations + forecast.weight_copies + log_probabilities


def kernel_of(config: Config) -> Any:
    return config.train.attention


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def inputs_of(config: Config) -> dict[str, torch.Tensor]:
    """A random batch, of two documents a row when these are isolated."""
    shape = (config.train.batch_size, config.sequence_length)
    ids, targets = torch.randint(config.model.vocab_size, (2, *shape))
    if not config.data.isolate_documents:
        return {"ids": ids, "targets": targets}
    half = shape[1] // 2
    position = torch.arange(shape[1])
    return {
        "ids": ids,
        "targets": targets,
        "segments": (position >= half).long().expand(shape),
        "positions": (position % half).expand(shape),
    }


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning")
@settings(max_examples=60)
@given(st.data())
def test_activations_are_those_that_autograd_keeps(data: st.DataObject) -> None:
    """Within 3%: per-row statistics and the batch's one mask are left out of the forecast."""
    draw = data.draw
    model = {
        "n_layer": draw(st.integers(1, 2)),
        "n_head": 4,
        "n_kv_head": draw(st.sampled_from([2, 4])),
        "n_embd": 256,
        "head_dim": draw(st.sampled_from([None, 96])),
        "block_size": 64,
        "vocab_size": 64,
        "dropout": draw(st.sampled_from([0.0, 0.1])),
        "norm": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "norm_gain": draw(st.booleans()),
        "attention_bias": draw(st.sampled_from([None, "none", "qkv", "all"])),
        "position": draw(st.sampled_from(["learned", "rope"])),
        "mlp": draw(st.sampled_from(["gelu", "swiglu", "relu2"])),
        "qk_norm": draw(st.booleans()),
        "embedding_norm": draw(st.booleans()),
        "tie_embeddings": draw(st.booleans()),
    }
    train = {
        "batch_size": 8,
        "attention": draw(st.sampled_from(["sdpa", "explicit"])),
        "precision": draw(st.sampled_from(["bf16", "fp32"])),
    }
    config = resolve({"model": model, "train": train, "data": {"isolate_documents": draw(st.booleans())}})
    assert kept_bytes(config) == pytest.approx(saved_bytes(config), rel=0.03)


@pytest.mark.parametrize("attention", ["sdpa", "explicit"])
@pytest.mark.parametrize("isolate_documents", [False, True])
def test_masks_of_isolated_documents_are_kept(attention: str, isolate_documents: bool) -> None:
    """In a narrow model with a long context the mask, one a row and layer, is not small."""
    model = {"n_layer": 2, "n_head": 1, "n_embd": 32, "block_size": 512, "vocab_size": 64}
    train = {"batch_size": 8, "attention": attention, "precision": "bf16"}
    config = resolve({"model": model, "train": train, "data": {"isolate_documents": isolate_documents}})
    assert kept_bytes(config) == pytest.approx(saved_bytes(config), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "prime"])
def test_adapters_keep_about_what_all_weights_would(name: str, precision: str) -> None:
    """The gradient goes through all layers, and each adapter needs the input of its own."""
    model = {"preset": name, "n_layer": 2, "n_head": 4, "n_embd": 256, "block_size": 64, "vocab_size": 64}
    train = {"batch_size": 8, "attention": "sdpa", "precision": precision}
    config = resolve({"model": model, "train": train, "lora": {"rank": 8}})
    assert kept_bytes(config) == pytest.approx(saved_bytes(config), rel=0.09)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("name", ["gpt2", "prime"])
def test_optimizer_state(name: str, optimizer: str) -> None:
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 100, "block_size": 16}
    config = resolve({"model": {"preset": name, **sizes}, "train": {"optimizer": optimizer}})
    model = GPT(config.model)
    optimizers = Optimizers(model, config.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    state = {key: tensor.nbytes for key, tensor in optimizers.state().items() if not key.endswith("/step")}
    assert memory.optimizer_bytes(config) == sum(state.values())


def test_accumulation_and_checkpointing_move_the_peak_as_they_should() -> None:
    base = resolve({"model": {"vocab_size": 65}, "train": {"batch_size": 16, "sequence_length": 256}})
    plain = memory.training_memory(base)
    accumulated = memory.training_memory(base.with_values(train={"gradient_accumulation_steps": 2}))
    recomputed = memory.training_memory(base.with_values(train={"activation_checkpointing": True}))
    holes = (memory.HOLES_AGAIN - memory.HOLES_ONCE) * plain.logits
    assert accumulated.total == pytest.approx(plain.total + 1.2 * plain.gradients + holes, abs=2)
    assert recomputed.activations < plain.activations / 4
    assert recomputed.total < plain.total


def test_small_steps_peak_when_all_gradients_are_there() -> None:
    """With hardly an activation, a step holds weights, gradients and two moments at once."""
    config = resolve({"model": {"vocab_size": 65}, "train": {"batch_size": 1, "sequence_length": 2}})
    assert memory.training_memory(config).total == pytest.approx(
        1.2 * 16 * size.parameter_count(config.model), rel=0.01
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head_dim", [None, 6])
@pytest.mark.parametrize(("n_kv_head", "rows", "length"), [(None, 1, 1), (4, 3, 50), (2, 4, 7), (1, 2, 30)])
def test_the_cache_is_as_large_as_forecast(
    n_kv_head: int | None, rows: int, length: int, head_dim: int | None, precision: str
) -> None:
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 32, "vocab_size": 100, "block_size": 50}
    heads = {"n_kv_head": n_kv_head, "head_dim": head_dim}
    config = resolve({"model": sizes | heads, "generate": {"precision": precision}})
    cache = KVCache(config.model, rows, length, torch.bfloat16 if precision == "bf16" else torch.float32)
    forecast = memory.inference_memory(config, rows, length)
    assert forecast.kv_cache == cache.k.nbytes + cache.v.nbytes
    assert forecast.weights == 4 * size.parameter_count(config.model)
    assert forecast.total >= forecast.weights + forecast.weight_copies + forecast.kv_cache + forecast.activations


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "prime"])
def test_copies_for_decoding_are_as_large_as_forecast(name: str, precision: str) -> None:
    """What the model for decoding holds, and the one that learnt does not."""
    if precision == "bf16" and choose_precision("auto", "cpu") == "fp32":
        pytest.skip("oneDNN packs no bf16 where it has to emulate it")
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 256, "vocab_size": 1000, "block_size": 64}
    config = resolve({"model": {"preset": name, **sizes}, "generate": {"precision": precision}})
    model = GPT(config.model)
    twin = for_decoding(model, precision)
    if precision == "int8" and not packed_layers(twin):
        pytest.skip("without FBGEMM an output has 4 bytes beside its weights, not the 12 that are forecast")
    shared = {tensor.data_ptr() for tensor in tensors_of(model)}
    copies = [tensor for tensor in tensors_of(twin) if tensor.is_mkldnn or tensor.data_ptr() not in shared]
    actual = sum(tensor.numel() * tensor.element_size() for tensor in copies) + bytes_in_fbgemm(twin)
    assert memory.inference_memory(config).weight_copies == pytest.approx(actual, rel=0.01)
    assert 0.15 * 4 * size.matmul_parameters(config.model) < actual


def packed_layers(model: GPT) -> list[Int8Linear]:
    """Those that FBGEMM holds, which is for x86 alone."""
    return [module for module in model.modules() if isinstance(module, Int8Linear) and module.packed is not None]


def bytes_in_fbgemm(model: GPT) -> int:
    """What it holds: a byte a weight, and for each output a scale, an offset and a sum of 4 bytes."""
    shapes = [torch.ops.quantized.linear_unpack(layer.packed)[0].shape for layer in packed_layers(model)]
    return sum(outputs * inputs + 12 * outputs for outputs, inputs in shapes)


def tensors_of(model: GPT) -> list[torch.Tensor]:
    """Parameters, and what else its modules hold in attributes; each once."""
    values = [value for module in model.modules() for value in vars(module).values()]
    held = [value for value in values if isinstance(value, torch.Tensor)]
    return list({id(tensor): tensor for tensor in (*held, *model.parameters())}.values())


# ---- the process itself


def case(preset: str, batch_size: int, sequence_length: int, *, model: dict[str, Any], **train: Any) -> dict[str, Any]:
    """One run to measure: configuration layers that survive JSON."""
    train = {"precision": "bf16", "attention": "sdpa", "optimizer": "adamw"} | train
    train |= {"batch_size": batch_size, "sequence_length": sequence_length}
    return {"model": {"preset": preset, "block_size": sequence_length} | model, "train": train}


BPE_4096, CHARACTERS = {"vocab_size": 4096}, {"vocab_size": 65, "n_layer": 6, "n_head": 6, "n_embd": 384}
QWEN3 = {"vocab_size": 4096, "n_kv_head": 4}
LOGITS = {"vocab_size": 50257, "n_layer": 4, "n_head": 8, "n_embd": 256}
CASES = {
    "gpt2, sdpa": case("gpt2", 4, 512, model=BPE_4096),
    "gpt2, explicit": case("gpt2", 4, 512, model=BPE_4096, attention="explicit"),
    "gpt2, explicit, dropout": case("gpt2", 4, 512, model=BPE_4096 | {"dropout": 0.1}, attention="explicit"),
    "gpt2, sdpa, dropout": case("gpt2", 4, 512, model=BPE_4096 | {"dropout": 0.1}),
    "gpt2, fp32": case("gpt2", 2, 512, model=BPE_4096, precision="fp32"),
    "gpt2, two micro-batches": case("gpt2", 2, 512, model=BPE_4096, gradient_accumulation_steps=2),
    "gpt2 124M": case("gpt2", 2, 512, model={"vocab_size": 50257}),
    "qwen3, sdpa": case("qwen3", 4, 512, model=QWEN3),
    "qwen3, explicit": case("qwen3", 4, 512, model=QWEN3, attention="explicit"),
    "prime, muon": case("prime", 4, 512, model=BPE_4096 | {"n_head": 6}, optimizer="muon"),
    "characters, sdpa": case("gpt2", 64, 256, model=CHARACTERS),
    "characters, explicit": case("gpt2", 64, 256, model=CHARACTERS, attention="explicit"),
    "characters, dropout": case("gpt2", 64, 256, model=CHARACTERS | {"dropout": 0.2}, attention="explicit"),
    "logits": case("gpt2", 4, 512, model=LOGITS),
    "logits, two micro-batches": case("gpt2", 2, 512, model=LOGITS, gradient_accumulation_steps=2),
    "logits, in slices": case("gpt2", 16, 512, model=LOGITS),
    "logits, soft cap": case("gpt2", 4, 512, model=LOGITS | {"logit_softcap": 15.0}),
}
SMALL_WRITER = {"n_layer": 1, "n_head": 4, "n_embd": 256, "block_size": 64, "vocab_size": 400}
WRITER = {"n_layer": 8, "n_head": 8, "n_embd": 512, "block_size": 1024, "vocab_size": 20_000}
RELIABILITY = [
    "gpt2, explicit, dropout",
    "gpt2, sdpa, dropout",
    "gpt2, two micro-batches",
    "qwen3, sdpa",
    "prime, muon",
    "characters, sdpa",
    "logits, two micro-batches",
    "logits, in slices",
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def memory_status(key: str) -> int:
    """A line of /proc/self/status in bytes. VmHWM is this process's own peak; ru_maxrss may be its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def train_and_measure(config: Config) -> int:
    """How far resident memory grows in three training steps, in bytes. For a process of its own."""
    torch.set_num_threads(2)
    if config.model.vocab_size > 10_000:  # as training does
        keep_in_huge_pages()
    warm_up()
    before = memory_status("VmRSS")
    model = GPT(config.model).use_attention(kernel_of(config))
    optimizers = Optimizers(model, config.train, torch.bfloat16 if config.train.precision == "bf16" else torch.float32)
    for _ in range(3):
        for _ in range(config.train.gradient_accumulation_steps):
            with autocast(config.train.precision):
                total, count = model(**inputs_of(config))
            (total / count).backward()
            del total
        optimizers.step()
        optimizers.zero_grad()
    return memory_status("VmHWM") - before


def warm_up() -> None:
    """Load what torch loads at first use, which is not the model's to answer for."""
    linear = torch.nn.Linear(64, 64)
    with autocast("bf16"):
        linear(torch.randn(64, 64)).sum().backward()
    torch.optim.AdamW(linear.parameters(), fused=True).step()


def as_fast_here(config: Config) -> Config:
    """`config` in fp32 where products in bf16 are emulated, for hours; the forecast is of the same."""
    return config.with_values(train={"precision": "fp32"}) if fast_format() == "fp32" else config


@cache
def fast_format() -> str:
    return choose_precision("auto", "cpu")


def measure(name: str) -> tuple[int, int]:
    """Measured and forecast growth of one case, in bytes; skips where memory does not suffice."""
    config = as_fast_here(resolve(CASES[name]))
    forecast = memory.training_memory(config).total
    if psutil.virtual_memory().available < 1.5 * forecast:
        pytest.skip(f"needs {size.human_bytes(1.5 * forecast)} of free memory")
    layers = {"model": config.model.model_dump(mode="json"), "train": config.train.model_dump(mode="json")}
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    return int(done.stdout), forecast


@on_linux
@pytest.mark.reliability
@pytest.mark.alone
def test_a_measured_training_step() -> None:
    """1.5 GB, of which the logits are most. A busy machine adds to the peak; the smaller of two counts."""
    (measured, forecast), (again, _) = measure("logits"), measure("logits")
    assert forecast == pytest.approx(min(measured, again), rel=0.25)


@on_linux
@pytest.mark.reliability
@pytest.mark.alone
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RELIABILITY)
def test_measured_training_steps(name: str) -> None:
    """Holes that logits leave when they are made again come by chance: 1.13 to 2.03 GB of 1.75 in the same program.

    There the worst of three is not far beyond the forecast, and the forecast is not twice the best.
    """
    if not name.startswith("logits,"):
        measured, forecast = measure(name)
        assert forecast == pytest.approx(measured, rel=0.25)
        return
    peaks, (forecast, *_) = zip(*(measure(name) for _ in range(3)), strict=True)
    assert max(peaks) < 1.25 * forecast
    assert forecast < 2 * min(peaks)


def write_and_measure(path: Path, precision: str) -> int:
    """How far resident memory grows while a run is opened and writes behind a long prompt. For a process of its own."""
    torch.set_num_threads(2)
    write(save_random_run(path / "warm-up", SMALL_WRITER), precision)  # loads what is loaded at first use
    before = memory_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    write(path / "run", precision)
    return memory_status("VmHWM") - before


def write(path: Path, precision: str) -> None:
    """A few tokens that fill up the model's block."""
    run = load(path, device="cpu")
    run.complete([300] * (run.model.config.block_size - 8), max_new_tokens=9, precision=precision, stop_strings=())


@on_linux
@pytest.mark.reliability
@pytest.mark.alone
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "int4"])
def test_measured_generation(precision: str, tmp_path: Path) -> None:
    """36M parameters behind a prompt of 1,000 tokens: 0.3 to 0.4 GB, where the weights are 0.14."""
    folder = RunFolder(save_random_run(tmp_path / "run", WRITER))
    config = load_config(folder).with_values(generate={"precision": precision})
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    assert memory.inference_memory(config).total == pytest.approx(int(done.stdout), rel=0.15)


def table() -> Iterator[str]:
    for name in CASES:
        measured, forecast = measure(name)
        sizes = f"measured {measured / 1e6:6,.0f} MB, forecast {forecast / 1e6:6,.0f} MB"
        yield f"{name:<26} {sizes}, {forecast / measured - 1:+.0%}"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(write_and_measure(Path(sys.argv[1]), sys.argv[2]))
    elif len(sys.argv) > 1:
        print(train_and_measure(resolve(json.loads(sys.argv[1]))))
    else:
        for row in table():
            print(row, flush=True)
