"""`primegpt reinforce`: what it is told."""

from primegpt.cli.commands import app


def test_a_reward_may_count_against():
    arguments = ["reinforce", "run", "prompts.jsonl", "--reward", "-0.1*mine.py:score", "--reward", "words"]
    _, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert bound.arguments["reward"] == ("-0.1*mine.py:score", "words")
