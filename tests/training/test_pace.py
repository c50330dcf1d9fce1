"""A budget of time on machines that are not as they were measured: simulated ones, whose clock only steps move."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder
from primegpt.training.pace import Pace, intervals
from primegpt.training.state import INTERVALS, TrainState
from primegpt.training.step import Precision
from primegpt.training.threads import CoreTime
from primegpt.training.trainer import EvaluationSet, Trainer

SECONDS = 180.0  # of each budget


@dataclass
class Machine:
    """A clock, and how far everything moves it. Step n takes `step(n, now)` seconds."""

    step: Callable[[int, float], float]
    evaluation: float = 0.0
    sample: float = 0.0
    clock: float = 0.0
    longest: float = 0.0  # of its steps
    rates: list[tuple[float, float]] = field(default_factory=list)  # (when, share of the peak) of each update
    messages: list[str] = field(default_factory=list)
    evaluated: list[int] = field(default_factory=list)

    def on_step(self, state, line) -> None: ...
    def on_evaluation(self, state, line, best) -> None: ...
    def on_sample(self, state, text) -> None: ...
    def on_message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., tuple[Trainer, Machine]]:
    """Run a plan of so many steps on a machine to its end; nothing is computed."""

    def simulate(
        planned: int, machine: Machine, *, state: TrainState | None = None, **train
    ) -> tuple[Trainer, Machine]:
        for clock in ("time.monotonic", "time.perf_counter"):
            monkeypatch.setattr(clock, lambda: machine.clock)
        trainer = simulated(configuration(planned, **train), machine, RunFolder(tmp_path / "run"))
        trainer.state = state or trainer.state
        trainer.fit()
        return trainer, machine

    return simulate


def configuration(planned: int, most_steps: int | None = None, **train) -> Config:
    given = {name: train.get(name) for name in INTERVALS}
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "vocab_size": 8}
    values = {"learning_rate": 1.0, "max_steps": planned, **intervals(given, planned, SECONDS), **train}
    chosen = [name for name, interval in given.items() if interval is None]
    plan = {"training_seconds": SECONDS, "chosen": chosen, "step_seconds": SECONDS / planned}
    plan |= {"most_steps": most_steps}
    return resolve({"model": sizes, "train": {"device": "cpu", "precision": "fp32", **values}, "plan": plan})


def simulated(config: Config, machine: Machine, folder: RunFolder) -> Trainer:
    nothing = EvaluationSet([], 0.0)
    trainer = Trainer(
        config, GPT(config.model), None, train_set=nothing, val_set=nothing, folder=folder,
        precision=Precision("fp32", "cpu"), observer=machine,
    )  # fmt: skip

    def step() -> None:
        machine.rates.append((machine.clock, trainer.state.learning_rate_factor(config.train)))
        taken = machine.step(trainer.state.step, machine.clock)
        machine.longest = max(machine.longest, taken)
        machine.clock += taken
        trainer.state.step += 1

    def evaluate() -> None:
        machine.clock += machine.evaluation
        machine.evaluated.append(trainer.state.step)

    def sample() -> None:
        machine.clock += machine.sample

    trainer.step, trainer.evaluate, trainer.sample, trainer.save = step, evaluate, sample, lambda: None
    return trainer


def steady(seconds: float) -> Callable[[int, float], float]:
    return lambda step, now: seconds


def check(trainer: Trainer, machine: Machine, allowed: int) -> None:
    """On time, with more than half of the steps that fitted, and with the rate at its end."""
    floor = 0.1 if trainer.config.train.schedule == "cosine" else 0.0
    assert trainer.state.step >= 0.5 * allowed
    assert machine.rates[-1][1] == pytest.approx(floor, rel=0.05, abs=0.005)
    assert machine.clock <= 1.1 * SECONDS + machine.longest  # a step that has begun is finished


def test_the_first_evaluation_and_sample_are_no_steps(run):
    """45 steps of three seconds, as planned, after an evaluation and a sample."""
    trainer, machine = run(45, Machine(steady(3.0), evaluation=6.0, sample=6.0), eval_interval=20, sample_interval=20)
    assert trainer.state.step == pytest.approx(45, abs=5)
    check(trainer, machine, 45)


@pytest.mark.parametrize(("seconds", "ours", "counts"), [(SECONDS, True, [1]), (SECONDS, False, []), (0.0, True, [])])
def test_threads_follow_the_load_where_time_is_the_budget(tmp_path, monkeypatch, seconds, ours, counts):
    """A run of so many steps computes the same whatever else the machine does."""
    machine, used = Machine(steady(0.5)), []
    for clock in ("time.monotonic", "time.perf_counter"):
        monkeypatch.setattr(clock, lambda: machine.clock)
    monkeypatch.setattr(CoreTime, "now", lambda: CoreTime(machine.clock, machine.clock, 0.0))  # one of two is ours
    monkeypatch.setattr(
        torch, "set_num_threads", lambda count: (used.append(count), setattr(machine, "step", steady(0.3)))
    )
    config = configuration(60, threads=2)
    plan = {"threads": 2, "training_seconds": seconds, "chosen": [*config.plan.chosen, *(["threads"] if ours else [])]}
    simulated(config.with_values(plan=plan), machine, RunFolder(tmp_path / "run")).fit()
    assert used == counts


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_one_slow_step_neither_shrinks_the_plan_nor_wears_out_the_rate(run, schedule):
    slow_start = Machine(lambda step, now: 14.0 if step == 0 else 0.8)
    trainer, machine = run(200, slow_start, schedule=schedule)
    check(trainer, machine, 207)
    follows_the_clock(machine, schedule)


@pytest.mark.parametrize("planned", [3, 10, 50, 20_000])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_plan_that_was_wrong_costs_hardly_anything_of_the_schedule(run, planned, schedule):
    trainer, machine = run(planned, Machine(steady(0.9)), schedule=schedule)
    check(trainer, machine, 200)
    assert trainer.state.step == pytest.approx(200, rel=0.06)
    follows_the_clock(machine, schedule, besides=4)


def follows_the_clock(machine: Machine, schedule: str, besides: int = 0, within: float = 0.1) -> None:
    """The rate is what belongs to the share of the time that is over, in all steps but the first few."""
    train = resolve({"train": {"schedule": schedule, "learning_rate": 1.0, "max_steps": 1000}}).train
    for when, rate in machine.rates[besides:]:
        expected = TrainState(step=int(1000 * min(1.0, when / SECONDS)), max_steps=1000).learning_rate_factor(train)
        assert rate == pytest.approx(expected, abs=within)


NEIGHBOURS = {  # seconds of a step at each moment, and the steps that fit into the budget
    "halves its speed": (lambda now: 0.5 if now < 90 else 1.0, 270),
    "doubles it": (lambda now: 0.5 if now < 90 else 0.25, 540),
    "has a neighbour that comes and goes": (lambda now: 1.25 if 60 <= now < 110 else 0.5, 300),
    "has one again and again": (lambda now: 1.0 if int(now / 4) % 2 else 0.5, 270),
    "had one while it was measured": (lambda now: 1.25 if now < 60 else 0.5, 288),
}


@pytest.mark.parametrize("machine", NEIGHBOURS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_machine_of_another_pace_ends_on_time_at_the_end_of_its_schedule(run, machine, schedule):
    pace, fitting = NEIGHBOURS[machine]
    trainer, machine = run(int(SECONDS / pace(0)), Machine(lambda _, now: pace(now)), schedule=schedule)
    assert trainer.state.step == pytest.approx(fitting, rel=0.02)
    assert machine.clock == pytest.approx(SECONDS, rel=0.02)
    check(trainer, machine, fitting)
    follows_the_clock(machine, schedule, within=0.05)


def test_time_beyond_the_most_steps_is_for_a_slower_machine_alone(run):
    """100 steps are enough for the text; 0.5 s each was measured, and 180 s are allowed."""
    for pace, steps, end in ((0.1, 100, 10), (0.5, 100, 50), (1.5, 100, 150), (3.0, 60, 180)):
        trainer, machine = run(100, Machine(steady(pace)), most_steps=100, schedule="linear")
        assert (trainer.state.step, machine.clock) == (pytest.approx(steps, abs=2), pytest.approx(end, rel=0.05))
        assert machine.rates[-1][1] == pytest.approx(0.0, abs=0.02)


def test_what_has_halved_a_plan_does_not_halve_it_again(run):
    """Three steps that were held up, and no more: they took a plan of 225 steps down to 42 before it grew again."""
    trainer, machine = run(225, Machine(lambda step, now: 8.0 if step < 3 else 0.8))
    assert [event["max_steps"] for event in trainer.state.events] == pytest.approx([114, 197], abs=1)
    check(trainer, machine, 197)


def test_the_first_step_of_a_session_says_nothing_of_the_others(run):
    for session in (None, TrainState(step=50, max_steps=225, seconds=40.0)):
        began = session.step if session else 0
        trainer, _ = run(225, Machine(lambda step, now, began=began: 14.0 if step == began else 0.8), state=session)
        assert len(trainer.state.events) == 1


def test_a_machine_that_becomes_slow_or_fast_half_way(run):
    for before, after in ((0.2, 2.0), (2.0, 0.2), (0.01, 1.0)):
        trainer, machine = run(int(SECONDS / before), Machine(lambda _, now, b=before, a=after: b if now < 90 else a))
        check(trainer, machine, int(90 / before + 90 / after))


def test_random_machines(run):
    """Bursts of other programs, hold-ups, evaluations and samples of any cost, plans that are off by up to 30 times."""
    for seed in range(60):
        draw = random.Random(seed)
        pace, burst = draw.choice([0.02, 0.3, 3.0]), draw.uniform(1, 5)
        hold_up = min(draw.choice([1, 1, 10, 40]), 9 / pace)  # times a step: that may last 27 s and more
        when = [draw.random() < 0.4 for _ in range(10**3)]

        def step(number: int, now: float, pace=pace, burst=burst, hold_up=hold_up, when=when, draw=draw) -> float:
            busy = burst if when[int(now / 3) % len(when)] else 1.0
            return pace * busy * draw.uniform(0.8, 1.2) * (hold_up if draw.random() < 0.02 else 1.0)

        machine = Machine(step, evaluation=draw.uniform(0, 2), sample=draw.uniform(0, 4))
        planned = max(2, int(SECONDS / pace * 30 ** draw.uniform(-1, 1)))
        schedule = draw.choice(["cosine", "linear", "wsd"])
        trainer, machine = run(planned, machine, schedule=schedule, warmup_steps=draw.choice([0, 10]))
        mean = pace * (1 + 0.4 * (burst - 1)) * (1 + 0.02 * (hold_up - 1))
        check(trainer, machine, int(SECONDS / mean * 0.7))  # a third at most goes into what is between steps


def test_evaluations_follow_the_plan(run):
    trainer, machine = run(55, Machine(steady(0.25)))
    assert trainer.state.step == pytest.approx(710, rel=0.05)
    assert 8 <= len(machine.evaluated) <= 25
    assert machine.evaluated[-1] == trainer.state.step
    assert max(b - a for a, b in zip(machine.evaluated, machine.evaluated[1:], strict=False)) <= 80
    _, machine = run(55, Machine(steady(0.25)), eval_interval=7)  # asked for
    assert machine.evaluated[1:4] == [7, 14, 21]


def test_slow_evaluations_and_samples_leave_most_of_the_time_to_steps(run):
    """Planned were ten evaluations and four samples; at 12 s each they are one and one, and those at both ends."""
    trainer, machine = run(30, Machine(steady(2.5), evaluation=12.0, sample=12.0))
    assert trainer.state.step * 2.5 > 0.5 * SECONDS
    assert len(machine.evaluated) <= 5
    check(trainer, machine, int(SECONDS / 2.5 / 2))


def test_a_change_of_plan_is_said_once_with_its_reason(run):
    _, machine = run(55, Machine(steady(0.25)))
    assert (
        "steps in all fit the time there is, not 55: a step takes 250 ms, planned were 3,273 ms" in machine.messages[0]
    )
    assert len(machine.messages) == 1
    _, machine = run(720, Machine(steady(0.25)))
    assert not machine.messages


def test_one_measurement_takes_away_no_more_than_half(run):
    state = TrainState(step=100, max_steps=1100, seconds=10.0)
    assert not state.meet_deadline(100.0, 3)
    assert state.max_steps == 600
    state.seconds = 100.0
    assert state.meet_deadline(100.0, 0)
    assert state.max_steps == 101  # the time is over


def test_a_run_goes_on_with_the_events_that_its_checkpoint_has(run):
    """The plan was wrong; after the first look nothing changes. Resumed after that, each rate is what it was."""
    whole, machine = run(50, Machine(steady(0.9)))
    (event,) = whole.state.events
    state = TrainState(step=100, max_steps=event["max_steps"], seconds=90.0, events=[event])
    resumed, again = run(50, Machine(steady(0.9), clock=7.0), state=state)
    assert resumed.state.events == [event]
    assert [rate for _, rate in again.rates] == [rate for _, rate in machine.rates[100:]]


def test_a_step_that_was_held_up_counts_as_a_few_others():
    pace = Pace()
    pace.look_again()
    pace.steps = [1.0, 1.0, 1.0, 1.0, 50.0]
    assert pace.step_seconds == pytest.approx((4 + 3) / 5)
    pace.steps = [1.0, 2.0, 3.0]
    assert pace.step_seconds == 2.0
