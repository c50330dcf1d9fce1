"""What is wrong with a run that learns from rewards is told once, when it has been so for a while."""

from primegpt.training.collapse import LOOKED_AT, Collapse

FINE = {"frac_reward_zero_std": 0.2, "completions/clipped_ratio": 0.1, "completions/mean_length": 20.0}


def warnings(**later: float) -> list[str]:
    said: list[str] = []
    hear = Collapse(said.append)
    for step in range(LOOKED_AT):
        hear(step, FINE)
    assert not said
    for step in range(LOOKED_AT, 4 * LOOKED_AT):
        hear(step, FINE | {name.replace("__", "/"): value for name, value in later.items()})
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
    for step in range(LOOKED_AT):
        hear(step, FINE | {"kl": 1.5})
    assert len(said) == 1
    assert "1.50 nats" in said[0]


def test_where_a_run_goes_on_its_beginning_is_known() -> None:
    said: list[str] = []
    first = Collapse()
    for step in range(LOOKED_AT + 2):
        first(step, FINE)
    resumed = Collapse(said.append)
    resumed.load_state(first.state())
    assert resumed.heard == first.heard
    assert resumed.first == first.first
    for step in range(LOOKED_AT + 1, 3 * LOOKED_AT):  # one is written again
        resumed(step, FINE | {"completions/mean_length": 90.0})
    assert len(said) == 1
    assert "20 at the beginning" in said[0]
    assert [step for step, _ in resumed.heard] == list(range(2 * LOOKED_AT, 3 * LOOKED_AT))
    again = Collapse(said.append)
    again.load_state(resumed.state())
    again(3 * LOOKED_AT, FINE | {"completions/mean_length": 90.0})
    assert len(said) == 1  # it was told


def test_nothing_heard_is_no_state() -> None:
    assert Collapse().state() == {}
