"""Records that share a row: nothing that is asked for is lost or moved, and loss and gradients stay what they were."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from primegpt.config import resolve
from primegpt.data.batching.batches import IGNORED, Batch, Batches
from primegpt.data.batching.feed import fixed_batches, training_batches
from primegpt.data.batching.packing import needed_lengths, packed
from primegpt.data.preparing.prepare import prepare
from primegpt.evaluation.perplexity import cross_entropy
from primegpt.model import gpt
from primegpt.model.gpt import GPT


def turns(n: int) -> list[dict[str, str]]:
    """A conversation; the answers of one with a long one are of many lengths."""
    return [{"role": "user", "content": "wo"}, {"role": "assistant", "content": "da " * (1 + n * n % 17)}] * (1 + n % 4)


RECORDS = {
    "response": [{"prompt": "wie " * (1 + n % 3), "response": "so " * (1 + n * n % 23)} for n in range(60)],
    "chat": [{"messages": turns(n)} for n in range(60)],
    "song": [{"prompt": "ein Lied", "lyrics": "la la " * (1 + n * n % 23), "genre": "rock"} for n in range(60)],
}


def batch_of(lengths: list[int], answers: int = 2, width: int = 0) -> Batch:
    """Rows of so many tokens, ids of their own, of which the last `answers` are asked for."""
    T = max(width, *lengths)
    ids, targets = torch.zeros(len(lengths), T, dtype=torch.long), torch.full((len(lengths), T), IGNORED)
    for row, length in enumerate(lengths):
        ids[row, :length] = 100 * (row + 1) + torch.arange(length)
        targets[row, length - answers : length] = ids[row, length - answers : length] + 1
    return Batch(ids, targets, None, None, 7)


def records_in(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """Ids and targets of every segment that is asked for anything."""
    assert batch.segments is not None
    assert batch.positions is not None
    found = []
    for number in batch.segments.unique().tolist():
        here = batch.segments == number
        assert batch.positions[here].tolist() == list(range(int(here.sum())))
        found.append((batch.ids[here].tolist(), batch.targets[here].tolist()))
    return [(ids, targets) for ids, targets in found if max(targets) >= 0]


def test_one_row_holds_every_record_whole_and_in_order() -> None:
    batch = batch_of([5, 3, 9, 4], width=12)
    row = packed(batch, (10, 24, 40))
    assert row.ids.shape == (1, 24)
    assert row.first_example == 7
    assert records_in(row) == [
        (ids[:n].tolist(), targets[:n].tolist())
        for ids, targets, n in zip(batch.ids, batch.targets, (5, 3, 9, 4), strict=True)
    ]
    assert row.supervised == batch.supervised
    assert row.segments is not None
    assert torch.bincount(row.segments[0]).max() == 9  # what fills it up is no longer than the longest record
    assert (row.targets[0, 21:] == IGNORED).all()


def test_what_nobody_asks_for_is_left_out() -> None:
    """A record without an answer, and all that follows the last answer of another."""
    batch = batch_of([6, 8, 7], width=20)
    batch.targets[1] = IGNORED
    batch.targets[2, 4:] = IGNORED
    batch.targets[2, 2] = 5
    assert needed_lengths(batch).tolist() == [6, 0, 3]
    assert [len(ids) for ids, _ in records_in(packed(batch, (9,)))] == [6, 3]
    nothing = batch.without_targets()
    assert packed(nothing, (9,)) is nothing


@pytest.mark.parametrize("lengths", [(), (33,), (40, 50)])
def test_a_batch_stays_where_too_little_is_saved(lengths: tuple[int, ...]) -> None:
    """36 tokens in four rows of 9: of 33, more than nine tenths are left."""
    batch = batch_of([9, 8, 8, 8])
    assert packed(batch, lengths) is batch


def test_a_batch_stays_where_an_objective_needs_more_of_it() -> None:
    batch = replace(batch_of([20, 3, 3, 3]), extras={"reward": torch.zeros(4)})
    assert packed(batch, (30,)) is batch


def gradients(model: GPT, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    """The summed loss of `batches`, and its gradient by every weight."""
    model.zero_grad()
    total = sum(cross_entropy(model, batch)[0] for batch in batches)
    assert isinstance(total, Tensor)
    total.backward()
    return total.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("way", ["taken apart", "masked"])
@pytest.mark.parametrize("template", ["response", "chat", "song"])
@pytest.mark.parametrize(("preset", "kernel"), [("gpt2", "explicit"), ("prime", "sdpa")])
def test_loss_and_gradients_are_those_of_one_record_a_row(
    tmp_path, monkeypatch, template: str, preset: str, kernel: str, way: str
) -> None:
    """fp32, a step and the held-out set of every template that is packed; 1e-6 of the largest gradient of a weight."""
    source = tmp_path / "records.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[template]), encoding="utf-8")
    dropout = 0.0 if template == "chat" else 0.3
    config = resolve(
        {
            "model": {"preset": preset, "n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 160},
            "tokenizer": {"kind": "char"},
            "data": {"sources": (str(source),), "template": template, "prompt_dropout": dropout},
            "train": {"batch_size": 12, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "min_lr": 0.0},
        }
    )  # fmt: skip
    corpus = prepare(config.data, config.tokenizer, context=160, say=lambda line: None)
    config = config.with_values(model={"vocab_size": corpus.tokenizer.vocab_size})
    together = config.with_values(plan={"packed_lengths": tuple(range(50, 3000, 50))})
    if way == "masked":
        monkeypatch.setattr(gpt, "apart", lambda segments: None)
    model = GPT(config.model, 1).use_attention(kernel)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    plain, shared = (training_batches(each, corpus).micro_batches(0) for each in (config, together))
    evaluated = [list(fixed_batches(each, corpus.val)) for each in (config, together)]
    assert all(any(len(batch.ids) == 1 for batch in some) for some in (shared, evaluated[1]))
    for one, other in ((plain, shared), evaluated):
        assert sum(batch.supervised for batch in one) == sum(batch.supervised for batch in other)
        (loss, expected), (packed_loss, found) = gradients(model, one), gradients(model, other)
        assert packed_loss == pytest.approx(loss, rel=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).norm() <= 1e-6 * gradient.norm(), name


def test_the_same_rows_for_any_micro_batch() -> None:
    """Halved micro-batches, as where memory runs out, hold the same records."""

    class Given:
        examples_per_epoch, targets_per_example = 8, 2.0

        def assemble(self, examples):
            lengths = [3, 4, 15, 5, 6, 12, 3, 4]
            return batch_of([lengths[n % 8] for n in examples.tolist()])

    batches = Batches(Given(), 8, 8, form=lambda batch: packed(batch, (20, 40, 60)))
    whole, halves = batches.micro_batches(3), batches.with_batch_size(4).micro_batches(3)
    assert [len(whole), len(halves)] == [1, 2]
    assert [len(ids) for ids, _ in records_in(whole[0])] == [3, 4, 15, 5, 6, 12, 3, 4]
    assert [len(ids) for half in halves for ids, _ in records_in(half)] == [3, 4, 15, 5, 6, 12, 3, 4]
