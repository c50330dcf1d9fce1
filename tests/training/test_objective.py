"""What a step minimises, given to the trainer: an objective of pairs, from the batch to the report."""

import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from primegpt.config import resolve
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.evaluation.perplexity import Figures
from primegpt.model.gpt import GPT
from primegpt.run.checkpoint import load_newest
from primegpt.run.files import TRAIN_KEYS, figures_of
from primegpt.run.folder import RunFolder
from primegpt.signals import Interrupted
from primegpt.training.display import PlainDisplay
from primegpt.training.progress import Speed, train_line
from primegpt.training.state import TrainState
from primegpt.training.step import Precision, compute_gradients
from primegpt.training.trainer import EvaluationSet, Trainer

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}
FP32 = Precision("fp32", "cpu")


class Pairs:
    """Row 2 i is to be more probable than row 2 i + 1: -log σ(β (log p(chosen) - log p(rejected)))."""

    is_likelihood, beta = False, 0.5

    def count(self, batch: Batch) -> int:
        return len(batch.ids) // 2

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, int, Figures]:
        answers = model(batch.ids, targets=batch.targets, logprobs=True).sum(dim=1)  # (B), of (B, T)
        margins = self.beta * (answers[0::2] - answers[1::2])  # (B / 2)
        right, sum_of_margins = (margins > 0).sum(), margins.detach().sum()
        figures = {"rewards/accuracies": (right, len(margins)), "rewards/margins": (sum_of_margins, len(margins))}
        return -F.logsigmoid(margins).sum(), len(margins), figures


