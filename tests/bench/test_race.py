"""The race: both models are judged on the same characters, each once; a checkout is run as it is."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from primegpt.bench import race
from primegpt.bench.compare import PYTHON, Absent, output_of
from primegpt.bench.train import Shape
from primegpt.cli.main import run
from primegpt.config import resolve
from primegpt.errors import UsageError
from primegpt.model.gpt import GPT

TINY = Shape(n_layer=1, n_head=1, n_embd=16, block_size=16, batch_size=2)
TEXT = "the river ran under a bridge of stone\n" * 60

# A train.py that leaves what nanoGPT's leaves: a pickle of names with a prefix, the tied head twice.
TRAIN = """
import os, sys, torch
from safetensors.torch import load_file
settings = dict(word[2:].split("=") for word in sys.argv[2:])
assert sys.argv[1] == "config/train_shakespeare_char.py"
assert settings["device"] == "cpu" and settings["max_iters"] == settings["lr_decay_iters"] == "7"
model = {"transformer." + name: weight for name, weight in load_file("given.safetensors").items()}
model["lm_head.weight"] = model["transformer.wte.weight"]
os.makedirs("out-shakespeare-char")
torch.save({"model": model, "iter_num": 7}, "out-shakespeare-char/ckpt.pt")
"""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(race, "SHAPE", TINY)


@pytest.fixture
def model():
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "vocab_size": len(set(TEXT))}
    made = GPT(resolve({"model": {"preset": "gpt2", "bias": False, **sizes}}).model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3)
    return made


@torch.no_grad()
def by_hand(model):
    """Every target once, a character at a time, in float64."""
    characters = sorted(set(TEXT))
    held_out = [characters.index(c) for c in TEXT[int(0.9 * len(TEXT)) :]]
    losses = []
    for i in range(1, len(held_out)):
        start = (i - 1) // 16 * 16
        logits = model(torch.tensor([held_out[start:i]]))[0, -1].double()
        losses.append(-logits.log_softmax(0)[held_out[i]].item())
    return math.fsum(losses) / len(losses)


@pytest.mark.reliability
def test_a_checkout_and_ours_are_timed_and_judged(model, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "data" / "shakespeare_char").mkdir(parents=True)
    (checkout / "train.py").write_text(TRAIN, encoding="utf-8")
    (checkout / "data" / "shakespeare_char" / "prepare.py").write_text("", encoding="utf-8")
    weights = model.weights()
    weights["wte.weight"] = weights["wte.weight"][: len(set(TEXT))].clone()  # without padding, as nanoGPT has it
    save_file(weights, checkout / "given.safetensors")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    real = race.output_of

    def output_of(command, **options):  # `primegpt ...` as a call: the same command, and torch is imported already
        if command[:3] != race.PRIMEGPT:
            return real(command, **options)
        with monkeypatch.context() as patch:
            patch.setenv("PRIMEGPT_CACHE", options["variables"]["PRIMEGPT_CACHE"])
            if run([*command[3:], "--model.n_layer", "1", "--model.n_embd", "16", "--model.n_head", "1"], 0.0):
                raise Absent("it failed")
        return ""

    monkeypatch.setattr(race, "output_of", output_of)
    found = race.bench_race(str(tmp_path / "text.txt"), nanogpt=checkout, minutes=0.01, iterations=7, threads=1)
    (our_time, their_time), (our_loss, their_loss) = ([r.median for r in comparison.results] for comparison in found)
    assert their_loss == pytest.approx(by_hand(model), rel=1e-5)
    assert 0 < our_loss < 4
    assert our_time > 0
    assert their_time > 0
    assert all(comparison.less_is_better for comparison in found)


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"iterations": 0}])
def test_no_work_is_refused(wrong):
    with pytest.raises(UsageError):
        race.bench_race(None, **wrong)


def test_no_checkout_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"no train\.py"):
        race.bench_race(None, nanogpt=tmp_path)


def test_a_checkpoint_of_theirs_runs_no_code(tmp_path):
    """A checkout may come from anyone, and so may what its folder already holds."""
    harm = tmp_path / "harm"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (harm,))

    (tmp_path / "out-shakespeare-char").mkdir()
    torch.save({"model": {}, "config": Hostile()}, tmp_path / "out-shakespeare-char" / "ckpt.pt")
    with pytest.raises(Absent):
        output_of([PYTHON, "-c", race.AS_TENSORS], folder=tmp_path)
    assert not harm.exists()
