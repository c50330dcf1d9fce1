"""The worked examples of docs/extending.md, from the file to the last checkpoint, and what becomes of such a run."""

import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from primegpt import api, extend
from primegpt.cli.main import run as command
from primegpt.config import ModelConfig, TrainConfig
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.model.gpt import GPT
from primegpt.model.size import parameter_breakdown
from primegpt.run.extensions import trusted_list
from primegpt.training.display import PlainDisplay

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
MARK = "\n\nopen('it ran', 'w').close()\n"
CODE = "\n\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE))
SMALL = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16},
    "tokenizer": {"kind": "char"},
    "train": {
        "batch_size": 4,
        "max_steps": 8,
        "eval_interval": 4,
        "threads": 1,
        "precision": "fp32",
        "attention": "explicit",
    },
    "generate": {"max_new_tokens": 5},
}
ALL = {"model": {"norm": "dyt"}, "train": {"optimizer": "lion", "objective": "z_loss", "learning_rate": 1e-3}}


def both(*layers: dict) -> dict:
    """Settings on top of one another, section by section."""
    names = {name for layer in layers for name in layer}
    merged = {name: {} for name in names}
    for layer in layers:
        for name, values in layer.items():
            merged[name] = values if isinstance(values, str) else merged[name] | values
    return merged


def furnish(folder: Path, code: str) -> Path:
    (folder / "my.txt").write_text("the river ran under a bridge of stone\n" * 60, encoding="utf-8")
    (folder / "mine.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return furnish(tmp_path, CODE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run whose extension leaves a mark wherever it runs."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        patch.setenv("PRIMEGPT_DATA", str(folder / "data"))
        patch.chdir(folder)
        return train(furnish(folder, CODE + MARK), "run").folder.path


@pytest.fixture
def strangers(place, trained, monkeypatch) -> Path:
    """The run from elsewhere: its file is not among those that this user has trained with, and has not run here."""
    monkeypatch.setattr(extend, "_loaded", {})
    shutil.copytree(trained, place / "run")
    return place


@pytest.fixture
def own(strangers) -> Path:
    """The run of this user."""
    assert command(["trust", "run"], 0.0) == 0
    return strangers


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("examples") / "mine.py"
    path.write_text(CODE, encoding="utf-8")
    return extend.load(path)


def train(place: Path, name: str, **given) -> api.Run:
    settings = both(SMALL, ALL, {"extension": "mine.py"})
    return api.train(place / "my.txt", out=place / name, settings=settings, **given)


# ---- The examples against independent formulas


def test_dyt_is_its_formula(examples):
    """Number by number in fp64, forward and backward."""
    norm = examples.find("norm", "dyt")(ModelConfig(n_embd=5)).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.linspace(0.3, 1.7, parameter.numel()))
    slope, gain, bias = (list(p.detach().tolist()) for p in (norm.slope, norm.gain, norm.bias))
    y = norm(x)
    y.sum().backward()
    for at in [(b, t, c) for b in range(2) for t in range(3) for c in range(5)]:
        value, channel = x[at].item(), at[-1]
        squashed = math.tanh(slope[0] * value)
        assert y[at].item() == pytest.approx(gain[channel] * squashed + bias[channel], rel=1e-12)
        assert x.grad[at].item() == pytest.approx(gain[channel] * slope[0] * (1 - squashed**2), rel=1e-12)


def lion_by_definition(weights: Tensor, gradients: list[Tensor], lr: float, decay: float) -> list[float]:
    """Algorithm 2 of Chen et al. 2023, one number at a time: β₁ = 0.9, β₂ = 0.95."""
    result = []
    for i, theta in enumerate(weights.tolist()):
        m = 0.0
        for gradient in gradients:
            g = gradient[i].item()
            c = 0.9 * m + (1 - 0.9) * g
            sign = (c > 0) - (c < 0)
            theta = theta - lr * (sign + decay * theta)
            m = 0.95 * m + (1 - 0.95) * g
        result.append(theta)
    return result


def test_lion_is_its_algorithm(examples):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(40, dtype=torch.float64, generator=generator)
    gradients = [torch.randn(40, dtype=torch.float64, generator=generator) for _ in range(6)]
    parameter = torch.nn.Parameter(weights.clone())
    groups = [{"params": [parameter], "lr": 0.01, "weight_decay": 0.1}]
    lion = examples.find("optimizer", "lion")(groups, TrainConfig())
    for gradient in gradients:
        parameter.grad = gradient.clone()
        lion.step()
    assert parameter.tolist() == pytest.approx(lion_by_definition(weights, gradients, 0.01, 0.1), rel=1e-12)


