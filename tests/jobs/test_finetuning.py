"""Fine-tuning: the base stays, the new run goes on from it, with all of its weights or with adapters beside them."""

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.errors import ConfigError, DataError, MismatchError, RunFolderError, TokenizerError, UsageError
from primegpt.interop.peft import CONFIG, WEIGHTS
from primegpt.jobs.text_loss import loss_of_text
from primegpt.jobs.trainers import forgetting
from primegpt.model.lora import adapter_weights
from primegpt.run.checkpoint import load_checkpoint
from primegpt.training.display import PlainDisplay

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


def trained(place: Path, tokenizer: dict[str, object], name: str = "", **train: object) -> Path:
    train = TUNED["train"] | {"max_steps": 40, "eval_interval": 20} | train
    out = place / (name or str(tokenizer["kind"]))
    return api.train(
        place / "general.txt", out=out, settings=SMALL | {"tokenizer": tokenizer, "train": train}
    ).folder.path


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
    adapters = {"lora": {"rank": rank, "dropout": 0.1}} if rank else {}
    settings = TUNED | adapters | {"model": {"dropout": 0.1}}
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


@pytest.fixture(scope="module")
def adapted(base, place) -> Path:
    """A run with adapters, to be copied."""
    return api.finetune(base, place / "own.txt", lora=True, out=place / "adapted", settings=TUNED).folder.path


@pytest.fixture
def killed(adapted, tmp_path) -> Path:
    """That run as it was after step 8."""
    run = tmp_path / "killed"
    shutil.copytree(adapted, run)
    shutil.rmtree(run / "checkpoints" / "step-000012")
    return run


def test_adapters_go_on_beside_the_weights_that_they_began_with(killed, adapted):
    api.resume(killed)
    final = [load_checkpoint(run / "checkpoints" / "step-000012").tensors["model"] for run in (adapted, killed)]
    assert all(torch.equal(final[1][name], tensor) for name, tensor in final[0].items())


@pytest.mark.parametrize("checkpoints", ["some", "none"])
def test_a_missing_base_is_refused(killed, checkpoints):
    shutil.rmtree(killed / "base")
    if checkpoints == "none":
        shutil.rmtree(killed / "checkpoints")
    with pytest.raises(RunFolderError, match="base is missing: the model that this run was fine-tuned from; put it"):
        api.resume(killed)


def test_the_base_of_another_run_is_refused(killed, base, place):
    shutil.rmtree(killed / "base")
    other = api.finetune(base, place / "own.txt", lora=True, out=killed.parent / "other", settings=TUNED)
    copied = next(other.folder.base_dir.glob("checkpoints/*/model.safetensors"))
    shutil.copytree(other.folder.base_dir, killed / "base")
    api.resume(killed)  # the same model: nothing is lost

    again = trained(place, {"kind": "char"}, "elsewhere", seed=5)
    other = api.finetune(again, place / "own.txt", lora=True, out=killed.parent / "third", settings=TUNED)
    assert copied.read_bytes() != next(other.folder.base_dir.glob("checkpoints/*/model.safetensors")).read_bytes()
    shutil.rmtree(killed / "base")
    shutil.copytree(other.folder.base_dir, killed / "base")
    shutil.rmtree(killed / "checkpoints" / "step-000012")
    with pytest.raises(MismatchError, match="base is not what this run was fine-tuned from: its fingerprint is"):
        api.resume(killed)


def test_all_weights_are_in_a_checkpoint_and_need_no_base(base, place, tmp_path, capsys):
    run = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=TUNED).folder
    shutil.rmtree(run.base_dir)
    shutil.rmtree(run.checkpoints_dir / "step-000012")
    api.resume(run.path)
    assert "base is missing" in capsys.readouterr().err


# ---- A longer context than the base's


def long_answers(path: Path) -> Path:
    rows = [{"prompt": f"say {word}", "response": f"{word} " * 25} for word in WORDS * 6]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("preset", ["qwen3", "gpt2"])
