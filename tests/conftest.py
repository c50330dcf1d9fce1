"""Common to all tests: one thread a process, since several run at once, and a cache of their own."""

import json
import os
import runpy
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from primegpt.config import resolve, write_toml
from primegpt.data.preparing.shard_writer import StretchWriter, seal
from primegpt.data.preparing.shards import Shards
from primegpt.model.gpt import GPT
from primegpt.run.folder import RunFolder
from primegpt.run.saving import save_checkpoint
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.imported import Imported

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes that spin on two cores slow each other many times over
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of commands are started, which would all be compiled anew

# How long an example takes is the machine's and its other programs' affair: pytest's time limit is the one that counts.
hypothesis.settings.register_profile("primegpt", deadline=None)
hypothesis.settings.load_profile("primegpt")

# What a shell starts in its background ignores SIGINT, and so would every command that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("PRIMEGPT_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="session", autouse=True)
def spared_work() -> Generator[None, None, None]:
    """Commands run in this process wait for no disk (a killed process loses nothing, only a power cut would), and
    leave a blank picture: both are looked at where they are tested."""

    def fsync(descriptor: int) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        for module in ("jobs.trainers", "jobs.reinforcing"):
            patch.setattr(f"primegpt.{module}.plot_losses", lambda lines, path, *facts: path.touch())
        yield


@pytest.fixture
def shared_data() -> Path:
    """The folder of public texts that tests use when it is there (tinyshakespeare.txt, gpt2/)."""
    folder = Path(os.environ.get("PRIMEGPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared data is not on this machine")
    return folder


@pytest.fixture(autouse=True)
def plain_arithmetic() -> None:
    """Commands run in this process set up their own; small models only lose time to the hand-over between threads.

    Training also takes the smallest numbers for zero, which Hypothesis does not put up with.
    """
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)


@pytest.fixture
def random_model() -> Callable[..., GPT]:
    """A maker of small models: weights N(0, 0.2), gains N(1, 0.2). With the initial ones attention hardly matters."""

    def make(preset: str = "gpt2", **sizes: object) -> GPT:
        small = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 64, "vocab_size": 100}
        model = GPT(resolve({"model": {"preset": preset, **small, **sizes}}).model)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                gain = parameter.dim() == 1 and name.endswith("weight")
                parameter.normal_(float(gain), 0.2, generator=generator)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def write_shards() -> Callable[..., Shards]:
    """Write documents, rows of ids or pairs of ids and roles, as shards with at most `shard_tokens` in a file."""

    def write(folder, documents, dtype="uint16", *, shard_tokens=1000, roles=False, **facts) -> Shards:
        stretches, writer = [], None
        with ExitStack() as stack:
            for ids, marks in documents if roles else [(document, None) for document in documents]:
                at = 0
                while at < max(1, len(ids)):
                    if writer is None or writer.n_tokens == shard_tokens:
                        stretches += [writer.finish()] if writer else []
                        writer = stack.enter_context(StretchWriter(folder, len(stretches), dtype, roles=roles))
                    piece = slice(at, at + shard_tokens - writer.n_tokens)
                    roles_here = None if marks is None else marks[piece]
                    writer.write(ids[piece], roles_here, starts=() if at else (0,))
                    at += max(1, len(ids[piece]))
            assert writer
            stretches.append(writer.finish())
        given = {"tokenizer_fingerprint": "tok", "source_fingerprint": "src", "split": "train", "text_bytes": 7} | facts
        seal(folder, stretches, dtype=dtype, roles=roles, **given)
        return Shards.open(folder)

    return write


@pytest.fixture
def save_run(tmp_path) -> Callable[..., Path]:
    """Put a model and its tokenizer into a run folder, as training would have; weights only."""

    def save(model: GPT, tokenizer: Tokenizer, name: str = "run", **generate: object) -> Path:
        folder = RunFolder.create(tmp_path / name)
        config = resolve({"model": model.config.model_dump(), "generate": generate})
        config = config.with_values(tokenizer={"kind": tokenizer.kind})
        store.save(tokenizer, folder.tokenizer_dir)
        state = {"fingerprints": {"tokenizer": tokenizer.fingerprint}}
        save_checkpoint(folder.checkpoints_dir, 0, {"model": model.weights()}, state, resumable=False)
        folder.point("best", 0)
        folder.config_path.write_text(write_toml(config), encoding="utf-8")
        return folder.path

    return save


@pytest.fixture(scope="session")
def spaced_tokenizer() -> Imported:
    """Another's tokenizer that puts a space before a text, as Llama 2's, and its model's beginning of text."""
    import tokenizers

    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    theirs.decoder = tokenizers.decoders.Metaspace(prepend_scheme="first")
    names = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=90, special_tokens=names, show_progress=False)
    theirs.train_from_iterator(
        ["the river ran under a bridge of stone and the song went on until morning\n"] * 9, trainer
    )
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    files = {"tokenizer.json": theirs.to_str(), "tokenizer_config.json": json.dumps(settings)}
    return Imported({name: content.encode() for name, content in files.items()})


@pytest.fixture
def hub(monkeypatch, tmp_path_factory) -> Generator[Any, None, None]:
    """A Hugging Face hub on this machine (see fake_hub.py), to which one is logged in."""
    made = runpy.run_path(str(Path(__file__).with_name("fake_hub.py")))
    with made["fake_hub"]() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        files = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub-cache")))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # a protocol of its own
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path_factory.mktemp("hub") / "token"))
        monkeypatch.setenv("HF_TOKEN", made["TOKEN"])
        yield hub
