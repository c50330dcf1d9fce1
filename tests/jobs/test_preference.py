"""Preference tuning from the command to the figures: what is learnt, against which reference, and that it resumes."""

import json
import math
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.config import resolve
from primegpt.data.batching.feed import fixed_batches, training_batches
from primegpt.errors import ConfigError, DataError, UsageError
from primegpt.jobs.data import prepare_data
from primegpt.jobs.evaluation import evaluate_run
from primegpt.jobs.reference import Reference
from primegpt.jobs.text_loss import own_corpus
from primegpt.report.history import History
from primegpt.run.checkpoint import load_checkpoint
from primegpt.signals import Interrupted
from primegpt.terminal import silent
from primegpt.training.display import PlainDisplay
from primegpt.training.progress import TIMING_KEYS

WORDS = ["river", "stone", "light", "song", "winter", "road"]
SMALL = {
    "model": {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 64, "dropout": 0.1,
              "bias": False},
    "tokenizer": {"kind": "char"},
    "data": {"template": "response"},
    "train": {"batch_size": 8, "max_steps": 60, "attention": "sdpa", "eval_interval": 30, "threads": 1,
              "learning_rate": 3e-3, "precision": "fp32"},
    "generate": {"max_new_tokens": 8},
}  # fmt: skip
STEPS = {"max_steps": 12, "eval_interval": 4, "log_interval": 1, "learning_rate": 1e-3, "batch_size": 4}
DPO = {"train": STEPS | {"objective": "dpo", "threads": 1, "precision": "fp32", "attention": "sdpa"}}


