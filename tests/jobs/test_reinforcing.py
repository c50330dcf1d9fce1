"""Learning from rewards: a run like any other, which writes to prompts, is judged, and goes on as if never stopped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from primegpt import api
from primegpt.cli.main import run as command
from primegpt.config import read_saved, resolve
from primegpt.data.batching.batches import Batches
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError, RunFolderError, UsageError
from primegpt.model.size import parameter_count
from primegpt.planning.rollout_plan import rollout_memory
from primegpt.run.checkpoint import load_checkpoint
from primegpt.training.display import PlainDisplay
from primegpt.training.progress import TIMING_KEYS
from primegpt.training.rollouts import Rollouts

WORDS = ["river", "stone", "light", "song", "winter", "road", "moon", "tree"]
SMALL = {
    "model": {"preset": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 48},
    "train": {"batch_size": 8, "max_steps": 60, "eval_interval": 60, "threads": 1, "precision": "fp32"},
    "generate": {"max_new_tokens": 5},
}
STEPS: dict[str, Any] = {"max_steps": 6, "eval_interval": 3, "threads": 1, "learning_rate": 3e-3, "log_interval": 1}
REINFORCE = {"num_generations": 4, "prompts_per_step": 4, "max_new_tokens": 12}
SETTINGS: dict[str, Any] = {"train": STEPS, "reinforce": REINFORCE}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reinforcing")
    rows = [{"prompt": f"say {word}", "response": word, "answer": word, "n": n} for n, word in enumerate(WORDS * 8)]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    asked = [{"prompt": f"say {word} {n}", "answer": word} for n, word in enumerate(WORDS * 3)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def base(place) -> Path:
    settings = SMALL | {"tokenizer": {"kind": "char"}, "data": {"template": "response"}}
    return api.train(place / "answers.jsonl", out=place / "base", settings=settings, quiet=True).folder.path


def rewarded(base: Path, place: Path, out: Path, reward: str = "length:1", **more: Any) -> Any:
    settings = {
        section: SETTINGS.get(section, {}) | more.pop(section, {}) for section in ("train", "reinforce", "data")
    }
    return api.reinforce(base, place / "prompts.jsonl", reward=[reward], out=out, settings=settings, quiet=True, **more)


def test_it_is_a_run_that_learns_from_its_rewards(base, place, tmp_path, capsys) -> None:
    run = rewarded(base, place, tmp_path / "run", "-1*length:2", train={"max_steps": 12, "eval_interval": 6})
    lines = run.metrics
    judged = [line["val/reward"] for line in lines if "val/reward" in line]
    assert len(judged) == 3
    assert judged[-1] > judged[0]
    best = max(range(3), key=lambda n: judged[n])
    assert run.step == 6 * best
    assert [line["final/val/reward"] for line in lines if "final/step" in line] == [judged[best]]
    assert "base/loss_after" in lines[-1]

    trained = [line for line in lines if "lr" in line]
    assert len(trained) == 12
    names = {"reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio"}
    assert names | {"clip_ratio/low_mean", "sampling/sampling_logp_difference/mean"} <= trained[0].keys()
    assert "kl" not in trained[0]
    assert trained[0]["clip_ratio/region_mean"] == 0  # the ratios of the first step are 1
    assert trained[0]["sampling/sampling_logp_difference/mean"] < 1e-4
    assert {path.name for path in run.folder.samples_dir.iterdir()} >= {"step-000000.txt", "step-000012.txt"}
    assert "say" in (run.folder.samples_dir / "step-000000.txt").read_text(encoding="utf-8")

    assert isinstance(run.generate("say river"), str)
    assert "reward" in (api.report(run.folder.path) and run.folder.path / "report.html").read_text(encoding="utf-8")
    assert api.load(run.folder.path).step == run.step
    copied = api.load(run.folder.base_dir)
    assert all(torch.equal(w, copied.model.weights()[name]) for name, w in api.load(base).model.weights().items())


def test_what_is_said(base, place, tmp_path, capsys) -> None:
    arguments = [str(base), str(place / "prompts.jsonl"), "--reward", "exact", "--reward", "0.1*length:1"]
    flags = ["--train.max_steps=2", "--reinforce.num_generations=2", "--reinforce.prompts-per-step", "2"]
    out = tmp_path / "run"
    assert command(["reinforce", *arguments, *flags, "--reinforce.max-new-tokens=8", "--out", str(out)], 0.0) == 0
    said = capsys.readouterr()
    assert "reward     exact, 0.1*length:1" in said.err
    assert "2 prompts with 2 completions of at most 8 tokens" in said.err
    assert "on validation prompts" in said.out
    assert "base text" in said.out
    config = read_saved(out / "config.toml")
    assert config.reinforce.reward == ("exact", "0.1*length:1")
    assert command(["reinforce", "--resume", str(out), "--train.max_steps=3"], 0.0) == 0
    assert api.load(out, checkpoint="last").step == 3
    assert command(["train", "--resume", str(out)], 0.0) == 0
    with pytest.raises(ConfigError, match="nobody knows how long"):
        api.resume(out, settings={"train": {"tokens": 100_000}}, quiet=True)


def test_what_has_learnt_from_pairs_learns_from_rewards_and_the_other_way_round(base, place, tmp_path) -> None:
    pairs = [{"prompt": f"say {word}", "chosen": word, "rejected": "no"} for word in WORDS * 3]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    dpo = {"train": {"objective": "dpo", "max_steps": 2, "threads": 1}}
    preferring = api.finetune(base, tmp_path / "pairs.jsonl", out=tmp_path / "a", settings=dpo, quiet=True).folder.path
    run = rewarded(preferring, place, tmp_path / "b", train={"max_steps": 1})
    assert run.config.data.template == "response"
    assert run.config.train.objective == "cross_entropy"
    api.finetune(run.folder.path, tmp_path / "pairs.jsonl", out=tmp_path / "c", settings=dpo, quiet=True)
    assert not api.load(tmp_path / "c").config.reinforce.on


class Stopping(PlainDisplay):
    """Breaks a session off after a step, as a kill does: nothing is saved there."""

    def __init__(self, step: int) -> None:
        super().__init__(lambda text: None)
        self.step = step

    def on_step(self, state, line) -> None:
        if state.step == self.step:
            raise KeyError("broken off")


def outcome(folder: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max((folder / "checkpoints").iterdir())
    return {
        "lines": [{name: value for name, value in line.items() if name not in TIMING_KEYS} for line in lines],
        "files": {path.name: path.read_bytes() for path in last.glob("*.safetensors")},
        "samples": {path.name: path.read_bytes() for path in (folder / "samples").iterdir()},
        "best": (folder / "best").read_text(encoding="utf-8"),
    }


@pytest.mark.parametrize(
    ("lora", "reinforce"), [(False, {}), (False, {"num_iterations": 3, "beta": 0.1}), (True, {"beta": 0.1})]
)
def test_a_run_that_was_broken_off_goes_on_bit_for_bit(base, place, tmp_path, lora, reinforce) -> None:
    train = {"max_steps": 7, "eval_interval": 4, "checkpoint_interval": 2}
    whole = rewarded(base, place, tmp_path / "whole", lora=lora, train=train, reinforce=reinforce)
    with pytest.raises(KeyError, match="broken off"):
        rewarded(base, place, tmp_path / "run", lora=lora, train=train, reinforce=reinforce, observer=Stopping(3))
    with pytest.raises(KeyError, match="broken off"):
        api.resume(tmp_path / "run", observer=Stopping(5), quiet=True)
    api.resume(tmp_path / "run", quiet=True)
    assert outcome(tmp_path / "run") == outcome(whole.folder.path)
    if reinforce.get("beta"):
        kl = [line["kl"] for line in whole.metrics if "kl" in line]
        assert kl[0] == pytest.approx(0, abs=1e-6)  # the model is still what it began as
        assert kl[-1] > 1e-5
    if lora:
        saved = load_checkpoint(whole.folder.checkpoint_path("last")).tensors
        assert saved["adapter"]
        assert all(torch.isfinite(tensor).all() for tensor in saved["adapter"].values())
        assert (whole.folder.adapter_dir / "adapter_config.json").exists()


MODULE = """
def fails(prompt, completion, record):
    raise KeyError("genre")

