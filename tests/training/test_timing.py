"""What was measured once on a machine is known there from then on, and of nothing else."""

import json
import os
from pathlib import Path

import pytest

from primegpt.config import Config, resolve
from primegpt.training import timing


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Every configuration that was measured; the n-th took n seconds."""
    calls: list[Config] = []

    def measure_step(config, batches, world=timing.ALONE, seconds=0.0):
        calls.append(config)
        return float(len(calls))

    monkeypatch.setattr(timing, "measure_step", measure_step)
    return calls


def configuration(**train: object) -> Config:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 8, "vocab_size": 7}
    return resolve({"model": sizes, "train": {"device": "cpu", "precision": "fp32", "threads": 1, **train}})


def files() -> list[Path]:
    return list((Path(os.environ["PRIMEGPT_CACHE"]) / "timings").glob("*.json"))


def test_a_second_plan_measures_nothing(measured: list[Config]) -> None:
    both = {"sdpa": 1.0, "explicit": 2.0}
    assert timing.step_times(configuration(), None) == (both, False)
    assert timing.step_times(configuration(seed=2, learning_rate=0.1), None) == (both, True)
    assert len(measured) == 2
    assert len(files()) == 1


@pytest.mark.parametrize(
    "change", [{"batch_size": 3}, {"threads": 2}, {"precision": "bf16"}, {"attention": "sdpa"}, {"optimizer": "muon"}]
)
def test_what_takes_another_time_is_measured(measured: list[Config], change: dict[str, object]) -> None:
    timing.step_times(configuration(), None)
    assert not timing.step_times(configuration(**change), None)[1]


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
    "seconds", [{}, {"sdpa": 0.0, "explicit": 1.0}, {"sdpa": None, "explicit": 1.0}, {"sdpa": 1}, 3]
)
def test_times_that_cannot_be_are_measured_anew(measured: list[Config], seconds: object) -> None:
    timing.step_times(configuration(), None)
    (path,) = files()
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"seconds": seconds}), encoding="utf-8")
    assert timing.step_times(configuration(), None) == ({"sdpa": 3.0, "explicit": 4.0}, False)


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"of": 1}), "\x00"])
def test_a_damaged_memory_is_made_anew(measured: list[Config], content: str) -> None:
    timing.step_times(configuration(), None)
    (path,) = files()
    path.write_text(content, encoding="utf-8")
    assert timing.step_times(configuration(), None) == ({"sdpa": 3.0, "explicit": 4.0}, False)
    assert timing.step_times(configuration(), None)[1]


def test_without_a_place_to_write_it_is_measured_each_time(measured: list[Config], monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "file"))
    assert timing.step_times(configuration(), None)[0] == {"sdpa": 1.0, "explicit": 2.0}
    assert timing.step_times(configuration(), None) == ({"sdpa": 3.0, "explicit": 4.0}, False)
