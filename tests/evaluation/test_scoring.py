"""A completion's score is the one of the plain sequence, whatever shares its context, its batch or its cache."""

import pytest
import torch

from primegpt.evaluation.hellaswag import Question, encode_question
from primegpt.evaluation.scoring import Score, encode_pair, exceeds, score_completions
from primegpt.tokenizers import store
from primegpt.tokenizers.imported import Imported
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

PRESETS = ["gpt2", "qwen3", "prime"]


def plain(model, context, completion) -> tuple[float, bool]:
    """By the definition: one sequence, one pass, log-softmax, sum."""
    if not completion:
        return 0.0, True
    ids = torch.tensor([[*context, *completion[:-1]]])
    with torch.inference_mode():
        rows = model(ids)[0, len(context) - 1 :].double().log_softmax(-1)
    return rows[range(len(completion)), completion].sum().item(), rows.argmax(-1).tolist() == list(completion)


def random_items(count=12, seed=0):
    """Contexts of 1 to 20 ids, four completions of 0 to 12 ids."""
    generator = torch.Generator().manual_seed(seed)

    def ids(least, most):
        size = int(torch.randint(least, most + 1, (1,), generator=generator))
        return torch.randint(100, (size,), generator=generator).tolist()

    return [(ids(1, 20), [ids(0, 12) for _ in range(4)]) for _ in range(count)]


def close(ours: list[list[Score]], expected) -> None:
    for scores, items in zip(ours, expected, strict=True):
        for score, (logprob, greedy) in zip(scores, items, strict=True):
            assert score.logprob == pytest.approx(logprob, abs=1e-4)
            assert score.greedy == greedy


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_shared_contexts_change_nothing(random_model, preset, batch_tokens):
    model, items = random_model(preset), random_items()
    scores = score_completions(model, items, batch_tokens=batch_tokens)
    close(scores, [[plain(model, context, each) for each in completions] for context, completions in items])
    assert [[score.tokens for score in each] for each in scores] == [[len(c) for c in each] for _, each in items]


def test_the_greedy_continuation_is_greedy(random_model):
    model, context = random_model(), [5, 6, 7]
    likeliest = []
    for _ in range(3):
        likeliest.append(model(torch.tensor([[*context, *likeliest]]))[0, -1].argmax().item())
    (scores,) = score_completions(model, [(context, [likeliest, [*likeliest[:2], (likeliest[2] + 1) % 100], []])])
    assert [score.greedy for score in scores] == [True, False, True]
    assert scores[2].logprob == 0


def test_a_long_context_is_cut_on_the_left(random_model):
    model = random_model(block_size=16)
    context, completions = list(range(40)), [[1, 2, 3], [4, 5]]
    (scores,) = score_completions(model, [(context, completions)])
    close([scores], [[plain(model, context[-14:], each) for each in completions]])  # 14 + 3 - 1 = 16 are read
    assert exceeds((context[-15:], completions), 16)
    assert not exceeds((context[-14:], completions), 16)


def test_a_completion_longer_than_the_block_is_scored_in_halves(random_model):
    model = random_model(block_size=8)
    context, long, short = [50, 51, 52], list(range(18)), [7, 8]
    (scores,) = score_completions(model, [(context, [long, short])])
    whole = [*context, *long]
    parts = [(0, 4), (4, 8), (8, 12), (12, 16), (16, 18)]
    expected = [plain(model, whole[max(0, 3 + a - 5) : 3 + a], long[a:b])[0] for a, b in parts]
    assert scores[0].logprob == pytest.approx(sum(expected), abs=1e-4)
    assert scores[0].tokens == 18
    assert scores[1].logprob == pytest.approx(plain(model, context, short)[0], abs=1e-4)


def test_training_mode_returns_and_dropout_is_off(random_model):
    model, items = random_model(dropout=0.5).train(), random_items(3)
    assert score_completions(model, items) == score_completions(model, items)
    assert model.training


def test_progress_counts_items(random_model):
    seen = []
    score_completions(
        random_model(block_size=8),
        [([1], [[2] * 30]), ([1, 2], [[3], [4]])],
        progress=lambda done, total: seen.append((done, total)),
        batch_tokens=1,
    )
    assert seen[-1] == (2, 2)
    assert seen == sorted(seen)


def test_pairs_are_split_where_the_text_is():
    tokenizer = store.train("bpe", ["ab cd ab cd\n\nab cd " * 50], 300)
    context, completion = encode_pair(tokenizer, "ab c", "d ab")
    assert tokenizer.decode(context) == "ab"  # " cd" is one token: it lies across the border
    assert tokenizer.decode(completion) == " cd ab"
    context, completion = encode_pair(tokenizer, "ab cd\n\n", "ab")
    assert (tokenizer.decode(context), tokenizer.decode(completion)) == ("ab cd\n\n", "ab")
    characters = store.train("char", ["abc"])
    assert encode_pair(characters, "a€b", "c€") == (characters.encode("a€b"), characters.encode("c€"))
    assert encode_pair(characters, "", "c") == ([], characters.encode("c"))


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_pairs_of_a_tokenizer_that_puts_a_space_first(scheme):
    """Of the whole text the library itself says where each token stands."""
    text = "the river is the song\nof the river, and the song " * 20
    theirs = Tokenizer(models.BPE(unk_token="<unk>"))
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>", "</s>"], show_progress=False)
    theirs.train_from_iterator([text], trainer)
    ours = Imported({"tokenizer.json": theirs.to_str().encode()})
    for context, completion in (("the river", " is the song"), ("the ri", "ver"), ("song", "s"), ("", "the river")):
        whole = theirs.encode(context + completion)
        before = [end <= len(context) and context != "" for _, end in whole.offsets]
        context_ids, completion_ids = encode_pair(ours, context, completion)
        assert context_ids == [id for id, inside in zip(whole.ids, before, strict=True) if inside]
        assert completion_ids == [id for id, inside in zip(whole.ids, before, strict=True) if not inside]
    question = Question("the river", ("is the song", "of the river", "and", "the"), 0)
    context_ids, endings = encode_question(ours, question)
    for ending, ids in zip(question.endings, endings, strict=True):
        assert [*context_ids, *ids] == theirs.encode(f"the river {ending}").ids
