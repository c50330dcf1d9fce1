"""A model of all kinds of songs goes on with one: that kind gets better, and the first run stays as it was."""

from pathlib import Path

import pytest

from primegpt import api
from primegpt.data.songbook import songbook

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(1500)]

BASE = {
    "model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 128},
    "tokenizer": {"kind": "char"},
    "data": {"songs": 600},
    "train": {"max_steps": 200, "batch_size": 16, "learning_rate": 4e-3, "warmup_steps": 20, "threads": 1},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> api.Run:
    return api.train("songbook", out=tmp_path_factory.mktemp("songs") / "base", settings=BASE)


@pytest.fixture(scope="module")
def rock(tmp_path_factory) -> Path:
    """Songs of one genre, none of which the base has seen."""
    path = tmp_path_factory.mktemp("rock") / "rock.txt"
    songs = [song.text for song in songbook(800, seed=5) if song.genre == "rock"]
    path.write_text("\n\n\n".join(songs), encoding="utf-8")
    return path


@pytest.mark.parametrize("lora", [False, True])
def test_one_genre_is_learnt_and_the_base_is_untouched(base, rock, lora, tmp_path):
    before = {path: path.read_bytes() for path in base.folder.path.rglob("*") if path.is_file()}
    settings = {"train": {"max_steps": 150, "threads": 1}, "data": {"val_tokens": 10**6}}
    run = api.finetune(base.folder.path, rock, lora=lora, out=tmp_path / "tuned", settings=settings)
    losses = [row["val/loss"] for row in run.folder.read_metrics() if "val/loss" in row]
    print(f"lora={lora}: {losses[0]:.4f} -> {min(losses):.4f} nats per character on rock songs")
    assert min(losses) < losses[0] - 0.02
    assert {path: path.read_bytes() for path in base.folder.path.rglob("*") if path.is_file()} == before
