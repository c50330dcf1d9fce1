"""DPO, IPO and SimPO are TRL's: loss, rewards and every gradient, on the same pairs and the same weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from primegpt import api
from primegpt.config import LoRAConfig, TrainConfig
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.data.batching.pairs import as_pairs
from primegpt.evaluation.perplexity import means
from primegpt.model.gpt import GPT
from primegpt.model.lora import adapters, add_lora
from primegpt.tokenizers.char import CharTokenizer
from primegpt.training.preference import OBJECTIVES, answers_of
from primegpt.training.step import Precision, compute_gradients

trl = pytest.importorskip("trl")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

VOCABULARY, LENGTH, PAIRS = 128, 30, 5
FP32 = Precision("fp32", "cpu")


@pytest.fixture
def folder(random_model, save_run, tmp_path) -> tuple[GPT, GPT, Path]:
    """A model, another one that is its reference, and the two as Transformers' GPT-2."""
    ours = random_model("gpt2", n_layer=2, n_head=2, n_embd=32, block_size=LENGTH + 1, vocab_size=VOCABULARY)
    with torch.no_grad():
        ours.wte.weight *= 0.3  # log-probabilities near those of a model that has learnt something
    reference = copy.deepcopy(ours)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    letters = CharTokenizer(chr(0x100 + i) for i in range(VOCABULARY - 4))
    for name, model in (("ours", ours), ("reference", reference)):
        api.export(save_run(model, letters, name), tmp_path / f"hf-{name}", say=lambda message: None)
    return ours, reference, tmp_path


def rows(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of chosen rows, then of rejected ones, and which of them are the answers'; (2 PAIRS, LENGTH + 1) each.

    Prompts and answers are of unequal lengths; some answers begin alike.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (2 * PAIRS, LENGTH + 1), generator=generator)
    asked = torch.zeros_like(ids)
    for pair in range(PAIRS):
        prompt = 2 + 2 * pair
        ids[PAIRS + pair, : prompt + pair % 3] = ids[pair, : prompt + pair % 3]
        for row in (pair, PAIRS + pair):
            end = prompt + 3 + int(torch.randint(LENGTH - prompt - 3, (), generator=generator))
            asked[row, prompt:end] = 1
            ids[row, end:] = 0
    return ids, asked


def our_batch(ids: torch.Tensor, asked: torch.Tensor, reference: GPT | None) -> Batch:
    targets = ids[:, 1:].masked_fill(asked[:, 1:] == 0, IGNORED)
    batch = as_pairs(Batch(ids[:PAIRS, :-1], targets[:PAIRS], None, None, 0), ids[PAIRS:, :-1], targets[PAIRS:])
    if reference is None:
        return batch
    with torch.no_grad():
        known = torch.stack([each.logps for each in answers_of(reference, batch)], 1)
    return as_pairs(batch, ids[PAIRS:, :-1], targets[PAIRS:], known)


