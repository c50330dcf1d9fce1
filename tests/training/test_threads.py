"""Threads beside other programs, on simulated machines; and what a system says of its cores."""

import builtins
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.parallel.world import ALONE, World
from primegpt.training.state import EarlyStopping, TrainState
from primegpt.training.threads import CoreTime, Threads, may_change, threads_put_back


@dataclass
class Machine:
    """A clock that only steps move, and cores that our threads share fairly with those of other programs."""

    cores: int
    others: Callable[[float], float]
    """Threads of other programs that want a core, as time goes by."""
    step: Callable[[int, float], float]
    """Seconds of a step of so many threads, each of which has such a share of a core."""
    waits: float = 0.0
    """Cores that we leave idle ourselves, between products."""
    clock: float = 0.0
    used: float = 0.0
    idle: float = 1.0
    count: int = 0
    messages: list[str] = field(default_factory=list)
    counts: list[tuple[float, int, float]] = field(default_factory=list)  # of each step: when, threads, seconds

    def now(self) -> CoreTime:
        return CoreTime(self.clock, self.used, self.idle)

    def train(self, seconds: float) -> Threads:
        run, self.count = Threads(self.cores, seconds, self.messages.append), self.cores
        state = TrainState(max_steps=10**9, early_stopping=EarlyStopping(None))
        while self.clock < seconds:
            others = self.others(self.clock)
            share = min(1.0, self.cores / (self.count + others))
            took = self.step(self.count, share)
            self.clock += took
            self.used += took * (self.count * share - self.waits)
            self.idle += took * (max(0.0, self.cores - self.count - others) + self.waits)
            self.counts.append((self.clock, self.count, took))
            state.step += 1
            run.after_step(state, took)
        self.events = state.events
        return run


def waits_for_all(count: int, share: float) -> float:
    """Threads that are put aside hold up the others more than they lose themselves."""
    return 0.16 / count / share**3


@pytest.fixture
def machine(monkeypatch) -> Callable[..., Machine]:
    def make(cores: int, others: Callable[[float], float], step=waits_for_all) -> Machine:
        made = Machine(cores, others, step)
        monkeypatch.setattr(time, "perf_counter", lambda: made.clock)
        monkeypatch.setattr(CoreTime, "now", made.now)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(made, "count", count))
        return made

    return make


def test_a_core_that_is_taken_is_not_waited_for_and_used_again_when_it_is_free(machine):
    simulated = machine(2, lambda now: 20 <= now < 60)
    simulated.train(100)
    used = {int(when): count for when, count, _ in simulated.counts}
    assert [used[second] for second in (10, 19, 30, 45, 59, 70, 90)] == [2, 2, 1, 1, 1, 2, 2]
    changes = [now[0] for before, now in pairwise(simulated.counts) if now[1] != before[1]]
    assert changes == [pytest.approx(23, abs=2), pytest.approx(63, abs=2)]
    assert [event["threads"] for event in simulated.events] == [1, 2]
    down, up = simulated.messages
    assert "1 thread from here on, others wait for other programs: a step takes 160 ms, not 270" in down
    assert "2 threads from here on, other programs have left: a step takes 80 ms, not 160" in up


@pytest.mark.parametrize(("others", "waits"), [(0, 0.0), (0.25, 0.0), (0, 0.28), (0, 0.6)])
def test_a_quiet_machine_tries_nothing(machine, others, waits):
    simulated = machine(2, lambda now: others, lambda count, share: 0.1)
    simulated.waits = waits
    simulated.train(60)
    assert {count for _, count, _ in simulated.counts} == {2}


@pytest.mark.parametrize(("cores", "others"), [(2, 1), (4, 1), (4, 3), (8, 3), (8, 4), (16, 5), (16, 8)])
def test_as_many_threads_as_there_are_cores_left(machine, cores, others):
    """The share that a process has of cores which all want is not what is left of them: 12 of 16 beside five others."""
    assert machine(cores, lambda now: others).train(30).count == cores - others


def test_one_thread_is_the_least(machine):
    """Two programs for each core leave us none by the count, and a share all the same."""
    simulated = machine(2, lambda now: 4)
    simulated.train(600)
    assert {count for _, count, _ in simulated.counts} == {1, 2}