def records(seed: int) -> Iterator[tuple[str, str]]:
    words = random.Random(seed)
    for _ in range(80):
        a, b = words.choices(WORDS, k=2)
        yield f"say {a} and {b}", f"{a}, {b}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("preference")
    answers = [{"prompt": prompt, "response": answer} for prompt, answer in records(0)]
    pairs = [
        {"prompt": prompt, "chosen": answer, "rejected": answer[::-1] + "!" * (n % 5)}
        for n, (prompt, answer) in enumerate(records(1))
    ]
    for name, rows in (("answers", answers), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def base(place) -> Path:
    return api.train(place / "answers.jsonl", out=place / "base", settings=SMALL, quiet=True).folder.path


def tuned(base: Path, out: Path, **settings: object) -> api.Run:
    pairs = base.parent / "pairs.jsonl"
    train = DPO["train"] | settings.pop("train", {})
    return api.finetune(base, pairs, out=out, settings={"train": train} | settings, quiet=True, overwrite=True)


@pytest.fixture(scope="module")
def dpo(base, place) -> api.Run:
    return tuned(base, place / "dpo")


@pytest.fixture(scope="module")
def adapted(base, place) -> api.Run:
    return tuned(base, place / "adapted", lora={"rank": 4})


def outcome(run: api.Run) -> tuple[list[dict], dict[str, torch.Tensor]]:
    lines = [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in run.folder.read_metrics()]
    return lines, load_checkpoint(run.folder.checkpoint_path("last")).tensors["model"]


# ---- The command


def test_one_command_with_sensible_defaults(base, place, capsys):
    out = str(place / "command")
    given = ["--train.objective", "dpo", "--train.max_steps", "8", "--train.threads", "1", "--out", out]
    assert command(["finetune", str(base), str(place / "pairs.jsonl"), *given], 0.0) == 0
    said = capsys.readouterr()
    assert re.search(r"reference +what the base says of 80 pairs, computed once", said.err)
    assert re.search(r"result +0\.\d{4} \(dpo\), the chosen answer ahead in \d+\.\d% of the pairs", said.out)
    assert "on all 8 validation pairs" in said.out
    assert re.search(r"base text +\d\.\d+ nats per character before", said.out)
    run = api.load(out)
    data, train = run.config.data, run.config.train
    assert (data.template, train.beta, train.learning_rate, run.config.model.dropout) == ("preference", 0.1, 1e-4, 0.0)
    assert run.template.name == "response"
    for line in (
        ["info", out],
        ["evaluate", out],
        ["report", out],
        ["runs", str(place)],
        ["generate", out, "say road"],
    ):
        assert command(line, 0.0) == 0, line
    told = capsys.readouterr().out
    assert re.search(r"best evaluation +0\.\d{4} dpo per pair, step", told)
    assert re.search(r"result +0\.\d{4} dpo per pair, on all the validation text", told)
    assert re.search(r"rewards/accuracies +\d\.\d{4}", told)
    assert "chosen answers: " in told
    page = (Path(out) / "report.html").read_text()
    assert "guessing: ln 2" in page
    assert "perplexity" not in page.split("<section")[1]
    assert "pairs in order" in page


def test_figures_have_the_names_of_trl(dpo):
    lines = dpo.folder.read_metrics()
    names = {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen",
             "logps/rejected"}  # fmt: skip
    trained = [line for line in lines if "lr" in line]
    evaluated = [line for line in lines if "val/loss" in line]
    assert all(names <= line.keys() for line in trained)
    assert all({f"val/{name}" for name in names} <= line.keys() for line in evaluated)
    assert evaluated[0]["val/loss"] == pytest.approx(math.log(2), abs=1e-6), "the model is its own reference"
    assert evaluated[0]["val/rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert evaluated[-1]["val/loss"] < evaluated[0]["val/loss"] - 0.05
    assert evaluated[-1]["val/rewards/margins"] > 0.1
    assert not any("val/perplexity" in line or "final/val/perplexity" in line for line in lines)
    final = next(line for line in lines if "final/val/loss" in line)
    last = min(evaluated, key=lambda line: line["val/loss"])
    assert final["final/val/loss"] == pytest.approx(last["val/loss"], abs=1e-6)
    assert final["final/val/rewards/accuracies"] == last["val/rewards/accuracies"]


def test_evaluation_and_history_say_what_they_measure(dpo):
    report = dpo.evaluate()
    final = next(line for line in dpo.folder.read_metrics() if "final/val/loss" in line)
    assert report["pairs"]["loss"] == pytest.approx(final["final/val/loss"], abs=1e-6)
    assert report["pairs"]["pairs"] == 8
    assert report["pairs"]["rewards/margins"] == pytest.approx(final["final/val/rewards/margins"], abs=1e-5)
    assert 0 < report["text"]["loss"] < 10
    corpus = own_corpus(dpo, silent)
    assert report["text"]["tokens"] == corpus.val.supervised_tokens
    summary = History.read(dpo.folder.path).summary()
    assert summary["loss_unit"] == "dpo per pair"
    assert summary["final_figures"]["rewards/accuracies"] == final["final/val/rewards/accuracies"]
    place = dpo.folder.path.parent
    answers, pairs = str(place / "answers.jsonl"), str(place / "pairs.jsonl")
    assert dpo.evaluate(answers)["text"]["tokens"] > 80, "records with an answer, as the base reads them"
    chosen = evaluate_run(dpo, pairs, settings={"data": {"template": "preference"}})["text"]
    assert chosen["tokens"] == sum(part.supervised_tokens for part in (corpus.train, corpus.val))


# ---- The reference


def log_probability(model, ids: torch.Tensor, targets: torch.Tensor) -> float:
    says = model(ids[None])[0].double().log_softmax(-1)
    return sum(says[t, target].item() for t, target in enumerate(targets.tolist()) if target >= 0)


@pytest.mark.parametrize("name", ["dpo", "adapted"])
def test_the_reference_is_what_a_second_model_says(base, name, request):
    run = request.getfixturevalue(name)
    second, corpus = api.load(base).model, own_corpus(run, silent)
    assert Reference(run.config, corpus).read(pytest.fail)
    for batch in fixed_batches(run.config, corpus.val):
        answers = [(batch.ids, batch.targets), (batch.extras["rejected_ids"], batch.extras["rejected_targets"])]
        for known, (ids, targets) in zip(("reference_chosen", "reference_rejected"), answers, strict=True):
            with torch.no_grad():
                expected = [log_probability(second, *row) for row in zip(ids, targets, strict=True)]
            assert batch.extras[known].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_lost_or_damaged_reference_is_computed_again(dpo):
    corpus, said = own_corpus(dpo, silent), list[str]()
    reference = Reference(dpo.config, corpus)
    before = reference.path.read_bytes()
    reference.path.write_bytes(before[:-1] + b"x")
    assert not Reference(dpo.config, corpus).read(said.append)
    assert "is damaged" in said[0]
    assert dpo.evaluate()["pairs"]["pairs"] == 8
    assert reference.path.read_bytes() == before
    reference.path.with_suffix(".json").unlink()
    assert not Reference(dpo.config, corpus).read(pytest.fail)
    dpo.evaluate()
    assert reference.path.read_bytes() == before


# ---- The steps


def test_twenty_steps_are_those_of_a_plain_loop(base, place):
    """AdamW of torch, the formula written out, a second model that is asked at every step."""
    train = {"max_steps": 20, "schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "grad_clip": 0.0}
    run = tuned(base, place / "twenty", train=train | {"eval_interval": 20})
    model, frozen = api.load(base).model.train(), api.load(base).model.eval()
    batches = training_batches(run.config, own_corpus(run, silent))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    model.eval()  # no dropout in these runs
    losses = []
    for step in range(20):
        (batch,) = batches.micro_batches(step)
        answers = [(batch.ids, batch.targets), (batch.extras["rejected_ids"], batch.extras["rejected_targets"])]
        ratios = []
        for ids, targets in answers:
            asked = targets.clamp(min=0)[..., None]
            both = [each(ids).log_softmax(-1).gather(-1, asked)[..., 0] for each in (model, frozen)]
            ratios.append(((both[0] - both[1].detach()) * (targets >= 0)).sum(1))
        loss = -F.logsigmoid(0.1 * (ratios[0] - ratios[1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    logged = [line["train/loss"] for line in run.folder.read_metrics() if "train/loss" in line]
    assert logged == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.05
    last = load_checkpoint(run.folder.checkpoint_path("last")).tensors["model"]
    for name, weight in model.weights().items():
        torch.testing.assert_close(last[name], weight, atol=2e-5, rtol=0)


def test_accumulation_and_micro_batches_change_nothing(base, place):
    lines, weights = outcome(tuned(base, place / "whole", train={"batch_size": 8}))
    others = {"batch_size": 2, "gradient_accumulation_steps": 4}
    again, divided = outcome(tuned(base, place / "divided", train=others))
    losses = [[line["train/loss"] for line in each if "train/loss" in line] for each in (lines, again)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(divided[name], weight, atol=2e-5, rtol=0)


@pytest.mark.parametrize("objective", ["ipo", "simpo"])
def test_the_other_objectives_learn_too(base, place, objective):
    before = set((place / "cache").rglob("reference-*"))
    run = tuned(base, place / objective, train={"objective": objective})
    losses = [line["val/loss"] for line in run.folder.read_metrics() if "val/loss" in line]
    assert losses[-1] < losses[0]
    if objective == "ipo":
        assert losses[0] == pytest.approx(25.0, rel=1e-5), "(0 - 1 / 2β)²"
    if objective == "simpo":
        assert set((place / "cache").rglob("reference-*")) == before, "it has none"


def test_adapters_alone_learn_from_the_base_without_them(adapted):
    evaluated = [line for line in adapted.folder.read_metrics() if "val/loss" in line]
    assert evaluated[0]["val/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert evaluated[-1]["val/rewards/margins"] > 0.001
    assert (adapted.folder.path / "adapter" / "adapter_config.json").exists()


# ---- Going on


class Stop(PlainDisplay):
    """Sends the signal that a user would, after so many steps."""

    def __init__(self, step: int) -> None:
        super().__init__(silent)
        self.at = step

    def on_step(self, state, line) -> None:
        if state.step == self.at:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("name", "lost"), [("dpo", True), ("adapted", True), ("dpo", False)])
def test_a_stopped_run_goes_on_bit_for_bit(base, place, name, lost, request):
    """With the reference as it was, and with one that has to be computed again from what lies in base/."""
    settings = {"lora": {"rank": 4}} if name == "adapted" else {}
    whole = outcome(request.getfixturevalue(name))
    out = place / f"stopped-{name}-{lost}"
    with pytest.raises(Interrupted):
        api.finetune(base, place / "pairs.jsonl", out=out, settings=DPO | settings, observer=Stop(6), quiet=True)
    if lost:
        corpus = own_corpus(api.load(out), silent)
        for path in corpus.folder.glob("reference-*"):
            path.unlink()
    lines, weights = outcome(api.resume(out, quiet=True))
    assert lines == whole[0]
    assert all(torch.equal(weights[name], weight) for name, weight in whole[1].items())


def test_what_the_loss_means_cannot_be_edited(base, place):
    run = tuned(base, place / "edited", train={"max_steps": 2})
    path = run.folder.config_path
    path.write_text(path.read_text().replace("\nbeta = 0.1\n", "\nbeta = 0.5\n"))
    with pytest.raises(ConfigError, match=r"train\.beta"):
        api.resume(path.parent, settings={"train": {"max_steps": 14}}, quiet=True)


def test_a_tuned_run_is_a_base_like_any_other(dpo, place):
    two = {"train": DPO["train"] | {"max_steps": 2}}
    again = api.finetune(dpo.folder.path, place / "pairs.jsonl", out=place / "again", settings=two, quiet=True)
    assert again.config.data.template == "preference"
    answers = {"train": {"max_steps": 2, "threads": 1}}
    run = api.finetune(dpo.folder.path, place / "answers.jsonl", out=place / "back", settings=answers, quiet=True)
    assert run.config.data.template == "response"
    assert {"base/loss_before", "base/loss_after"} <= run.folder.read_metrics()[-1].keys()
    few = {"train": {"max_steps": 1, "threads": 1}, "reinforce": {"num_generations": 2, "prompts_per_step": 2}}
    rewarded = api.reinforce(
        dpo.folder.path, place / "answers.jsonl", reward=["words"], out=place / "rewarded", settings=few, quiet=True
    )
    assert rewarded.config.data.template == "response"


# ---- What is refused


def refusal(kind: type[Exception], base: Path, *sources: Path, **settings) -> str:
    train, out = {"max_steps": 2, "threads": 1} | settings.pop("train", {}), base.parent / "refused"
    with pytest.raises(kind) as refused:
        api.finetune(base, *sources, settings={"train": train} | settings, out=out, quiet=True)
    assert "\n" not in str(refused.value)
    assert not out.exists()
    return str(refused.value)


def test_what_cannot_be_compared_is_refused_in_one_line(base, place):
    dpo = {"objective": "dpo"}
    same = place / "same.jsonl"
    same.write_text("\n".join(json.dumps({"prompt": p, "chosen": a, "rejected": a}) for p, a in records(2)))
    assert "the same in all pairs" in refusal(DataError, base, same, train=dpo)
    assert "is no pair: there is no field 'chosen'" in refusal(DataError, base, place / "answers.jsonl", train=dpo)
    text = place / "text.txt"
    text.write_text("the river ran under a bridge of stone\n" * 40)
    plain = api.train(text, out=place / "plain", quiet=True, settings={
        "model": SMALL["model"], "tokenizer": {"kind": "char"}, "train": {"max_steps": 2, "threads": 1}})  # fmt: skip
    assert "fine-tune it on answers first" in refusal(ConfigError, plain.folder.path, place / "pairs.jsonl", train=dpo)
    tokens = {"control": ["<prompt>", "<response>", "</response>"]}
    spelt = api.train(text, out=place / "spelt", quiet=True, settings={
        "model": SMALL["model"], "tokenizer": {"kind": "char", "special_tokens": tokens},
        "train": {"max_steps": 2, "threads": 1}})  # fmt: skip
    assert "spelt has learnt 'text'" in refusal(ConfigError, spelt.folder.path, place / "pairs.jsonl", train=dpo)
    wrong = refusal(ConfigError, base, place / "pairs.jsonl", data={"template": "preference"})
    assert "say --train.objective dpo, ipo or simpo" in wrong
    assert "has none" in refusal(ConfigError, base, place / "pairs.jsonl", train=dpo, data={"template": "response"})
    assert "has no effect without" in refusal(ConfigError, base, place / "answers.jsonl", train={"beta": 0.2})
    beside = {"source": {"2": {"template": "text", "text_field": "text"}}}
    assert "no second answer" in refusal(
        ConfigError, base, place / "pairs.jsonl", place / "text.txt", train=dpo, data=beside
    )
    with pytest.raises(UsageError, match="primegpt finetune RUN PAIRS"):
        api.train(place / "pairs.jsonl", out=place / "refused", settings={"train": dpo}, quiet=True)


def test_pairs_are_audited(place, capsys):
    pairs = str(place / "pairs.jsonl")
    assert command(["data", "audit", pairs, "--data.template", "preference"], 0.0) == 0
    told = capsys.readouterr()
    assert re.search(r"pairs +80, 0.0% of one and the same answer", told.out)
    assert "of the chosen answers are the shorter ones" in told.out + told.err
    assert command(["data", "audit", pairs], 0.0) == 2
    assert "say --data.template preference" in capsys.readouterr().err


def test_a_preview_shows_both_answers(base, place):
    settings = {"data": {"template": "preference"}, "tokenizer": {"path": str(base / "tokenizer")}}
    prepared = prepare_data(place / "pairs.jsonl", preview=1, settings=settings, say=silent)
    (shown,) = prepared.previews
    assert shown["context"].startswith("<prompt>say ")
    assert shown["context"].endswith("<response>")
    assert shown["supervised"].endswith("</response>")
    chosen, rejected = (shown[name].removesuffix("</response>") for name in ("supervised", "rejected"))
    assert rejected.rstrip("!") == chosen[::-1]


def test_defaults_are_those_of_trl():
    train = resolve({"train": {"objective": "dpo"}}).train
    assert (train.beta, train.label_smoothing, train.simpo_gamma, train.sft_weight) == (0.1, 0.0, 0.5, 0.0)
