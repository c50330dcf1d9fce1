"""Fine-tuning: the base stays, the new run goes on from it, with all of its weights or with adapters beside them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from primegpt import api
from primegpt.api.bases import forgetting
from primegpt.api.evaluation import loss_of_text
from primegpt.cli.main import run as command
from primegpt.errors import ConfigError, TokenizerError, UsageError
from primegpt.interop.peft import CONFIG, WEIGHTS
from primegpt.model.lora import adapter_weights
from primegpt.run.checkpoint import load_checkpoint
from primegpt.training.progress import PlainDisplay

WORDS = ["river", "stone", "light", "song", "winter", "road", "the", "a", "of", "my", "your"]
SMALL = {
    "model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32},
    "train": {
        "batch_size": 4,
        "max_steps": 12,
        "attention": "explicit",
        "eval_interval": 4,
        "threads": 1,
        "precision": "bf16",
    },
    "generate": {"max_new_tokens": 5},
}
TUNED = {"train": SMALL["train"] | {"learning_rate": 1e-2}}


def text(seed: int, words: list[str] = WORDS, n: int = 3000) -> str:
    return " ".join(random.Random(seed).choices(words, k=n)) + "\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("finetuning")
    (folder / "general.txt").write_text(text(0), encoding="utf-8")
    (folder / "own.txt").write_text(text(1, ["the", "moon", "of", "my", "song"]), encoding="utf-8")
    rows = [{"prompt": f"say {word}", "response": f"{word} {word}"} for word in WORDS * 6]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        yield folder


def trained(place: Path, tokenizer: dict[str, object]) -> Path:
    settings = SMALL | {"tokenizer": tokenizer, "train": TUNED["train"] | {"max_steps": 40, "eval_interval": 20}}
    return api.train(place / "general.txt", out=place / str(tokenizer["kind"]), settings=settings).folder.path


@pytest.fixture(scope="module")
def base(place) -> Path:
    return trained(place, {"kind": "char"})


@pytest.fixture(scope="module")
def bpe_base(place) -> Path:
    return trained(place, {"kind": "bpe", "vocab_size": 300})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_base_is_left_alone_and_the_run_is_a_run(base, place, tmp_path, capsys):
    before = contents(base)
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=TUNED)
    assert contents(base) == before
    assert run.tokenizer.fingerprint == api.load(base).tokenizer.fingerprint
    assert run.generate("the", max_new_tokens=5)
    assert "base text" in capsys.readouterr().out

    losses = [row["val/loss"] for row in run.folder.read_metrics() if "val/loss" in row]
    assert losses[-1] < losses[0]  # the new text is learnt
    copied = api.load(run.folder.base_dir)
    assert all(torch.equal(w, copied.model.weights()[name]) for name, w in api.load(base).model.weights().items())
    assert (run.folder.samples_dir / "step-000000.txt").exists()  # the same prompts before ...
    assert (run.folder.samples_dir / "step-000012.txt").exists()  # ... and after


def test_it_starts_from_the_base(base, place, tmp_path):
    settings = TUNED | {"data": {"val_tokens": 10**6}}
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=settings)
    first = next(row["val/loss"] for row in run.folder.read_metrics() if "val/loss" in row)
    copied = api.load(run.folder.base_dir)
    copied.folder = run.folder  # judged on the new text
    assert first == pytest.approx(loss_of_text(copied)["loss"], abs=2e-2)  # bf16


def test_forgetting_is_the_loss_on_the_bases_own_text(base, place, tmp_path):
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=TUNED)
    losses = forgetting(run)
    assert losses["before"] == pytest.approx(api.evaluate(base)["text"]["loss"], rel=1e-5)
    assert losses["after"] > losses["before"]  # other words have been learnt at a high rate
    assert run.folder.read_metrics()[-1]["base/loss_after"] == losses["after"]


def test_a_named_text_tells_what_is_forgotten(base, place, tmp_path):
    settings = TUNED | {"data": {"base_text": str(place / "general.txt")}}
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=settings)
    losses = forgetting(run)
    assert losses["source"] == str(place / "general.txt")
    assert losses["before"] == pytest.approx(api.evaluate(base, text=losses["source"])["text"]["loss"], rel=1e-5)


def test_adapters_learn_and_the_run_holds_them_merged(base, place, tmp_path):
    settings = TUNED | {"lora": {"rank": 4, "targets": ("attn.c_attn", "mlp.c_fc")}}
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=settings)
    saved = load_checkpoint(run.folder.checkpoint_path("best")).tensors
    original = api.load(base).model.weights()
    changed = {name for name, weight in saved["model"].items() if not torch.equal(weight, original[name])}
    assert changed == {f"h.{i}.{name}.weight" for i in (0, 1) for name in ("attn.c_attn", "mlp.c_fc")}
    assert not adapter_weights(run.model)
    a, b = (saved["adapter"][f"h.0.mlp.c_fc.lora_{which}"] for which in "ab")
    torch.testing.assert_close(
        saved["model"]["h.0.mlp.c_fc.weight"], original["h.0.mlp.c_fc.weight"] + 4.0 * b @ a, atol=1e-6, rtol=0
    )
    assert {name.rpartition("/")[0] for name in saved["optimizer"]} == saved["adapter"].keys()
    peft = json.loads((run.folder.adapter_dir / CONFIG).read_text())
    assert peft["r"] == 4
    assert (run.folder.adapter_dir / WEIGHTS).exists()


class Stop(Exception):
    """What a power cut does to the process: nothing is tidied."""


class StopAt(PlainDisplay):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_step(self, state, line) -> None:
        if state.step == self.step:
            raise Stop


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("stop", [0, 6])
def test_a_resumed_run_equals_one_that_never_stopped(base, rank, stop, place, tmp_path):
    settings = TUNED | {"lora": {"rank": rank, "dropout": 0.1}, "model": {"dropout": 0.1}}
    whole = api.finetune(base, place / "own.txt", out=tmp_path / "whole", settings=settings)
    with pytest.raises(Stop):
        api.finetune(base, place / "own.txt", out=tmp_path / "cut", settings=settings, observer=StopAt(stop))
    resumed = api.resume(tmp_path / "cut")
    names = ("model", "optimizer", *(["adapter"] if rank else []))
    for name in names:
        files = [run.folder.checkpoint_path("last") / f"{name}.safetensors" for run in (whole, resumed)]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("kind", ["base", "bpe_base"])
def test_a_template_that_needs_new_ids_gets_them_at_the_end(kind, place, tmp_path, request):
    base = request.getfixturevalue(kind)
    settings = {"data": {"template": "response"}, "train": TUNED["train"] | {"max_steps": 60}}
    run = api.finetune(base, place / "answers.jsonl", out=tmp_path / "tuned", settings=settings)
    old = api.load(base).tokenizer
    assert run.tokenizer.encode("the moon") == old.encode("the moon")
    assert min(run.tokenizer.token_id(name) for name in ("<prompt>", "<response>", "</response>")) >= old.vocab_size
    assert run.model.config.vocab_size == run.tokenizer.vocab_size
    losses = [row["val/loss"] for row in run.folder.read_metrics() if "val/loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    again = api.finetune(run.folder.path, place / "answers.jsonl", out=tmp_path / "again", settings=TUNED)
    assert again.template is not None  # the layout is the base's
    assert again.tokenizer.fingerprint == run.tokenizer.fingerprint


def test_a_tokenizer_whose_ids_would_move_is_refused(place, tmp_path):
    settings = SMALL | {"tokenizer": {"kind": "sentencepiece", "vocab_size": 320}}
    base = api.train(place / "general.txt", out=tmp_path / "base", settings=settings)
    with pytest.raises(TokenizerError, match="takes no special tokens"):
        api.finetune(base.folder.path, place / "answers.jsonl", settings=TUNED | {"data": {"template": "response"}})
    assert not (tmp_path / "tuned").exists()


def test_from_a_transformers_folder(place, tmp_path, bpe_base):
    base, exported = bpe_base, api.export(bpe_base, tmp_path / "exported")
    run = api.finetune(exported, place / "own.txt", lora=True, out=tmp_path / "tuned", settings=TUNED)
    assert run.config.lora.rank == 8
    assert run.config.train.sequence_length == 32
    original = api.load(base).model.weights()
    copied = api.load(run.folder.base_dir).model.weights()
    rows = api.load(base).tokenizer.vocab_size  # beyond them is padding
    assert all(torch.equal(copied[name][:rows], weight[:rows]) for name, weight in original.items())
    assert forgetting(run) is None


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": {"n_layer": 3}}, "n_layer"),
        ({"model": {"preset": "prime"}}, "preset"),
        ({"lora": {"rank": -1}}, "rank"),
    ],
)
def test_another_network_is_refused_before_anything_is_written(base, settings, named, place, tmp_path):
    with pytest.raises(ConfigError, match=named):
        api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=TUNED | settings)
    assert not (tmp_path / "tuned").exists()


def test_a_base_that_is_nothing(place, tmp_path, monkeypatch, capfd):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("empty", str(place / "chra")):
        with pytest.raises(UsageError):
            api.finetune(name, place / "own.txt")
    assert command(["finetune", "empty", str(place / "own.txt")], 0.0) == 2
    assert command(["finetune", str(place / "char")], 0.0) == 2
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "not a run" in errors[0]
    assert "no text" in errors[1]


# ---- Extending a run


def test_a_finished_run_is_extended_with_its_schedule_anew(place, tmp_path, capfd):
    settings = SMALL | {"tokenizer": {"kind": "char"}}
    settings["train"] = SMALL["train"] | {"schedule": "linear", "warmup_steps": 2, "log_interval": 1}
    path = api.train(place / "general.txt", out=tmp_path / "run", settings=settings).folder.path
    run = api.resume(path, settings={"train": {"max_steps": 24}})
    rows = run.folder.read_metrics()
    rates = {row["step"]: row["lr"] for row in rows if "lr" in row}
    assert list(rates) == list(range(1, 25))
    assert rates[12] < rates[15]  # up again, after a warm-up
    assert rates[13] < rates[14] < rates[15] > rates[24]
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 4, 8, 12, 16, 20, 24]
    assert sum("final/val/loss" in row for row in rows) == 1
    assert command(["train", "--resume", str(path), "--train.max_steps", "20"], 0.0) == 2
    assert "at step 24 already" in capfd.readouterr().err
    assert command(["train", "--resume", str(path), "--train.batch_size", "2"], 0.0) == 2


def test_a_run_that_was_stopped_stretches_what_is_left_of_its_schedule(place, tmp_path):
    settings = SMALL | {"tokenizer": {"kind": "char"}}
    settings["train"] = SMALL["train"] | {"schedule": "linear", "log_interval": 1}
    with pytest.raises(Stop):
        api.train(place / "general.txt", out=tmp_path / "run", settings=settings, observer=StopAt(6))
    run = api.resume(tmp_path / "run", settings={"train": {"max_steps": 20}})
    rates = [row["lr"] for row in run.folder.read_metrics() if "lr" in row]
    assert len(rates) == 20
    assert rates == sorted(rates, reverse=True)
