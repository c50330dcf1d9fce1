"""What is applied to a model from outside changes how it is computed, never what."""

from functools import partialmethod

import pytest
import torch

from primegpt import api
from primegpt.config import Config, resolve
from primegpt.model import size
from primegpt.model.size import learning_parameter_count, lora_parameter_count, parameter_count
from primegpt.training.assemble import as_written, assemble
from primegpt.training.optimizers import Optimizers


def configuration(preset: str = "gpt2", rank: int = 0, **train: object) -> Config:
    model = {"preset": preset, "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 50}
    settings = {"attention": "explicit", "device": "cpu", **train}
    return resolve({"model": model | {"dropout": 0.2}, "train": settings, "lora": {"rank": rank}})


def gradients(config: Config, segments: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    model = assemble(config).train()
    with torch.no_grad():
        for parameter in model.parameters():  # zeros would hide what is behind them
            parameter.normal_(0.0, 0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    ids = torch.randint(50, (3, 17), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # of dropout
    total, _ = model(ids[:, :-1], segments=segments, targets=ids[:, 1:])
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
@pytest.mark.parametrize("rank", [0, 2])
def test_activation_checkpointing_gives_the_same_gradients(preset, rank):
    plain = gradients(configuration(preset, rank))
    recomputed = gradients(configuration(preset, rank, activation_checkpointing=True))
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_activation_checkpointing_keeps_less_for_the_backward_pass():
    def kept(config: Config) -> int:
        model, sizes = assemble(config).train(), []
        ids = torch.zeros(2, 16, dtype=torch.long)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(ids, targets=ids)
        return sum(sizes)

    assert kept(configuration(activation_checkpointing=True)) < 0.5 * kept(configuration())


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "prime"])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_learns_is_counted(preset, rank, optimizer):
    config = configuration(preset, rank, optimizer=optimizer)
    model = assemble(config)
    learning = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learning) == learning_parameter_count(config)
    assert sum(p.numel() for p in model.parameters()) == parameter_count(config.model) + lora_parameter_count(config)
    moved = [p for member in Optimizers(model, config.train).members for g in member.param_groups for p in g["params"]]
    assert {id(p) for p in moved} == {id(p) for p in learning}


def train(tmp_path, **settings: object) -> api.Run:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question.\n" * 60, encoding="utf-8")
    model = {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16}
    fixed = {"batch_size": 4, "max_steps": 6, "eval_interval": 3, "precision": "fp32", "attention": "explicit"}
    return api.train(
        tmp_path / "text.txt",
        out=tmp_path / str(len(list(tmp_path.iterdir()))),
        settings={"model": model, "tokenizer": {"kind": "char"}, "train": fixed | settings},
    )


def test_without_a_compiler_training_goes_on_and_says_why(tmp_path, monkeypatch, capfd):
    def fail(*inputs: object, **named: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nand much more")

    monkeypatch.setattr("torch.nn.Module.compile", lambda module: setattr(module, "forward", fail))
    run = train(tmp_path, compile=True)
    assert run.config.train.compile is False
    assert run.step > 0
    said = [line for line in capfd.readouterr().err.splitlines() if "not compiled" in line]
    assert said == ["warning    not compiled: RuntimeError: InvalidCxxCompiler: no working C++ compiler"]


def test_a_compiled_run_goes_on_where_there_is_no_compiler(tmp_path, monkeypatch, capfd):
    run = train(tmp_path)
    saved = run.folder.config_path.read_text(encoding="utf-8")
    run.folder.config_path.write_text(saved.replace("compile = false", "compile = true"), encoding="utf-8")

    def fail(*inputs: object, **named: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: no working C++ compiler\nand much more")

    monkeypatch.setattr("torch.compile", lambda function: fail)
    monkeypatch.setattr("torch.nn.Module.compile", lambda module: setattr(module, "forward", fail))
    assert api.resume(run.folder.path, settings={"train": {"max_steps": 9}}).step > run.step
    said = [line for line in capfd.readouterr().err.splitlines() if "not compiled" in line]
    assert said == ["warning    not compiled: RuntimeError: InvalidCxxCompiler: no working C++ compiler"]


@pytest.mark.reliability
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the compiler's own
def test_a_compiled_run_learns_the_same(tmp_path):
    eager, compiled = train(tmp_path), train(tmp_path, compile=True)
    assert compiled.config.train.compile
    for name, weight in eager.model.weights().items():
        torch.testing.assert_close(compiled.model.weights()[name], weight, atol=1e-4, rtol=0)


@pytest.mark.reliability
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # of the compiler's own
@pytest.mark.parametrize(
    ("preset", "recomputed", "isolated"),
    [
        ("prime", True, False),
        ("prime", False, True),
        ("qwen3", False, False),
        ("gpt2", False, False),
    ],
)
def test_compiled_gradients_are_the_same(preset, recomputed, isolated, monkeypatch):
    """Of functions with gradients by hand too, with the angles and masks that blocks share, and a loss in slices."""
    if isolated:
        for name in ("MAX_LOGITS", "SLICE_LOGITS"):
            monkeypatch.setattr(size, name, 1000)
    segments = torch.arange(16).ge(7).long().expand(3, -1) if isolated else None
    given = configuration(preset, activation_checkpointing=recomputed).with_values(model={"dropout": 0})
    plain, compiled = (gradients(given.with_values(train={"compile": on}), segments) for on in (False, True))
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-4 * gradient.abs().max().item(), rtol=0)


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_second_model_is_not_compiled_again(recomputed, monkeypatch):
    """The one that was measured is thrown away; the one that learns has its graph."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr("torch.nn.Module.compile", partialmethod(torch.nn.Module.compile, backend=count))
    config = configuration("prime", compile=True, activation_checkpointing=recomputed)
    ids = torch.zeros(2, 16, dtype=torch.long)
    for _ in range(3):
        total, _ = assemble(config).train()(ids, targets=ids)
        total.backward()
    assert len(graphs) == 1


def test_records_of_all_lengths_share_the_graphs_of_a_block(monkeypatch):
    compiled = []
    monkeypatch.setattr("torch.nn.Module.compile", lambda module: compiled.append(type(module).__name__))
    assemble(configuration(compile=True))
    assemble(configuration(compile=True).with_values(data={"template": "song"}))
    assert compiled == ["GPT", "Block", "Block"]


def test_compiled_models_can_be_run_as_written():
    config = configuration(compile=True)
    model, ids = assemble(config).eval(), torch.zeros(1, 4, dtype=torch.long)
    with as_written(config.train):
        assert torch.equal(model(ids), assemble(configuration()).eval()(ids))
