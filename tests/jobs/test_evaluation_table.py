"""What is measured, in words and columns."""

from primegpt.jobs.evaluation_table import describe_evaluation

SCORE = {"own": 0.123, "shuffled": 0.081, "lift": 0.042, "interval": (0.01, 0.074)}
REAL = {"own": 1.0, "shuffled": 0.2, "lift": 0.8, "interval": (0.75, 0.85)}
UNASKED = {"own": None, "shuffled": None, "lift": None, "interval": None}
INFORMATION = {
    "information": 0.1,
    "interval": (0.0, 0.2),
    "own": 2.0,
    "shuffled": 2.1,
    "none": 2.2,
    "songs": 9,
    "cut": 0,
}


def test_scores_of_adherence_stand_in_columns():
    measured = {"generated": {"words": SCORE, "genre": UNASKED}, "real": {"words": REAL, "genre": UNASKED}}
    measured |= {"left_out": [], "prompt_information": INFORMATION}
    rows = dict(describe_evaluation({"run": "runs/a", "step": 1, "adherence": measured}))
    heads = rows["adherence"]
    for name in ("adherence, words", "  real answers"):
        assert name in rows
    words = rows["adherence, words"]
    assert words.split() == ["12.3%", "8.1%", "+0.042", "+0.010", "…", "+0.074"]
    for head, value in (("own prompt", "12.3%"), ("others'", "8.1%"), ("lift", "+0.042"), ("95% interval", "+0.074")):
        assert heads.index(head) + len(head) == words.index(value) + len(value)  # columns end alike
    assert rows["adherence, genre"].split() == ["none", "asks"]


def ends(text: str, *words: str) -> list[int]:
    return [text.index(word) + len(word) for word in words]


def test_choices_stand_in_columns():
    answers = {"items": 1000, "chance": 0.25, "contexts_cut": 0, "seconds_per_item": 0.01}
    answers |= dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_tokens"), 0.3) | {"acc": 0.0725}
    answers |= {f"{metric}_stderr": 0.014 for metric in ("acc", "acc_norm", "acc_bytes", "acc_tokens")}
    rows = dict(describe_evaluation({"run": "runs/a", "step": 1, "hellaswag": answers}))
    assert ends(rows["acc"], "7.25%", "1.40%") == ends(rows["acc_norm"], "30.00%", "1.40%")
    assert ends(rows[""], "right", "± standard error") == ends(rows["acc_norm"], "30.00%", "1.40%")
    assert rows["acc_norm"].endswith("by characters")


def test_what_was_copied_stands_beside_the_validation_text():
    written = {"share_4": 0.125, "share_12": 0.031, "longest": 17, "longest_text": "the river\n runs"}
    copied = {"generated": written, "held_out": {"share_4": 0.1, "share_12": 0.0, "longest": 9}}
    rows = describe_evaluation({"run": "runs/a", "step": 1, "memorization": copied})
    table = dict(rows)
    assert ends(table["memorisation"], "samples", "validation text") == ends(table["copied 4-grams"], "12.5%", "10.0%")
    assert ends(table["copied 12-grams"], "3.1%", "0.0%") == ends(table["longest copied span"], "17 tokens", "9 tokens")
    assert rows[-1] == ("", "the river runs")


def test_tasks_of_the_harness_stand_in_columns():
    harness = {"arc": {"acc": 0.25, "acc_norm": 0.3125}, "lambada": {"perplexity": 1234.5}}
    rows = describe_evaluation({"run": "runs/a", "step": 1, "harness": harness})[1:]
    assert rows == [
        ("arc", "acc            0.2500"), ("arc", "acc_norm       0.3125"), ("lambada", "perplexity  1234.5000"),
    ]  # fmt: skip
