"""tiktoken in the place of the library of tokenizer.json: the same ids for every text, or not at all."""

import json
import random

import pytest

from primegpt.tokenizers import splits
from primegpt.tokenizers.bpe import WORTHWHILE
from primegpt.tokenizers.ranks import ranks_for
from primegpt.tokenizers.tokenizer_json import read_document
from tokenizers import Tokenizer

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.fixture(scope="module")
def document(foreign_files, corpus):
    return read_document(foreign_files(corpus)["tokenizer.json"])


def split_by(document, steps):
    return {**document, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, LEVEL]}}


def library(document):
    theirs = Tokenizer.from_str(json.dumps({**document, "post_processor": None}))
    theirs.encode_special_tokens = True
    return theirs


def assert_same(document, texts):
    fast, theirs = ranks_for(document), library(document)
    assert fast is not None
    for text in texts:
        assert fast.encode(text).tolist() == theirs.encode(text).ids, text


KNOWN = {
    "gpt2": [splits.split(splits.GPT2)],
    "llama3": [splits.split(splits.LLAMA3)],
    "qwen2": [splits.split(splits.QWEN2)],
    "qwen35": [splits.split(splits.QWEN35)],
    "gpt-4o": [splits.split(splits.O200K)],
    "tekken": [splits.split(splits.TEKKEN)],
    "digits": [splits.digits(one_by_one=True), splits.split(splits.GPT2)],
}


