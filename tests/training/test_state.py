"""What follows from how far a run is, against numbers worked out by hand."""

import json
from dataclasses import asdict

import pytest

from primegpt.config import TrainConfig
from primegpt.training.early_stopping import EarlyStopping
from primegpt.training.state import TrainState


def test_what_is_due_every_few_steps_is_due_at_the_end_too():
    due = [step for step in range(11) if TrainState(step=step, max_steps=10).due(4)]
    assert due == [0, 4, 8, 10]
    assert not TrainState(step=10, max_steps=10).due(None)
    assert TrainState(step=3, max_steps=10, early_stopping=EarlyStopping(patience=2, waited=2)).due(4)


def test_a_slower_pace_takes_steps_away_and_a_little_slower_one_does_not():
    state = TrainState(step=100, max_steps=1000, seconds=10.0)
    state.meet_deadline(100.0, 0.102)  # 882 steps fit, 900 are planned
    assert (state.max_steps, state.events) == (1000, [])
    state.meet_deadline(100.0, 0.3)
    assert (state.max_steps, state.events) == (400, [{"step": 100, "max_steps": 400}])
    state.meet_deadline(5.0, 0.3)  # it is over already: one more step ends the schedule
    assert state.max_steps == 101


def test_a_finished_run_that_is_extended_begins_its_schedule_again():
    train = TrainConfig(max_steps=10, learning_rate=1e-3, min_lr=0.0, schedule="linear")
    state = TrainState(step=10, max_steps=10, seconds=7.0, early_stopping=EarlyStopping(patience=3, waited=2))
    assert state.learning_rate_factor(train) == 0.0
    assert state.deadline(20.0) == 20.0
    state.extend(30, seconds=5.0)
    assert not state.finished
    assert state.deadline(20.0) == 12.0
    assert state.early_stopping.waited == 0
    factors = {}
    for state.step in (10, 15, 30):
        factors[state.step] = state.learning_rate_factor(train)
    assert factors == pytest.approx({10: 1.0, 15: 0.75, 30: 0.0})


def test_another_run_that_is_extended_stretches_what_is_left():
    train = TrainConfig(max_steps=10, learning_rate=1e-3, min_lr=0.0, schedule="linear")
    state = TrainState(step=5, max_steps=10)
    state.extend(25)
    assert state.deadline(20.0) == 0.0  # the budget is one of steps now
    assert state.learning_rate_factor(train) == pytest.approx(0.5)
    state.step = 15
    assert state.learning_rate_factor(train) == pytest.approx(0.25)


def test_a_state_survives_json():
    state = TrainState(step=3, max_steps=9, early_stopping=EarlyStopping(4, 1.5, 2, 1))
    state.extend(20, seconds=3.0)
    assert TrainState.saved(json.loads(json.dumps(asdict(state)))) == state
