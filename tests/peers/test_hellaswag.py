"""HellaSwag's first 500 questions: the same choices as Transformers on the same weights, one sequence at a time."""

import pytest
import torch

from primegpt.evaluation.hellaswag import METRICS, encode_question, evaluate_hellaswag, read_questions
from primegpt.evaluation.scoring import score_completions
from primegpt.model.gpt import GPT
from primegpt.tokenizers import store

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # a peer's warnings are its own

ITEMS = 500


def gpt2_twin(model: GPT) -> torch.nn.Module:
    """Transformers' GPT-2 with the weights of `model`; theirs stores matrices transposed."""
    c = model.config
    config = transformers.GPT2Config(
        vocab_size=c.vocab_size, n_positions=c.block_size, n_embd=c.n_embd, n_layer=c.n_layer, n_head=c.n_head
    )
    weights = model.weights() | {"wte.weight": model.weights()["wte.weight"][: c.vocab_size]}
    theirs = {f"transformer.{name}": w.T if "c_" in name and w.dim() == 2 else w for name, w in weights.items()}
    twin = transformers.GPT2LMHeadModel(config)
    twin.load_state_dict(theirs | {"lm_head.weight": weights["wte.weight"]})
    return twin.eval()


@torch.inference_mode()
def log_probabilities(twin, context: list[int], ending: list[int]) -> list[float]:
    """Of each token of an ending, by a pass over the one full sequence."""
    rows = twin(torch.tensor([[*context, *ending]])).logits[0].double().log_softmax(-1)
    return [rows[len(context) + i - 1, id].item() for i, id in enumerate(ending)]


def test_the_first_500_questions_are_answered_alike(shared_data, random_model):
    questions = read_questions(shared_data / "hellaswag_val.jsonl", ITEMS)
    tokenizer = store.train("bpe", (" ".join((q.context, *q.endings)) for q in questions), 1000)
    model = random_model(block_size=512, vocab_size=tokenizer.vocab_size)
    twin = gpt2_twin(model)
    result = evaluate_hellaswag(model, tokenizer, questions)
    assert result.cut == 0
    items = [encode_question(tokenizer, question) for question in questions]
    scores = score_completions(model, items)
    correct = dict.fromkeys(METRICS, 0)
    for number, (question, (context, endings)) in enumerate(zip(questions, items, strict=True)):
        sums = [sum(log_probabilities(twin, context, ending)) for ending in endings]
        assert [score.logprob for score in scores[number]] == pytest.approx(sums, rel=1e-5, abs=1e-3)
        lengths = {
            "acc": [1] * 4,
            "acc_norm": list(map(len, question.endings)),
            "acc_bytes": [len(ending.encode("utf-8")) for ending in question.endings],
            "acc_tokens": list(map(len, endings)),
        }
        for metric, sizes in lengths.items():
            best = max(range(4), key=[total / size for total, size in zip(sums, sizes, strict=True)].__getitem__)
            assert result.choices[number][metric] == best
            correct[metric] += best == question.label
    assert {metric: result.accuracy(metric) for metric in METRICS} == {m: n / ITEMS for m, n in correct.items()}
