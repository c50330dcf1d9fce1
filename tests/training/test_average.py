"""The average of the weights: by its formula, judged in place of the weights, and there again after a resume."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from primegpt import api
from primegpt.config import Layer, ModelConfig, refuse_idle, resolve
from primegpt.errors import ConfigError
from primegpt.model.gpt import GPT
from primegpt.run.checkpoint import load_checkpoint
from primegpt.run.folder import RunFolder
from primegpt.signals import Interrupted
from primegpt.training.average import Average

SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8}
STEPS, EVERY = 12, 4


def test_the_average_reaches_back_over_a_share_of_the_steps():
    """By a weight for each step, worked out backwards: what later steps have left of it."""
    model, share = GPT(ModelConfig(**SIZES, vocab_size=9)), 0.1
    average = Average(model, share)
    walk = np.random.default_rng(1).normal(size=60).cumsum()
    for step, value in enumerate(walk, 1):
        with torch.no_grad():
            for weight in model.parameters():
                weight.fill_(value)
        average.update(step)
    taken = np.minimum(1, (1 / share - 1) / np.arange(1, 61))
    left = np.append(np.cumprod((1 - taken)[::-1])[::-1][1:], 1.0)
    assert (taken * left).sum() == pytest.approx(1)
    for weight in average.weights.values():
        assert weight.flatten()[0].item() == pytest.approx(float((taken * left) @ walk), rel=1e-5)
    ages = 60 - np.arange(1, 61)
    assert (taken * left) @ ages == pytest.approx(60 * share, abs=1)  # on average, so many steps old


def test_the_model_has_its_own_weights_afterwards_to_the_bit():
    model = GPT(ModelConfig(**SIZES, vocab_size=9))
    average = Average(model, 0.5)
    own = {name: weight.clone() + 0.1 for name, weight in model.weights().items()}
    model.load_weights(own)
    with average.in_use():
        assert not torch.equal(model.weights()["wte.weight"], own["wte.weight"])
    assert all(torch.equal(weight, own[name]) for name, weight in model.weights().items())


def test_weights_that_are_spread_over_ranks_come_back_after_an_evaluation(tmp_path):
    """A forward pass without a backward one leaves some of them gathered."""
    code = f"""
import torch, torch.distributed as dist
from primegpt.config import ModelConfig
from primegpt.model.gpt import GPT
from primegpt.parallel.world import spread, whole
from primegpt.training.average import Average

dist.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=0, world_size=1)
model = spread(GPT(ModelConfig(**{SIZES}, vocab_size=9)), "cpu", 1)
average = Average(model, 0.5)
with torch.no_grad():
    for weight in model.parameters():
        weight.add_(0.1)
now = lambda: {{name: whole(weight).clone() for name, weight in model.weights().items()}}
own, ids = now(), torch.zeros(1, 4, dtype=torch.long)
for _ in range(2):
    with average.in_use(), torch.inference_mode():
        inside = model(ids)
assert all(torch.equal(weight, own[name]) for name, weight in now().items())
alone = GPT(ModelConfig(**{SIZES}, vocab_size=9)).load_weights({{n: whole(w) for n, w in average.weights.items()}})
with torch.inference_mode():
    assert torch.equal(inside, alone(ids)), (inside - alone(ids)).abs().max()
dist.destroy_process_group()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


class StopAt:
    """An observer that asks for an end, as Ctrl-C does, once a step is evaluated."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_evaluation(self, state: Any, line: dict[str, Any], best: bool) -> None:
        if state.step == self.step:
            signal.raise_signal(signal.SIGINT)

    def on_step(self, state: Any, line: dict[str, Any] | None) -> None: ...
    def on_sample(self, state: Any, text: str) -> None: ...
    def on_message(self, text: str) -> None: ...


def trained(text: Path, out: Path, average: float, stop: int = 0) -> RunFolder:
    settings = {
        "model": SIZES,
        "tokenizer": {"kind": "char"},
        "train": {
            "device": "cpu", "precision": "fp32", "threads": 1, "attention": "sdpa", "batch_size": 4, "log_interval": 1,
            "average": average, "max_steps": STEPS, "eval_interval": EVERY, "keep_checkpoints": 9, "learning_rate": 0.1,
        },
    }  # fmt: skip
    if stop:
        with pytest.raises(Interrupted):
            api.train(text, out=out, settings=settings, observer=StopAt(stop), quiet=True)
        api.resume(out, quiet=True)
    else:
        api.train(text, out=out, settings=settings, quiet=True)
    return RunFolder(out)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(200)), encoding="utf-8")
    return path


def losses(folder: RunFolder, key: str) -> list[float]:
    return [line[key] for line in folder.read_metrics() if key in line]


def test_a_run_with_an_average_learns_the_same_is_judged_by_it_and_goes_on_to_the_bit(text, tmp_path):
    plain, whole, resumed = (
        trained(text, tmp_path / name, average, stop)
        for name, average, stop in (("plain", 0.0, 0), ("whole", 0.5, 0), ("resumed", 0.5, EVERY))
    )
    assert losses(whole, "train/loss") == losses(plain, "train/loss")
    assert losses(whole, "val/loss") != losses(plain, "val/loss")
    for key in ("train/loss", "val/loss", "train/eval_loss", "final/val/loss"):
        assert losses(resumed, key) == losses(whole, key)
    ours, theirs, other = (load_checkpoint(each.checkpoint_path(STEPS)).tensors for each in (whole, resumed, plain))
    assert set(ours) == {"model", "learning", "optimizer"}
    for stem in ("model", "learning"):
        assert all(torch.equal(tensor, theirs[stem][name]) for name, tensor in ours[stem].items())
    assert all(torch.equal(tensor, other["model"][name]) for name, tensor in ours["learning"].items())
    run = api.load(whole.path, say=lambda line: None)
    judged = load_checkpoint(whole.checkpoint_path(run.step)).tensors["model"]
    assert all(torch.equal(weight, judged[name]) for name, weight in run.model.weights().items())


def test_adapters_have_no_average():
    asked = Layer({"train": {"average": 0.1}, "lora": {"rank": 2}})
    with pytest.raises(ConfigError, match=r"train\.average = 0\.1 has no effect without training all weights"):
        refuse_idle(asked, resolve(asked))
