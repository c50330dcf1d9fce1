"""The training step and the loop, in one process, on a model of a few thousand weights."""

import errno
import itertools
import json
import math
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch

from primegpt.config import Config, resolve
from primegpt.data.batching.batches import IGNORED, Batch, Batches, Windows, validation_windows
from primegpt.data.batching.examples import Examples
from primegpt.data.preparing.shards import Shards
from primegpt.errors import NonFiniteError, OutOfMemory, PrimegptError
from primegpt.evaluation.perplexity import evaluate_loss
from primegpt.model.gpt import GPT
from primegpt.parallel.world import World
from primegpt.run import atomic, saving
from primegpt.run.checkpoint import list_checkpoints, load_newest
from primegpt.run.folder import RunFolder
from primegpt.signals import Interrupted
from primegpt.training import checkpoints
from primegpt.training.checkpoints import save_shares
from primegpt.training.early import part_of
from primegpt.training.progress import TIMING_KEYS
from primegpt.training.step import Precision, compute_gradients
from primegpt.training.trainer import EvaluationSet, Trainer

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


class Silent:
    """An observer that keeps the messages."""

    def __init__(self):
        self.messages, self.evaluations, self.samples = [], [], []

    def on_step(self, state, line):
        pass

    def on_evaluation(self, state, line, best):
        self.evaluations.append(line)

    def on_sample(self, state, text):
        self.samples.append((state.step, text))

    def on_message(self, text):
        self.messages.append(text)


@pytest.fixture
def shards(tmp_path, write_shards):
    ids = np.random.default_rng(0).integers(1, 30, size=500)
    ids[::50] = 0
    with write_shards(tmp_path / "shards", np.split(ids, range(50, 500, 50))) as shards:
        yield shards


def configuration(preset="gpt2", **train) -> Config:
    defaults = {
        "batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "eval_interval": 5,
        "sample_interval": 6,
        "checkpoint_interval": 3,
        "log_interval": 1,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "device": "cpu",
    }
    return resolve({"model": {"preset": preset, **SIZES, "dropout": 0.1}, "train": defaults | train})


def make_trainer(config: Config, shards: Shards, folder: RunFolder, observer=None) -> Trainer:
    train = config.train
    rows = train.batch_size * train.gradient_accumulation_steps
    windows = Batches(Windows(shards, sequence_length=8, seed=train.seed), train.batch_size, rows)
    held_out = list(validation_windows(shards, sequence_length=8, batch_size=4, max_targets=64))
    fixed = EvaluationSet(held_out, 64.0, EvaluationSet(part_of(held_out), 32.0))
    return Trainer(
        config,
        GPT(config.model, train.seed),
        windows,
        train_set=fixed,
        val_set=fixed,
        folder=folder,
        precision=Precision(train.precision, "cpu"),
        observer=observer or Silent(),
        sample=lambda model: "a sample",
    )


def logged(folder: RunFolder) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMING_KEYS} for line in folder.read_metrics()]


def ragged_batch(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 30, (rows, 8), generator=generator)
    targets = torch.randint(0, 30, (rows, 8), generator=generator)
    keep = torch.rand(rows, 8, generator=generator) < torch.linspace(0.1, 0.9, rows).unsqueeze(1)
    return ids, targets.masked_fill(~keep, IGNORED)


@pytest.mark.parametrize("preset", ["gpt2", "prime"])
@pytest.mark.parametrize("split", [1, 4, 8])
def test_gradients_do_not_depend_on_how_a_ragged_batch_is_split(split, preset):
    """Oracle: the mean cross-entropy over all supervised targets at once, by autograd."""
    config = resolve({"model": {**SIZES, "preset": preset}})
    ids, targets = ragged_batch(8)
    reference = GPT(config.model, 3)
    logits = reference(ids)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED).backward()
    model = GPT(config.model, 3)
    parts = [Batch(ids[i : i + split], targets[i : i + split], None, None, first_example=i) for i in range(0, 8, split)]
    _, supervised, _ = compute_gradients(model, parts, Precision("fp32", "cpu"), seed=0, step=0)
    assert supervised == int((targets != IGNORED).sum())
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) > 0.01  # against which 1e-6 is little