def rows_of_pairs(rows: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and targets (rows, 8), of which each row has another number supervised."""
    generator = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(0, 30, (2, rows, 8), generator=generator)
    kept = torch.rand(rows, 8, generator=generator) < torch.linspace(0.2, 0.9, rows).unsqueeze(1)
    return ids, targets.masked_fill(~kept, IGNORED)


def by_definition(model: GPT, ids: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """The mean loss over all pairs, one token at a time, and the share of pairs that are right."""
    logprobs = model(ids).log_softmax(-1)
    answers = [
        sum(logprobs[b, t, targets[b, t]] for t in range(8) if targets[b, t] != IGNORED) for b in range(len(ids))
    ]
    margins = torch.stack([Pairs.beta * (answers[b] - answers[b + 1]) for b in range(0, len(ids), 2)])
    return -torch.sigmoid(margins).log().mean(), (margins > 0).float().mean().item()


@pytest.mark.parametrize("split", [2, 4, 8])
def test_loss_figures_and_gradients_do_not_depend_on_how_pairs_are_split(split: int) -> None:
    config, (ids, targets) = resolve({"model": SIZES}), rows_of_pairs()
    reference, model = GPT(config.model, 3), GPT(config.model, 3)
    loss, accuracy = by_definition(reference, ids, targets)
    loss.backward()
    parts = [Batch(ids[i : i + split], targets[i : i + split], None, None, i) for i in range(0, 8, split)]
    total, count, figures = compute_gradients(model, parts, FP32, 0, 0, objective=Pairs())
    assert count == 4
    assert total / count == pytest.approx(loss.item(), abs=1e-6)
    assert figures["rewards/accuracies"] == (accuracy * 4, 4)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
    assert max(parameter.grad.abs().max() for parameter in model.parameters()) > 0.01


class PairsOfStep:
    """Two micro-batches of two pairs each, others at each step."""

    batch_size, examples_per_step, gradient_accumulation_steps, source = 4, 8, 2, None

    def micro_batches(self, step: int) -> list[Batch]:
        ids, targets = rows_of_pairs(seed=step)
        return [Batch(ids[i : i + 4], targets[i : i + 4], None, None, 8 * step + i) for i in (0, 4)]


def trainer_of_pairs(folder: RunFolder) -> Trainer:
    train = {"max_steps": 8, "eval_interval": 4, "log_interval": 3, "checkpoint_interval": 4, "learning_rate": 1e-2}
    config = resolve({"model": SIZES, "train": train | {"device": "cpu", "precision": "fp32"}})
    fixed = EvaluationSet(PairsOfStep().micro_batches(99), 0.0)
    return Trainer(
        config, GPT(config.model, 1), PairsOfStep(), train_set=fixed, val_set=fixed, folder=folder,
        precision=FP32, observer=PlainDisplay(lambda line: None), objective=Pairs(),
    )  # fmt: skip


def test_figures_reach_metrics_and_survive_a_stop_between_two_lines(tmp_path: Path) -> None:
    whole = trainer_of_pairs(RunFolder.create(tmp_path / "whole"))
    whole.fit()
    lines = whole.folder.read_metrics()
    logged = [line for line in lines if "lr" in line]
    assert [line["step"] for line in logged] == [3, 6, 8]
    accuracies = [by_definition(model, *rows_of_pairs(seed=step))[1] for step, model in weights_at_each_step(3)]
    assert logged[0]["rewards/accuracies"] == pytest.approx(sum(accuracies) / 3)
    assert logged[0]["tokens"] == sum((rows_of_pairs(seed=step)[1] != IGNORED).sum() for step in range(3))
    evaluation = next(line for line in lines if "val/loss" in line)
    loss, accuracy = by_definition(GPT(whole.config.model, 1), *rows_of_pairs(seed=99))
    assert evaluation["val/loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert evaluation["val/rewards/accuracies"] == accuracy
    assert "val/perplexity" not in evaluation

    first = trainer_of_pairs(RunFolder.create(tmp_path / "parts"))
    step = first.step

    def interrupted_step() -> None:
        if first.state.step == 5:
            signal.raise_signal(signal.SIGTERM)
        step()

    first.step = interrupted_step
    with pytest.raises(Interrupted):
        first.fit()
    second = trainer_of_pairs(first.folder)
    second.restore(load_newest(first.folder.checkpoints_dir, pytest.fail))
    second.fit()
    names = "step", "train/loss", "val/loss", "rewards/accuracies", "rewards/margins", "val/rewards/margins"
    found, expected = ([[line.get(n) for n in names] for line in t.folder.read_metrics()] for t in (second, whole))
    assert found == expected


def weights_at_each_step(count: int) -> list[tuple[int, GPT]]:
    """The model before each of the first steps of `trainer_of_pairs`."""
    trainer, models = trainer_of_pairs(RunFolder(Path("nowhere"))), []
    for step in range(count):
        models.append((step, GPT(trainer.config.model, 0).load_weights(trainer.model.weights())))
        trainer.step()
    return models


def test_figures_reach_the_progress_line() -> None:
    said: list[str] = []
    line = {"step": 9, "train/loss": 0.5, "lr": 0.1, "tokens_per_sec": 10.0}
    display = PlainDisplay(said.append, interval=-1)
    state = TrainState(step=9, max_steps=10)
    display.on_step(state, line | {"rewards/accuracies": 0.75, "rewards/margins": 1.5, "logps/chosen": -3.0})
    assert "loss 0.500  rewards/accuracies 0.750  rewards/margins 1.500  10 tok/s" in said[0]
    display.on_evaluation(state, {"step": 9, "val/loss": 0.69}, best=True)
    assert said[1] == "step 9: validation loss 0.6900 (best)"


def test_what_is_no_figure_has_its_name_in_the_set() -> None:
    state = TrainState(step=1, tokens=1, seconds=1.0, loss_sum=1.0, loss_tokens=1, figures={"kl": (1.0, 2.0)})
    line = train_line(state, lr=1.0, grad_norm=1.0, speed=Speed(1.0, 1.0), memory_mb=1.0)
    assert line.keys() - {"kl"} == TRAIN_KEYS
    assert figures_of(line) == {"kl": 0.5}


def test_an_ordinary_run_saves_what_it_always_did() -> None:
    """Runs without figures are read by earlier versions, which know none."""
    assert "figures" not in TrainState().as_json()
    state = TrainState(figures={"kl": (1.0, 2.0)})
    assert TrainState.saved(state.as_json()) == state
