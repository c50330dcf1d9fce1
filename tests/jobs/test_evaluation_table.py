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
