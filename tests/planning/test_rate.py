"""The rate that plans go by: of products, or of a real step where products say too much."""

import pytest
import torch

from primegpt.planning import rate
from primegpt.planning.law import tokens_in


class Machine:
    """A model whose first step takes ten times as long as the others, which take a second a thread."""

    def __init__(self, config: object) -> None:
        self.config = config

    def step(self, micro_batches: list[object], step: int) -> tuple[float, float]:
        assert torch.get_num_threads() == 1
        return (1.0 if step else 10.0), 5.0


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    rate.rate_of_a_step.cache_clear()
    monkeypatch.setattr(rate, "Rehearsal", Machine)
    monkeypatch.setattr(rate, "product_rate", lambda device, dtype, threads: 1e12 if device == "cpu" else 7e14)
    monkeypatch.setattr(rate, "available_cores", lambda: 8)


def test_a_step_says_less_than_products_do_where_little_of_it_is_products(products: None) -> None:
    two, four = (rate.training_rate("cpu", "fp32", threads) for threads in (2, 4))
    assert tokens_in(rate.STEP, 1.0, two, "cpu", rate.CHARACTERS) == pytest.approx(1.6 * 2048), "a second for a thread"
    assert four == 2 * two
    assert rate.training_rate("cpu", "fp32", None) == rate.training_rate("cpu", "fp32", 8)


@pytest.mark.parametrize(("device", "minutes"), [("cuda", None), ("mps", 10.0), ("cpu", 0.1)])
def test_products_decide_elsewhere_and_where_there_is_no_time_to_look(
    products: None, device: str, minutes: float | None
) -> None:
    assert rate.training_rate(device, "fp32", minutes=minutes) == (1e12 if device == "cpu" else 7e14)


def test_products_decide_where_they_are_what_is_slow(products: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "product_rate", lambda *_: 1e9)
    assert rate.training_rate("cpu", "fp32") == 1e9


def test_it_is_measured_with_a_real_step_and_leaves_the_threads_as_they_were() -> None:
    rate.rate_of_a_step.cache_clear()
    before = torch.get_num_threads()
    assert 1e9 < rate.rate_of_a_step("fp32") < 1e13
    assert torch.get_num_threads() == before