def test_records_padded_per_micro_batch_give_the_same_gradients(tmp_path, write_shards):
    """Batch 8, 8 x 1 and 4 x 2 of records of all lengths, each micro-batch padded to its own longest; and to more."""
    draw = np.random.default_rng(0)
    documents = []
    for _ in range(40):
        asked, answered = draw.integers(1, 5), draw.integers(1, 4)
        documents.append((draw.integers(1, 30, asked + answered), [0] * asked + [1] * answered))
    config, gradients = resolve({"model": SIZES}), []
    with write_shards(tmp_path / "records", documents, roles=True) as records:
        for size, lengths in ((8, ()), (1, ()), (2, ()), (2, (3, 7, 8))):
            model = GPT(config.model, 3)
            parts = Batches(Examples(records, rows_per_step=8, seed=1, lengths=lengths), size, 8).micro_batches(2)
            assert len(parts) == 8 // size
            assert len({part.supervised for part in parts}) > (size < 8)
            compute_gradients(model, parts, Precision("fp32", "cpu"), seed=0, step=2)
            gradients.append([parameter.grad for parameter in model.parameters()])
    for split in gradients[1:]:
        for whole, parted in zip(gradients[0], split, strict=True):
            torch.testing.assert_close(parted, whole, atol=1e-6, rtol=0)


def test_twenty_steps_equal_a_plain_loop(shards, tmp_path):
    """All of a step at once: accumulation, decay groups, clipping, warm-up and cosine, written down the short way."""
    train = {"max_steps": 20, "warmup_steps": 5, "grad_clip": 0.5, "weight_decay": 0.3, "min_lr": 1e-3}
    # No biases: a key's moves all scores of a query alike, so its gradient is rounding, which AdamW makes large.
    config = configuration(**train).with_values(model={"dropout": 0.0, "bias": False})
    trainer = make_trainer(config, shards, RunFolder.create(tmp_path / "run"))
    model = GPT(config.model, config.train.seed)
    matrices = [p for name, p in model.named_parameters() if not name.endswith("bias") and "ln_" not in name]
    vectors = [p for name, p in model.named_parameters() if name.endswith("bias") or "ln_" in name]
    plain = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95), fused=False, foreach=False,
    )  # fmt: skip
    clipped = 0
    for step in range(20):
        parts = trainer.batches.micro_batches(step)
        logits = model(torch.cat([part.ids for part in parts]))
        targets = torch.cat([part.targets for part in parts])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED).backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        clipped += bool(norm > 0.5)
        for p in model.parameters():
            p.grad *= min(1.0, 0.5 / norm)
        cosine = 1e-3 + (1e-2 - 1e-3) * (1 + math.cos(math.pi * max(0, step - 5) / 15)) / 2
        for group in plain.param_groups:
            group["lr"] = min(1.0, (step + 1) / 6) * cosine
        plain.step()
        plain.zero_grad()
    trainer.fit()
    assert clipped > 5
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_step_without_supervised_targets_changes_nothing(shards, tmp_path):
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    before = {name: tensor.clone() for name, tensor in trainer.model.weights().items()}
    ids, targets = ragged_batch(3)
    trainer.batches.micro_batches = lambda step: [Batch(ids, torch.full_like(targets, IGNORED), None, None, 0)]
    trainer.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.weights().items())


def test_the_model_learns_what_comes_next(tmp_path, write_shards):
    """A cyclic text must be predicted exactly one token ahead: a double shift would show here."""
    with write_shards(tmp_path / "cycle", [np.arange(700) % 7]) as cycle:
        config = configuration(max_steps=80, eval_interval=80).with_values(model={"dropout": 0.0})
        trainer = make_trainer(config, cycle, RunFolder.create(tmp_path / "run"))
        trainer.fit()
    ids = torch.arange(8).unsqueeze(0) % 7
    trainer.model.eval()
    assert trainer.model(ids).argmax(-1).tolist()[0][1:] == [(i + 1) % 7 for i in range(8)][1:]


@pytest.mark.parametrize("preset", ["gpt2", "prime"])
@pytest.mark.parametrize("stop_after", [1, 3, 5, 7, 10])
def test_a_resumed_run_equals_one_that_never_stopped(preset, stop_after, shards, tmp_path):
    config = configuration(preset, patience=9)
    whole = make_trainer(config, shards, RunFolder.create(tmp_path / "whole"))
    whole.fit()

    folder = RunFolder.create(tmp_path / "parts")
    first = make_trainer(config, shards, folder)
    step = first.step

    def interrupted_step():
        if first.state.step == stop_after:
            signal.raise_signal(signal.SIGTERM)
        step()

    first.step = interrupted_step
    with pytest.raises(Interrupted) as caught:
        first.fit()
    assert caught.value.exit_code == 143

    second = make_trainer(config, shards, folder)
    checkpoint = load_newest(folder.checkpoints_dir, pytest.fail)
    assert checkpoint.step == stop_after
    second.restore(checkpoint)
    second.fit()
    assert logged(folder) == logged(whole.folder)
    for name, tensor in whole.model.weights().items():
        assert torch.equal(tensor, second.model.weights()[name])
    assert second.state.early_stopping == whole.state.early_stopping


