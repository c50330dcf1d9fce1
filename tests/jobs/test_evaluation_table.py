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
WHERE = {"run": "runs/a", "step": 1}


def test_each_thing_that_was_measured_has_a_table_in_the_order_of_the_options():
    text = {"source": "my.txt", "unit": "character", "loss": 1.5, "perplexity": 4.4817, "bits_per_byte": 2.164}
    kl = {"per_token": 0.01, "per_answer": 0.5, "interval": (0.0, 0.02), "from": "runs/b", "prompts": 4, "tokens": 90}
    found = {"kl": kl, "text": text | {"tokens": 1000, "bytes": 1000}, "harness": {}}
    tables = describe_evaluation(WHERE | found)
    assert [table.header[0] for table in tables] == ["text", "KL divergence"]
    assert tables[0].rows[0] == ("loss", "1.5000", "nats per character")
    assert tables[0].note == "my.txt: 1,000 tokens, 1,000 bytes, each target once"
    assert tables[1].rows == [("per token", "0.0100", "0.0000 … 0.0200"), ("per answer", "0.50", "")]


def test_scores_of_adherence_stand_beside_those_of_real_answers():
    measured = {"generated": {"words": SCORE, "genre": UNASKED}, "real": {"words": REAL, "genre": UNASKED}}
    measured |= {"left_out": ["theme"], "prompt_information": INFORMATION}
    adherence, information = describe_evaluation(WHERE | {"adherence": measured})
    assert adherence.header == ("adherence", "own prompt", "others'", "lift", "95% interval")
    assert adherence.rows[0] == ("words", "12.3%", "8.1%", "+0.042", "+0.010 … +0.074")
    assert adherence.rows[1] == ("  real answers", "100.0%", "20.0%", "+0.800", "+0.750 … +0.850")
    assert adherence.rows[2][1] == "none asks"
    assert adherence.note.startswith("left out: theme, ")
    assert information.rows[-1] == ("prompt information", "+0.1000", "+0.0000 … +0.2000")
    assert information.note == "9 answers"


def test_choices_have_their_errors_and_what_was_cut():
    answers = {"items": 1000, "chance": 0.25, "contexts_cut": 2, "seconds_per_item": 0.01}
    answers |= dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_tokens"), 0.3) | {"acc": 0.0725}
    answers |= {f"{metric}_stderr": 0.014 for metric in ("acc", "acc_norm", "acc_bytes")} | {"acc_tokens_stderr": None}
    (table,) = describe_evaluation(WHERE | {"hellaswag": answers})
    assert table.rows[0] == ("acc", "7.25%", "1.40%", "sum")
    assert table.rows[3] == ("acc_tokens", "30.00%", "", "by tokens")  # of one question there is no error
    assert table.note == "1,000 items, chance 25%, 10.0 ms an item, 2 contexts cut on the left"


def test_what_was_copied_stands_beside_the_validation_text():
    written = {"share_4": 0.125, "share_12": 0.031, "longest": 17, "longest_text": "the river\n runs"}
    copied = {"generated": written, "held_out": {"share_4": 0.1, "share_12": 0.0, "longest": 9}}
    (table,) = describe_evaluation(WHERE | {"memorization": copied})
    assert table.rows[0] == ("copied 4-grams", "12.5%", "10.0%")
    assert table.rows[-1] == ("longest copied span", "17 tokens", "9 tokens")
    assert table.note == "“the river runs”"


def test_several_rewards_are_told_one_by_one():
    words, genre = ({"mean": mean, "interval": (mean - 0.1, mean + 0.1)} for mean in (0.25, 0.5))
    judged = {"mean": 0.75, "interval": None, "rewards": {"words": words, "genre": genre}, "cut": 0.5}
    judged |= {"prompts": 40, "temperature": 0.8, "mean_tokens": 61.6}
    (table,) = describe_evaluation(WHERE | {"reward": judged})
    assert table.rows == [("mean", "0.7500", ""), ("words", "0.2500", "0.1500 … 0.3500"),
                          ("genre", "0.5000", "0.4000 … 0.6000")]  # fmt: skip
    assert table.note == "40 answers, temperature 0.8, 62 tokens on average, 50.0% cut short"
    (table,) = describe_evaluation(WHERE | {"reward": judged | {"rewards": {"words": words}}})
    assert len(table.rows) == 1


def test_each_figure_of_the_harness_has_a_row():
    harness = {"arc": {"acc": 0.25, "acc_norm": 0.3125}, "lambada": {"perplexity": 1234.5}}
    (table,) = describe_evaluation(WHERE | {"harness": harness})
    assert table.rows == [
        ("arc", "acc", "0.2500"),
        ("arc", "acc_norm", "0.3125"),
        ("lambada", "perplexity", "1234.5000"),
    ]
