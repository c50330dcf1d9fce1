"""What is decided before step 1: how much fits into memory, and what a run will do and take."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from primegpt import api
from primegpt.config import Config, resolve
from primegpt.data.batching.feed import training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.errors import ConfigError, OutOfMemory
from primegpt.model.gpt import GPT
from primegpt.planning import course, timing
from primegpt.planning import plan as planning
from primegpt.planning.timing import StepTime
from primegpt.run.folder import RunFolder
from primegpt.training.early import early_seconds
from primegpt.training.progress import plan_table
from primegpt.training.state import TrainState

SIZES = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16}
TIMES = StepTime(step=0.5, position=1e-4, token=0.01)
REFUSALS = {
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    ),
    "windows": RuntimeError("[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you"),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError(),
    "c++": RuntimeError("std::bad_alloc"),
    "onednn": RuntimeError("could not create a primitive"),
    "interpreter": SystemError("<built-in method linear> returned NULL without setting an exception"),
}


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(400)), encoding="utf-8")
    return path


def settings(**train: Any) -> dict[str, dict[str, Any]]:
    values = {"batch_size": 8, "device": "cpu", "precision": "fp32", "threads": 1, "attention": "sdpa", **train}
    return {"model": SIZES, "tokenizer": {"kind": "char"}, "train": values}


@pytest.fixture
def planned(text) -> Callable[..., tuple[Config, Corpus]]:
    """The plan for a text, where steps and evaluations take TIMES."""

    def make(
        *, rereading: int = 0, most_passes: float = math.inf, data: dict | None = None, **train: Any
    ) -> tuple[Config, Corpus]:
        config = resolve(settings(**train), {"data": {"sources": (str(text),), **(data or {})}})
        corpus = prepare(config.data, config.tokenizer, context=16)
        config = config.with_values(model={"vocab_size": corpus.tokenizer.vocab_size})
        return planning.make_plan(config, corpus, rereading=rereading, most_passes=most_passes), corpus

    return make


def test_a_run_that_ends_before_its_first_evaluation_is_evaluated_early_within_it(timed, planned):
    config, _ = planned(max_steps=40, eval_interval=10**6, data={"val_tokens": 400})
    assert all(step < 40 for step in config.train.early_evaluations)


@pytest.mark.parametrize(
    ("budget", "intervals"), [("minutes", {}), ("minutes", {"eval_interval": 2}), ("max_steps", {"sample_interval": 5})]
)
def test_more_minutes_have_room_for_as_much_between_steps_as_the_plan(timed, planned, budget, intervals):
    """Evaluations every other step take most of the time; a run that was extended planned them as free."""
    first, _ = planned(**{budget: 3.0 if budget == "minutes" else 300}, **intervals)
    seconds = first.plan.expected_seconds - first.plan.closing_seconds
    assert course.steps_in(first, seconds) == pytest.approx(first.train.max_steps, rel=0.05)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (5, 2), (8, 4), (20, 10), (50, 10)])
def test_a_plan_shorter_than_twice_its_warm_up_cools_down_all_the_same(timed, planned, steps, warmup):
    """Fine-tuning warms up in 10 steps; a budget may allow fewer, and ended near the peak rate."""
    config, _ = planned(max_steps=steps, warmup_steps=10, learning_rate=1e-3, schedule="linear")
    rates = [TrainState(step, steps).learning_rate_factor(config.train) for step in range(steps)]
    assert config.train.warmup_steps == warmup
    assert rates[-1] == pytest.approx(1 / (steps - warmup))


@pytest.fixture
def timed(monkeypatch) -> None:
    monkeypatch.setattr(timing, "measure_step", lambda *arguments, **options: TIMES)


# ---- memory


@pytest.mark.parametrize(
    ("model", "train", "key"),
    [
        ({"n_layer": 1000, "n_embd": 65536}, {}, "model.n_layer or model.n_embd"),
        ({"n_embd": 65536, "vocab_size": 2_000_000}, {}, "tokenizer.vocab_size or model.n_embd"),
        ({"n_embd": 65536, "block_size": 2**20}, {"sequence_length": 16}, "model.block_size"),
        ({"n_layer": 1000, "n_embd": 64, "block_size": 2**20}, {}, "train.sequence_length"),
    ],
)
def test_what_cannot_fit_is_refused_before_it_is_allocated(model, train, key):
    """By the forecast, at once: where a system promises more memory than it has, it would end the process instead."""
    config = resolve(settings(**train), {"model": model})
    with pytest.raises(ConfigError, match=rf"needs about .* by forecast, .*; lower {key}$") as caught:
        planning.refuse_what_cannot_fit(config)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(("budget", "value"), [("tokens", 10**15), ("epochs", 1e6)])
def test_a_budget_of_more_steps_than_a_run_may_have_is_named(planned, timed, monkeypatch, budget, value):
    monkeypatch.setattr(course, "MAX_STEPS", 10**6)
    with pytest.raises(ConfigError, match=rf"train\.{budget} = .* steps, and a run may have 1,000,000"):
        planned(**{budget: value})


def test_a_year_of_short_steps_is_planned(planned, monkeypatch):
    """527,040 minutes were more steps than a run may have, and the plan refused itself."""
    monkeypatch.setattr(timing, "measure_step", lambda *a, **o: StepTime(step=1e-3, position=1e-7, token=1e-5))
    assert planned(minutes=527_040)[0].train.max_steps == course.MAX_STEPS


def test_threads_that_would_wait_for_a_core_are_refused(monkeypatch):
    monkeypatch.setattr(planning, "available_cores", lambda: 2)
    planning.refuse_threads(resolve({"train": {"threads": 32}}).train)
    with pytest.raises(ConfigError, match=r"train\.threads = 33, and this process may use 2 cores; leave it out"):
        planning.refuse_threads(resolve({"train": {"threads": 33}}).train)


def test_it_is_refused_before_the_text_is_tokenized(text, capsys):
    with pytest.raises(ConfigError, match=r"lower model\.n_layer or model\.n_embd"):
        api.train(text, settings=settings(max_steps=1) | {"model": SIZES | {"n_embd": 65536, "n_layer": 1000}})
    assert "tokeniz" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("compiled", "taken", "note"),
    [
        (StepTime(0.4, 1e-4, 0.01), True, "compiled: 400.0 ms a step, as written then 500.0"),
        (StepTime(0.6, 1e-4, 0.01), False, "compiled: 600.0 ms a step, as written then 500.0"),
        ("no C++ compiler", False, None),
    ],
)
def test_a_long_run_is_compiled_where_that_is_faster(timed, planned, monkeypatch, compiled, taken, note):
    monkeypatch.setattr(planning, "compiled_step_time", lambda config, *rest: config.train.compile and compiled)
    config, _ = planned(minutes=20)
    assert config.train.compile is taken
    assert [line for line in config.plan.notes if "compiled" in line] == ([note] if note else [])
    assert not config.plan.warnings, "nobody has asked for it, and so nobody misses it"
    forbidden, _ = planned(minutes=20, compile=False)
    assert forbidden.train.compile is False


@pytest.mark.parametrize(("before", "then", "taken"), [(0.5, 0.7, True), (0.7, 0.5, False)])
def test_a_compiled_step_is_compared_with_one_of_the_same_minute(planned, monkeypatch, before, then, taken):
    """Compiling takes a minute, in which other programs may have come or gone."""
    paces = iter([before, then])
    monkeypatch.setattr(timing, "measure_step", lambda *_, **__: StepTime(next(paces), 1e-4, 0.01))
    monkeypatch.setattr(planning, "compiled_step_time", lambda *_: StepTime(0.6, 1e-4, 0.01))
    config, _ = planned(minutes=20)
    assert config.train.compile is taken
    assert config.plan.step_seconds == (0.6 if taken else then)


def test_a_micro_batch_that_the_forecast_rules_out_is_never_tried(planned, monkeypatch):
    tried = []

    def record(config: Config, *rest: Any) -> Any:
        tried.append(config.train.batch_size)
        return real(config, *rest)

    real = planning.fastest_step
    monkeypatch.setattr(planning, "fastest_step", record)
    two = planning.excess(planned(max_steps=1, batch_size=2, gradient_accumulation_steps=4)[0])
    tried.clear()
    have = planning.memory_of("cpu") + two
    monkeypatch.setattr(planning, "memory_of", lambda device: have)
    config, _ = planned(max_steps=1, batch_size=8)
    assert tried == [2]
    assert (config.train.batch_size, config.train.gradient_accumulation_steps) == (2, 4)
    assert any("micro-batches of 4 rows do not fit into memory" in warning for warning in config.plan.warnings)


def out_of_memory_above(rows: int, refusal: Exception, monkeypatch) -> None:
    """Forward passes of training with more rows are refused."""
    forward = GPT.forward

    def small(self: GPT, ids: torch.Tensor, **options: Any) -> Any:
        if self.training and len(ids) > rows and torch.is_grad_enabled():
            raise refusal
        return forward(self, ids, **options)

    monkeypatch.setattr(GPT, "forward", small)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_first_batch_that_is_too_large_is_divided(kind, text, tmp_path, monkeypatch):
    """The kind's case: memory runs out while steps are timed, before there is a trainer."""
    out_of_memory_above(2, REFUSALS[kind], monkeypatch)
    said: list[str] = []
    run = api.train(text, out=tmp_path / "run", settings=settings(max_steps=3), say=said.append)
    train = run.config.train
    assert (train.batch_size, train.gradient_accumulation_steps) == (2, 4)
    assert (
        "warning    micro-batches of 4 rows do not fit into memory: 4 micro-batches of 2 rows a step instead"
        in "\n".join(said)
    )
    assert run.config.plan.warnings
    assert run.step <= 3
    api.train(
        text,
        out=tmp_path / "whole",
        settings=settings(max_steps=3, batch_size=2, gradient_accumulation_steps=4),
        say=said.append,
    )
    ours, theirs = (RunFolder(folder).read_metrics() for folder in (tmp_path / "run", tmp_path / "whole"))
    assert [line["train/loss"] for line in ours if "lr" in line] == [
        line["train/loss"] for line in theirs if "lr" in line
    ]