@pytest.mark.parametrize("steps", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("whole", [True, False])
def test_ids_are_those_of_the_library(document, corpus, steps, whole):
    model = {**document["model"], "ignore_merges": whole}
    rng = random.Random(0)
    letters = ["a", "É", "ß", "語", "ǅ", "ʰ", "\u0301", "1", "½", " ", "  ", "\n", "\r\n", "\t", "\u2028", "'s", "'LL"]
    letters += ["'ſ", ".", "/", "-", "😀", "\0", "_", "the", " love"]
    drawn = ["".join(rng.choices(letters, k=rng.randint(1, 12))) for _ in range(1500)]
    assert_same({**split_by(document, steps), "model": model}, [corpus, *drawn])


@pytest.mark.parametrize("step", [101, pytest.param(1, marks=pytest.mark.reliability)])
def test_every_character_there_is_splits_alike(document, step):
    """The two libraries have tables of their own of what a letter, a digit and white space is."""
    scalars = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    text = "".join(f"a{c}1 {c}" for c in scalars[::step])
    for pattern in (splits.LLAMA3, splits.QWEN35, splits.O200K):
        assert_same(split_by(document, [splits.split(pattern)]), [text])


def test_composed_as_the_library_composes(document):
    composed = {**document, "normalizer": {"type": "NFC"}}
    assert_same(composed, ["e\u0301a\u0308 the", "\u1100\u1161\u11a8", "the", "\u0344"])


@pytest.mark.parametrize("steps", KNOWN.values(), ids=KNOWN)
def test_white_space_of_every_kind_before_every_kind(document, steps):
    """Long enough to be put apart: runs of white space at ends of texts, of lines, before what is joined to them."""
    rng, made = random.Random(3), split_by(document, steps)
    space = [" ", "  ", "\n", "\r", "\t", "\u00a0", "\u2028", "\x85", "\x1c", "\v", "\u3000"]
    other = ["a", "É", "\u0301", "1", "½", "'s", "'", ".", "/", "。", "😀", "\u200b"]
    texts = ["".join(rng.choice(rng.choice((space, other))) for _ in range(rng.randint(0, 60))) for _ in range(400)]
    fast, theirs = ranks_for(made), library(made)
    for start in range(0, len(texts), 40):
        given = texts[start : start + 40]
        assert sum(map(len, given)) >= WORTHWHILE
        assert [ids.tolist() for ids in fast.encode_all(given)] == [theirs.encode(text).ids for text in given]
    assert_same(made, ["".join(texts[start : start + 40]) for start in range(0, len(texts), 40)])


@pytest.mark.parametrize("form", [None, {"type": "NFC"}])
def test_several_texts_in_one_call(document, form):
    """Each as if it stood alone, whatever the one before it ends with."""
    fast = ranks_for({**document, "normalizer": form})
    texts = ["the  ", "", " river", "\u0301e\u0301", "\0", "\0<|never|", "|>\0", "it'", "s", ""]
    for given in (texts, texts[:1], ["", ""]):
        assert [ids.tolist() for ids in fast.encode_all(given)] == [fast.encode(text).tolist() for text in given]
    for name in ("<|never|>", "\0<|never|>", "<|never|>\0", "\0<|never|>\0"):
        assert fast.encode_all(["the", name, "river"]) is None
        assert fast.encode(name).tolist() == library(document).encode(name).ids


def test_merges_in_another_order(document, corpus):
    model = json.loads(json.dumps(document["model"]))
    for place in (0, 5, 20):
        model["merges"].append(model["merges"].pop(place))
    assert_same({**document, "model": model}, [corpus, "the river", *TEXTS])


TEXTS = ["lolove ririver", "thethe"]
OTHERS = {
    "a piece made again later": lambda m: m["merges"].append(list(_cut_otherwise(m))),
    "an unknown token": lambda m: m.update(unk_token="a"),
}


def _cut_otherwise(model):
    left, right = next(pair for pair in model["merges"] if len(pair[0]) > 1)
    return left[0], left[1:] + right


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_what_ranks_cannot_tell_is_left_to_the_library(document, change):
    model = json.loads(json.dumps(document["model"]))
    change(model)
    assert ranks_for({**document, "model": model}) is None


def test_text_with_a_byte_that_the_vocabulary_lacks_is_left_to_the_library(document):
    model = json.loads(json.dumps(document["model"]))
    del model["vocab"]["~"]
    fast = ranks_for({**document, "model": model})
    assert fast.encode("the river").tolist() == ranks_for(document).encode("the river").tolist()
    assert fast.encode("the ~ river") is None
    assert fast.encode_all(["the", "the ~ river"]) is None


def test_runs_that_are_made_of_later_ones(document):
    """Four spaces come before three in OpenAI's vocabularies, and so they may be merged of one and three."""
    model = json.loads(json.dumps(document["model"]))
    model["merges"] = [["Ġ", "Ġ"], ["Ġ", "ĠĠĠ"], ["ĠĠ", "ĠĠ"], ["ĠĠĠ", "Ġ"], ["Ġ", "ĠĠ"], ["ĠĠ", "Ġ"]]
    known = {piece: id for piece, id in model["vocab"].items() if len(piece) == 1}
    model["vocab"] = known | {"Ġ" * size: 700 + size for size in (2, 3, 4)}
    assert_same({**document, "model": model}, ["a" + " " * size + "b" for size in range(20)])


@pytest.mark.parametrize("pattern", [r"\s+$|\w+", r"(?<=a)b", r"\d+", r"[a-z&&[b]]", splits.CL100K])
def test_expressions_that_may_mean_something_else_are_left_to_the_library(document, pattern):
    assert ranks_for(split_by(document, [splits.split(pattern)])) is None


def test_a_piece_that_no_merge_makes_is_taken_whole_or_never(document):
    """tiktoken joins whatever makes a piece, so one that merging ends at in two parts would be made."""
    model = document["model"]
    names = {id: piece for piece, id in model["vocab"].items()}
    size = max(token["id"] for token in document["added_tokens"]) + 1
    alone = [names[id] for id in range(2, 258)]
    pairs = {left + right for left, right in model["merges"]}
    two = next(a + b for a in alone for b in alone if a + b not in pairs)
    three = next(c + two for c in alone if c + two[0] not in pairs and c + two not in pairs)
    for piece, exact in ((two, False), (three, True)):
        whole = {**model, "ignore_merges": True, "vocab": {**model["vocab"], piece: size}}
        assert (ranks_for({**document, "model": whole}) is not None) == exact
        merged = {**whole, "ignore_merges": False}
        assert_same({**document, "model": merged}, [two, three, f"the {two}{three}"])


def test_random_merges_in_any_order(document):
    """Of vocabularies that no training gives, those that are taken agree with the library on all short texts."""
    rng, taken = random.Random(0), 0
    texts = ["".join(rng.choices("ab", k=rng.randint(1, 12))) for _ in range(300)]
    base = {piece: id for piece, id in document["model"]["vocab"].items() if len(piece) == 1}
    for _ in range(60):
        vocabulary, merges = dict(base), []
        for _ in range(rng.randint(1, 12)):
            known = [piece for piece in vocabulary if set(piece) <= {"a", "b"}]
            pair = [rng.choice(known), rng.choice(known)]
            if pair not in merges and len("".join(pair)) < 8:
                merges.append(pair)
                vocabulary.setdefault("".join(pair), 1000 + len(vocabulary))
        model = {**document["model"], "vocab": vocabulary, "merges": merges, "ignore_merges": rng.random() < 0.5}
        made = {**document, "model": model, "added_tokens": []}
        fast, theirs = ranks_for(made), library(made)
        if fast is None:
            continue
        taken += 1
        for text in texts:
            assert fast.encode(text).tolist() == theirs.encode(text).ids, (merges, text)
    assert taken > 10
