"""HellaSwag's metrics on cases made by hand, its file, and any tokenizer of ours."""

import json
import math

import pytest

from primegpt.errors import DataError
from primegpt.evaluation.hellaswag import (
    METRICS,
    HellaSwagResult,
    Question,
    choose,
    encode_question,
    evaluate_hellaswag,
    read_questions,
)
from primegpt.evaluation.scoring import Score
from primegpt.tokenizers import store

# Four endings, each the best by one metric alone:
#                 sum   characters   bytes   tokens
#   "no"         -4.0   2  -2.00   2  -2.00   1  -4.00     best sum
#   "abcdefghij" -9.0  10  -0.90  10  -0.90   3  -3.00     best by characters
#   "éééééé"     -6.0   6  -1.00  12  -0.50   2  -3.00     best by bytes
#   "abcdef"    -10.0   6  -1.67   6  -1.67   5  -2.00     best by tokens
ENDINGS = ("no", "abcdefghij", "éééééé", "abcdef")
SCORES = [Score(-4.0, 1, False), Score(-9.0, 3, False), Score(-6.0, 2, False), Score(-10.0, 5, False)]


def test_the_metrics_disagree_where_they_must():
    assert choose(ENDINGS, SCORES) == {"acc": 0, "acc_norm": 1, "acc_bytes": 2, "acc_tokens": 3}


def test_of_equal_scores_the_first_is_chosen():
    assert set(choose(("ab", "cd", "ef", "gh"), [Score(-2.0, 1, False)] * 4).values()) == {0}


def test_accuracy_and_its_standard_error():
    choices = [dict.fromkeys(METRICS, 1), dict.fromkeys(METRICS, 2), dict.fromkeys(METRICS, 0)]
    result = HellaSwagResult(choices, [1, 2, 3], cut=0)
    assert result.accuracy("acc_norm") == 2 / 3
    # the standard deviation of (1, 1, 0) with n - 1 is 0.57735, over the root of 3
    assert result.standard_error("acc_norm") == pytest.approx(1 / 3)
    assert math.isnan(HellaSwagResult(choices[:1], [1], 0).standard_error("acc"))


def entry(**changed) -> str:
    return json.dumps({"ctx": "A man", "endings": ["a", "b", "c", "d"], "label": 2} | changed) + "\n"


def test_a_file_is_read_with_labels_as_numbers_or_text(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_text(entry() + "\n" + entry(label="3") + entry(), encoding="utf-8")
    assert [q.label for q in read_questions(path)] == [2, 3, 2]
    assert read_questions(path, limit=1) == [Question("A man", ("a", "b", "c", "d"), 2)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object"),
        ('{"ctx": "a"}', "'endings' is missing"),
        (entry(ctx=None), "ctx is no text"),
        (entry(endings=["a", "b", "c"]), "3 endings"),
        (entry(endings=["a", "b", "c", "d", "e"]), "5 endings"),
        (entry(endings="abcd"), "no list of endings"),
        (entry(endings=["a", "", "c", "d"]), "an ending is empty"),
        (entry(endings=["a", "b", " ", "d"]), "an ending is empty"),
        (entry(endings=[1, 2, 3, 4]), "an ending is empty, or no text"),
        (entry(label=4), "label = 4 is none"),
        (entry(label=-1), "label = -1"),
        (entry(label="x"), "label = 'x'"),
        (entry(label="x" * 100_000), "label = 'xxx"),
        (entry(label=2.7), "label = 2.7"),
        (entry(label=True), "label = True"),
        (entry(label=None), "label = None"),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, line, reason):
    """Three endings, or an empty one, were scored as if chance were a quarter."""
    path = tmp_path / "h.jsonl"
    path.write_text(entry() + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=f"line 2 is no HellaSwag question: .*{reason}") as caught:
        read_questions(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_byte_order_mark_is_no_part_of_a_question(tmp_path):
    (tmp_path / "h.jsonl").write_text(entry(), encoding="utf-8-sig")
    assert len(read_questions(tmp_path / "h.jsonl")) == 1


def test_a_missing_or_empty_file(tmp_path):
    with pytest.raises(DataError, match="nothing"):
        read_questions(tmp_path / "nothing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="no question"):
        read_questions(tmp_path / "empty.jsonl")


QUESTIONS = [
    Question("A dog runs to the door. It", ("barks at a man.", "is a car.", "eats.", "flies ☂ away."), 0),
    Question("", ("one", "two", "three", "four"), 2),
]


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_any_tokenizer_serves(random_model, kind):
    tokenizer = store.train(kind, [q.context + " ".join(q.endings) for q in QUESTIONS] * 3, 280)
    result = evaluate_hellaswag(random_model(vocab_size=tokenizer.vocab_size), tokenizer, QUESTIONS)
    assert result.items == 2
    assert all(set(choice) == set(METRICS) for choice in result.choices)
    context, endings = encode_question(tokenizer, QUESTIONS[1])
    assert context == [tokenizer.eot_id]
    assert tokenizer.decode(endings[2]) == " three"


def test_contexts_that_do_not_fit_are_counted(random_model):
    tokenizer = store.train("char", [q.context + " ".join(q.endings) for q in QUESTIONS])
    model = random_model(vocab_size=tokenizer.vocab_size, block_size=20)
    assert evaluate_hellaswag(model, tokenizer, QUESTIONS).cut == 1
