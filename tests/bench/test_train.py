"""Training side by side: what nanoGPT prints is read rightly, and our own command takes part as it is."""

import sys

import pytest

from primegpt.bench import train
from primegpt.bench.compare import Absent
from primegpt.bench.train import Progress, Recipe, Shape, bench_train, parse_iterations, prepared_checkout
from primegpt.cli.main import run
from primegpt.errors import PrimegptError, UsageError

TINY = Shape(n_layer=1, n_head=1, n_embd=16, block_size=16, batch_size=2)

# What nanoGPT's train.py prints, at 2 ms a step, with a slow beginning; it checks what it is given.
TRAIN = """
import pathlib, sys
settings = dict(word[2:].split("=") for word in sys.argv[2:])
assert sys.argv[1] == "config/train_shakespeare_char.py"
assert settings["device"] == "cpu" and settings["compile"] in ("False", "True") and settings["dropout"] == "0.0"
assert settings["n_embd"] == "16" and settings["block_size"] == "16" and settings["batch_size"] == "2"
assert pathlib.Path("data/shakespeare_char/train.bin").read_text().startswith("the river")
print("tokens per iteration will be: 32")
print("step 0: train loss 4.1, val loss 4.2")
for step in range(int(settings["max_iters"]) + 1):
    usual = 1 if settings["compile"] == "True" else 2
    print(f"iter {step}: loss {4 - step / 10:.4f}, time {900 if step < 2 else usual:.2f}ms, mfu -100.00%")
"""
PREPARE = """
import os
here = os.path.dirname(__file__)
open(os.path.join(here, "train.bin"), "w").write(open(os.path.join(here, "input.txt")).read())
"""


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    (folder / "data" / "shakespeare_char").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN, encoding="utf-8")
    (folder / "data" / "shakespeare_char" / "prepare.py").write_text(PREPARE, encoding="utf-8")
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the river ran under a bridge of stone\n" * 60, encoding="utf-8")
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    """`primegpt ...` as a call instead of a process: the command is the same, and torch is imported already."""
    real = train.output_of

    def output_of(command, **options):
        if command[:3] != train.PRIMEGPT:
            return real(command, **options)
        if run(command[3:], 0.0):
            raise Absent("it failed")
        return ""

    monkeypatch.setattr(train, "output_of", output_of)


def test_the_lines_of_nanogpt():
    lines = ["number of parameters: 0.80M", "step 0: train loss 4.28, val loss 4.27"]
    lines += ["iter 0: loss 4.2674, time 1250.50ms, mfu -100.00%", "iter 1: loss 4.1500, time 30.25ms, mfu 0.02%"]
    found = parse_iterations("\n".join(lines))
    assert list(found.losses) == [4.2674, 4.15]
    assert list(found.ends) == pytest.approx([1.2505, 1.28075])


def test_a_step_is_the_median_over_windows_and_its_beginning_does_not_count():
    slow_start = [1.0] * 10
    steps = [0.02] * 100
    steps[40:45] = [3.0] * 5  # another program wanted the machine
    ends = [sum((slow_start + steps)[: n + 1]) for n in range(110)]
    assert Progress([1.0] * 110, ends).milliseconds == pytest.approx(20)
    # Whole milliseconds, as ours are logged, cost no more than a hundredth.
    rounded = [round(0.0204 * n, 3) for n in range(200)]
    assert Progress([1.0] * 200, rounded).milliseconds == pytest.approx(20.4, rel=0.01)
    with pytest.raises(Absent, match="only 1 steps"):
        _ = Progress([1.0], [1.0]).milliseconds


def test_the_loss_is_the_mean_of_the_last_steps():
    assert Progress([9.0] * 80 + [2.0] * 10 + [4.0] * 10, range(100)).loss == 3.0
    assert Progress([9.0] * 6 + [1.0, 3.0], range(8)).loss == 2.0


@pytest.mark.reliability
@pytest.mark.usefixtures("in_this_process")
def test_ours_and_a_checkout_take_turns(text, checkout):
    said = []
    found = bench_train(
        str(text),
        nanogpt=checkout,
        shapes={"tiny": TINY},
        configurations=["tiny"],
        steps=12,
        turns=1,
        threads=1,
        say=said.append,
    )
    rate, time, loss = ({result.name: result for result in comparison.results} for comparison in found)
    assert rate["nanoGPT"].rates == pytest.approx([2 * 16 / 0.002])
    assert time["nanoGPT"].rates == pytest.approx([2.0])
    assert loss["nanoGPT"].rates == pytest.approx([(3.1 + 3.0 + 2.9) / 3])
    for name in ("primegpt", "primegpt fp32"):
        assert rate[name].median == pytest.approx(2 * 16 * 1000 / time[name].median)
        assert 0 < loss[name].median < 5
    assert found[1].less_is_better
    assert not list(checkout.rglob("*.bin"))  # the user's checkout stays as it was
    assert not list(checkout.rglob("input.txt"))
    assert any("nanoGPT" in line for line in said)