def dpo_trainer(folder: Path, model: Any, ref_model: Any, kind: str, **more: Any) -> Any:
    import datasets
    import transformers

    settings = {"loss_type": {"dpo": "sigmoid"}.get(kind, kind), "beta": 0.3, "report_to": "none", "use_cpu": True}
    letters = chr(0x100) * 3  # what it is to be trained on is not asked for
    return trl.DPOTrainer(
        model=model,
        ref_model=ref_model,
        args=trl.DPOConfig(str(folder / "out"), bf16=False, **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": letters, "chosen": letters, "rejected": letters}]),
        processing_class=transformers.AutoTokenizer.from_pretrained(folder / "hf-ours", pad_token="<PAD>"),
        **more,
    )


def compared(gradients: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        gradient = gradient.T if gradient.shape != gradients[name].shape else gradient
        torch.testing.assert_close(
            gradients[name], gradient, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert max(gradient.abs().max() for gradient in theirs.values()) > 1e-2  # against which 1e-5 is little


def as_theirs(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Transformers keeps GPT-2's matrices inside blocks as (in, out)."""
    return tensor.T if name.startswith("transformer.h.") and tensor.dim() == 2 else tensor


@pytest.mark.parametrize("kind", ["dpo", "ipo"])
def test_dpo_and_ipo_are_those_of_dpo_trainer(folder, kind):
    import transformers

    ours, reference, path = folder
    theirs, frozen = (
        transformers.GPT2LMHeadModel.from_pretrained(path / f"hf-{name}") for name in ("ours", "reference")
    )
    ids, asked = rows()
    objective = OBJECTIVES[kind](TrainConfig(objective=kind, beta=0.3))
    loss, count, figures = compute_gradients(ours, [our_batch(ids, asked, reference)], FP32, 0, 0, objective=objective)
    trainer = dpo_trainer(path, theirs, frozen, kind)
    model = trainer.model.eval()  # without dropout
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": asked}
    expected = trainer.compute_loss(model, inputs)
    expected.backward()
    assert loss / count == pytest.approx(expected.item(), abs=1e-5)
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name, value in means(figures).items():
        assert value == pytest.approx(logged[name], abs=1e-5 * max(1.0, abs(value))), name
    own = {f"transformer.{name}": as_theirs(f"transformer.{name}", p.grad) for name, p in ours.named_parameters()}
    compared(own, {name: p.grad for name, p in model.named_parameters()})


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["simpo", "dpo"])
def test_simpo_and_label_smoothing_are_those_of_cpo_trainer(folder, kind, smoothing):
    """Its `sigmoid` loss of log-ratios in place of log-probabilities is DPO's, which smooths no more itself."""
    import transformers
    from trl.experimental.cpo import CPOTrainer

    ours, reference, path = folder
    theirs, frozen = (
        transformers.GPT2LMHeadModel.from_pretrained(path / f"hf-{name}").eval() for name in ("ours", "reference")
    )
    ids, asked = rows(2)
    objective = OBJECTIVES[kind](TrainConfig(objective=kind, beta=0.3, label_smoothing=smoothing, simpo_gamma=0.7))
    loss, count, figures = compute_gradients(ours, [our_batch(ids, asked, reference)], FP32, 0, 0, objective=objective)
    labels = ids.masked_fill(asked == 0, IGNORED)

    def logps(model: Any) -> torch.Tensor:
        return CPOTrainer.get_batch_logps(model(ids).logits, labels.clone(), average_log_prob=kind == "simpo")

    trainer = object.__new__(CPOTrainer)
    trainer.beta, trainer.simpo_gamma, trainer.label_smoothing, trainer.alpha = 0.3, 0.7, smoothing, 0.0
    trainer.loss_type = "simpo" if kind == "simpo" else "sigmoid"
    trainer.accelerator = type("OnTheCPU", (), {"device": torch.device("cpu")})()
    said = logps(theirs)
    if kind == "dpo":
        said = said - logps(frozen).detach()
    losses, chosen, rejected = trainer.cpo_loss(*said.chunk(2))
    losses.mean().backward()
    assert loss / count == pytest.approx(losses.mean().item(), abs=1e-5)
    found = means(figures)
    assert found["rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert found["rewards/rejected"] == pytest.approx(rejected.mean().item(), abs=1e-5)
    assert found["rewards/accuracies"] == pytest.approx((chosen > rejected).float().mean().item())
    if kind == "simpo":
        assert found["logps/chosen"] == pytest.approx(said[:PAIRS].mean().item(), abs=1e-5)
    own = {f"transformer.{name}": as_theirs(f"transformer.{name}", p.grad) for name, p in ours.named_parameters()}
    compared(own, {name: p.grad for name, p in theirs.named_parameters()})


def test_with_adapters_the_reference_is_the_base_without_them(folder):
    import transformers

    peft = pytest.importorskip("peft")
    ours, _, path = folder
    base = copy.deepcopy(ours)
    add_lora(ours, LoRAConfig(rank=3, alpha=6.0), seed=1)
    generator = torch.Generator().manual_seed(3)
    for _, layer in adapters(ours):
        torch.nn.init.normal_(layer.lora_b, std=0.05, generator=generator)
    lora = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, task_type="CAUSAL_LM"
    )
    theirs = transformers.GPT2LMHeadModel.from_pretrained(path / "hf-ours")
    trainer = dpo_trainer(path, theirs, None, "dpo", peft_config=lora)
    model = trainer.model.eval()
    layers = dict(adapters(ours))
    known = dict(model.named_parameters())
    with torch.no_grad():
        for name, layer in layers.items():
            for part, weight in (("lora_A", layer.lora_a), ("lora_B", layer.lora_b)):
                known[f"base_model.model.transformer.{name}.{part}.default.weight"].copy_(weight)
    ids, asked = rows(3)
    objective = OBJECTIVES["dpo"](TrainConfig(objective="dpo", beta=0.3))
    loss, count, figures = compute_gradients(ours, [our_batch(ids, asked, base)], FP32, 0, 0, objective=objective)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": asked}
    expected = trainer.compute_loss(model, inputs)
    expected.backward()
    assert loss / count == pytest.approx(expected.item(), abs=1e-5)
    assert abs(expected.item() - 0.6931) > 1e-3, "the adapters do something"
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    for name, value in means(figures).items():
        assert value == pytest.approx(logged[name], abs=1e-5 * max(1.0, abs(value))), name
    ours_by_theirs = {
        f"base_model.model.transformer.{name}".replace("lora_a", "lora_A").replace("lora_b", "lora_B")
        + ".default.weight": p.grad
        for name, p in ours.named_parameters()
        if p.requires_grad
    }
    compared(ours_by_theirs, {name: p.grad for name, p in known.items() if p.requires_grad})
