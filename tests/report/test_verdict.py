"""What is said of a run must be what its figures say."""

from types import SimpleNamespace

import pytest

from primegpt.report.verdict import verdict
from primegpt.training.state import EarlyStopping


def run(validation, training=None, *, rewards=(), in_use=False):
    """A history with evaluations every 10 steps."""
    curves = {"val/loss": validation, "train/eval_loss": training or validation, "val/reward": rewards}
    points = {key: [(10 * at, value) for at, value in enumerate(values)] for key, values in curves.items()}
    stopping = EarlyStopping(None)
    for step, loss in points["val/loss"]:
        stopping.update(step, loss)
    return SimpleNamespace(
        rewarded=bool(rewards),
        is_likelihood=True,
        in_use=in_use,
        early_stopping=stopping,
        points=lambda key: points[key],
        at_best=lambda key: dict(points[key]).get(stopping.best_step),
    )


def test_still_falling():
    told = verdict(run([4.0, 3.0, 2.5, 2.2, 2.0], [4.0, 3.0, 2.5, 2.15, 1.94]))
    assert told == [
        "Still falling: train longer. Since step 30 the validation loss fell by 0.2, to 2.0000.",
        "0.06 between training and validation text: no overfitting.",
    ]
    assert verdict(run([4.0, 3.0, 2.5], in_use=True))[0].startswith("Still falling. Since step 10")


def test_level():
    (course, _) = verdict(run([4.0, 2.1, 2.005, 2.001, 2.0]))
    assert course.startswith("Level: since step 30 the validation loss has moved by 0.001 only.")


@pytest.mark.parametrize(
    ("training", "word"),
    [
        ([3.0, 1.8, 1.2, 0.6], "memorised"),
        ([3.0, 1.8, 2.4, 2.9], "got worse"),
        ([3.0, 1.8, 1.8, 1.801], "gained nothing"),
    ],
)
def test_risen_again(training, word):
    course = verdict(run([3.0, 1.9, 2.1, 2.4], training))[0]
    assert course.startswith(
        f"Best at step 10 of 30: it {word} from there. The validation loss rose from 1.9000 to 2.4"
    )
    assert ("with it" in course) == (word == "got worse")


def test_a_loss_below_nothing():
    assert verdict(run([-1.0, -1.5, -2.0]))[0].startswith("Still falling")
    assert verdict(run([-1.0, -2.0, -1.9]))[0].startswith("Best at step 10 of 20: it got worse")
    assert verdict(run([1.0, 0.0, 0.0]))[0].startswith("Level")


def test_nothing_learnt():
    (told,) = verdict(run([3.0, 3.1, 3.2]))
    assert told.startswith("Nothing was learnt: the validation loss never fell below the 3.0000 of step 0.")


def test_the_gap_in_words():
    shares = {1.9: "no overfitting", 1.8: "a little better", 1.5: "its training text itself"}
    for training, words in shares.items():
        gap = verdict(run([3.0, 2.0], [3.0, training]))[1]
        assert gap.startswith(f"{2 - training:.2f} between training and validation text")
        assert words in gap or training == 1.9


def test_rewards():
    assert verdict(run([0.0, -0.5, -0.4], rewards=[0.25, 0.75, 0.5])) == [
        "The reward on validation prompts rose from 0.2500 to 0.7500, at step 10."
    ]
    assert "never rose above the 0.2500" in verdict(run([0.0, 0.1], rewards=[0.25, 0.125]))[0]


def test_one_evaluation_says_nothing():
    assert verdict(run([3.0])) == verdict(run([])) == []
