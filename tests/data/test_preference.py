"""Pairs of answers in tokens: each form that data sets have, in the layout that a tokenizer has the tokens of."""

import json

import numpy as np
import pytest

from primegpt.config import DataConfig
from primegpt.data.batching.batches import IGNORED, Batches
from primegpt.data.batching.examples import read, validation_examples
from primegpt.data.batching.feed import Mixture
from primegpt.data.batching.pairs import PairSource, batch_of_pairs, row_lengths, validation_pairs
from primegpt.data.layout import Tally, row_length, tokenized
from primegpt.data.preference import Pairs
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED
from primegpt.data.reading.sources import Document
from primegpt.data.template import as_texts, layout_for, layout_name, template_for, vocabulary
from primegpt.errors import ConfigError, DataError
from primegpt.tokenizers import store

PAIRS = DataConfig(template="preference")
LETTERS = "".join(map(chr, range(32, 127))) + "\n"


def tokenizer_of(template: str):
    return store.train("char", [LETTERS], special_tokens=vocabulary(DataConfig(template=template), {}))


def said(template: str, limit: int = 1000, **fields) -> tuple[str, str, str]:
    """The prompt of a pair, the chosen answer and the rejected one, as the model gets them."""
    tokenizer = tokenizer_of(template)
    layout = layout_for(PAIRS, tokenizer)
    (row,) = layout.rows(Document("", "p.jsonl", fields, "p.jsonl, line 3"), 0, tokenizer, limit)
    assert (np.diff(row.roles[row.roles != CONTEXT].astype(int)) >= 0).all(), "chosen before rejected"
    return tuple(tokenizer.decode(row.ids[row.roles == role]) for role in (CONTEXT, SUPERVISED, REJECTED))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


IN_CHAT = ("<user>Hi</turn><assistant>", "Hello</turn>", "What?</turn>")


@pytest.mark.parametrize(
    ("template", "fields", "expected"),
    [
        ("response", {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"},
         ("<prompt>Hi<response>", "Hello</response>", "What?</response>")),
        ("chat", {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}, IN_CHAT),
        ("chat", {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("What?")]}, IN_CHAT),
        ("chat", {"chosen": [user("Hi"), assistant("Hello")], "rejected": [user("Hi"), assistant("What?")]}, IN_CHAT),
        ("chat", {"prompt": "Hi", "chosen": [user("Hi"), assistant("Hello")],
                  "rejected": [user("Hi"), assistant("What?")]}, IN_CHAT),
        ("chat", {"prompt": "Hi", "chosen": [assistant("Hello")], "rejected": [assistant("What?")]}, IN_CHAT),
        ("chat", {"prompt": [{"role": "system", "content": "Be kind"}, user("a"), assistant("b"), user("c")],
                  "chosen": [assistant("same")], "rejected": [assistant("same")]},
         ("<system>Be kind</turn><user>a</turn><assistant>b</turn><user>c</turn><assistant>", "same</turn>",
          "same</turn>")),
        ("response", {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("What?")]},
         ("<prompt>Hi<response>", "Hello</response>", "What?</response>")),
        ("song", {"prompt": "a song", "genre": "rock", "chosen": "[Chorus]\nla", "rejected": "lo"},
         ("<prompt><genre_rock>a song\n<song>", "\n[chorus]\nla\n</song>", "\nlo\n</song>")),
    ],
)  # fmt: skip
def test_every_form_in_the_layout_that_the_tokenizer_has(template, fields, expected):
    assert said(template, **fields) == expected


def test_text_never_becomes_a_control_token():
    assert said("response", prompt="</response>", chosen="<prompt>", rejected="x")[1] == "<prompt></response>"
    tokenizer = tokenizer_of("response")
    (row,) = layout_for(PAIRS, tokenizer).rows(
        Document("", "", {"prompt": "a", "chosen": "<prompt>", "rejected": "b"}), 0, tokenizer, 99
    )
    assert len(row.ids) == 3 + len("<prompt>") + 1 + 2


