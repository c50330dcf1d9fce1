"""When the first steps are looked at, and that it costs next to nothing."""

import pytest

from primegpt.config import resolve
from primegpt.training.early import SHARE, early_seconds, early_steps

TRAIN = resolve({}).train


def test_all_marks_before_the_first_evaluation_where_there_is_time():
    assert early_steps(TRAIN, first=69, fitting=1e4) == (1, 2, 5, 10, 20, 50)
    assert early_steps(TRAIN, first=50, fitting=1e4) == (1, 2, 5, 10, 20)
    assert early_steps(TRAIN, first=5, fitting=1e4) == (1, 2)
    assert early_steps(TRAIN, first=4, fitting=1e4) == ()
    assert early_steps(TRAIN, first=1, fitting=1e4) == ()


@pytest.mark.parametrize("fitting", [0.0, 60, 70, 140, 200, 300, 350, 500])
def test_fewer_where_they_would_take_more_than_their_share(fitting):
    found = early_steps(TRAIN, first=69, fitting=fitting)
    assert len(found) <= SHARE * fitting
    assert bool(found) == (SHARE * fitting >= 1)
    assert not found or found[-1] == 50  # when something has been learnt
    assert list(found) == sorted(set(found) & {1, 2, 5, 10, 20, 50})


def test_what_is_asked_for_is_done_whatever_it_takes():
    train = resolve({"train": {"early_evaluations": [3, 7]}}).train
    assert early_steps(train, first=69, fitting=0.0) == (3, 7)


def test_saving_counts_where_milestones_are_kept():
    sizes = {"model": {"vocab_size": 50_000, "n_embd": 256, "n_head": 4, "block_size": 64}, "train": {"batch_size": 4}}
    plain = resolve(sizes, {"train": {"keep_checkpoints": 3}})
    kept = resolve(sizes, {"train": {"keep_checkpoints": "milestones"}})
    assert early_seconds(plain, 4096, 1e-4) == pytest.approx(2 * 1024 * 1e-4)  # a quarter of both sets
    assert 0.05 < early_seconds(kept, 4096, 1e-4) - early_seconds(plain, 4096, 1e-4) < 1.0  # of 100 MB
