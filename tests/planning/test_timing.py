"""What was measured once on a machine is known there from then on, and of nothing else; forecasts of real models.

`python tests/planning/test_timing.py` prints the table of measured and forecast times.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.data.batching.batches import Batch
from primegpt.model.gpt import GPT
from primegpt.planning import timing


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Every configuration that was measured; the n-th step took n seconds."""
    calls: list[Config] = []

    def measure_step(config, batches, world=timing.ALONE, seconds=0.0):
        calls.append(config)
        return took(len(calls))

    monkeypatch.setattr(timing, "measure_step", measure_step)
    return calls


def configuration(**train: object) -> Config:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 8, "vocab_size": 7}
    return resolve({"model": sizes, "train": {"device": "cpu", "precision": "fp32", "threads": 1, **train}})


def took(seconds: int) -> timing.StepTime:
    return timing.StepTime(float(seconds), 0.1, 0.2)


def files() -> list[Path]:
    return list((Path(os.environ["PRIMEGPT_CACHE"]) / "timings").glob("*.json"))


def test_a_second_plan_measures_nothing(measured: list[Config]) -> None:
    both = {"sdpa": took(1), "explicit": took(2)}
    assert timing.step_times(configuration(), None) == (both, False)
    assert timing.step_times(configuration(seed=2, learning_rate=0.1), None) == (both, True)
    assert len(measured) == 2
    assert len(files()) == 1


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"threads": 2}, {"precision": "bf16"}, {"optimizer": "muon"}])
def test_what_takes_another_time_is_measured(measured: list[Config], change: dict[str, object]) -> None:
    timing.step_times(configuration(), None)
    assert not timing.step_times(configuration(**change), None)[1]


def test_what_is_known_of_all_kernels_is_known_of_one(measured: list[Config]) -> None:
    timing.step_times(configuration(), None)
    assert timing.step_times(configuration(attention="sdpa"), None) == ({"sdpa": took(1)}, True)


def test_a_run_corrects_what_was_measured_before_it(measured: list[Config]) -> None:
    """The other kernel, evaluations and samples were measured in the same moment, and are as much off."""
    timing.step_times(configuration(), None)
    timing.correct(configuration(attention="explicit"), 0.5)
    corrected = {"sdpa": timing.StepTime(0.25, 0.025, 0.05), "explicit": timing.StepTime(0.5, 0.025, 0.05)}
    assert timing.step_times(configuration(), None) == (corrected, True)
    timing.correct(configuration(attention="explicit", compile=True), 0.1)  # another kind of step
    assert timing.step_times(configuration(), None)[0]["explicit"].step == 0.5


def test_a_run_of_which_nothing_was_measured_corrects_nothing(measured: list[Config]) -> None:
    timing.correct(configuration(attention="sdpa"), 0.5)
    assert not files()


def test_another_machine_or_model_is_measured(measured: list[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    timing.step_times(configuration(), None)
    assert not timing.step_times(configuration().with_values(model={"n_embd": 32}), None)[1]
    monkeypatch.setattr(timing.platform, "node", lambda: "elsewhere")
    assert not timing.step_times(configuration(), None)[1]


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"isolate_documents": True}},
        {"data": {"template": "song"}},
        {"lora": {"rank": 2}},
        {"model": {"n_embd": 32}},
    ],
)
def test_other_sections_count_too(measured: list[Config], values: dict[str, dict[str, object]]) -> None:
    timing.step_times(configuration(), None)
    assert not timing.step_times(configuration().with_values(**values), None)[1]


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"sdpa": [0.0, 1.0, 1.0], "explicit": [1.0, 1.0, 1.0]},
        {"sdpa": None, "explicit": [1.0, 1.0, 1.0]},
        {"sdpa": [1.0, 1.0], "explicit": [1.0, 1.0, 1.0]},
        {"sdpa": 1},
        3,
    ],
)
def test_times_that_cannot_be_are_measured_anew(measured: list[Config], times: object) -> None:
    timing.step_times(configuration(), None)
    (path,) = files()
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"times": times}), encoding="utf-8")
    assert timing.step_times(configuration(), None) == ({"sdpa": took(3), "explicit": took(4)}, False)


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"of": 1}), "\x00"])
def test_a_damaged_memory_is_made_anew(measured: list[Config], content: str) -> None:
    timing.step_times(configuration(), None)
    (path,) = files()
    path.write_text(content, encoding="utf-8")
    assert timing.step_times(configuration(), None) == ({"sdpa": took(3), "explicit": took(4)}, False)
    assert timing.step_times(configuration(), None)[1]