def text(prompt, completion, record):
    return "good"

def nan(prompt, completion, record):
    return float("nan")

import random
def dice(prompt, completion, record):
    return random.random()
"""


@pytest.mark.parametrize(
    ("function", "told"), [("fails", "genre"), ("text", "no number"), ("nan", "nan"), ("dice", "two calls")]
)
def test_a_reward_that_cannot_be_relied_on_ends_it_before_anything_is_written(
    base, place, tmp_path, function, told
) -> None:
    (tmp_path / "own.py").write_text(MODULE, encoding="utf-8")
    with pytest.raises(PrimegptError, match=told) as raised:
        rewarded(base, place, tmp_path / "run", f"{tmp_path / 'own.py'}:{function}")
    assert "\n" not in str(raised.value)
    assert function in str(raised.value)
    assert not (tmp_path / "run").exists()


LATER = """
def score(prompt, completion, record):
    if completion:
        raise ValueError("not that")
    return 0.0
"""


def test_a_reward_that_fails_later_leaves_no_half_a_run(base, place, tmp_path) -> None:
    (tmp_path / "own.py").write_text(LATER, encoding="utf-8")
    with pytest.raises(PrimegptError, match="not that"):
        rewarded(base, place, tmp_path / "run", f"{tmp_path / 'own.py'}:score")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", ["reinforce", "finetune"])
def test_a_run_does_not_take_the_place_of_its_own_base(base, place, job) -> None:
    asked = {"reward": ["length:1"]} if job == "reinforce" else {}
    with pytest.raises(UsageError, match="is the model to begin with"):
        getattr(api, job)(base, place / "answers.jsonl", out=base, overwrite=True, quiet=True, **asked)
    assert (base / "last").exists()


def refused(kind: type[Exception], told: str, base: Path, *prompts: Path, **options: Any) -> None:
    options = {"settings": SETTINGS, "reward": ["length:1"], "quiet": True} | options
    with pytest.raises(kind, match=told) as raised:
        api.reinforce(base, *prompts, out=base.parent / "never", **options)
    assert "\n" not in str(raised.value)
    assert not (base.parent / "never").exists()


def test_what_cannot_work_is_refused_in_a_line(base, place, tmp_path) -> None:
    prompts = place / "prompts.jsonl"
    (tmp_path / "bare.jsonl").write_text('{"prompt": "say"}\n' * 9, encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"question": "say"}\n' * 9, encoding="utf-8")
    refused(DataError, "'answer'", base, tmp_path / "bare.jsonl", reward=["exact"])
    refused(PrimegptError, "'prompt'", base, tmp_path / "other.jsonl")
    refused(UsageError, "no reward 'wrods'.*did you mean 'words'", base, prompts, reward=["wrods"])
    refused(ConfigError, "no reward was given", base, prompts, reward=[])
    refused(ConfigError, "no text to train on|no prompts", base)
    with_ = lambda **sections: SETTINGS | sections  # noqa: E731
    refused(ConfigError, "song.*has no", base, prompts, settings=with_(data={"template": "song"}))
    refused(ConfigError, "n_layer", base, prompts, settings=with_(model={"n_layer": 2}))
    refused(ConfigError, "block_size = 64, but .* has 48", base, prompts, settings=with_(model={"block_size": 64}))
    refused(ConfigError, "nobody knows how long", base, prompts, settings=with_(train={"tokens": 100}))
    refused(ConfigError, "compile has no effect", base, prompts, settings=with_(train={"compile": True}))
    for section, name, value in [
        ("train", "sample_prompts", ["say"]), ("data", "text_field", "prompt"), ("data", "pack", True),
        ("data", "max_length", 9), ("data", "duplicates", "exact"),
    ]:  # fmt: skip
        told = f"{section}.{name} has no effect on what learns from rewards"
        refused(ConfigError, told, base, prompts, settings=with_(**{section: {name: value}}))
    refused(ConfigError, "no room", base, prompts, settings=with_(reinforce={"max_new_tokens": 48}))
    refused(
        DataError, "prompts_per_step", base, prompts, settings=with_(reinforce=REINFORCE | {"prompts_per_step": 99})
    )
    refused(DataError, "longer than the 2 tokens", base, prompts, settings=with_(reinforce={"max_new_tokens": 46}))
    with pytest.raises(ConfigError, match="primegpt reinforce"):
        api.train(prompts, out=tmp_path / "t", settings={"reinforce": {"reward": ("words",)}})
    with pytest.raises(ConfigError, match="primegpt reinforce"):
        api.finetune(base, prompts, out=tmp_path / "t", settings={"reinforce": {"reward": ("words",)}})
    with pytest.raises(ConfigError, match=r"reinforce.beta = 0.1 has no effect"):
        api.finetune(base, place / "answers.jsonl", out=tmp_path / "t", settings={"reinforce": {"beta": 0.1}})


def test_what_cannot_fit_into_memory_is_refused_before_anything_is_written(base, place, monkeypatch) -> None:
    monkeypatch.setattr("primegpt.planning.rollout_plan.memory_of", lambda device: 1e5)
    refused(ConfigError, r"16 completions needs about .* by forecast", base, place / "prompts.jsonl")


def test_the_forecast_of_memory_counts_what_is_written_and_the_reference() -> None:
    """By hand: 2 layers of keys and values, of 12 rows with 20 tokens and 12 prompts with 4, in fp32."""
    sizes = {"preset": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 4096, "vocab_size": 300}
    asked = {"num_generations": 3000, "prompts_per_step": 4, "max_new_tokens": 16, "reward": ("words",)}
    config = resolve({"model": sizes, "reinforce": asked, "train": {"batch_size": 1, "device": "cpu"}})
    weights = 4 * parameter_count(config.model)
    written = 12_000 * (20 + 4) * 2 * 2 * 64 * 4
    logits = 12_000 * config.model.padded_vocab_size * 4
    assert rollout_memory(config, 4) == pytest.approx(3 * weights + written + logits, rel=0.01)
    there = config.with_values(reinforce={"beta": 0.1})
    assert rollout_memory(there, 4) == rollout_memory(config, 4) + weights


def test_a_micro_batch_that_does_not_fit_is_halved(base, place, tmp_path, monkeypatch) -> None:
    """Whether the forecast says so, or memory runs out where completions are written."""
    seen, sizes = Batches.micro_batches, []

    def failing(batches: Batches, step: int) -> Any:
        sizes.append(batches.batch_size)
        if batches.batch_size > 4:
            raise MemoryError
        return seen(batches, step)

    monkeypatch.setattr("primegpt.planning.rollout_plan.rollout_memory", lambda c, _: 1e12 * (c.train.batch_size > 8))
    monkeypatch.setattr("primegpt.planning.rollout_plan.memory_of", lambda device: 1e12 - 1)
    monkeypatch.setattr(Batches, "micro_batches", failing)
    run = rewarded(base, place, tmp_path / "run", train={"max_steps": 1, "batch_size": 16})
    assert sizes[:2] == [8, 4]
    assert run.config.train.batch_size == 4


def test_a_run_goes_on_only_with_its_own_prompts_and_reward(base, place, tmp_path) -> None:
    (tmp_path / "own.py").write_text("def score(p, c, r):\n    return float(len(c))\n", encoding="utf-8")
    run = rewarded(base, place, tmp_path / "run", f"{tmp_path / 'own.py'}:score", train={"max_steps": 2})
    (tmp_path / "own.py").write_text("def score(p, c, r):\n    return -float(len(c))\n", encoding="utf-8")
    said: list[str] = []
    api.resume(run.folder.path, settings={"train": {"max_steps": 3}}, say=said.append)
    assert any("own.py is not what it was: the run goes on with its own copy, rewards/1.py" in line for line in said)
    (tmp_path / "own.py").unlink()
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert api.resume(moved, settings={"train": {"max_steps": 4}}, quiet=True).metrics[-1]["step"] == 4

    (moved / "rewards" / "1.py").write_text("def score(p, c, r):\n    return 1.0\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"rewards.1.py is code .* you have not trained with it"):
        api.resume(moved, settings={"train": {"max_steps": 5}}, quiet=True)
    assert command(["trust", str(moved)], 0.0) == 0
    with pytest.raises(MismatchError, match="reward"):
        api.resume(moved, settings={"train": {"max_steps": 5}}, quiet=True)
    with pytest.raises(RunFolderError, match="already holds a run"):
        rewarded(base, place, moved)


OWN = """
from primegpt import extend