def test_the_z_loss_is_its_formula(examples):
    """From exponentials in fp64, a token at a time; in evaluation the cross-entropy alone."""
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=8, vocab_size=11)).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    ids, targets = torch.randint(11, (2, 2, 8), generator=generator)
    targets[0, :3] = IGNORED
    objective, batch = examples.find("objective", "z_loss")(TrainConfig()), Batch(ids, targets, None, None, 0)
    cross_entropy = log_z_squared = log_z = 0.0
    for b, t in [(b, t) for b in range(2) for t in range(8) if targets[b, t] != IGNORED]:
        exponentials = [math.exp(logit) for logit in model(ids)[b, t].tolist()]
        cross_entropy -= math.log(exponentials[targets[b, t]] / sum(exponentials))
        log_z += math.log(sum(exponentials))
        log_z_squared += math.log(sum(exponentials)) ** 2
    loss, figures = objective(model.train(), batch)
    assert loss.item() == pytest.approx(cross_entropy + 1e-4 * log_z_squared, rel=1e-6)
    assert figures["log_z"].item() == pytest.approx(log_z, rel=1e-6)
    assert objective(model.eval(), batch).item() == pytest.approx(cross_entropy, rel=1e-6)


# ---- A run with all three


class Stop(Exception):
    pass


class StopAt(PlainDisplay):
    def __init__(self, step):
        super().__init__(print)
        self.step = step

    def on_step(self, state, line):
        if state.step == self.step:
            raise Stop