def test_without_a_place_to_write_it_is_measured_each_time(measured: list[Config], monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "file"))
    assert timing.step_times(configuration(), None)[0] == {"sdpa": took(1), "explicit": took(2)}
    assert timing.step_times(configuration(), None) == ({"sdpa": took(3), "explicit": took(4)}, False)


# ---- Forecasts

CASES: dict[str, dict[str, Any]] = {
    "0.8M: 4 x 128, 12 x 64": {
        "model": {"n_layer": 4, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 65},
        "train": {"batch_size": 12},
    },
    "10.7M: 6 x 384, 16 x 256": {
        "model": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65},
        "train": {"batch_size": 16},
    },
    "124M: GPT-2, 2 x 2 x 256": {
        "model": {"vocab_size": 50_257},
        "train": {"batch_size": 2, "gradient_accumulation_steps": 2, "sequence_length": 256},
    },
}


def case(name: str) -> Config:
    precision = "bf16" if sys.argv[0] == __file__ else "fp32"
    fixed = {"device": "cpu", "precision": precision, "attention": "sdpa"}
    sections = CASES[name]
    return resolve({"model": {"preset": "gpt2", **sections["model"]}, "train": sections["train"] | fixed})


class RandomRows:
    """The micro-batches of a step, of random ids."""

    def __init__(self, config: Config) -> None:
        train, length = config.train, config.train.sequence_length or config.model.block_size
        rows = torch.randint(
            config.model.vocab_size or 0, (train.gradient_accumulation_steps, train.batch_size, length)
        )
        self.batches = [Batch(ids, ids.roll(-1, 1), None, None, 0) for ids in rows]

    def micro_batches(self, step: int) -> list[Batch]:
        return self.batches


def measurements(name: str, turns: int) -> Iterator[tuple[float, float]]:
    """Seconds of a step, measured on the whole of it and forecast; the best so far of turns of both."""
    config = case(name)
    measured = forecast = float("inf")
    for _ in range(turns):
        measured = min(measured, timing.measure_step(config, RandomRows(config)).step)
        forecast = min(forecast, timing.forecast_step(config))
        yield measured, forecast


def test_layers_are_on_a_line() -> None:
    assert timing.extrapolated([1, 3], [5.0, 9.0], layers=12) == 5.0 + 11 * 2.0
    assert timing.extrapolated([1, 2], [5.0, 9.0], layers=2) == 9.0
    assert timing.extrapolated([1], [5.0], layers=1) == 5.0


