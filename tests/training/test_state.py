"""What follows from how far a run is, against numbers worked out by hand."""

import json
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import TrainConfig, resolve
from primegpt.data.batching.batches import Batch
from primegpt.evaluation.perplexity import LossResult
from primegpt.model.gpt import GPT
from primegpt.run.checkpoint import list_checkpoints, load_newest
from primegpt.run.folder import RunFolder
from primegpt.training import trainer as training
from primegpt.training.progress import TIMING_KEYS
from primegpt.training.state import EarlyStopping, TrainState
from primegpt.training.step import Precision
from primegpt.training.trainer import EvaluationSet, Trainer

LOSSES = {0: 3.0, 4: 2.0, 8: 2.5, 12: 1.5, 16: 1.6, 20: 1.7}  # by step; patience 2 ends the run at step 20 of 40
SILENT = SimpleNamespace(**dict.fromkeys(("on_step", "on_evaluation", "on_sample", "on_message"), lambda *_: None))


class Killed(BaseException):
    """SIGKILL, as far as a process can do that to itself: nobody catches it, and what is in memory is lost."""


class Windows:
    """Batches that are a function of the step."""

    batch_size, gradient_accumulation_steps, tokens_per_step, source = 2, 1, 8, None

    def micro_batches(self, step: int) -> list[Batch]:
        ids = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(step))
        return [Batch(ids[:, :-1], ids[:, 1:], None, None, 0)]


def make_trainer(folder: RunFolder, **train: object) -> Trainer:
    """A trainer whose validation losses are LOSSES."""
    intervals = {"eval_interval": 4, "checkpoint_interval": 6, "sample_interval": 8, "log_interval": 1}
    values = {"max_steps": 40, "patience": 2, "precision": "fp32", "device": "cpu", **intervals, **train}
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "vocab_size": 20}
    config = resolve({"model": sizes, "train": values})
    nothing = EvaluationSet([], 1.0)
    trainer = Trainer(
        config,
        GPT(config.model, 0),
        Windows(),
        train_set=nothing,
        val_set=nothing,
        folder=folder,
        precision=Precision("fp32", "cpu"),
        observer=SILENT,
        sample=lambda model: "a sample",
    )
    trainer.loss_on = lambda fixed: LossResult(LOSSES.get(trainer.state.step, 9.0), 1, 1.0)
    return trainer


def outcome(folder: RunFolder, trainer: Trainer) -> dict[str, object]:
    """All that must not depend on interruptions."""
    return {
        "early stopping": trainer.state.early_stopping,
        "step": trainer.state.step,
        "best": folder.pointed("best"),
        "last": folder.pointed("last"),
        "lines": [{k: v for k, v in row.items() if k not in TIMING_KEYS} for row in folder.read_metrics()],
        "samples": sorted(path.name for path in folder.samples_dir.iterdir()),
        "weights": {name: tensor.tolist() for name, tensor in trainer.model.weights().items()},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, object]:
    folder = RunFolder.create(tmp_path_factory.mktemp("whole") / "run")
    trainer = make_trainer(folder)
    trainer.fit()
    return outcome(folder, trainer)


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, nth: int, *, after: bool) -> None:
    """Let the nth call of `owner.name` be the last thing that happens, or the thing before which all ends."""
    original: Callable = getattr(owner, name)
    calls = []

    def wrapper(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) < nth:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, wrapper)


def test_patience_counts_evaluations_without_a_better_one():
    stopping = EarlyStopping(patience=2)
    better = [stopping.update(step, loss) for step, loss in LOSSES.items()]
    assert better == [True, True, False, True, False, False]
    assert (stopping.best_step, stopping.best_loss, stopping.waited) == (12, 1.5, 2)
    assert stopping.should_stop


def test_an_equal_loss_is_not_a_better_one():
    stopping = EarlyStopping(patience=1)
    stopping.update(0, 2.0)
    assert not stopping.update(1, 2.0)
    assert stopping.should_stop


@given(st.lists(st.floats(0, 100), min_size=1), st.one_of(st.none(), st.integers(1, 5)))
def test_the_best_is_the_first_of_the_lowest_and_the_end_comes_after_patience(losses, patience):
    stopping = EarlyStopping(patience)
    for step, loss in enumerate(losses):
        stopping.update(step, loss)
        best = losses.index(min(losses[: step + 1]))
        assert (stopping.best_step, stopping.waited) == (best, step - best)
        assert stopping.should_stop == (patience is not None and step - best >= patience)


def test_a_run_that_stops_early_is_whole(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    trainer = make_trainer(folder)
    trainer.fit()
    assert trainer.state.step == 20
    assert (folder.pointed("best"), folder.pointed("last")) == (12, 20)
    assert load_newest(folder.checkpoints_dir, pytest.fail).step == 20
    assert sorted(path.stem for path in folder.samples_dir.iterdir()) == [
        f"step-{step:06d}" for step in (0, 8, 16, 20)
    ]  # the last one too, though no interval ends there


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("where", "name", "calls"),
    [
        ("trainer", "save", [1, 5, 8]),  # at steps 0, 12 and 20, of 0 4 6 8 12 16 18 20
        ("trainer", "evaluate", [1, 4, 6]),  # at steps 0, 12, 20
        ("module", "commit_evaluation", [1, 3, 4, 5, 6]),  # at steps 0, 8, 12, 16, 20
        ("folder", "point", [2, 8, 11]),  # best is 0, best is 12, last is 20
        ("folder", "append_metrics", [1, 11, 16, 26]),  # the evaluations at 0, 8, 12, 20
        ("folder", "prune", [4, 8]),
        ("trainer", "sample", [1, 4]),
    ],
)
def test_early_stopping_survives_a_kill_at_every_moment(uninterrupted, tmp_path, where, name, calls, after):
    for nth in calls:
        with pytest.MonkeyPatch.context() as monkeypatch:
            folder = RunFolder.create(tmp_path / f"{nth}")
            trainer = make_trainer(folder)
            kill_at(
                monkeypatch, {"trainer": trainer, "folder": folder, "module": training}[where], name, nth, after=after
            )
            with pytest.raises(Killed):
                trainer.fit()
        again = make_trainer(RunFolder(folder.path))
        if checkpoint := load_newest(folder.checkpoints_dir, pytest.fail):
            again.restore(checkpoint)
        else:
            again.folder.truncate_metrics(lambda line: False)
        again.fit()
        assert outcome(folder, again) == uninterrupted, f"killed at call {nth} of {name}"