@pytest.mark.parametrize("kind", ["cpu", "python"])
def test_a_row_that_does_not_fit_is_one_line(kind, text, tmp_path, monkeypatch, capfd):
    out_of_memory_above(0, REFUSALS[kind], monkeypatch)
    with pytest.raises(OutOfMemory, match=r"not even one row of 16 tokens fits|one row of 16 tokens does not fit"):
        api.train(text, out=tmp_path / "run", settings=settings(max_steps=3))
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_fit_is_one_line(text, tmp_path, monkeypatch):
    def full(*arguments: Any, **options: Any) -> None:
        raise REFUSALS["cpu"]

    monkeypatch.setattr(timing, "assemble", full)
    with pytest.raises(OutOfMemory, match="the model, its gradients and the optimizer's state do not fit"):
        api.train(text, out=tmp_path / "run", settings=settings(max_steps=3))


def test_an_attention_that_does_not_fit_gives_way_to_one_that_does(planned, monkeypatch):
    """Its weights of all tokens for all others need the most memory: no reason for smaller micro-batches."""

    def only_fused(config: Config, *arguments: Any, **options: Any) -> StepTime | None:
        return TIMES if config.train.attention == "sdpa" else None

    monkeypatch.setattr(timing, "measure_step", only_fused)
    config, _ = planned(max_steps=100, attention="auto")
    assert (config.train.attention, config.train.batch_size, config.plan.warnings) == ("sdpa", 8, ())