def test_the_advice_to_raise_the_context_can_be_followed(place, tmp_path, preset, capsys):
    settings = SMALL | {"tokenizer": {"kind": "char"}, "model": SMALL["model"] | {"preset": preset}}
    base = api.train(place / "general.txt", out=tmp_path / "base", settings=settings).folder.path
    answers, cut = long_answers(tmp_path / "long.jsonl"), {"sequence_length": 32}
    data = {"data": {"template": "response"}}
    api.finetune(base, answers, out=tmp_path / "cut", settings=data | {"train": TUNED["train"] | cut})
    said = capsys.readouterr().err
    assert "100% of the records are longer than the context: " in said
    assert re.findall(r"cut off, .*, and (\d+) would cut 2% at most", said) == ["192"]
    run = api.finetune(base, answers, out=tmp_path / "long", settings=TUNED | data | {"model": {"block_size": 192}})
    assert "longer than the context" not in capsys.readouterr().err
    assert run.config.sequence_length == run.model.config.block_size == 192
    assert run.folder.read_metrics()
    assert api.resume(run.folder.path).step == run.step
    start = next(row["val/loss"] for row in run.folder.read_metrics() if "val/loss" in row)
    assert start < 12  # the weights are the base's


def test_rotary_positions_go_as_far_as_the_records_do(place, tmp_path):
    answers = long_answers(tmp_path / "long.jsonl")
    for preset, block in (("qwen3", 192), ("gpt2", 32)):
        settings = SMALL | {"tokenizer": {"kind": "char"}, "model": SMALL["model"] | {"preset": preset}}
        base = api.train(place / "general.txt", out=tmp_path / preset, settings=settings).folder.path
        data = {"data": {"template": "response"}}
        run = api.finetune(base, answers, out=tmp_path / f"{preset}-tuned", settings={"train": {"max_steps": 2}} | data)
        assert run.config.sequence_length == run.config.model.block_size == block


def test_a_shorter_block_is_refused(base, place):
    with pytest.raises(ConfigError, match="block_size"):
        api.finetune(base, place / "own.txt", settings=TUNED | {"model": {"block_size": 16}})


# ---- What is needed is there before training begins


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none.txt", "data.base_text: .*none.txt does not exist"),
        ("other.jsonl", "data.base_text: .*line 1: there is no field 'text', only 'words'"),
        ("blank.txt", "data.base_text: .*is empty"),
        ("-", "read twice"),
    ],
)
def test_a_base_text_that_cannot_be_read_again_is_refused_first(base, place, tmp_path, text, expected, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.jsonl").write_text('{"words": "la"}\n', encoding="utf-8")
    Path("blank.txt").write_text(" \n", encoding="utf-8")
    monkeypatch.setattr("primegpt.jobs.finetuning.begin", lambda *_, **__: pytest.fail("refusals come first"))
    with pytest.raises(DataError, match=expected):
        api.finetune(base, place / "own.txt", settings=TUNED | {"data": {"base_text": text}})


def test_a_base_text_is_read_as_the_base_reads_it(base, place, tmp_path):
    """Records are what the run learns; what it forgets is told by the base's own kind of text."""
    settings = TUNED | {"data": {"template": "response", "base_text": str(place / "general.txt")}}
    run = api.finetune(base, place / "answers.jsonl", out=tmp_path / "tuned", settings=settings)
    losses = forgetting(run)
    assert losses["before"] == pytest.approx(api.evaluate(base, text=losses["source"])["text"]["loss"], rel=1e-5)


def test_a_fine_tuned_run_is_a_recipe_too(base, place, tmp_path):
    """For a run from scratch, which has no base."""
    tuned = api.finetune(base, place / "own.txt", out=tmp_path / "tuned", settings=TUNED)
    again = {"train": {"max_steps": 6}, "model": {"vocab_size": 0}}
    run = api.train(tuned.folder.config_path, out=tmp_path / "scratch", settings=again)
    assert run.config.plan.base == ""
    assert run.config.plan.run not in ("", tuned.config.plan.run)
    shutil.rmtree(run.folder.checkpoints_dir / "step-000006")
    assert api.resume(run.folder.path).step in (0, 4, 6)
