"""The forecast of a step's time: its arithmetic, and the steps of real models.

`python tests/training/test_probe.py` prints the table of measured and forecast times.
"""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.data.batches import Batch
from primegpt.training import probe, timing
from primegpt.training.probe import Probe, extrapolated, part_of, step_seconds

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


def configuration(name: str) -> Config:
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
    config = configuration(name)
    measured = forecast = float("inf")
    for _ in range(turns):
        measured = min(measured, timing.measure_step(config, RandomRows(config)))
        forecast = min(forecast, step_seconds(config))
        yield measured, forecast


def test_layers_are_on_a_line():
    assert extrapolated([1, 3], [5.0, 9.0], layers=12) == 5.0 + 11 * 2.0
    assert extrapolated([1, 2], [5.0, 9.0], layers=2) == 9.0
    assert extrapolated([1], [5.0], layers=1) == 5.0


def test_rows_that_are_not_measured_cost_as_much_as_those_that_are(monkeypatch):
    """8 micro-batches of 64 rows of 64 tokens, of which 16 rows are timed: 2 s of these are 64 s, and 3 s of update."""
    times = iter([10.0, 12.0, 15.0])
    config = configuration("0.8M: 4 x 128, 12 x 64")
    config = config.with_values(train={"batch_size": 64, "gradient_accumulation_steps": 8})
    part = part_of(config.with_values(model={"n_embd": 16}), 1)
    small = Probe(part, config.tokens_per_step / part.tokens_per_step)
    assert (small.batch.ids.shape, len(small.model.h)) == ((16, 64), 1)
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(times))
    assert small.step_seconds() == pytest.approx(2.0 * 512 / 16 + 3.0)


def test_what_does_not_fit_is_forecast_from_the_rate_of_products(monkeypatch):
    """GPT-2 XL's 12 x 1,024 tokens on a machine that makes 1 TFLOP/s: 6 N + 12 layers x width x length each."""
    monkeypatch.setattr(probe, "MEMORY", 1e9)
    monkeypatch.setattr(probe, "matmul_rate", lambda device, dtype: 1e12)
    size = {"n_layer": 48, "n_head": 25, "n_embd": 1600, "vocab_size": 50_257}
    config = resolve({"model": size, "train": {"batch_size": 12, "device": "cpu", "precision": "fp32"}})
    config = config.with_values(model={"block_size": 1024})
    flops = 6 * (48 * 12 * 1600**2 + 50_304 * 1600) + 12 * 48 * 1600 * 1024
    assert step_seconds(config) == pytest.approx(12 * 1024 * flops / 0.5e12)


def test_the_faster_attention_counts(monkeypatch):
    paces = {"sdpa": 2.0, "explicit": 1.0}
    monkeypatch.setattr(Probe, "step_seconds", lambda probe: paces[probe.config.train.attention])
    config = configuration("0.8M: 4 x 128, 12 x 64").with_values(train={"attention": "auto"})
    assert step_seconds(config) == 1.0


@pytest.mark.reliability
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