@extend.reward("brief")
def brief(prompt, completion, record):
    return -len(completion) / 10
"""


def test_a_reward_may_be_of_an_extension(base, place, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    settings = SETTINGS | {"extension": str(tmp_path / "mine.py"), "train": STEPS | {"max_steps": 2}}
    prompts, out = place / "prompts.jsonl", tmp_path / "run"
    refused(
        UsageError, "no reward 'brif'.*did you mean 'brief'", base, prompts, reward=["brief", "brif"], settings=settings
    )
    run = api.reinforce(base, prompts, reward=["0.5*brief"], out=out, settings=settings, quiet=True)
    asked = [line for line in run.metrics if "completions/mean_length" in line and "reward" in line]
    assert all(-1 <= line["reward"] <= 0 for line in asked)
    (tmp_path / "mine.py").unlink()
    assert api.resume(out, settings={"train": {"max_steps": 3}}, quiet=True).metrics[-1]["step"] == 3
    (tmp_path / "mine.py").write_text(OWN.replace('"brief"', '"exact"'), encoding="utf-8")
    refused(UsageError, "reward 'exact' is built in", base, prompts, reward=["exact", "words"], settings=settings)


def test_a_budget_of_time_is_planned_for_and_kept(base, place, tmp_path) -> None:
    settings = {"train": {"threads": 1}, "reinforce": REINFORCE}
    run = api.reinforce(
        base,
        place / "prompts.jsonl",
        reward=["length:1"],
        out=tmp_path / "run",
        settings=settings,
        minutes=0.1,
        quiet=True,
    )
    assert run.config.plan.training_seconds > 0
    assert 1 < run.metrics[-1]["step"] < 2000
    assert max(line.get("seconds", 0.0) for line in run.metrics) < 8


def test_an_old_run_is_replaced_by_none_that_cannot_be(base, place, tmp_path) -> None:
    old = rewarded(base, place, tmp_path / "run", train={"max_steps": 1}).folder.path
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    lines = (place / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = {
        "fields": ([*lines, '{"question": "say"}'], "'prompt'"),
        "long": ([*lines, json.dumps({"prompt": "say " * 20})], "the model sees 48"),
        "few": (lines[:3], "fewer than a step of 4"),
    }
    for name, (records, told) in wrong.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(records), encoding="utf-8")
        with pytest.raises(DataError, match=told):
            api.reinforce(
                base,
                tmp_path / f"{name}.jsonl",
                reward=["length:1"],
                out=old,
                overwrite=True,
                settings=SETTINGS,
                quiet=True,
            )
        assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    with pytest.raises(DataError, match="a pipe"):
        api.reinforce(base, "-", reward=["length:1"], out=old, overwrite=True, settings=SETTINGS, quiet=True)
    assert (old / "config.toml").exists()


def test_a_divergence_that_was_not_asked_for_is_not_taken_up_midway(base, place, tmp_path) -> None:
    train, reinforce = {"max_steps": 4, "checkpoint_interval": 1}, {"num_iterations": 2}
    with pytest.raises(KeyError, match="broken off"):
        rewarded(base, place, tmp_path / "run", train=train, reinforce=reinforce, observer=Stopping(2))
    written = (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")
    edited = written.replace("[reinforce]\n", "[reinforce]\nbeta = 0.1\n") if "\nbeta = 0.0\n" not in written else ""
    edited = edited or written.replace("\nbeta = 0.0\n", "\nbeta = 0.1\n")
    (tmp_path / "run" / "config.toml").write_text(edited, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"reinforce\.beta was 0.0, is 0.1"):
        api.resume(tmp_path / "run", quiet=True)


def test_a_smaller_micro_batch_of_the_plan_is_that_of_old_probabilities_too(base, place, tmp_path, monkeypatch) -> None:
    def less_memory(config: Any, model: Any, batches: Any, objective: Any, longest: int) -> Any:
        batches.micro_batches(0)
        return batches.with_batch_size(2), 0.01

    sizes = set()
    monkeypatch.setattr("primegpt.planning.rollout_plan.first_step", less_memory)
    seen = Rollouts.log_probabilities
    note = lambda self, *args: (sizes.add((self.batch_size, self.kept is None)), seen(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(Rollouts, "log_probabilities", note)
    run = rewarded(base, place, tmp_path / "run", train={"max_steps": 1}, reinforce={"num_iterations": 2})
    assert run.config.train.batch_size == 2
    assert (2, True) in sizes
