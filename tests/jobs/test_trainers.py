"""What the samples of a run go on from."""

import pytest

from primegpt.jobs.trainers import LONGEST_PROMPT, opening


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ROMEO:\nWhat light is that?\n", "ROMEO:\n"),
        ("\n\n  ROMEO:\nWhat light\n", "ROMEO:\n"),
        ("give me a sad rap song with April rain\n\nlyrics", "give me a sad rap song with April rain\n"),
        ("the fire ran under " * 4 + "the stones of it\nnext", "the fire ran under " * 4 + "the"),
        ("x" * (LONGEST_PROMPT - 1) + " stones\n", "x" * (LONGEST_PROMPT - 1)),
        ("x" * LONGEST_PROMPT + "\nnext", "x" * LONGEST_PROMPT + "\n"),
        ("a line that was cut in mid-wo", "a line that was cut in"),
        ("天地玄黃宇宙洪荒" * 20, ("天地玄黃宇宙洪荒" * 20)[:LONGEST_PROMPT]),
        ("日本\ufffd", "日本"),
        ("", ""),
    ],
)
def test_a_prompt_ends_where_a_line_or_a_word_does(text, expected):
    assert opening(text) == expected
