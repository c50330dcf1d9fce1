"""Shipped experiments, made so small that a test can carry them out."""

import tomllib
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import tomli_w

from primegpt.experiments.file import find_file

MOST = {"songs": 24, "n_embd": 16, "n_head": 2, "n_layer": 1, "block_size": 64, "times": 2, "batch_size": 2}
MOST |= {"vocab_size": 400, "max_new_tokens": 4, "val_tokens": 200, "eval_interval": 2, "checkpoint_interval": 2}
MOST |= {"records": 24, "limit": 3, "num_samples": 3, "prompts_per_step": 2}


@pytest.fixture(scope="session")
def small_experiment() -> Callable[..., Path]:
    """A file of the shipped experiment `name` in `folder`: few steps, a seed, a tiny network; of `arms`, if given."""

    def small(name: str, folder: Path, arms: Collection[str] = ()) -> Path:
        values = tomllib.loads(find_file(name).read_text(encoding="utf-8"))
        values["seeds"] = 1
        values["train"]["threads"] = 1
        values["arm"] = [arm for arm in values["arm"] if not arms or arm["name"] in arms]
        path = folder / f"small-{name}.toml"
        path.write_text(tomli_w.dumps(_cut(values)), encoding="utf-8")
        return path

    return small


def _cut(value: object, key: str = "") -> object:
    if isinstance(value, dict) and key == "budget" and "flops" not in value:
        return {"steps": 2}
    if isinstance(value, dict):
        return {name: _cut(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    return min(value, MOST[key]) if isinstance(value, int) and key in MOST else value
