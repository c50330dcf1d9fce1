"""DPO, IPO and SimPO against their formulas written out pair by pair, and TRL's figures beside them."""

import math

import pytest
import torch
from torch import Tensor

from primegpt.config import LoRAConfig, TrainConfig, resolve
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.data.batching.pairs import as_pairs
from primegpt.evaluation.perplexity import evaluate_loss, means
from primegpt.model.gpt import GPT
from primegpt.model.lora import adapters, add_lora
from primegpt.training.objective import objective_for
from primegpt.training.preference import ACCURACY, DPO, IPO, OBJECTIVES, SimPO, answers_of
from primegpt.training.step import Precision, compute_gradients

FP32 = Precision("fp32", "cpu")
KINDS = [("dpo", 0.0, 0.0), ("dpo", 0.2, 0.0), ("dpo", 0.0, 0.5), ("ipo", 0.0, 0.0), ("simpo", 0.0, 0.0)]
KINDS += [("simpo", 0.2, 0.1)]
BETA, GAMMA = 0.3, 0.7


def pairs(n: int = 6, seed: int = 0, filler: int = 0) -> Batch:
    """`n` pairs of unequal lengths, whose answers share prompts of unequal lengths and some beginnings; and fillers."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(100, (2, n, 21), generator=generator)
    targets = torch.full((2, n, 20), IGNORED)
    for pair in range(n):
        prompt = 2 + pair % 4
        rows[1, pair, : prompt + pair % 3] = rows[0, pair, : prompt + pair % 3]  # shared: the prompt, and a word or two
        for answer in range(2):
            end = prompt + 3 + int(torch.randint(10, (), generator=generator))
            rows[answer, pair, end:] = 0
            targets[answer, pair, prompt - 1 : end - 1] = rows[answer, pair, prompt:end]
    targets[0, n - filler :] = IGNORED
    chosen, rejected = rows[..., :-1]
    reference = -30 * torch.rand(n, 2, generator=generator)
    return as_pairs(Batch(chosen, targets[0], None, None, 0), rejected, targets[1], reference)


def objective(kind: str, smoothing: float = 0.0, sft: float = 0.0):
    settings = {"beta": BETA, "label_smoothing": smoothing, "simpo_gamma": GAMMA, "sft_weight": sft}
    return OBJECTIVES[kind](TrainConfig(objective=kind, **settings))


def by_definition(model: GPT, batch: Batch, kind: str, smoothing: float, sft: float) -> tuple[Tensor, dict[str, float]]:
    """The mean loss over the pairs, and the mean figures, one pair and one token at a time in fp64."""
    losses, rewards, shown = [], [], []
    answers = [(batch.ids, batch.targets), (batch.extras["rejected_ids"], batch.extras["rejected_targets"])]
    reference = torch.stack([batch.extras["reference_chosen"], batch.extras["reference_rejected"]], 1).double()
    for pair in range(len(batch.ids)):
        logps, sizes = [], []
        for ids, targets in answers:
            says = model(ids[pair : pair + 1])[0].double().log_softmax(-1)
            asked = [t for t in range(20) if targets[pair, t] != IGNORED]
            logps.append(sum(says[t, targets[pair, t]] for t in asked))
            sizes.append(len(asked))
        if not sizes[0]:
            continue
        usual = -sft * logps[0] / sizes[0]  # of fine-tuning on the chosen answer
        ratios = [logp - known for logp, known in zip(logps, reference[pair], strict=True)]
        if kind == "simpo":
            logps = [logp / size for logp, size in zip(logps, sizes, strict=True)]
            margin = BETA * (logps[0] - logps[1]) - GAMMA
        else:
            margin = BETA * (ratios[0] - ratios[1])
        if kind == "ipo":
            losses.append((ratios[0] / sizes[0] - ratios[1] / sizes[1] - 1 / (2 * BETA)) ** 2)
        else:
            right = 1 / (1 + torch.exp(-margin))
            losses.append(-(1 - smoothing) * torch.log(right) - smoothing * torch.log(1 - right))
        losses[-1] = losses[-1] + usual
        rewards.append([(BETA * (logps if kind == "simpo" else ratios)[answer]).item() for answer in range(2)])
        shown.append([logp.item() for logp in logps])
    n = len(losses)
    plus, minus = (sum(pair[answer] for pair in rewards) / n for answer in range(2))
    figures = {
        "rewards/chosen": plus,
        "rewards/rejected": minus,
        "rewards/accuracies": sum(chosen > rejected for chosen, rejected in rewards) / n,
        "rewards/margins": plus - minus,
        "logps/chosen": sum(chosen for chosen, _ in shown) / n,
        "logps/rejected": sum(rejected for _, rejected in shown) / n,
    }
    return torch.stack(losses).mean(), figures


@pytest.mark.parametrize(("kind", "smoothing", "sft"), KINDS)
@pytest.mark.parametrize("lora", [False, True])
def test_losses_figures_and_every_gradient_are_those_of_the_formula(random_model, kind, smoothing, sft, lora):
    models = [random_model(), random_model()]
    for model in models if lora else ():
        add_lora(model, LoRAConfig(rank=3), seed=1)
        for _, layer in adapters(model):
            torch.nn.init.normal_(layer.lora_b, std=0.05, generator=torch.Generator().manual_seed(2))
    ours, theirs = models
    batch = pairs(filler=1)
    expected, figures = by_definition(theirs, batch, kind, smoothing, sft)
    expected.backward()
    loss, count, found = compute_gradients(ours, [batch], FP32, 0, 0, objective=objective(kind, smoothing, sft))
    assert count == 5
    assert loss / count == pytest.approx(expected.item(), rel=1e-5)
    assert means(found) == pytest.approx(figures, rel=1e-5, abs=1e-5)
    learning = [(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True) if a.requires_grad]
    largest = max(b.grad.abs().max() for _, b in learning)
    for a, b in learning:
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5 * max(1.0, largest), rtol=0)
    assert largest > 0.01


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo"])
def test_a_micro_batch_may_be_divided_down_to_one_pair(random_model, kind):
    whole, batch = random_model(), pairs(8)
    loss, count, figures = compute_gradients(whole, [batch], FP32, 0, 0, objective=objective(kind))
    for size in (1, 2, 4):
        model = random_model()
        parts = [
            Batch(batch.ids[i : i + size], batch.targets[i : i + size], None, None, i,
                  {name: extra[i : i + size] for name, extra in batch.extras.items()})
            for i in range(0, 8, size)
        ]  # fmt: skip
        again = compute_gradients(model, parts, FP32, 0, 0, objective=objective(kind))
        assert again[0] == pytest.approx(loss, rel=1e-6)
        assert again[1] == count == 8
        assert means(again[2]) == pytest.approx(means(figures), rel=1e-5)
        for a, b in zip(model.parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-5)


def test_padding_changes_nothing(random_model):
    model, batch = random_model(), pairs()
    wide = as_pairs(
        Batch(*(torch.nn.functional.pad(t, (0, 9), value=v) for t, v in ((batch.ids, 0), (batch.targets, IGNORED))),
              None, None, 0),
        torch.nn.functional.pad(batch.extras["rejected_ids"], (0, 9)),
        torch.nn.functional.pad(batch.extras["rejected_targets"], (0, 9), value=IGNORED),
        torch.stack([batch.extras["reference_chosen"], batch.extras["reference_rejected"]], 1),
    )  # fmt: skip
    for kind in OBJECTIVES:
        assert objective(kind)(model, wide)[0].item() == pytest.approx(
            objective(kind)(model, batch)[0].item(), rel=1e-6
        )


def test_where_a_model_is_its_own_reference_dpo_is_ln_2_and_the_gradient_prefers_what_is_chosen(random_model):
    model, batch = random_model(), pairs()
    with torch.no_grad():
        known = torch.stack([each.logps for each in answers_of(model, batch)], 1)
    batch = as_pairs(batch, batch.extras["rejected_ids"], batch.extras["rejected_targets"], known)
    result = evaluate_loss(model, [batch], objective=objective("dpo"))
    assert result.loss == pytest.approx(math.log(2), abs=1e-6)
    assert means(result.figures)["rewards/margins"] == pytest.approx(0, abs=1e-5)
    compute_gradients(model, [batch], FP32, 0, 0, objective=objective("dpo"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-4 * parameter.grad
    assert means(evaluate_loss(model, [batch], objective=objective("dpo")).figures)[ACCURACY] == 1


def test_rows_that_fill_a_step_up_count_for_nothing(random_model):
    model, batch = random_model(), pairs()
    blank = batch.without_targets()
    for kind in OBJECTIVES:
        assert objective(kind).count(blank) == 0
        loss, count, figures = objective(kind)(model, blank)
        assert (loss.item(), count, means(figures)) == (0.0, 0, {})


def test_objectives_by_their_names():
    for name, kind in {"dpo": DPO, "ipo": IPO, "simpo": SimPO}.items():
        made = objective_for(resolve({"train": {"objective": name}}))
        assert type(made) is kind
        assert (made.is_likelihood, made.unit, made.beta, made.smoothing, made.gamma) == (False, "pair", 0.1, 0.0, 0.5)
    assert [OBJECTIVES[name].has_reference for name in ("dpo", "ipo", "simpo")] == [True, True, False]
