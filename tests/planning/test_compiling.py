"""When steps are compiled unasked."""

import shutil
from pathlib import Path

import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.planning import compiling


def configuration(**train: object) -> Config:
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 8, "vocab_size": 7}
    return resolve({"model": sizes, "train": {"device": "cpu", "precision": "fp32", "threads": 1, **train}})


@pytest.fixture
def empty_compiler_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    return tmp_path / "inductor"


@pytest.mark.parametrize(
    ("minutes", "values", "pays"),
    [
        (15, {}, True),
        (14, {}, False),
        (5, {"train": {"device": "cuda"}}, True),
        (60, {"train": {"device": "mps"}}, False),
        (60, {"train": {"compile": False}}, False),  # forbidden, which is not the same as unsaid
        (60, {"data": {"template": "song"}}, False),
        (60, {"lora": {"rank": 2}}, False),
    ],
)
def test_compiling_pays_from_some_minutes_on(
    empty_compiler_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
    values: dict[str, dict[str, object]],
    pays: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert compiling.compiling_pays(configuration(minutes=minutes).with_values(**values)) is pays


def test_a_run_of_counted_steps_is_not_compiled_by_itself(empty_compiler_cache: Path) -> None:
    assert not compiling.compiling_pays(configuration(max_steps=1_000_000))


def test_what_the_compiler_has_kept_pays_sooner_until_its_cache_is_emptied(
    empty_compiler_cache: Path,
) -> None:
    config = configuration(minutes=3)
    assert not compiling.compiling_pays(config)
    compiling.remember_compiled(config.with_values(train={"compile": True}))
    assert compiling.compiling_pays(config)
    for change in ({"batch_size": 3}, {"attention": "explicit"}):
        assert not compiling.compiling_pays(config.with_values(train=change)), "another graph"
    shutil.rmtree(empty_compiler_cache)
    assert not compiling.compiling_pays(config)
