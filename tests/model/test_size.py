"""Parameters, FLOPs and memory against the model itself, torch's FLOP counter, autograd's records and the process.

`python tests/model/test_size.py` prints the table of measured and forecast memory.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from primegpt.api.runs import load, load_config
from primegpt.bench.random_run import save_random_run
from primegpt.config import Config, ModelConfig, resolve
from primegpt.errors import ConfigError
from primegpt.model import loss, size
from primegpt.model.cache import KVCache
from primegpt.model.gpt import GPT
from primegpt.model.quantize import for_decoding
from primegpt.run.folder import RunFolder
from primegpt.training.optimizers import Optimizers


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    """Small models of every switch, presets or not."""
    n_kv_head, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_head, head_size = n_kv_head * group, draw(st.sampled_from([2, 4, 8]))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 200)),
        block_size=draw(st.integers(2, 40)),
        n_layer=draw(st.integers(1, 3)),
        n_head=n_head,
        n_kv_head=draw(st.sampled_from([n_kv_head, None])),
        n_embd=n_head * head_size,
        head_dim=draw(st.sampled_from([None, 6])),
        intermediate_size=draw(st.none() | st.integers(1, 80)),
        bias=draw(st.booleans()),
        norm=draw(st.sampled_from(["layernorm", "rmsnorm"])),
        norm_gain=draw(st.booleans()),
        position=draw(st.sampled_from(["learned", "rope"])),
        mlp=draw(st.sampled_from(["gelu", "swiglu", "relu2"])),
        qk_norm=draw(st.booleans()),
        tie_embeddings=draw(st.booleans()),
    )


def preset(name: str, **sizes: Any) -> ModelConfig:
    return resolve({"model": {"preset": name, **sizes}}).model


# ---- parameters


def part_of(name: str) -> str:
    """The part that a parameter belongs to, read off its name."""
    if name.startswith(("wte", "wpe")):
        return "embedding"
    if "ln_" in name or "_norm" in name:
        return "norms"
    return next(part for part, key in (("attention", "attn"), ("mlp", "mlp"), ("head", "lm_head")) if key in name)


@settings(max_examples=80, deadline=None)
@given(model_configs())
def test_parameters_are_those_of_the_model(config: ModelConfig) -> None:
    counted = dict.fromkeys(("embedding", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in GPT(config).named_parameters():
        counted[part_of(name)] += parameter.numel()
    parameters = size.parameter_breakdown(config)
    assert vars(parameters) == counted
    assert size.parameter_count(config) == parameters.total == sum(counted.values())
    assert parameters.non_embedding == parameters.total - counted["embedding"] - counted["head"]


def test_published_sizes() -> None:
    """GPT-2's sizes as published, plus 47 rows that pad its vocabulary to 50,304; Qwen3-0.6B's as on its model card."""
    gpt2 = preset("gpt2", vocab_size=50257)
    xl = preset("gpt2", vocab_size=50257, n_layer=48, n_head=25, n_embd=1600)
    qwen3_sizes = {"n_layer": 28, "n_head": 16, "n_kv_head": 8, "head_dim": 128, "intermediate_size": 3072}
    qwen3 = preset("qwen3", vocab_size=151_936, n_embd=1024, **qwen3_sizes)
    assert size.parameter_count(gpt2) == 124_439_808 + 47 * 768
    assert size.parameter_count(xl) == 1_557_611_200 + 47 * 1600
    assert size.parameter_count(qwen3) == 596_049_920


def test_an_unset_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        size.parameter_count(ModelConfig())
    with pytest.raises(ConfigError, match="tokenizer"):
        size.flops_per_token(ModelConfig(), 8)


# ---- FLOPs


@settings(max_examples=25, deadline=None)
@given(model_configs(), st.integers(1, 3))
def test_flops_are_those_that_torch_counts(config: ModelConfig, B: int) -> None:
    """Every matrix product of a forward pass, and of a backward pass after it, with the attention as written."""
    model, T = GPT(config).use_attention("explicit"), config.block_size
    ids = torch.zeros(B, T, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        logits = model(ids)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == B * T * size.forward_flops_per_token(config, T)
    assert forward.get_total_flops() + backward.get_total_flops() == B * T * size.flops_per_token(config, T)


# ---- what a training step holds


def saved_bytes(config: Config) -> int:
    """Bytes of every storage that autograd keeps of one forward pass, weights aside."""
    model, train = GPT(config.model).use_attention(kernel_of(config)), config.train
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
    memory, length = size.training_memory(config), config.train.sequence_length or config.model.block_size
    log_probabilities = 4 * config.train.batch_size * length * config.model.vocab_size
    return memory.activations + memory.weight_copies + log_probabilities


def kernel_of(config: Config) -> Any:
    return config.train.attention


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def inputs_of(config: Config) -> dict[str, torch.Tensor]:
    """A random batch, of two documents a row when these are isolated."""
    shape = (config.train.batch_size, config.train.sequence_length or config.model.block_size)
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
@settings(max_examples=60, deadline=None)
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
        "position": draw(st.sampled_from(["learned", "rope"])),
        "mlp": draw(st.sampled_from(["gelu", "swiglu", "relu2"])),
        "qk_norm": draw(st.booleans()),
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
    assert size.optimizer_bytes(config) == sum(state.values())


def test_the_limit_on_logits_is_that_of_the_loss() -> None:
    assert size.MAX_LOGITS == loss.MAX_LOGITS


def test_accumulation_and_checkpointing_move_the_peak_as_they_should() -> None:
    base = resolve({"model": {"vocab_size": 65}, "train": {"batch_size": 16, "sequence_length": 256}})
    plain = size.training_memory(base)
    accumulated = size.training_memory(base.with_values(train={"gradient_accumulation_steps": 2}))
    recomputed = size.training_memory(base.with_values(train={"activation_checkpointing": True}))
    assert accumulated.total == pytest.approx(plain.total + 1.2 * plain.gradients, abs=2)
    assert recomputed.activations < plain.activations / 4
    assert recomputed.total < plain.total


def test_small_steps_peak_when_all_gradients_are_there() -> None:
    """With hardly an activation, a step holds weights, gradients and two moments at once."""
    config = resolve({"model": {"vocab_size": 65}, "train": {"batch_size": 1, "sequence_length": 2}})
    assert size.training_memory(config).total == pytest.approx(1.2 * 16 * size.parameter_count(config.model), rel=0.01)


@settings(max_examples=20, deadline=None)
@given(model_configs(), st.integers(1, 4), st.integers(1, 50), st.sampled_from(["fp32", "bf16"]))
def test_the_cache_is_as_large_as_forecast(model: ModelConfig, rows: int, length: int, precision: str) -> None:
    config = resolve({"model": model.model_dump(), "generate": {"precision": precision}})
    cache = KVCache(model, rows, length, torch.bfloat16 if precision == "bf16" else torch.float32)
    forecast = size.inference_memory(config, rows, length)
    assert forecast.kv_cache == cache.k.nbytes + cache.v.nbytes
    assert forecast.weights == 4 * size.parameter_count(model)
    assert forecast.total >= forecast.weights + forecast.weight_copies + forecast.kv_cache + forecast.activations


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["gpt2", "prime"])
def test_copies_for_decoding_are_as_large_as_forecast(name: str, precision: str) -> None:
    """What the model for decoding holds, and the one that learnt does not."""
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 256, "vocab_size": 1000, "block_size": 64}
    config = resolve({"model": {"preset": name, **sizes}, "generate": {"precision": precision}})
    model = GPT(config.model)
    twin = for_decoding(model, precision)
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    held = {id(tensor): tensor for module in twin.modules() for tensor in vars(module).values() if is_tensor(tensor)}
    held |= {id(parameter): parameter for parameter in twin.parameters()}
    copies = [tensor for tensor in held.values() if tensor.is_mkldnn or tensor.data_ptr() not in shared]
    actual = sum(tensor.numel() * tensor.element_size() for tensor in copies)
    assert size.inference_memory(config).weight_copies == pytest.approx(actual, rel=0.01)
    assert 0.2 * 4 * size.matmul_parameters(config.model) < actual


def is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


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


def measure(name: str) -> tuple[int, int]:
    """Measured and forecast growth of one case, in bytes; skips where memory does not suffice."""
    forecast = size.training_memory(resolve(CASES[name])).total
    if psutil.virtual_memory().available < 1.5 * forecast:
        pytest.skip(f"needs {size.human_bytes(1.5 * forecast)} of free memory")
    command = [sys.executable, "-W", "ignore", __file__, json.dumps(CASES[name])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    return int(done.stdout), forecast


@on_linux
def test_a_measured_training_step() -> None:
    """1.5 GB, of which the logits are most."""
    measured, forecast = measure("logits")
    assert forecast == pytest.approx(measured, rel=0.25)


@on_linux
@pytest.mark.reliability
@pytest.mark.parametrize("name", RELIABILITY)
def test_measured_training_steps(name: str) -> None:
    measured, forecast = measure(name)
    assert forecast == pytest.approx(measured, rel=0.25)


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
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_measured_generation(precision: str, tmp_path: Path) -> None:
    """36M parameters behind a prompt of 1,000 tokens: 0.3 to 0.4 GB, where the weights are 0.14."""
    folder = RunFolder(save_random_run(tmp_path / "run", WRITER))
    config = load_config(folder).with_values(generate={"precision": precision})
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    assert size.inference_memory(config).total == pytest.approx(int(done.stdout), rel=0.15)


# ---- the rest


def test_no_torch_is_imported() -> None:
    """`primegpt info` answers at once."""
    program = "import sys, primegpt.model.size; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (10_650_000, "10.65M"),
        (124_475_904, "124.5M"),
        (999_949, "999.9K"),
        (999_951, "1M"),
        (1_557_686_400, "1.558B"),
        (15e12, "15T"),
        (2.5e15, "2500T"),
    ],
)
def test_human_count(count: float, text: str) -> None:
    assert size.human_count(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (512, "512 B"), (999_600, "1 MB"), (1_210_000_000, "1.21 GB"), (24e9, "24 GB"), (3.5e15, "3500 TB")],
)
def test_human_bytes(count: float, text: str) -> None:
    assert size.human_bytes(count) == text


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
