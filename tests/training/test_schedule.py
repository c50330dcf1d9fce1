"""The schedule: continuous, fitted to its end, and the same as the formulas in the papers."""

import math

import pytest

from primegpt.training.schedule import Stretch, after_warmup, learning_rate_factor, progress


def test_progress_runs_from_zero_to_one():
    assert progress(0, 100) == 0.0
    assert progress(50, 100) == 0.5
    assert progress(100, 100) == progress(130, 100) == 1.0


def test_a_stretch_keeps_the_present_and_ends_on_time():
    stretches = [Stretch(40, 70)]
    assert progress(40, 100, stretches) == pytest.approx(0.4)  # nothing jumps where the plan changes
    assert progress(55, 100, stretches) == pytest.approx(0.7)  # half of what was left
    assert progress(70, 100, stretches) == 1.0


def test_stretches_follow_each_other():
    stretches = [Stretch(40, 80), Stretch(60, 65)]
    before = progress(60, 100, stretches[:1])
    assert progress(60, 100, stretches) == pytest.approx(before) == pytest.approx(0.7)
    assert progress(65, 100, stretches) == 1.0


def test_a_plan_that_is_cut_short_within_its_warm_up_ends_at_its_end():
    stretches = [Stretch(1, 2, done=1.0)]
    done, warm = progress(1, 100, stretches), progress(60, 100, stretches)
    assert learning_rate_factor(1, after_warmup(done, warm), "cosine", floor=0.1) == pytest.approx(0.1)


def test_cosine_is_nanogpts():
    """get_lr of nanoGPT, written out: warm-up (it + 1) / (warmup + 1), then a cosine over the rest down to min_lr."""
    peak, low, warmup, end = 6e-4, 6e-5, 10, 200
    for step in range(end):
        ratio = (step - warmup) / (end - warmup)
        expected = low + 0.5 * (1 + math.cos(math.pi * ratio)) * (peak - low)
        if step < warmup:
            expected = peak * (step + 1) / (warmup + 1)
        done = after_warmup(progress(step, end), progress(warmup, end))
        assert peak * learning_rate_factor(step, done, "cosine", warmup, low / peak) == pytest.approx(expected)


def test_a_warm_up_longer_than_the_run_never_falls():
    assert after_warmup(progress(5, 10), progress(20, 10)) == 0.0


@pytest.mark.parametrize(("kind", "middle", "late"), [("constant", 1, 1), ("linear", 0.5, 0.1), ("wsd", 1, 0.5)])
def test_shapes(kind, middle, late):
    assert learning_rate_factor(50, 0.5, kind) == pytest.approx(middle)
    assert learning_rate_factor(90, 0.9, kind) == pytest.approx(late)
    assert learning_rate_factor(90, 1.0, "linear", 0, floor=0.1) == pytest.approx(0.1)
