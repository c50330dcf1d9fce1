"""How cost grows: what is varied is what was asked for, what is slower is said to be slower, memory is measured."""

import json
import sys
from pathlib import Path

import pytest

from primegpt.bench import cost
from primegpt.bench.compare import Absent, output_of
from primegpt.cli.main import run
from primegpt.config import resolve
from primegpt.device import choose_precision
from primegpt.model.size import parameter_count
from primegpt.run.atomic import write_bytes_atomic

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


class Machine:
    """Processes that cost what is easy to reckon: a step the square of its width, times the context, by the threads."""

    def __init__(self, monkeypatch, cores=4):
        self.asked, self.texts = [], []
        monkeypatch.setattr(cost, "output_of", self.output_of)
        monkeypatch.setattr(cost, "available_cores", lambda: cores)

    def output_of(self, command, variables):
        what, given, *_ = command[command.index("-m") + 2 :]
        if what == "data":
            self.texts.append(Path(given).read_bytes())
            return json.dumps([len(self.texts[-1]) / 1e7, 300_000_000])
        config = resolve(json.loads(given))
        self.asked.append(config)
        model, train = config.model, config.train
        return json.dumps([1e-6 * model.n_embd**2 * model.block_size / 128 / (train.threads or 0), 2e6 * model.n_embd])


def rows(growth):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in growth.as_markdown().splitlines()[4:]]


def test_what_is_varied_is_what_was_asked_for_and_nothing_else(monkeypatch):
    machine = Machine(monkeypatch)
    cost.bench_cost(widths=[64, 512], contexts=[64, 1024], threads=[1, 2], turns=1)
    asked = [(c.model.n_embd, c.sequence_length, c.train.threads) for c in machine.asked]
    assert asked == [(64, 128, 4), (512, 128, 4), (256, 64, 4), (256, 1024, 4), (256, 128, 1), (256, 128, 2)]
    assert {c.tokens_per_step for c in machine.asked} == {2048}
    assert {c.model.n_layer for c in machine.asked} == {4}


def test_slower_steps_are_reported_slower(monkeypatch):
    Machine(monkeypatch)
    width, context, threads = cost.bench_cost(widths=[64, 128], contexts=[128, 256], turns=2)
    assert rows(width)[0][:6] == ["64", "1.024", "1.024", "1.024", "2,000,000", "128"]  # 2048 tokens in 64²/4 µs
    assert rows(width)[1][:6] == ["128", "4.096", "4.096", "4.096", "500,000", "256"]
    assert [row[:2] for row in rows(context)] == [["128", "16.4"], ["256", "32.8"]]
    assert [row[:2] for row in rows(threads)] == [["1", "65.5"], ["2", "32.8"], ["4", "16.4"]]
    assert (
        width.costs[1].forecast
        > width.costs[0].forecast
        > 4e-6 * parameter_count(cost.Setup(64, 128, 4).config().model)
    )


def test_all_take_turns_and_what_several_tables_share_is_measured_once(monkeypatch):
    machine = Machine(monkeypatch)
    found = cost.bench_cost(widths=[64, 256], contexts=[128], threads=[4], turns=3)
    assert [config.model.n_embd for config in machine.asked] == [64, 256] * 3
    assert len({growth.costs[-1].time for growth in found}) == 1


def test_median_least_and_most_are_those_of_the_turns(monkeypatch):
    seconds = iter([0.02, 0.05, 0.03])
    monkeypatch.setattr(cost, "output_of", lambda *_, **__: json.dumps([next(seconds), None]))
    found = cost.bench_cost(widths=[256], contexts=[128], threads=[cost.available_cores()], turns=3)
    assert rows(found[0])[0][:6] == ["256", "30.0", "20.0", "50.0", f"{2048 / 0.03:,.0f}", "unknown"]


def test_what_does_not_run_here_is_named_and_the_rest_goes_on(monkeypatch, tmp_path):
    machine = Machine(monkeypatch)

    def out_of_memory(command, variables):
        if '"n_embd": 512' in command[-1]:
            raise Absent("not enough memory")
        return machine.output_of(command, variables)

    monkeypatch.setattr(cost, "output_of", out_of_memory)
    found = cost.bench_cost(widths=[64, 512], contexts=[128], threads=[1], turns=2)
    assert rows(found[0])[1] == ["512", "absent: not enough memory", "", "", "", "", ""]
    cost.plot_growths(found, tmp_path / "cost.png")


def test_texts_are_as_large_as_asked(monkeypatch):
    machine = Machine(monkeypatch)
    *_, data = cost.bench_cost(widths=[64], contexts=[128], threads=[1], megabytes=[1, 2], turns=2)
    assert [len(text) for text in machine.texts] == [1_000_000, 2_000_000] * 2
    assert machine.texts[1].startswith(machine.texts[0])
    machine.texts[0].decode()
    assert rows(data) == [["1", "0.100", "0.100", "0.100", "10", "300"], ["2", "0.200", "0.200", "0.200", "10", "300"]]


@pytest.mark.reliability
def test_the_command_prints_tables_or_json_and_draws(monkeypatch, tmp_path, capsys):
    Machine(monkeypatch)
    sizes = ["bench", "cost", "--widths", "64,128", "--contexts", "128,256", "--data", "1", "--turns", "1"]
    assert run([*sizes, "--plot", str(tmp_path / "cost.png")], 0.0) == 0
    out, err = capsys.readouterr()
    values = [line.split()[1] for line in out.splitlines() if line[:3].strip("| ").isdigit()]
    assert values == ["64", "128", "128", "256", "1", "2", "4", "1"]
    assert "turn 1 of 1: 64 wide, context 128, 4 threads 1.024 ms a step" in err
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert run([*sizes, "--json"], 0.0) == 0
    found = json.loads(capsys.readouterr().out)
    assert [growth["varied"] for growth in found] == ["width", "context", "threads", "MB of text"]
    assert found[0]["costs"][0]["time"]["rates"] == [pytest.approx(1.024)]


# ---- The process that measures


def measured(*arguments):
    return json.loads(output_of([*cost.PROCESS, *map(str, arguments)], threads=1))


@on_linux
@pytest.mark.reliability
@pytest.mark.alone
def test_a_process_measures_the_memory_of_a_step():
    """Three more layers take what is forecast of them; what libraries take at first use is in both."""
    sizes, train = [], {"precision": choose_precision("auto", "cpu")}  # bf16 in emulation takes minutes
    for layers in (1, 4):
        config = cost.Setup(256, 128, 1).config().with_values(model={"n_layer": layers}, train=train)
        setup = json.dumps(config.model_dump(mode="json", exclude_unset=True))
        (seconds, grown), (_, again) = measured("step", setup), measured("step", setup)
        sizes.append((min(grown, again), cost.training_memory(config).total))  # a busy machine adds to the peak
        assert 0.001 < seconds < 60
    (grown, forecast), (more_grown, more_forecast) = sizes
    assert more_grown - grown == pytest.approx(more_forecast - forecast, rel=0.25)


@on_linux
def test_a_process_measures_what_preparing_takes(tmp_path):
    write_bytes_atomic(tmp_path / "text.txt", b"the river ran under a bridge of stone\n" * 5000)
    seconds, peak = measured("data", tmp_path / "text.txt", tmp_path / "cache")
    assert 0 < seconds < 60
    assert 50e6 < peak < 2e9
    assert any((tmp_path / "cache").rglob("tokens-*"))
