"""Training on a GPU, measured where there is none: both programs as they are, with a small network."""

import json
import time

import pytest

from primegpt.bench import gpu_training, process
from primegpt.bench.compare import UNBOUNDED, Absent, Allowance
from primegpt.bench.gpu_training import Curve, Job, flops, nanogpt_steps, our_steps, recipe, training
from primegpt.bench.random_run import GPT2_124M
from primegpt.config import resolve
from primegpt.model.size import flops_per_token

BENCH = """
import sys
settings = dict(word[2:].split("=") for word in sys.argv[1:])
assert settings == {"real_data": "False", "batch_size": "2", "block_size": "64", "dtype": "bfloat16",
                    "device": "cpu", "compile": "False"}, settings
print("9/10 loss: 4.0")
print("time per iteration: 4.0000ms, MFU: 1.00%")
"""


def job(**given):
    values = {"device": "cpu", "name": "a GPU", "sizes": GPT2_124M, "batch_size": 12, "steps": 40, "turns": 2}
    return Job(**values | {"recipe_minutes": 2.0} | given)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "bench.py").write_text(BENCH, encoding="utf-8")
    return tmp_path


def test_flops_are_those_of_the_real_shape():
    # nanoGPT's count for its MFU: 6 N + 12 L H Q T, with N = 123.6M without position embeddings.
    assert flops(job(), "gpt2") == pytest.approx(6 * 123.6e6 + 12 * 12 * 768 * 1024, rel=0.02)


def test_each_is_held_against_the_rate_of_products(checkout, monkeypatch):
    monkeypatch.setattr(gpu_training, "matmul_rate", lambda device, dtype: 1e9)
    asked, kept = [], []

    def output_of(command, **_):
        asked.append(command)
        return "".join(f"iter {step}: loss 4.0, time 8.00ms\n" for step in range(8))

    real = gpu_training.output_of
    monkeypatch.setattr(
        gpu_training, "output_of", lambda command, **on: (real if "bench.py" in command else output_of)(command, **on)
    )
    (found,) = training(job(nanogpt=checkout).made_quick(), UNBOUNDED, kept.append)
    gpt2, _, nanogpt = found.results
    assert (gpt2.rates, nanogpt.rates) == ((pytest.approx(2 * 64 / 0.008),), (pytest.approx(2 * 64 / 0.004),))
    # 6 FLOPs a weight that multiplies, and attention's 12 * layers * width * context, counted by hand.
    weights = 12 * 32 * 32 + 320 * 32  # one block, and the head
    assert gpt2.limit == pytest.approx(1e9 / (6 * weights + 12 * 32 * 64), rel=0.01)
    assert gpt2.limit == nanogpt.limit
    assert [command[2:4] for command in asked] == [["primegpt.bench.process", "steps"]] * 2
    assert [len([r for r in tables[0].results if r.rates]) for tables in kept] == [1, 2, 3]
    assert "of the limit" in kept[0][0].as_markdown()


def test_the_process_trains_what_is_asked(capsys):
    asked = []
    quick = job().made_quick()

    def output_of(command, patience):
        asked.append(resolve(json.loads(command[4])))
        assert patience == gpu_training.PATIENCE
        process.main(*command[3:])
        return capsys.readouterr().out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_training, "output_of", output_of)
        assert our_steps(quick, UNBOUNDED, "prime", batch_size=3, attention="explicit")() > 0
    (config,) = asked
    assert (config.model.preset, config.train.batch_size, config.train.attention) == ("prime", 3, "explicit")
    assert (config.train.precision, config.train.compile, config.sequence_length) == ("bf16", False, 64)
    assert flops(quick, "prime") == flops_per_token(config.model, 64)


def test_no_process_outlasts_the_time(checkout, monkeypatch):
    given = []

    def output_of(command, patience, **_):
        given.append(patience)
        raise Absent("it was not done")

    monkeypatch.setattr(gpu_training, "output_of", output_of)
    until = Allowance(until=time.monotonic() + 20)
    work = job(nanogpt=checkout)
    for run in (our_steps(work, until, "gpt2"), nanogpt_steps(work, until), lambda: recipe(work, until, print)):
        with pytest.raises(Absent):
            run()
    assert [10 < patience <= 20 for patience in given] == [True] * 3


def test_a_checkout_that_says_nothing_is_absent(checkout):
    (checkout / "bench.py").write_text("print('done')", encoding="utf-8")
    with pytest.raises(Absent, match="no time per iteration"):
        nanogpt_steps(job(nanogpt=checkout), UNBOUNDED)()


def test_a_curve_of_many_evaluations_is_shown_by_some():
    points = tuple((float(n), 10 * n, 5 - n / 100) for n in range(30))
    curve = Curve("`primegpt train`", "a network", 61.4, 4.5, points)
    lines = [line for line in curve.as_markdown().splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + 10
    assert lines[-1] == "| 27.0 | 270 | 4.7300 |"
    assert "took 61 s; the loss of all validation text is 4.5000" in curve.as_markdown()
    assert len(curve.as_dict()["points"]) == 30
