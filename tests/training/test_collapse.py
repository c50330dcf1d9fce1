"""What is wrong with a run that learns from rewards is told once, when it has been so for a while."""

from primegpt.training.collapse import LOOKED_AT, Collapse

FINE = {"frac_reward_zero_std": 0.2, "completions/clipped_ratio": 0.1, "completions/mean_length": 20.0}


def warnings(**later: float) -> list[str]:
    said: list[str] = []
    hear = Collapse(said.append)
    for _ in range(LOOKED_AT):
        hear(FINE)
    assert not said
    for _ in range(3 * LOOKED_AT):
        hear(FINE | {name.replace("__", "/"): value for name, value in later.items()})
    return said


def test_nothing_is_said_of_a_run_that_is_well() -> None:
    assert warnings() == []


def test_each_sign_is_told_once() -> None:
    (spread,) = warnings(frac_reward_zero_std=1.0)
    assert "one reward for all completions" in spread
    (cut,) = warnings(completions__clipped_ratio=0.9)
    assert "% are cut" in cut
    (longer,) = warnings(completions__mean_length=90.0)
    assert "tokens long" in longer
    assert "20 at the beginning" in longer


def test_the_distance_from_the_beginning_is_told() -> None:
    said: list[str] = []
    hear = Collapse(said.append)
    for _ in range(LOOKED_AT):
        hear(FINE | {"kl": 1.5})
    assert len(said) == 1
    assert "1.50 nats" in said[0]