def test_rows_that_are_not_measured_cost_as_much_as_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 micro-batches of 64 rows of 64 tokens, of which 16 rows are timed: 2 s of these are 64 s, and 3 s of update."""
    ticks, seen = itertools.cycle([10.0, 12.0, 15.0]), []
    config = case("0.8M: 4 x 128, 12 x 64")
    train = {"batch_size": 64, "gradient_accumulation_steps": 8}
    config = config.with_values(train=train, model={"n_embd": 16, "n_layer": 1})
    compute = timing.compute_gradients

    def computed(model: GPT, micro_batches: list[Batch], *arguments: object, **options: object) -> object:
        seen.append((len(micro_batches), micro_batches[0].ids.shape, len(model.h)))
        return compute(model, micro_batches, *arguments, **options)

    monkeypatch.setattr(timing, "compute_gradients", computed)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks))
    assert timing.forecast_step(config) == pytest.approx(2.0 * 512 / 16 + 3.0)
    assert set(seen) == {(1, (16, 64), 1)}


@pytest.mark.parametrize("full", [False, True])
def test_what_does_not_fit_is_forecast_from_the_rate_of_products(monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    """GPT-2 XL's 12 x 1,024 tokens on a machine that makes 1 TFLOP/s: 6 N + 12 layers x width x length each."""
    if full:  # only trying tells
        monkeypatch.setattr(timing, "Rehearsal", Full)
        monkeypatch.setattr(timing, "MEMORY", 1e12)
    else:
        monkeypatch.setattr(timing, "MEMORY", 1e9)
    monkeypatch.setattr(timing, "matmul_rate", lambda device, dtype: 1e12)
    size = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 50_257}
    config = resolve({"model": size, "train": {"batch_size": 12, "device": "cpu", "precision": "fp32"}})
    config = config.with_values(model={"block_size": 1024}, train={"attention": "sdpa"})
    flops = 6 * (48 * 12 * 1600**2 + 50_304 * 1600) + 12 * 48 * 1600 * 1024
    assert timing.forecast_step(config) == pytest.approx(12 * 1024 * flops / 0.5e12)


class Full:
    """A model whose steps run out of memory."""

    def __init__(self, config: Config) -> None: ...
    def step(self, micro_batches: list[Batch]) -> None: ...


class Compiling:
    """A model whose first step compiles, for 50 seconds; the others take two."""

    device = "cpu"

    def __init__(self, config: Config, world: object) -> None: ...
    def step(self, micro_batches: list[Batch], step: int) -> tuple[float, float]:
        return (1.5 if step else 49.5), 0.5

    def evaluation(self, batch: Batch) -> float:
        return 1.0

    def token(self, ids: torch.Tensor) -> float:
        return 0.1


def test_the_step_that_compiles_is_not_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run of half an hour would be planned with 36 steps."""
    rows = torch.zeros(2, 8, dtype=torch.long)
    batches = SimpleNamespace(micro_batches=lambda step: [Batch(rows, rows, None, None, 0)])
    monkeypatch.setattr(timing, "Rehearsal", Compiling)
    assert timing.measure_step(configuration(compile=True), batches).step == 2.0  # type: ignore[arg-type]


def test_the_faster_attention_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    paces = {"sdpa": 2.0, "explicit": 1.0}
    monkeypatch.setattr(timing.Rehearsal, "step", lambda own, rows: (paces[own.config.train.attention], 0.0))
    config = case("0.8M: 4 x 128, 12 x 64").with_values(train={"attention": "auto"})
    assert timing.forecast_step(config) == 1.0


@pytest.mark.reliability
@pytest.mark.alone
@pytest.mark.parametrize("name", CASES)
def test_a_step_takes_about_as_long_as_forecast(name, monkeypatch):
    """In one thread and the processor's time, which other programs change less than the clock's.

    They only ever make it longer, for up to a minute: the best of two turns counts, or of five where these disagree.
    """
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    for turn, (measured, forecast) in enumerate(measurements(name, turns=5), 1):
        print(f"{name}, {turn} turns: measured {1000 * measured:,.1f} ms, forecast {1000 * forecast:,.1f} ms")
        if turn > 1 and forecast == pytest.approx(measured, rel=0.25):
            break
    assert forecast == pytest.approx(measured, rel=0.25)


def table() -> Iterator[str]:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name in CASES:
        *_, (measured, forecast) = measurements(name, turns=2)
        times = f"measured {1000 * measured:7,.1f} ms, forecast {1000 * forecast:7,.1f} ms"
        yield f"{name:<26} {times}, {forecast / measured - 1:+.0%}"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