def test_a_run_that_has_stopped_early_stays_stopped(uninterrupted, tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    make_trainer(folder).fit()
    for _ in range(2):
        again = make_trainer(folder)
        again.restore(load_newest(folder.checkpoints_dir, pytest.fail))
        again.step = pytest.fail
        again.fit()
        assert outcome(folder, again) == uninterrupted


def test_the_best_checkpoint_outlives_all_later_ones(tmp_path):
    folder = RunFolder.create(tmp_path / "run")
    make_trainer(folder, patience=None, max_steps=30, keep_checkpoints=1).fit()
    assert list(list_checkpoints(folder.checkpoints_dir)) == [12, 30]
    assert folder.pointed("best") == 12


def test_a_resume_from_before_the_best_points_at_the_best_there_was(tmp_path):
    """The best and newest checkpoint is damaged: what is called best must be one that the resumed run knows of."""
    folder = RunFolder.create(tmp_path / "run")
    trainer = make_trainer(folder, max_steps=12, keep_checkpoints=9)
    trainer.fit()
    assert folder.pointed("best") == 12
    weights = folder.checkpoints_dir / "step-000012" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    again = make_trainer(folder, max_steps=12, keep_checkpoints=9)
    messages: list[str] = []
    again.restore(load_newest(folder.checkpoints_dir, messages.append))
    assert "step-000012" in messages[0]
    assert folder.pointed("best") == 4
    again.fit()
    assert folder.pointed("best") == 12


def test_what_is_due_every_few_steps_is_due_at_the_end_too():
    due = [step for step in range(11) if TrainState(step=step, max_steps=10).due(4)]
    assert due == [0, 4, 8, 10]
    assert not TrainState(step=10, max_steps=10).due(None)
    assert TrainState(step=3, max_steps=10, early_stopping=EarlyStopping(patience=2, waited=2)).due(4)


def test_a_slower_pace_takes_steps_away_and_a_little_slower_one_does_not():
    state = TrainState(step=100, max_steps=1000, seconds=10.0)
    assert state.meet_deadline(100.0, 882)  # 900 are planned
    assert (state.max_steps, state.events) == (1000, [])
    assert state.meet_deadline(100.0, 600)
    assert (state.max_steps, state.events) == (700, [{"step": 100, "max_steps": 700, "done": 0.1}])
    assert not state.meet_deadline(100.0, 30)  # half of them at a time
    assert state.max_steps == 400
    assert state.meet_deadline(5.0, 0)  # it is over already: one more step ends the schedule
    assert state.max_steps == 101


def test_a_schedule_that_is_fitted_goes_on_from_the_share_of_the_time_that_is_spent():
    """10 of 200 steps were planned too few: what they took from the rate comes back, and it ends where it should."""
    train = TrainConfig(max_steps=10, learning_rate=1e-3, min_lr=0.0, schedule="linear")
    state = TrainState(step=5, max_steps=10, seconds=25.0, seconds_before=20.0)
    assert state.learning_rate_factor(train) == 0.5
    state.meet_deadline(120.0, 95)
    assert state.events == [{"step": 5, "max_steps": 100, "done": 0.05}]
    factors = {}
    for state.step in (5, 52, 99):
        factors[state.step] = state.learning_rate_factor(train)
    assert factors == pytest.approx({5: 0.94, 52: 0.47, 99: 0.0})


def test_a_warm_up_leaves_half_of_a_plan_that_has_shrunk():
    train = TrainConfig(max_steps=1000, warmup_steps=100, learning_rate=1e-3, min_lr=0.0, schedule="linear")
    state = TrainState(step=10, max_steps=80, seconds=10.0)
    state.events.append({"step": 10, "max_steps": 80, "done": 0.125})
    rates = [state.learning_rate_factor(train) for state.step in range(10, 80)]
    assert rates.index(max(rates)) == pytest.approx(30, abs=1)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


def test_a_finished_run_that_is_extended_begins_its_schedule_again():
    train = TrainConfig(max_steps=10, learning_rate=1e-3, min_lr=0.0, schedule="linear")
    state = TrainState(step=10, max_steps=10, seconds=7.0, early_stopping=EarlyStopping(patience=3, waited=2))
    assert state.learning_rate_factor(train) == 0.0
    assert state.deadline(20.0) == 20.0
    state.extend(train, 30, seconds=5.0)
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
    state.extend(train, 25)
    assert state.deadline(20.0) == 0.0  # the budget is one of steps now
    assert state.learning_rate_factor(train) == pytest.approx(0.5)
    state.step = 15
    assert state.learning_rate_factor(train) == pytest.approx(0.25)


def test_a_state_survives_json():
    state = TrainState(step=3, max_steps=9, early_stopping=EarlyStopping(4, 1.5, 2, 1))
    state.extend(TrainConfig(max_steps=9), 20, seconds=3.0)
    assert TrainState.saved(json.loads(json.dumps(asdict(state)))) == state