LIMITED = """
import resource, sys
import torch
torch.set_num_threads(1)
from primegpt.cli.main import main
from primegpt.model.gpt import GPT
torch.nn.Linear(8, 8)(torch.randn(4, 8)).sum().backward()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20,) * 2)
main(sys.argv[2:])
"""


@pytest.mark.reliability
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_a_batch_beyond_the_address_space_is_divided(text, tmp_path):
    """64 rows of 512 tokens keep about 0.8 GB of activations, 32 rows half of it; 550 MB are allowed."""
    flags = "--model.n_layer 2 --model.n_head 2 --model.n_embd 128 --model.block_size 512 --train.batch_size 64"
    command = f"train {text} --out {tmp_path / 'run'} {flags} --train.precision fp32 --train.attention sdpa"
    command += (
        " --train.max_steps 1 --train.optimizer adamw --model.preset gpt2 --tokenizer.kind char --train.threads 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "550", *command.split()], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert "rows do not fit into memory" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "40", *command.replace("/run", "/other").split()],
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 1
    assert "out of memory" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


# ---- time


def test_the_forecast_of_counted_steps_has_every_part(timed, planned):
    """Steps, evaluations of both sets by their real size, samples at each time, and what is read at the end."""
    config, corpus = planned(max_steps=100, eval_interval=10, sample_interval=50, data={"val_tokens": 400})
    evaluated, judged = 11 * 2 * 400 * 1e-4, corpus.val_targets * 1e-4
    expected = 100 * 0.5 + evaluated + 3 * 200 * 0.01 + judged + course.CLOSING_SECONDS
    assert config.plan.expected_seconds == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("budget", [{"minutes": 0.1}, {"minutes": 1.0}, {"minutes": 10.0}, {"max_steps": 2000}])
def test_early_evaluations_are_paid_for_and_take_little(timed, planned, budget, monkeypatch):
    monkeypatch.setitem(globals(), "TIMES", StepTime(step=0.01, position=1e-6, token=1e-4))
    (config, _), (without, _) = planned(**budget), planned(**budget, early_evaluations=(0,))
    train, plan = config.train, config.plan
    assert without.train.early_evaluations == (0,)
    assert train.early_evaluations
    assert all(step < (train.eval_interval or 0) for step in train.early_evaluations)
    each = early_seconds(config, config.data.val_tokens, 1e-6)
    taken, training = len(train.early_evaluations) * each, plan.expected_seconds - plan.closing_seconds
    assert taken <= 0.0151 * training
    if "minutes" in budget:
        fewer = without.train.max_steps - train.max_steps
        assert fewer * 0.01 == pytest.approx(taken, abs=0.03)  # the next whole step; evaluations move with the steps
    else:
        assert plan.expected_seconds - without.plan.expected_seconds == pytest.approx(taken)


def test_held_out_text_that_was_evaluated_whole_is_not_read_again(timed, planned, text, tmp_path, monkeypatch):
    config, corpus = planned(max_steps=100, data={"val_tokens": 10**6})
    assert config.data.val_tokens == corpus.val_targets
    assert config.plan.closing_seconds == course.CLOSING_SECONDS
    values = settings(max_steps=4) | {"data": {"val_tokens": 10**6}}
    monkeypatch.setattr("primegpt.jobs.trainers.evaluate_all", lambda *_: pytest.fail("read again"))
    run = api.train(text, out=tmp_path / "run", settings=values, say=lambda line: None)
    monkeypatch.undo()
    lines = RunFolder(run.folder.path).read_metrics()
    told = next(line for line in lines if line["step"] == run.step and "val/loss" in line)
    final = next(line for line in lines if "final/val/loss" in line)
    assert final["final/val/loss"] == pytest.approx(told["val/loss"], rel=1e-12)
    from primegpt.jobs.trainers import evaluate_all

    oracle = evaluate_all(run, corpus)
    assert final["final/val/loss"] == pytest.approx(oracle.loss, rel=1e-6)
    assert final["final/val/bits_per_byte"] == pytest.approx(oracle.bits_per_byte, rel=1e-6)


def test_what_is_no_likelihood_is_judged_at_the_end_however_much_was_evaluated(timed, planned, monkeypatch):
    monkeypatch.setattr(course, "objective_for", lambda config: SimpleNamespace(is_likelihood=False))
    config, corpus = planned(max_steps=100, data={"val_tokens": 10**6})
    assert config.plan.closing_seconds == pytest.approx(course.CLOSING_SECONDS + corpus.val_targets * 1e-4)


def test_a_time_budget_pays_for_what_was_asked_for(timed, planned):
    """Every step evaluated: as many steps as fit with that; and the base text that fine-tuning reads is in it."""
    plain, _ = planned(minutes=2.0)
    config, _ = planned(minutes=2.0, eval_interval=1, data={"val_tokens": 1600})
    each = 0.5 + 2 * 1600 * 1e-4
    samples = 5 * 200 * 0.01
    assert config.train.max_steps == pytest.approx((0.97 * config.plan.training_seconds - samples) / each, abs=1)
    tuned, _ = planned(minutes=2.0, rereading=25_000)
    assert tuned.plan.closing_seconds == pytest.approx(plain.plan.closing_seconds + 2 * 25_000 * 1e-4)
    assert tuned.plan.training_seconds < plain.plan.training_seconds - 3  # of 5: planning itself takes its time, too
    greedy, _ = planned(minutes=2.0, rereading=10**7)
    assert greedy.plan.reread_targets < 31_000  # of a budget, a twentieth


@pytest.mark.parametrize(
    ("budget", "warned"),
    [
        ({"minutes": 0.3}, True),
        ({"minutes": 3.0}, False),
        ({"max_steps": 7}, False),
        ({"epochs": 1.0}, False),
        ({"tokens": 2000}, True),
    ],
)
def test_few_steps_are_said_before_they_are_made(timed, planned, budget, warned):
    config, corpus = planned(**budget)
    lines = [value for name, value in plan_table(config, corpus) if name == "warning"]
    assert [line for line in lines if "too few to learn much" in line] == lines
    assert bool(lines) == warned


@pytest.mark.parametrize("times", [[1e3, 1e-6, 1e-3], [1e-3, 1.0, 1e-3]], ids=["steps", "evaluations"])
def test_times_of_a_moment_when_others_had_the_machine_are_not_believed_for_ever(planned, times):
    """Remembered, they would leave a step or two of a minute, or a second of it."""
    plan, _ = planned(minutes=1.0)
    (path,) = (Path(os.environ["PRIMEGPT_CACHE"]) / "timings").glob("*.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(saved | {"times": dict.fromkeys(saved["times"], times)}), encoding="utf-8")
    again, _ = planned(minutes=1.0)
    assert again.train.max_steps > plan.train.max_steps / 10 > 50
    assert again.plan.training_seconds > 30


@pytest.mark.parametrize("budget", [{"minutes": 0.3}, {"tokens": 2000}, {"max_steps": 3}], ids=str)
def test_what_was_measured_for_this_very_plan_is_not_measured_twice(planned, monkeypatch, budget):
    """A plan of few steps forgot what it had just found, and took its time for the same again."""
    measured: list[Config] = []
    monkeypatch.setattr(timing, "measure_step", lambda config, *_, **__: measured.append(config) or TIMES)
    planned(**budget)
    assert len(measured) == 1
    planned(**budget)
    assert len(measured) == 1 + ("minutes" in budget)  # of what is remembered another moment may say more


def test_few_steps_because_the_text_is_tiny_ask_for_text_and_not_for_time(timed, planned):
    config, _ = planned(minutes=3.0, most_passes=0.2)
    (warning,) = config.plan.warnings
    assert "as many passes over the text as are of use, too few to learn much: add text" in warning
    assert "--minutes" not in warning


def test_intervals_that_were_not_asked_for_follow_the_plan(timed, planned):
    config, _ = planned(minutes=3.0, eval_interval=7)
    assert set(config.plan.chosen) == {"sample_interval", "checkpoint_interval", "log_interval"}


def test_two_micro_batches_tell_the_time_of_all(planned, monkeypatch):
    """Sixteen micro-batches a step: two of them are computed, and the update once."""
    config = resolve(settings(batch_size=4, gradient_accumulation_steps=16), {"model": {"vocab_size": 60}})
    _, corpus = planned(max_steps=1)
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def gradients(model: GPT, parts: list, *arguments: Any, **options: Any) -> tuple[float, int, dict]:
        assert len(parts) == 2
        clock[0] += 0.2 * len(parts)
        return 1.0, 1, {}

    def update(*arguments: Any) -> float:
        clock[0] += 0.05
        return 1.0

    monkeypatch.setattr(timing, "compute_gradients", gradients)
    monkeypatch.setattr(timing, "update", update)
    taken = timing.measure_step(config, training_batches(config, corpus))
    assert taken.step == pytest.approx(16 * 0.2 + 0.05)
    assert clock[0] < 3 * 0.45 + 1e-6


def test_lengths_are_those_that_most_records_have(tmp_path, write_shards):
    """A sixteenth of the records is longer by each; the longest of all, and the context, are among them."""
    lengths = [5] * 80 + list(range(20, 100))
    with write_shards(tmp_path / "records", [([1] * n, [0, *[1] * (n - 1)]) for n in lengths], roles=True) as records:
        few = planning.few_lengths(records, 128)
    assert len(few) <= planning.LENGTHS + 1
    assert few[0] == 4
    assert few[-2:] == (98, 128)
    assert max(b - a for a, b in pairwise(few[1:-1])) <= 11


def test_records_get_few_lengths_and_old_runs_keep_their_own(tmp_path):
    said: list[str] = []
    values = settings(max_steps=2, batch_size=2) | {"data": {"template": "song", "songs": 60}}
    values["model"] = SIZES | {"block_size": 512}
    values["tokenizer"] = {"kind": "bpe", "vocab_size": 400}
    run = api.train("songbook", out=tmp_path / "run", settings=values, say=said.append)
    assert len(run.config.plan.lengths) > 4
    corpus = prepare(run.config.data, run.config.tokenizer, tokenizer=run.tokenizer, context=512)
    widths = {b.ids.shape[1] for step in range(8) for b in training_batches(run.config, corpus).micro_batches(step)}
    assert widths <= set(run.config.plan.lengths)
    old = run.config.with_values(plan={"lengths": ()})
    assert not {b.ids.shape[1] for b in training_batches(old, corpus).micro_batches(0)} <= set(run.config.plan.lengths)


# ---- what is said


def test_a_resume_tells_the_plan_that_holds_now(text, tmp_path):
    api.train(text, out=tmp_path / "run", settings=settings(max_steps=4), say=lambda line: None)
    said: list[str] = []
    api.resume(tmp_path / "run", settings={"train": {"max_steps": 6}}, say=said.append)
    (steps,) = [line for line in said if line.startswith("steps")]
    assert steps.startswith("steps      6 of 128 tokens")
    assert steps.endswith("; 4 done, 4 were planned")


def test_early_stopping_and_a_loss_that_never_fell_are_said(text, tmp_path):
    said: list[str] = []
    values = settings(max_steps=50, eval_interval=2, patience=3, learning_rate=10.0, precision="fp32")
    api.train(text, out=tmp_path / "run", settings=values, say=said.append)
    assert sum("stopped early at step 6 of 50 (train.patience)" in line for line in said) == 1
    assert sum("never fell below that" in line for line in said) == 1
