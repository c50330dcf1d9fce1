"""What is trained on a bare text, beside what flags ask for."""

from pathlib import Path

import pytest

from primegpt.api.configuring import configure
from primegpt.api.runs import load_config
from primegpt.config import Layer, resolve, write_toml
from primegpt.config.layers import PRESETS
from primegpt.run.folder import RunFolder


def rates(path: Path, **flags: dict[str, object]) -> tuple[float, float | None]:
    path.write_text("to be or not to be\n" * 50, encoding="utf-8")
    flags["train"] = {"device": "cpu"} | flags.get("train", {})
    train = configure([str(path)], Layer(flags)).train
    return train.learning_rate, train.head_learning_rate


def test_flags_stand_above_the_measured_rates(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    assert rates(text) == pytest.approx((1.28 / 128, 0.5 / 128))
    assert rates(text, train={"learning_rate": 1e-4}) == (1e-4, None)  # the head goes with the others
    assert rates(text, train={"head_learning_rate": 1e-3}) == pytest.approx((1.28 / 128, 1e-3))
    assert rates(text, tokenizer={"kind": "bpe"}) == pytest.approx((1.28 / 128, None))
    assert rates(text, model={"n_embd": 64}) == pytest.approx((1.28 / 64, None))
    assert rates(text, train={"minutes": 0.2}) == pytest.approx((1.28 / 64, None))
    assert rates(text, model={"tie_embeddings": True}) == pytest.approx((1.28 / 128, None))
    assert rates(text, train={"optimizer": "adamw"}) == (3e-3, None)
    assert rates(text, model={"preset": "gpt2"}) == (6e-4, None)


def test_a_runs_configuration_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = write_toml(resolve({"model": {"preset": "prime"}}))
    (tmp_path / "config.toml").write_text(saved.replace("embedding_norm = true\n", ""), encoding="utf-8")
    assert load_config(RunFolder(tmp_path)).model.embedding_norm is False
    assert PRESETS["prime"]["model"]["embedding_norm"]
