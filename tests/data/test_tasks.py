"""Questions with right answers: every answer checked by other means, held-out questions in no other file."""

import re
from itertools import pairwise

import pytest

from primegpt.data.tasks import KINDS, MAX_LEVEL, tasks
from primegpt.errors import UsageError


def is_right(kind: str, question: str, answer: str) -> bool:
    """Whether an answer is right, by a way of its own of finding it."""
    words = question.split()
    if kind == "add":
        return eval(question) == int(answer) and re.fullmatch(r"0|[1-9]\d*", answer) is not None
    if kind == "sort":
        order = list(map(ord, answer.split()))
        return all(a <= b for a, b in pairwise(order)) and sorted(words[1:]) == answer.split()
    if kind == "count":
        letter, text = re.fullmatch(r"count (.) in (\w+)", question).groups()
        return len(re.findall(letter, text)) == int(answer)
    if kind == "spell":
        return answer.replace(" ", "") == words[1] and len(answer) == 2 * len(words[1]) - 1
    return answer == words[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [1, 3, MAX_LEVEL])
def test_every_answer_is_right(kind, level):
    made = list(tasks(kind, 60, levels=[level]))
    assert len({task.question for task in made}) == 60
    for task in made:
        assert is_right(kind, task.question, task.answer), task
        assert task.record["messages"][1] == {"role": "assistant", "content": task.record["answer"]}


def test_levels_are_harder():
    longest = [max(len(task.question) for task in tasks("add", 200, levels=[level])) for level in (2, 3, 4)]
    assert longest == [len("12 + 34"), len("123 + 456"), len("1234 + 5678")]
    assert [task.level for task in tasks("sort", 4, levels=[2, 5])] == [2, 5, 2, 5]


def test_no_question_comes_twice_at_any_level():
    questions = [task.question for task in tasks("add", 8000, levels=[2, 3])]  # 12 + 34 may be of both
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_questions_are_in_no_other_file_whatever_the_seed(kind):
    learnt = {task.question for seed in range(4) for task in tasks(kind, 300, levels=[2], seed=seed)}
    held_out = {task.question for seed in range(4) for task in tasks(kind, 30, levels=[2], held_out=True, seed=seed)}
    assert held_out
    assert not learnt & held_out


def test_what_asks_the_same_in_another_order_is_held_out_with_it():
    learnt = {task.question for task in tasks("add", 9000, levels=[2])}
    for task in tasks("add", 800, levels=[2], held_out=True):
        a, b = task.question.split(" + ")
        assert f"{b} + {a}" not in learnt


def all_there_are(kind: str, **which) -> list[str]:
    found = []
    with pytest.raises(UsageError, match="ask for fewer"):
        found += [found.append(task.question) for task in tasks(kind, 10_001, **which)]
    return found


def test_about_a_tenth_is_held_out():
    learnt, held_out = (all_there_are("add", levels=[2], held_out=which) for which in (False, True))
    assert len(set(learnt) | set(held_out)) == 10_000  # 0 to 99 and 0 to 99
    assert 850 < len(held_out) < 1150


def test_the_same_seed_gives_the_same_questions_and_more_of_them_begin_alike():
    assert list(tasks("copy", 20, seed=5)) == list(tasks("copy", 50, seed=5))[:20]
    assert list(tasks("copy", 20, seed=5)) != list(tasks("copy", 20, seed=6))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "ad"}, "there is no task 'ad'; did you mean 'add'?"),
        ({"levels": [0]}, "level = 0"),
        ({"levels": [1, 1]}, "give each once"),
        ({"levels": []}, "give each once"),
        ({"levels": [1], "records": 101}, "level 1 of 'add' has about"),
    ],
)
def test_what_cannot_be_made_is_one_line(asked, said):
    given = {"kind": "add", "records": 10} | asked
    with pytest.raises(UsageError, match=re.escape(said)):
        list(tasks(given.pop("kind"), given.pop("records"), **given))
