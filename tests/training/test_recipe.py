"""What zero configuration chooses beside the preset."""

import pytest

from primegpt.config import resolve
from primegpt.training.recipe import tuned


@pytest.mark.parametrize(("kind", "head"), [("char", 0.5 / 64), ("bpe", None)])
def test_a_head_of_characters_has_a_rate_of_its_own(kind: str, head: float | None) -> None:
    config = resolve({"model": {"n_embd": 64, "n_head": 2}, "tokenizer": {"kind": kind}})
    train = resolve(tuned(config)).train
    assert train.learning_rate == pytest.approx(1.28 / 64)
    assert train.head_learning_rate == pytest.approx(head)