def test_an_evaluation_that_was_not_committed_is_done_on_resume(shards, tmp_path):
    whole = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "whole"))
    whole.fit()
    folder = RunFolder.create(tmp_path / "parts")
    first = make_trainer(configuration(), shards, folder)
    evaluate = first.evaluate

    def die_at_five():
        if first.state.step == 5:
            signal.raise_signal(signal.SIGINT)
        evaluate()

    first.evaluate = die_at_five
    with pytest.raises(Interrupted) as caught:
        first.fit()
    assert caught.value.exit_code == 130
    second = make_trainer(configuration(), shards, folder)
    second.restore(load_newest(folder.checkpoints_dir, pytest.fail))
    second.fit()
    assert [line["step"] for line in second.observer.evaluations] == [5, 10, 12]
    assert logged(folder) == logged(whole.folder)


EARLY = {"early_evaluations": (1, 2, 5, 10), "eval_interval": 8, "keep_checkpoints": "milestones", "patience": 2}


def test_early_evaluations_are_of_the_model_as_it_was_then(shards, tmp_path):
    """Oracle: the weights that are kept, on a quarter of the fixed batches."""
    trainer = make_trainer(configuration(**EARLY), shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    found = {line["step"]: line for line in logged(trainer.folder) if "early/val/loss" in line}
    assert list(found) == [1, 2, 5, 10]
    for step, line in found.items():
        weights = trainer.folder.load_checkpoint(step, pytest.fail).tensors["model"]
        oracle = evaluate_loss(GPT(trainer.config.model).load_weights(weights), trainer.val_set.batches[::4])
        assert line["early/val/loss"] == pytest.approx(oracle.loss, abs=1e-6)
        assert set(line) == {
            "step", "tokens", "early/train/eval_loss", "early/val/loss", "early/val/perplexity",
            "early/val/bits_per_byte",
        }  # fmt: skip
    assert found[10]["early/val/loss"] < found[1]["early/val/loss"]
    kept = list_checkpoints(trainer.folder.checkpoints_dir)
    assert list(kept) == [0, 1, 2, 5, 8, 9, 10, 12]  # three to go on from, the best, and milestones
    told = [line for line in trainer.observer.evaluations if "early/val/loss" in line]
    assert [{**line, "seconds": 0} for line in told] == [{**line, "seconds": 0} for line in found.values()]


def test_early_evaluations_change_nothing_else(shards, tmp_path):
    runs = []
    for steps in ((1, 2, 5, 10), (0,)):
        config = configuration(**EARLY | {"early_evaluations": steps})
        trainer = make_trainer(config, shards, RunFolder.create(tmp_path / str(len(steps))))
        trainer.fit()
        runs.append(trainer)
    early, plain = runs
    assert [line for line in logged(early.folder) if "early/val/loss" not in line] == logged(plain.folder)
    assert early.state.early_stopping == plain.state.early_stopping
    assert early.folder.pointed("best") == plain.folder.pointed("best")
    for name, tensor in plain.model.weights().items():
        assert torch.equal(tensor, early.model.weights()[name])


def test_where_no_milestones_are_kept_there_are_early_losses_alone(shards, tmp_path):
    trainer = make_trainer(configuration(**EARLY | {"keep_checkpoints": 3}), shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    assert [line["step"] for line in logged(trainer.folder) if "early/val/loss" in line] == [1, 2, 5, 10]
    assert not set(list_checkpoints(trainer.folder.checkpoints_dir)) & {1, 2, 5, 10}


@pytest.mark.parametrize("killed", range(1, 13))
@pytest.mark.parametrize("signalled", [True, False])
def test_a_run_with_early_evaluations_goes_on_exactly(killed, signalled, shards, tmp_path):
    """Killed with and without the time to save, after any step: the same lines, weights and milestones."""
    whole = make_trainer(configuration(**EARLY), shards, RunFolder.create(tmp_path / "whole"))
    whole.fit()
    folder = RunFolder.create(tmp_path / "parts")
    first = make_trainer(configuration(**EARLY), shards, folder)
    after_step = first.after_step

    def dies():
        after_step()
        if first.state.step == killed:
            if not signalled:
                raise KeyError("killed")
            signal.raise_signal(signal.SIGINT)

    first.after_step = dies
    with pytest.raises(Interrupted if signalled else KeyError):
        first.fit()
    second = make_trainer(configuration(**EARLY), shards, folder)
    second.restore(load_newest(folder.checkpoints_dir, pytest.fail))
    second.fit()
    assert logged(folder) == logged(whole.folder)
    for name, tensor in whole.model.weights().items():
        assert torch.equal(tensor, second.model.weights()[name])
    assert second.state.early_stopping == whole.state.early_stopping
    for step in (0, 1, 2, 5, 8, 10):
        ours, theirs = (run.load_checkpoint(step, pytest.fail, ("model",)) for run in (folder, whole.folder))
        assert all(torch.equal(weight, theirs.tensors["model"][name]) for name, weight in ours.tensors["model"].items())


def test_evaluating_more_often_changes_nothing_else(shards, tmp_path):
    runs = []
    for interval in (2, 12):
        trainer = make_trainer(
            configuration(eval_interval=interval), shards, RunFolder.create(tmp_path / str(interval))
        )
        trainer.fit()
        runs.append((trainer, [line for line in logged(trainer.folder) if "lr" in line]))
    assert runs[0][1] == runs[1][1]
    for a, b in zip(runs[0][0].model.parameters(), runs[1][0].model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_step_zero_is_evaluated_and_close_to_uniform(shards, tmp_path):
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    first = trainer.observer.evaluations[0]
    assert first["step"] == 0
    assert first["val/loss"] == pytest.approx(math.log(30), abs=0.1)
    assert first["val/bits_per_byte"] == pytest.approx(first["val/loss"] / math.log(2))  # a byte a token here


def test_samples_at_the_start_at_intervals_and_at_the_end(shards, tmp_path):
    trainer = make_trainer(configuration(max_steps=15), shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    assert [step for step, _ in trainer.observer.samples] == [0, 6, 12, 15]
    assert sorted(path.name for path in trainer.folder.samples_dir.iterdir())[0] == "step-000000.txt"


def test_nan_is_not_saved_and_the_last_good_checkpoint_is_named(shards, tmp_path):
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    step = trainer.step

    def poisoned():
        if trainer.state.step == 7:
            with torch.no_grad():
                trainer.model.ln_f.weight.fill_(float("nan"))
        step()

    trainer.step = poisoned
    with pytest.raises(NonFiniteError, match=r"step 7.*step 6"):
        trainer.fit()
    newest = load_newest(trainer.folder.checkpoints_dir, pytest.fail)
    assert newest.step == 6
    assert all(tensor.isfinite().all() for tensor in newest.tensors["model"].values())


@pytest.mark.parametrize("ruined", [3, 6, 10])  # at a checkpoint, at a sample too, at an evaluation
def test_weights_that_an_update_ruined_are_not_saved(ruined, shards, tmp_path):
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    optimizer_step = trainer.optimizers.step

    def ruinous():
        optimizer_step()
        if trainer.state.step == ruined - 1:
            with torch.no_grad():
                trainer.model.h[0].mlp.c_fc.weight[3, 3] = float("inf")

    trainer.optimizers.step = ruinous
    good = max(step for step in (0, 3, 5, 6, 9) if step < ruined)
    with pytest.raises(
        NonFiniteError, match=rf"weights became NaN or infinite at step {ruined}; last good is step {good}"
    ):
        trainer.fit()
    assert load_newest(trainer.folder.checkpoints_dir, pytest.fail).step == good


def test_a_checkpoint_whose_evaluation_is_no_number_is_thrown_away(shards, tmp_path):
    """Its weights are finite, yet too large to compute with: the save came first, so it is taken back."""
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    evaluate = trainer.evaluate

    def of_huge_weights():
        if trainer.state.step == 10:
            with torch.no_grad():
                trainer.model.wte.weight.fill_(3e38)
        evaluate()

    trainer.evaluate = of_huge_weights
    with pytest.raises(NonFiniteError, match=r"loss on the fixed sets .* at step 10; last good is step 9"):
        trainer.fit()
    assert load_newest(trainer.folder.checkpoints_dir, pytest.fail).step == 9
    assert trainer.folder.pointed("last") == 9


def test_patience_ends_the_run(shards, tmp_path):
    config = configuration(max_steps=400, eval_interval=4, patience=2, learning_rate=0.3)
    trainer = make_trainer(config, shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    assert trainer.state.step < 400
    losses = [line["val/loss"] for line in trainer.observer.evaluations]
    assert min(losses) not in losses[-2:]
    assert trainer.folder.pointed("best") == trainer.observer.evaluations[losses.index(min(losses))]["step"]
    said, *_ = trainer.observer.messages
    assert said.startswith(f"stopped early at step {trainer.state.step} of 400 (train.patience): no validation")
    assert (
        f"since step {trainer.folder.pointed('best')} was better than its {min(losses):.4f}; this network has" in said
    )


@pytest.mark.parametrize(("rate", "warned"), [(2.0, True), (1e-2, False)])
def test_a_run_that_gained_nothing_says_so(rate, warned, shards, tmp_path):
    observer = Silent()
    make_trainer(configuration(learning_rate=rate), shards, RunFolder.create(tmp_path / "run"), observer).fit()
    assert any("the best checkpoint is step 0" in line for line in observer.messages) == warned


def test_out_of_memory_halves_the_micro_batch_and_goes_on(shards, tmp_path):
    config = configuration(batch_size=4, max_steps=6)
    trainer = make_trainer(config, shards, RunFolder.create(tmp_path / "run"))
    forward = trainer.model.forward

    def small_memory(ids, **options):
        if trainer.model.training and len(ids) > 2 and trainer.state.step >= 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, **options)

    trainer.model.forward = small_memory
    trainer.fit()
    assert trainer.state.events == [{"step": 2, "batch_size": 2, "gradient_accumulation_steps": 4}]
    whole = make_trainer(config, shards, RunFolder.create(tmp_path / "whole"))
    whole.fit()
    assert trainer.state.tokens == whole.state.tokens


def test_fp16_overflow_skips_the_update_and_is_counted(shards, tmp_path):
    trainer = make_trainer(configuration(precision="fp16", max_steps=4), shards, RunFolder.create(tmp_path / "run"))
    trainer.precision.scaler.load_state_dict(trainer.precision.scaler.state_dict() | {"scale": 1e30})
    before = {name: tensor.clone() for name, tensor in trainer.model.weights().items()}
    trainer.step()
    assert trainer.state.skipped_updates == 1
    assert trainer.precision.scaler.get_scale() < 1e30
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.weights().items())
    trainer.batches.micro_batches = lambda step: []  # a step with nothing in it is no second overflow
    trainer.step()
    assert trainer.state.skipped_updates == 1


def test_the_scaler_survives_a_resume(shards, tmp_path):
    """Overflows before and behind the stop, a scale that grows in between: all as if there had been no stop."""

    def make(name):
        folder = RunFolder.open(tmp_path / name) if (tmp_path / name).exists() else RunFolder.create(tmp_path / name)
        folder.config_path.touch()
        trainer = make_trainer(configuration(precision="fp16", max_steps=12), shards, folder)
        scaler, scale = trainer.precision.scaler, 2.0**18
        scaler.load_state_dict(scaler.state_dict() | {"scale": scale, "growth_interval": 2})
        return trainer

    whole = make("whole")
    scales, step = [], whole.step
    whole.step = lambda: (scales.append(whole.precision.scaler.get_scale()), step())
    whole.fit()
    assert whole.state.skipped_updates >= 3
    assert any(later > scale for scale, later in itertools.pairwise(scales))

    for stop_after in (1, 4, 7):
        first = make(f"parts-{stop_after}")
        while first.state.step < stop_after:
            first.step()
        first.session_start = 0.0
        first.save()
        second = make(f"parts-{stop_after}")
        second.precision.scaler.load_state_dict(second.precision.scaler.state_dict() | {"scale": 1.0})
        second.restore(load_newest(second.folder.checkpoints_dir, pytest.fail))
        second.fit()
        assert second.precision.scaler.state_dict() == whole.precision.scaler.state_dict()
        assert second.state.skipped_updates == whole.state.skipped_updates
        for name, tensor in whole.model.weights().items():
            assert torch.equal(tensor, second.model.weights()[name])


@pytest.mark.parametrize("planned", [20, 5000])
def test_the_schedule_is_fitted_to_the_time_there_is(planned, shards, tmp_path, monkeypatch):
    """Planned for a machine much slower, or much faster, than this one: it ends on time and cools down all the same."""
    clock, step = [0.0], Trainer.step

    def step_of_five_milliseconds(self: Trainer) -> None:
        step(self)
        clock[0] += 0.005

    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"primegpt.training.trainer.time.{name}", lambda: clock[0])
    monkeypatch.setattr(Trainer, "step", step_of_five_milliseconds)
    rarely = {"eval_interval": 10**6, "sample_interval": 10**6, "checkpoint_interval": 10**6}
    config = configuration(max_steps=planned, schedule="linear", **rarely).with_values(plan={"training_seconds": 2.0})
    trainer = make_trainer(config, shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    assert trainer.state.step == trainer.state.max_steps != planned
    assert trainer.state.events
    assert trainer.state.seconds == pytest.approx(2.0, rel=0.1)
    rates = [line["lr"] for line in logged(trainer.folder) if "lr" in line]
    for n, rate in enumerate(rates[4:], 4):  # the first plan's steps were the wrong measure
        assert rate == pytest.approx(1e-2 * (1 - 0.005 * (n + 1) / 2.0), abs=5e-4)
    assert rates[-1] == 0.0


def test_state_json_is_readable_and_complete(shards, tmp_path):
    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    trainer.fit()
    state = json.loads((trainer.folder.checkpoint_path("last") / "state.json").read_text(encoding="utf-8"))
    assert state["train"]["step"] == 12
    assert set(state) == {"train", "scaler", "config", "fingerprints", "data", "conditions"}


@pytest.mark.reliability
@pytest.mark.parametrize("fault", ["exit", errno.ENOSPC, errno.EIO])
def test_every_failure_of_the_disk_can_be_resumed(fault, shards, tmp_path, monkeypatch):
    """The n-th operation from the last step on fails, for every n: log, save, prune, evaluation, sample."""
    config = configuration(max_steps=6, keep_checkpoints=1)
    whole = make_trainer(config, shards, RunFolder.create(tmp_path / "whole"))
    step = whole.step
    whole.step = lambda: (whole.state.step == 5 and shutil.copytree(whole.folder.path, tmp_path / "at-5"), step())
    whole.fit()
    perform = atomic.perform

    class Exit(BaseException):
        """The process is gone."""

    def failing(operation, *arguments, **options):
        nonlocal calls
        calls += trainer.state.step == 6
        if calls >= fail_at:
            raise Exit if fault == "exit" else OSError(fault, os.strerror(fault))
        return perform(operation, *arguments, **options)

    def resumed(folder):
        trainer = make_trainer(config, shards, folder)
        trainer.restore(load_newest(folder.checkpoints_dir, pytest.fail))
        return trainer

    for fail_at in range(1, 200):
        folder, calls, caught = RunFolder(shutil.copytree(tmp_path / "at-5", tmp_path / str(fail_at))), 0, None
        trainer = resumed(folder)
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "perform", failing)
            try:
                trainer.fit()
            except (Exit, PrimegptError) as error:
                caught = error
        if caught is None:
            break
        assert isinstance(caught, Exit) == (fault == "exit")
        assert fault == "exit" or f"{os.strerror(fault)}; last good is step " in str(caught)
        saving.tidy(folder.checkpoints_dir)
        again = resumed(folder)
        assert again.state.step in (5, 6)
        again.fit()
        assert logged(folder) == logged(whole.folder)
        assert folder.pointed("last") == whole.folder.pointed("last") == 6
        for name, tensor in whole.model.weights().items():
            assert torch.equal(tensor, again.model.weights()[name])
    assert 50 < calls < fail_at


def test_a_signal_is_heeded_while_a_sample_is_written_and_behind_the_last(shards, tmp_path):
    for step, due in ((6, "sample_text"), (12, "sample")):
        folder = RunFolder.create(tmp_path / due)
        trainer = make_trainer(configuration(), shards, folder)
        original, written = getattr(trainer, due), 0

        def signalled(*arguments, trainer=trainer, step=step, original=original):
            nonlocal written
            if trainer.state.step == step:
                signal.raise_signal(signal.SIGTERM)
                if arguments:
                    written += 1
                    arguments[0](torch.zeros(1, 1, dtype=torch.long))
                    written += 1
            return original(*arguments)

        setattr(trainer, due, signalled)
        with pytest.raises(Interrupted, match=f"stopped at step {step}, saved"):
            trainer.fit()
        assert written == (1 if due == "sample_text" else 0)
        assert load_newest(folder.checkpoints_dir, pytest.fail).step == step


def test_when_another_rank_runs_out_of_memory_this_one_halves_its_micro_batch_too(shards, tmp_path):
    """Both must come to the same number of micro-batches; the gradient is that of the same rows."""

    class OtherRankIsFull(World):
        in_step = False  # as with ddp
        full = iter([1.0, 0.0])

        def max(self, value: float) -> float:
            return max(value, next(self.full))

    trainer = make_trainer(configuration(batch_size=4), shards, RunFolder.create(tmp_path / "run"))
    expected, *_ = trainer.gradients(trainer.batches.micro_batches(0))
    trainer.optimizers.zero_grad()
    trainer.world = OtherRankIsFull()
    loss, supervised, _ = trainer.gradients(trainer.batches.micro_batches(0))
    assert (trainer.batches.batch_size, trainer.batches.gradient_accumulation_steps) == (2, 4)
    assert trainer.state.events == [{"step": 0, "batch_size": 2, "gradient_accumulation_steps": 4}]
    assert (loss, supervised) == (pytest.approx(expected, rel=0.2), 64)  # dropout is drawn anew
    assert trainer.observer.messages == ["out of memory at step 0: micro-batch 2, accumulation 4"]


def test_a_signal_on_another_rank_stops_this_one(shards, tmp_path):
    class OtherRankIsStopped(World):
        def max(self, value: float) -> float:
            return value or float(signal.SIGTERM)

    trainer = make_trainer(configuration(), shards, RunFolder.create(tmp_path / "run"))
    trainer.world = OtherRankIsStopped()
    with pytest.raises(Interrupted) as stopped:
        trainer.poll()
    assert stopped.value.exit_code == 143


def test_steps_go_on_while_a_checkpoint_is_written(shards, tmp_path, monkeypatch):
    """The writing is held up until two more steps are done; what is then written is the state of before."""
    run = make_trainer(
        configuration(async_checkpoint=True, eval_interval=100, sample_interval=100, checkpoint_interval=3),
        shards,
        RunFolder.create(tmp_path / "run"),
    )
    go_on, write = threading.Event(), save_shares

    def held_up(*arguments):
        assert go_on.wait(10)
        write(*arguments)

    for _ in range(3):
        run.step()
    weights = {name: weight.clone() for name, weight in run.model.weights().items()}
    run.folder.append_metrics({"step": 3, "lr": 0.0})
    monkeypatch.setattr(checkpoints, "save_shares", held_up)
    run.save()
    run.step()
    run.step()
    assert run.checkpoints.saved_step is None
    assert load_newest(run.folder.checkpoints_dir, pytest.fail) is None
    go_on.set()
    run.checkpoints.finish()
    checkpoint = load_newest(run.folder.checkpoints_dir, pytest.fail)
    assert (checkpoint.step, run.checkpoints.saved_step, run.folder.pointed("last")) == (3, 3, 3)
    assert checkpoint.state["train"]["step"] == 3
    assert all(checkpoint.tensors["model"][name].equal(weight) for name, weight in weights.items())
    assert not all(run.model.weights()[name].equal(weight) for name, weight in weights.items())


def test_a_run_that_saves_behind_its_steps_is_the_same_run(shards, tmp_path):
    runs = []
    for name, behind in (("before", False), ("behind", True)):
        run = make_trainer(configuration(async_checkpoint=behind), shards, RunFolder.create(tmp_path / name))
        run.fit()
        runs.append(run)
    one, other = (run.folder for run in runs)
    assert logged(one) == logged(other)
    steps = [path.name for path in sorted(one.checkpoints_dir.iterdir())]
    assert steps == [path.name for path in sorted(other.checkpoints_dir.iterdir())]
    for step in steps:
        for name in ("model.safetensors", "optimizer.safetensors", "evaluation.json"):
            ours, theirs = (folder.checkpoints_dir / step / name for folder in (one, other))
            assert ours.exists() == theirs.exists()
            if name != "evaluation.json" and ours.exists():
                assert ours.read_bytes() == theirs.read_bytes()
    assert (one.pointed("best"), one.pointed("last")) == (other.pointed("best"), other.pointed("last"))


def test_a_disk_that_fails_behind_the_steps_ends_the_run_all_the_same(shards, tmp_path):
    run = make_trainer(configuration(async_checkpoint=True), shards, RunFolder.create(tmp_path / "run"))
    shutil.rmtree(run.folder.checkpoints_dir)
    run.folder.checkpoints_dir.write_text("no folder")
    with pytest.raises(PrimegptError, match="could not save step 0"):
        run.fit()


def test_a_micro_batch_of_an_odd_size_is_divided_too(shards, tmp_path):
    trainer = make_trainer(configuration(batch_size=9, max_steps=2), shards, RunFolder.create(tmp_path / "run"))
    forward = trainer.model.forward

    def small_memory(ids, **options):
        if trainer.model.training and len(ids) > 2:
            raise MemoryError
        return forward(ids, **options)

    trainer.model.forward = small_memory
    trainer.fit()
    assert [event["batch_size"] for event in trainer.state.events] == [3, 1]
    assert trainer.batches.gradient_accumulation_steps == 18


@pytest.mark.parametrize("where", ["gradients", "update", "evaluate", "sample"])
def test_memory_that_no_micro_batch_helps_with_ends_the_run_in_one_line(where, shards, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried")

    trainer = make_trainer(configuration(max_steps=6), shards, RunFolder.create(tmp_path / "run"))
    if where == "gradients":
        monkeypatch.setattr("primegpt.training.trainer.compute_gradients", full)
    elif where == "update":
        monkeypatch.setattr("primegpt.training.trainer.update", full)
    else:
        setattr(trainer, where, full)
    with pytest.raises(OutOfMemory, match=r"^out of memory at step 0") as caught:
        trainer.fit()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_run_that_ran_out_of_memory_goes_on_with_the_smaller_micro_batch(shards, tmp_path):
    """Without dropout the steps are those of a run with enough memory; a resumed one is the same bit for bit."""
    config = configuration(batch_size=4, max_steps=8, checkpoint_interval=1).with_values(model={"dropout": 0.0})

    def full_from(step, trainer):
        forward = trainer.model.forward

        def small_memory(ids, **options):
            if trainer.model.training and len(ids) > 2 and trainer.state.step >= step:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
            return forward(ids, **options)

        trainer.model.forward = small_memory
        return trainer

    enough = make_trainer(config, shards, RunFolder.create(tmp_path / "enough"))
    enough.fit()
    whole = full_from(2, make_trainer(config, shards, RunFolder.create(tmp_path / "whole")))
    whole.fit()
    losses, expected = ([line["train/loss"] for line in logged(t.folder) if "lr" in line] for t in (whole, enough))
    assert losses == pytest.approx(expected, abs=1e-4)
    folder = RunFolder.create(tmp_path / "parts")
    first = full_from(2, make_trainer(config.with_values(train={"max_steps": 8}), shards, folder))
    while first.state.step < 4:
        first.step()
        first.session_start = time.monotonic()
        first.log()
    first.save()
    second = make_trainer(config, shards, folder)  # which would have memory enough
    second.restore(load_newest(folder.checkpoints_dir, pytest.fail))
    assert second.batches.batch_size == 2
    second.fit()
    for name, tensor in whole.model.weights().items():
        assert torch.equal(tensor, second.model.weights()[name])


def test_an_interval_that_is_edited_later_holds_from_then_on(shards, tmp_path):
    """Though an event of the plan has another one, and though further events follow."""
    config = configuration(eval_interval=4).with_values(plan={"chosen": ("eval_interval",)})
    first = make_trainer(config, shards, RunFolder.create(tmp_path / "run"))
    first.session_start = time.monotonic()
    first.step()
    first.state.events.append({"step": 1, "max_steps": 12, "done": 0.0, "eval_interval": 6})
    assert first.timetable.interval(first.state, "eval_interval") == 6
    first.save()
    second = make_trainer(config.with_values(train={"eval_interval": 5}), shards, first.folder)
    second.restore(load_newest(first.folder.checkpoints_dir, pytest.fail))
    assert second.timetable.interval(second.state, "eval_interval") == 5
    second.state.events.append({"step": 1, "max_steps": 100})
    second.timetable.follow_plan(second.state, 12)
    assert second.timetable.interval(second.state, "eval_interval") == 5
    second.save()
    third = make_trainer(second.config, shards, first.folder)
    third.restore(load_newest(first.folder.checkpoints_dir, pytest.fail))
    assert (third.timetable.interval(third.state, "eval_interval"), len(third.state.events)) == (5, 3)


def test_ranks_agree_on_when_their_schedule_began(shards, tmp_path):
    """Each has a clock of its own; the rate must be one."""

    class OtherRankIsSlower(World):
        def max(self, value: float) -> float:
            return max(value, 50.0) if isinstance(value, float) and 0 < value < 50 else value

    trainer = make_trainer(configuration(max_steps=2), shards, RunFolder.create(tmp_path / "run"))
    trainer.world = OtherRankIsSlower()
    trainer.fit()
    assert trainer.state.seconds_before == 50.0