def test_with_a_compiler_ours_and_nanogpt_take_part_twice(text, checkout, monkeypatch):
    def ours(recipe, text, folder, precision, compiled=False):
        ends = [n * (0.001 if compiled else 0.004) for n in range(recipe.steps)]
        return lambda: Progress([2.0] * recipe.steps, ends)

    monkeypatch.setattr(train, "our_run", ours)
    options = {"nanogpt": checkout, "shapes": {"tiny": TINY}, "configurations": ["tiny"], "steps": 12, "turns": 1}
    _, time, _ = bench_train(str(text), compiled=True, **options)
    medians = {result.name: result.median for result in time.results if result.rates}
    expected = {"primegpt compiled": 1, "primegpt": 4, "primegpt fp32": 4, "nanoGPT compiled": 1, "nanoGPT": 2}
    assert {name: medians[name] for name in expected} == pytest.approx(expected)  # Transformers too, if it is there
    assert time.results[0].name == "primegpt compiled"  # what the others are compared with
    _, time, _ = bench_train(str(text), **options)
    assert "compiled" not in " ".join(result.name for result in time.results)
    _, time, _ = bench_train(str(text), alone=True, **options)
    assert [result.name for result in time.results] == ["primegpt", "primegpt fp32"]


@pytest.mark.usefixtures("in_this_process")
def test_ours_learns_what_is_asked_with_the_settings_of_the_recipe(text, tmp_path):
    from primegpt.inference.run import load_config
    from primegpt.run.folder import RunFolder

    recipe = Recipe(TINY, steps=8, dropout=0.1, threads=1)
    progress = train.our_run(recipe, text, tmp_path, "fp32")()
    assert len(progress.losses) == len(progress.ends) == 8
    assert list(progress.ends) == sorted(progress.ends)
    config = load_config(RunFolder.open(tmp_path / "ours-fp32"))
    assert (config.model.n_embd, config.model.dropout, config.model.bias) == (16, 0.1, False)
    assert (config.train.optimizer, config.train.schedule, config.train.precision) == ("adamw", "cosine", "fp32")
    assert (config.train.learning_rate, config.train.beta2, config.train.max_steps) == (1e-3, 0.99, 8)
    assert (config.train.batch_size, config.train.sequence_length) == (2, 16)


@pytest.mark.usefixtures("in_this_process")
def test_what_could_not_be_compiled_is_absent_rather_than_slow(text, tmp_path, monkeypatch):
    def fail(*inputs: object, **named: object) -> None:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr("torch.nn.Module.compile", lambda module: setattr(module, "forward", fail))
    with pytest.raises(Absent, match=r"not compiled: RuntimeError: no working C\+\+ compiler"):
        train.our_run(Recipe(TINY, steps=8, dropout=0.0, threads=1), text, tmp_path, "fp32", compiled=True)()


def test_a_checkout_that_cannot_prepare_is_absent_with_the_reason(text, checkout, tmp_path):
    prepare = checkout / "data" / "shakespeare_char" / "prepare.py"
    prepare.write_text("import a_package_that_nobody_has\n", encoding="utf-8")
    reason = prepared_checkout(checkout, tmp_path / "copy", text)
    assert "No module named 'a_package_that_nobody_has'" in str(reason)
    prepare.unlink()
    assert "prepare.py is missing" in str(prepared_checkout(checkout, tmp_path / "other", text))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nanogpt": "nowhere"}, "no train.py is there"),
        ({"source": "nowhere.txt"}, "nowhere.txt"),
        ({"configurations": ["smal"]}, "did you mean 'small'"),
        ({"steps": 3}, "--steps 3: at least 8"),
        ({"threads": 0}, "--threads 0: at least one"),
    ],
)
def test_wrong_requests(wrong, message, tmp_path):
    if "nanogpt" in wrong:
        wrong = {"nanogpt": tmp_path / "nowhere"}
    with pytest.raises(UsageError, match=message):
        bench_train(**wrong)


def test_our_own_failure_is_no_absence(text, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "PRIMEGPT", [sys.executable, "-c", "raise SystemExit('out of luck')"])
    recipe = Recipe(TINY, steps=8, dropout=0.0, threads=1)
    with pytest.raises(PrimegptError, match="out of luck"):
        train.our_run(recipe, text, tmp_path, "fp32")()