def test_a_resumed_run_equals_one_that_never_stopped(place):
    """The file at hand has been edited meanwhile: the run goes on with its copy."""
    whole = train(place, "whole")
    with pytest.raises(Stop):
        train(place, "cut", observer=StopAt(6))
    (place / "mine.py").write_text("nothing that could run", encoding="utf-8")
    said: list[str] = []
    resumed = api.resume(place / "cut", say=said.append)
    assert sum("mine.py is not what it was: the run goes on with its own copy" in line for line in said) == 1
    for name in ("model", "optimizer"):
        files = [run.folder.checkpoint_path("last") / f"{name}.safetensors" for run in (whole, resumed)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert {name.rpartition("/")[2] for name in whole.folder.load_newest(print).tensors["optimizer"]} == {"momentum"}
    rows = [row for row in whole.metrics if "train/loss" in row]
    assert all(row["log_z"] > 0 for row in rows)  # ln 21, about, before anything is learnt
    assert all(
        row["val/perplexity"] == pytest.approx(math.exp(row["val/loss"])) for row in whole.metrics if "val/loss" in row
    )


def test_the_run_has_the_file_and_counts_what_is_in_it(own):
    run = api.load("run")
    assert run.folder.extension_path.read_text(encoding="utf-8") == CODE + MARK
    for norm in (run.model.h[0].ln_1, run.model.ln_f):
        assert type(norm).__name__ == "DyT"
    assert parameter_breakdown(run.config.model).norms == 6 * (1 + 2 * 16)
    assert parameter_breakdown(run.config.model).total == sum(p.numel() for p in run.model.parameters())
    assert not run.folder.damages()


def test_the_copy_may_not_change(own, capsys):
    path = own / "run" / "extension.py"
    path.write_text(CODE.replace("tanh", "sin"), encoding="utf-8")
    capsys.readouterr()
    for line in (["train", "--resume", "run", "--train.max_steps", "9"], ["generate", "run"]):
        assert command(line, 0.0) == 2
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith(f"primegpt: {Path('run/extension.py')} is not what the run was trained with"), last


def forget(monkeypatch) -> None:
    """As if everything so far had happened on another machine."""
    monkeypatch.setattr(extend, "_loaded", {})
    trusted_list().unlink()
    Path("it ran").unlink()


def test_a_strangers_run_runs_nothing_before_it_is_trusted(strangers, capsys):
    attempts = [
        *(["generate", "run"], ["evaluate", "run"], ["train", "--resume", "run", "--train.max_steps", "9"]),
        *(["finetune", "run", "my.txt"], ["chat", "run"], ["serve", "run"]),
    ]
    for line in attempts:
        capsys.readouterr()
        assert command(line, 0.0) == 2, line
        *_, last = capsys.readouterr().err.strip().splitlines()
        assert "is code that would run with your rights" in last, line
        assert "`primegpt trust run`" in last, line
    Path("mine.toml").write_text("extension = 'mine.py'\n[model]\nn_layer = 1\nn_head = 1\nn_embd = 8\nmlp = 'own'\n")
    for line in (["info", "run"], ["info", "mine.toml"], ["runs"], ["report", "run"]):
        assert command(line, 0.0) == 0, line
    assert command(["export", "run"], 0.0) == 2
    assert not Path("it ran").exists()
    assert command(["trust", "run"], 0.0) == 0
    assert not Path("it ran").exists()
    assert command(["generate", "run", "the"], 0.0) == 0
    assert Path("it ran").exists()


def test_a_run_can_be_trusted_once_in_python(strangers):
    api.load("run", trust_extension=True).generate("the")
    assert Path("it ran").exists()
    assert not trusted_list().exists()


def test_what_only_training_uses_needs_no_trust_and_leaves(place, monkeypatch):
    """An optimizer and an objective are not in the weights: such a run is opened and exported as any other."""
    monkeypatch.setattr(extend, "_loaded", {})
    furnish(place, CODE + MARK)
    own = both(SMALL, {"train": ALL["train"]}, {"extension": "mine.py"})
    api.train("my.txt", out="plain", settings=own)
    forget(monkeypatch)
    api.load("plain").generate("the")
    assert command(["export", "plain", "--out", "hf"], 0.0) == 0
    assert not Path("it ran").exists()

    # Fine-tuning leaves them behind: the new run's optimizer may be of another file.
    (place / "other.py").write_text(CODE.replace('"lion"', '"lioness"'), encoding="utf-8")
    other = {"extension": "other.py", "train": {"max_steps": 2, "threads": 1, "optimizer": "lioness"}}
    tuned = api.finetune("plain", "my.txt", out="tuned", settings=other)
    assert tuned.config.own == {"train.optimizer": "lioness"}
    assert tuned.folder.extension_path.read_bytes() == (place / "other.py").read_bytes()
    assert not Path("it ran").exists()


def test_what_cannot_leave_is_named(strangers, capsys):
    for target in ("hf", "gguf"):
        capsys.readouterr()
        assert command(["export", "run", "--to", target], 0.0) == 2
        assert "model.norm = 'dyt' (there: " in capsys.readouterr().err


def test_finetuning_keeps_the_network_and_its_file(own, capsys):
    (own / "mine.py").unlink()
    tuned = api.finetune("run", "my.txt", out="tuned", settings={"train": {"max_steps": 2, "threads": 1}})
    assert tuned.config.model.norm == "dyt"
    assert tuned.folder.extension_path.read_text(encoding="utf-8") == CODE + MARK
    assert api.load("tuned").generate("the", seed=1)
    assert "after" in capsys.readouterr().out  # the base's copy is opened too, to say what was forgotten
    (own / "other.py").write_text(CODE + "# other\n", encoding="utf-8")
    assert command(["finetune", "run", "my.txt", "--extension", "other.py"], 0.0) == 2
    assert "is not the file that the network of run was trained with" in capsys.readouterr().err


def test_adapters_learn_beside_parts_of_ones_own(own, capsys):
    tuned = api.finetune("run", "my.txt", lora=True, out="tuned", settings={"train": {"max_steps": 2, "threads": 1}})
    assert tuned.config.lora.rank
    assert "not written in PEFT's files" in capsys.readouterr().err


def test_a_file_without_a_use_is_said(place, capsys):
    run = api.train("my.txt", out="run", settings=both(SMALL, {"extension": "mine.py"}))
    assert (
        "nothing of mine.py is in use, which has norm 'dyt', objective 'z_loss', optimizer 'lion'"
        in capsys.readouterr().err
    )
    assert not run.folder.extension_path.exists()
    assert run.config.model.extension == ""


def test_a_part_that_fails_later_is_one_line_without_a_traceback(place, capsys):
    """After the trial, in the middle of training: exit 1, and the run can be gone on with."""
    late = "@extend.schedule('late')\ndef late(done):\n    return 1.0 if done != 0.375 else 1 / 0\n"
    (place / "mine.py").write_text(CODE + late, encoding="utf-8")
    flags = [f"--{s}.{k}={v}" for s, values in both(SMALL, ALL).items() for k, v in values.items()]
    line = ["train", "my.txt", "--out", "run", "--extension", "mine.py", *flags, "--train.schedule", "late"]
    assert command(line, 0.0) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    number = (CODE + late).count("\n")
    assert error.startswith(f"primegpt: mine.py:{number}, schedule 'late': ZeroDivisionError: "), error


def test_what_fails_before_the_run_leaves_no_folder(place, capsys):
    (place / "mine.py").write_text(CODE.replace("self.slope * x", "self.slop * x"), encoding="utf-8")
    assert command(["train", "my.txt", "--out", "run", "--extension", "mine.py", "--model.norm", "dyt"], 0.0) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.match(r"primegpt: mine.py:\d+, norm 'dyt': AttributeError: 'DyT' object has no attribute 'slop'", error)
    assert not (place / "run").exists()


LATE = """

@extend.norm("late")
class Late(torch.nn.RMSNorm):
    def __init__(self, config):
        super().__init__(config.n_embd)

    def forward(self, x):
        if {when}:
            {fault}
        return super().forward(x)
"""


def late(place: Path, when: str, fault: str) -> list[str]:
    """A command that trains with a norm that fails later than in the trial."""
    (place / "mine.py").write_text(CODE + LATE.format(when=when, fault=fault), encoding="utf-8")
    flags = [f"--{s}.{k}={v}" for s, values in SMALL.items() for k, v in values.items()]
    return ["train", "my.txt", "--out", "run", "--extension", "mine.py", "--model.norm", "late", *flags]


def test_nan_in_training_is_one_line_that_names_what_may_be_at_fault(place, capsys):
    assert command(late(place, "x.size(1) == 16", "return x / 0 * 0"), 0.0) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "became NaN or infinite at step 0" in error
    assert error.endswith("or in mine.py (model.norm = 'late')"), error


def test_a_part_that_fails_in_generation_is_one_line(place, capsys):
    assert command(late(place, "__import__('os').path.exists('now')", "raise RuntimeError('now')"), 0.0) == 0
    (place / "now").touch()
    capsys.readouterr()
    assert command(["generate", "run", "the"], 0.0) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert re.fullmatch(r"primegpt: mine.py:\d+, norm 'late': RuntimeError: now", error), error
