"""A training step is the one that Transformers' model would make: the same loss, the same gradients, the same path."""

import pytest
import torch

from primegpt import api
from primegpt.config import resolve
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.model.gpt import GPT
from primegpt.tokenizers.char import CharTokenizer
from primegpt.training.optimizers import Optimizers
from primegpt.training.step import Precision, compute_gradients, update

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

VOCABULARY, LENGTH = 128, 47
FP32 = Precision("fp32", "cpu")


@pytest.fixture
def models(random_model, save_run, tmp_path) -> tuple[GPT, torch.nn.Module]:
    """A GPT-2 of ours and GPT2LMHeadModel with its weights, neither with dropout."""
    ours = random_model("gpt2", n_layer=3, n_head=4, n_embd=32, block_size=LENGTH + 1, vocab_size=VOCABULARY)
    with torch.no_grad():
        ours.wte.weight *= 0.3  # a loss near the logarithm of the vocabulary, as in training
    letters = CharTokenizer(chr(0x100 + i) for i in range(VOCABULARY - 4))
    folder = api.export(save_run(ours, letters), tmp_path / "hf", say=lambda message: None)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    return ours.train(), theirs.eval()


def texts(seed: int, masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Six rows of ids and their labels, equal but for what is not in the loss: ragged beginnings, and some holes."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (6, LENGTH + 1), generator=generator)
    if not masked:
        return ids, ids
    answers_begin = torch.randint(LENGTH, (6, 1), generator=generator)
    outside = (torch.arange(LENGTH + 1) < answers_begin) | (torch.rand(ids.shape, generator=generator) < 0.2)
    return ids, ids.masked_fill(outside, IGNORED)


def micro_batches(ids: torch.Tensor, labels: torch.Tensor, rows: int) -> list[Batch]:
    """Their labels stand at the token itself, our targets at the one before it."""
    return [
        Batch(ids[i : i + rows, :-1], labels[i : i + rows, 1:], None, None, first_example=i) for i in range(0, 6, rows)
    ]


def as_ours(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Their matrices inside blocks are stored (in, out)."""
    return tensor.T if name.startswith("transformer.h.") and tensor.dim() == 2 else tensor


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", [6, 2])
def test_loss_and_every_gradient_are_theirs(models, masked: bool, rows: int) -> None:
    ours, theirs = models
    ids, labels = texts(1, masked)
    total, supervised, _ = compute_gradients(ours, micro_batches(ids, labels, rows), FP32, seed=0, step=0)
    loss = theirs(input_ids=ids, labels=labels).loss
    loss.backward()
    assert supervised == (labels[:, 1:] != IGNORED).sum()
    assert (supervised < 6 * LENGTH) == masked
    assert total / supervised == pytest.approx(loss.item(), abs=1e-5)
    own = {f"transformer.{name}": p.grad for name, p in ours.named_parameters()}
    compared = {name: as_ours(name, p.grad) for name, p in theirs.named_parameters()}
    assert own.keys() == compared.keys()
    assert len(own) == 2 + 3 * 12 + 2
    for name, gradient in compared.items():
        torch.testing.assert_close(
            own[name], gradient, atol=1e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert gradient.abs().max() > 1e-3, name  # against which 1e-5 is little


def test_twenty_steps_are_those_of_a_plain_loop(models) -> None:
    """Their model, trained the way every tutorial does it, takes the same path: losses, norms and weights."""
    ours, theirs = models
    config = resolve({"train": {"learning_rate": 3e-3, "weight_decay": 0.1, "grad_clip": 0.3}}).train
    optimizers = Optimizers(ours, config)
    decayed = [p for p in theirs.parameters() if p.dim() >= 2]
    others = [p for p in theirs.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), fused=False, foreach=False)
    for step in range(20):
        ids, labels = texts(step, masked=True)
        total, supervised, _ = compute_gradients(ours, micro_batches(ids, labels, 3), FP32, seed=0, step=step)
        norm = update(ours, optimizers, FP32, config.grad_clip)
        loss = theirs(input_ids=ids, labels=labels).loss
        loss.backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        plain.step()
        plain.zero_grad()
        assert total / supervised == pytest.approx(loss.item(), abs=1e-4)
        assert norm == pytest.approx(their_norm.item(), rel=1e-3)
        assert norm > 0.3  # clipped
    own = {f"transformer.{name}": p for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        one, other = own[name], as_ours(name, parameter)
        if name.endswith(
            "c_attn.bias"
        ):  # softmax cancels the keys' bias: its gradient is rounding, which AdamW blows up
            one, other = (torch.cat([t[:32], t[64:]]) for t in (one, other))
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