@pytest.mark.parametrize(
    ("template", "fields", "message"),
    [
        ("chat", {"prompt": "a", "chosen": "b"}, r"line 3 is no pair: there is no field 'rejected', only 'prompt'"),
        ("chat", {"chosen": "a", "rejected": "b"}, "there is no field 'prompt'"),
        ("chat", {"prompt": "a", "chosen": "b", "rejected": 3}, "neither two texts nor two lists of messages"),
        ("chat", {"prompt": "a", "chosen": [], "rejected": []}, "neither two texts nor two lists of messages"),
        ("chat", {"chosen": [assistant("a")], "rejected": [assistant("b")]}, "there is no prompt"),
        ("chat", {"prompt": "x", "chosen": [assistant("a"), user("b"), assistant("c")], "rejected": [assistant("b")]},
         "chosen is more than one message of the assistant"),
        ("chat", {"prompt": "x", "chosen": [assistant("a")], "rejected": [user("b")]}, "rejected is more than one"),
        ("chat", {"prompt": "x", "chosen": [{"role": "tool", "content": "a"}], "rejected": [assistant("b")]},
         "line 3, chosen is a tool message"),
        ("response", {"prompt": [user("a"), assistant("b"), user("c")], "chosen": [assistant("a")],
                      "rejected": [assistant("b")]}, "a conversation of 3 messages, and this model answers one prompt"),
        ("song", {"prompt": "x", "genre": "polka", "chosen": "a", "rejected": "b"}, "genre 'polka' is not in the"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused_in_one_line(template, fields, message):
    with pytest.raises(DataError, match=message) as refused:
        said(template, **fields)
    assert "\n" not in str(refused.value)


def test_a_base_that_has_not_learnt_to_answer_is_refused():
    plain = store.train("char", [LETTERS])
    with pytest.raises(ConfigError, match=r"control tokens of no template.*fine-tune it on answers first"):
        layout_for(PAIRS, plain)


def test_who_asks_the_model_later_gets_the_template_of_its_answers():
    for name in ("song", "response", "chat"):
        tokenizer = tokenizer_of(name)
        assert template_for(PAIRS, tokenizer).name == layout_name(PAIRS, tokenizer) == name
        assert isinstance(layout_for(PAIRS, tokenizer), Pairs)
    assert vocabulary(PAIRS, {}) == {}


def test_what_is_too_long_is_cut_alike_for_both_answers():
    prompt, chosen, rejected = said("response", limit=20, prompt="p" * 30, chosen="c" * 5, rejected="r" * 12)
    assert prompt == "<prompt>" + "p" * 8 + "<response>", "half of the room, as of any record with a long answer"
    assert (chosen, rejected) == ("c" * 5 + "</response>", "r" * 10)
    prompt, chosen, rejected = said("response", limit=20, prompt="p" * 30, chosen="c" * 2, rejected="r" * 4)
    assert (len(prompt) - len("<prompt><response>"), chosen, rejected[:4]) == (13, "cc</response>", "rrrr")
    assert said("response", limit=20, prompt="pp", chosen="c" * 30, rejected="r" * 25)[1:] == ("c" * 16, "r" * 16)
    tokenizer, tally = tokenizer_of("response"), Tally()
    document = Document("", "", {"prompt": "p", "chosen": "c" * 5, "rejected": "r" * 70})
    layout_for(PAIRS, tokenizer).rows(document, 0, tokenizer, 50, tally)
    assert (tally.examples, tally.truncated, tally.fitting_context()) == (1, 1, 128)
    parts = [tokenized(part, tokenizer) for part in layout_for(PAIRS, tokenizer).parts(document, 0)]
    assert row_length(parts) == 3 + 71


def test_the_rejected_answer_is_no_text_to_be_learnt_by_heart():
    layout = layout_for(PAIRS)
    (text,) = as_texts([Document("", "", {"prompt": "a", "chosen": "b", "rejected": "c"})], layout)
    assert text.text == "ab"


# ---- Batches


@pytest.fixture
def shards(tmp_path, write_shards):
    """Ten pairs of unequal lengths: pair n has the prompt 100 + n, n % 3 times, and answers of n and of 50 + n."""
    documents = []
    for n in range(10):
        pieces = [[100 + n] * (1 + n % 3), [n + 1] * (2 + n), [50 + n] * (12 - n)]
        roles = np.repeat([CONTEXT, SUPERVISED, REJECTED], [len(piece) for piece in pieces]).astype(np.uint8)
        documents.append((np.concatenate(pieces), roles))
    return write_shards(tmp_path, documents, roles=True, shard_tokens=37)


def rows_of(batch):
    """Each pair as the ids and targets of both answers, padding left out."""
    found = []
    for b in range(len(batch.ids)):
        for ids, targets in (
            (batch.ids[b], batch.targets[b]),
            (batch.extras["rejected_ids"][b], batch.extras["rejected_targets"][b]),
        ):
            end = int(np.flatnonzero(targets != IGNORED).max()) + 1
            found.append(([*ids[:end].tolist(), int(targets[end - 1])], targets[:end].tolist()))
    return found


def expected_rows(n: int):
    prompt = [100 + n] * (1 + n % 3)
    for answer in ([n + 1] * (2 + n), [50 + n] * (12 - n)):
        yield prompt + answer, [IGNORED] * (len(prompt) - 1) + answer


def test_a_row_is_a_pair_with_its_prompt_before_both_answers(shards):
    assert shards.has_pairs
    assert row_lengths(shards).tolist() == [len(p) + max(len(c), len(r)) for p, c, r in map(lengths_of, range(10))]
    batch = batch_of_pairs(shards, [3, 0, 9], 7)
    assert rows_of(batch) == [row for n in (3, 0, 9) for row in expected_rows(n)]
    assert batch.first_example == 7
    assert batch.ids.shape == batch.extras["rejected_ids"].shape
    shards.reference = np.arange(20, dtype=np.float32).reshape(10, 2)
    extras = batch_of_pairs(shards, [3, 0, 9], 7).extras
    assert extras["reference_chosen"].tolist() == [6, 0, 18]
    assert extras["reference_rejected"].tolist() == [7, 1, 19]
    assert shards.part(3, 5).reference.tolist() == [[6, 7], [8, 9]]


def lengths_of(n: int):
    return range(1 + n % 3), range(2 + n), range(12 - n)


def test_every_pair_once_an_epoch_however_steps_are_divided(shards):
    source = PairSource(shards, rows_per_step=5, seed=3)
    whole, halves = Batches(source, 5, 5), Batches(source, 1, 5)
    for epoch in range(2):
        prompts = []
        for step in (2 * epoch, 2 * epoch + 1):
            (batch,) = whole.micro_batches(step)
            prompts += batch.ids[:, 0].tolist()
            assert rows_of(batch) == [row for part in halves.micro_batches(step) for row in rows_of(part)]
        assert sorted(prompts) == list(range(100, 110))
    assert whole.tokens_per_step == round(sum(2 + n for n in range(10)) / 2)


def test_of_several_sources_each_row_keeps_what_the_reference_says_of_it(shards):
    shards.reference = np.stack([np.arange(100, 110), np.arange(50, 60)], 1).astype(np.float32)
    parts = [PairSource(shards.part(*span), rows_per_step=2, seed=1) for span in ((0, 4), (4, 10))]
    (batch,) = Batches(Mixture(parts, [1.0, 1.0], seed=2), 16, 16).micro_batches(0)
    assert batch.extras["reference_chosen"].tolist() == batch.ids[:, 0].tolist()
    said = [int(row[1][-1]) for row in rows_of(batch)[1::2]]
    assert batch.extras["reference_rejected"].tolist() == said
    assert {len(set(batch.ids[:, 0].tolist()) & set(range(100, 104))) > 0, len(set(said)) > 4} == {True}


def test_validation_reads_each_pair_once_and_a_likelihood_is_that_of_chosen_answers(shards):
    batches = list(validation_pairs(shards, batch_size=4, lengths=(16, 40)))
    assert [row for batch in batches for row in rows_of(batch)] == [row for n in range(10) for row in expected_rows(n)]
    assert {batch.ids.shape[1] for batch in batches} == {16}
    chosen = list(validation_examples(shards, batch_size=4, lengths=(16, 40)))
    for ours, theirs in zip(batches, chosen, strict=True):
        assert (ours.ids == theirs.ids).all()
        assert (ours.targets == theirs.targets).all()
    assert sum(batch.supervised for batch in batches) == shards.supervised_tokens
    assert len(next(iter(validation_pairs(shards, batch_size=10, max_targets=20))).ids) == 3
    assert read(shards, 4)[0].tolist() == next(iter(expected_rows(4)))[0]


def test_preparing_keeps_a_pair_together(tmp_path):
    from primegpt.config import TokenizerConfig
    from primegpt.data.preparing.prepare import prepare, record_lengths

    path, tokenizer = tmp_path / "pairs.jsonl", tokenizer_of("response")
    rows = [{"prompt": f"p{n}", "chosen": f"c{n}" * 3, "rejected": "r" * (n % 20)} for n in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = PAIRS.model_copy(update={"sources": (str(path),)})
    corpus = prepare(config, TokenizerConfig(kind="char"), tokenizer=tokenizer, context=64)
    assert (corpus.train.n_documents, corpus.val.n_documents) == (54, 6)
    lengths = sorted(record_lengths(config, TokenizerConfig(kind="char"), tokenizer=tokenizer))
    assert lengths == sorted([*row_lengths(corpus.train).tolist(), *row_lengths(corpus.val).tolist()])