@pytest.mark.parametrize("step", [0.05, 0.25, 1.0, 3.0, 10.0])
def test_trials_in_vain_take_little_of_the_time(machine, step):
    """Beside a program that costs nothing, one thread takes twice as long as two."""
    simulated = machine(2, lambda now: 1, lambda count, share: 2 * step / count)
    simulated.train(600)
    assert simulated.counts[-1][1] == 2
    assert sum(took for _, count, took in simulated.counts if count == 1) <= 0.08 * 600
    assert any(count == 1 for _, count, _ in simulated.counts) == (step < 10)
    assert not simulated.messages


def test_what_came_late_is_noticed_soon(machine):
    """After a trial in vain what counts is the last seconds, not all since then."""
    cost = lambda count, share: 0.16 / count / share ** (3 if simulated.clock > 100 else 0)  # noqa: E731
    simulated = machine(2, lambda now: 1, cost)
    simulated.train(160)
    assert next(when for when, count, _ in simulated.counts if count == 1 and when > 100) < 150
    assert simulated.counts[-1][1] == 1


def test_a_little_faster_is_not_enough(machine):
    simulated = machine(2, lambda now: 1, lambda count, share: 0.1 if count == 2 else 0.09)
    assert simulated.train(60).count == 2


def test_nothing_changes_where_the_system_does_not_tell(machine, monkeypatch):
    simulated = machine(2, lambda now: 1)
    monkeypatch.setattr(CoreTime, "now", lambda: None)
    assert simulated.train(30).count == 2


# ---- what a system says

TOLD = """cpu  900 0 300 7000 40 0 0 0 0 0
cpu0 100 5 30 2000 10 0 0 50 0 0
cpu1 200 5 30 3000 20 0 0 50 0 0
cpu12 600 5 30 4000 10 0 0 50 0 0
intr 123 0
"""


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="a system that does not tell of its cores")
@pytest.mark.parametrize(
    ("told", "mask", "ticks"),
    [
        (TOLD, {0, 1}, 5030),
        (TOLD, {12}, 4010),
        (TOLD, {0, 2}, None),  # a container that numbers its cores anew
        (TOLD.replace("00", ""), {0}, 30),
        ("cpu0 0 0 0 0 0 0\n", {0}, None),  # one that tells nothing
        ("cpu0 1\n", {0}, None),
        ("", {0}, None),
    ],
)
def test_the_idle_time_of_the_cores_that_the_process_may_use(monkeypatch, told, mask, ticks):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask, raising=False)
    monkeypatch.setattr(builtins, "open", lambda *_, **__: io.StringIO(told))
    found = CoreTime.now()
    assert (found and found.idle * os.sysconf("SC_CLK_TCK")) == (ticks and pytest.approx(ticks))


def test_a_busy_loop_is_used_and_a_sleep_is_not():
    began = CoreTime.now() or pytest.skip("a system that does not tell of its cores")
    time.sleep(0.2)
    slept = CoreTime.now()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    used = CoreTime.now()
    assert slept.used - began.used < 0.1
    assert used.used - slept.used == pytest.approx(0.2, abs=0.1)
    assert used.clock - began.clock > 0.35


# ---- whose threads


def planned(**train: object) -> Config:
    values = {"device": "cpu", "threads": 2, **train}
    return resolve({"train": values, "plan": {"threads": 2, "chosen": ["threads"]}})


def test_threads_may_change_where_nobody_asked_for_some():
    several = World()
    several.size = 2
    assert may_change(planned(), ALONE)
    assert not may_change(planned(), several)
    assert not may_change(planned(threads=4), ALONE)  # edited since
    assert not may_change(planned(compile=True), ALONE)
    assert not may_change(planned(device="mps"), ALONE)
    assert not may_change(planned().with_values(plan={"chosen": ["eval_interval"]}), ALONE)
    assert not may_change(planned(threads=1).with_values(plan={"threads": 1}), ALONE)


def test_threads_are_put_back():
    @threads_put_back()
    def fails() -> None:
        torch.set_num_threads(torch.get_num_threads() + 1)
        raise KeyError

    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        fails()
    assert torch.get_num_threads() == before
