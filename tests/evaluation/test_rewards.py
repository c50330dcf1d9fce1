"""Rewards against values counted by hand, and every way in which one of the user's own can fail: one line each."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from primegpt.data.reading.records import Document
from primegpt.data.songbook import songbook
from primegpt.errors import DataError, PrimegptError, UsageError
from primegpt.evaluation.reward_code import PROGRAM, RewardError
from primegpt.evaluation.rewards import parse

SONG = "[verse]\nI walk in the rain\nI think of you\nI wait for the train\nI feel so blue"


def worth(spec: str, completion: str, prompt: str = "", **record: object) -> float:
    (value,) = parse([spec])([prompt], [completion], [record])
    return value


# ---- the known ones


@pytest.mark.parametrize(
    ("completion", "share"), [("The rivers run", 1 / 3), ("a letter on the river, lost", 1.0), ("", 0.0), ("song", 0.0)]
)
def test_words_is_the_share_of_the_prompts_content_words(completion, share):
    assert worth("words", completion, "a song about the river and a lost letter") == pytest.approx(share)


def test_a_prompt_that_asks_for_nothing_is_worth_nothing():
    assert worth("words", "anything", "a song about it") == 0.0


def test_themes_is_the_share_of_the_records_themes():
    assert worth("themes", "the river and my name", themes=["river", "name tag"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(("kind", "asked"), [("genre", "rb"), ("genre", "R&B"), ("genre", "rap"), ("emotion", "sad")])
def test_a_voice_is_recognised_in_the_songbooks_own_songs(kind, asked):
    """Most songs speak in the voice that they were written in; labels are read as people write them."""
    songs = [song for song in songbook(400) if getattr(song, kind) == asked.lower().replace("&", "")]
    own = parse([kind])([""] * len(songs), [song.lyrics for song in songs], [{kind: asked}] * len(songs))
    other = {"genre": "rock", "emotion": "happy"}[kind]
    theirs = parse([kind])([""] * len(songs), [song.lyrics for song in songs], [{kind: other}] * len(songs))
    assert sum(own) / len(own) > 0.75 > 0.2 > sum(theirs) / len(theirs)


def test_rhyme_counts_pairs_and_takes_stanzas_for_sections_where_there_are_no_headers():
    assert worth("rhyme", SONG) == 2 / 5  # ABAB: 2 of 3 + 2 pairs
    assert worth("rhyme", SONG.removeprefix("[verse]\n")) == 2 / 5
    assert worth("rhyme", "I stay\nI play\n\nI run\nI sit") == 1 / 2
    assert worth("rhyme", "") == 0.0


def test_sections_asks_for_the_order_of_a_song():
    assert worth("sections", next(songbook(1)).lyrics) == 1.0
    assert worth("sections", SONG) == 0.0


@pytest.mark.parametrize(("words", "value"), [(10, 1.0), (5, 0.5), (20, 0.5), (0, 0.0), (40, 0.25)])
def test_length_is_a_ratio_to_the_target(words, value):
    text = " ".join(["word"] * words)
    assert worth("length:10", text) == worth("length", text, length=10) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [("12", 12, 1.0), ("12", 12.0, 1.0), (" 1  2\n", "1 2", 1.0), ("12", "1 2", 0.0), ("", "a", 0.0)],
)
def test_exact_compares_with_the_records_answer(completion, answer, value):
    assert worth("exact", completion, answer=answer) == value


def test_a_pattern():
    assert worth(r"regex:^\d+$", "42") == 1.0
    assert worth(r"regex:^\d+$", "42 or so") == 0.0
    assert worth("regex:a:b*", "a:") == 1.0  # all that stands after the first colon


def test_one_name_is_a_reward_too():
    assert parse("2*length:2").names == parse(["2*length:2"]).names == ("length:2",)


def test_sums_are_weighted_and_named():
    reward = parse(["exact", "0.5*length:2", "-2 * regex:no"])
    assert reward.names == ("exact", "length:2", "regex:no")
    assert reward.needs == ("answer",)
    asked = ["", ""], ["no", "yes yes"], [{"answer": "no"}, {"answer": "no"}]
    assert reward(*asked) == [1 + 0.5 * 0.5 - 2, 0 + 0.5 * 1 - 0]
    assert reward.by_name(*asked) == {"exact": [1.0, 0.0], "length:2": [0.5, 1.0], "regex:no": [1.0, 0.0]}


def test_the_fingerprint_is_of_all_that_decides_the_value(tmp_path):
    file = tmp_path / "my.py"
    file.write_text("def score(p, c, r): return 1")
    specs = ["exact"], ["2*exact"], ["words"], ["words", "exact"], [f"{file}:score"]
    before = [parse(spec).fingerprint for spec in specs]
    assert len(set(before)) == len(before)
    assert before == [parse(spec).fingerprint for spec in specs]
    file.write_text("def score(p, c, r): return 2")
    assert parse([f"{file}:score"]).fingerprint != before[-1]


# ---- refusals


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        ([], "no reward was given; name one: words, themes"),
        (["wrods"], "no reward 'wrods'; did you mean 'words'"),
        (["exact", "2*exact"], "'exact' is named twice"),
        (["0*exact"], "has the weight 0"),
        (["1e999*exact"], "has the weight inf"),
        (["length:x"], "'length:x' names no length; length:120"),
        (["length:0"], "names no length"),
        (["regex:("], "'regex:(' is no regular expression: missing )"),
        (["none.py:score"], "'none.py:score': No such file"),
    ],
)
def test_what_is_no_reward_is_one_line(specs, said):
    with pytest.raises(UsageError) as error:
        parse(specs)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("spec", "record", "said"),
    [
        ("exact", {"prompt": "2 + 2"}, "the reward 'exact' reads the field 'answer', and there is only 'prompt'; give"),
        ("themes", {"themes": "river"}, "themes = 'river'; the reward 'themes' reads a list of texts"),
        ("genre", {"genre": "polka"}, "genre = 'polka'; the reward 'genre' reads one of 'pop', 'rap'"),
        ("emotion", {"emotion": None}, "emotion = None; the reward 'emotion' reads one of"),
        ("length", {"length": -1}, "length = -1; the reward 'length' reads a number of words above 0"),
        ("exact", {"answer": ["a"]}, "answer = ['a']; the reward 'exact' reads a text or a number"),
    ],
)  # fmt: skip
def test_a_record_without_what_is_needed_is_named_by_its_place(spec, record, said):
    document = Document("", "my.jsonl", record, "my.jsonl, line 7")
    for asks in (
        lambda reward: reward.check([document]),
        lambda reward: reward([""], [""], [record], ["my.jsonl, line 7"]),
    ):
        with pytest.raises(DataError) as error:
            asks(parse([spec]))
        assert str(error.value).startswith("my.jsonl, line 7: ")
        assert said in str(error.value)


# ---- the user's own


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A maker of rewards from the text of a file, mine.py."""
    monkeypatch.chdir(tmp_path)

    def make(code: str, function: str = "score", seconds: float = 20):
        Path("mine.py").write_text(code)
        return parse([f"mine.py:{function}"], seconds=seconds)

    return make


def test_a_function_sees_prompt_completion_and_record(own):
    reward = own("def score(prompt, completion, record): return len(prompt) + 10 * len(completion) + record['n']")
    assert reward(["a", ""], ["bb", "ccc"], [{"n": 100}, {"n": 200}]) == [121.0, 230.0]


def test_what_it_prints_is_no_answer_and_what_lies_beside_it_can_be_imported(own, tmp_path):
    (tmp_path / "beside.py").write_text("FACTOR = 3")
    reward = own("import beside\nprint('hello')\ndef score(p, c, r):\n  print(1)\n  return beside.FACTOR * len(c)")
    assert reward([""], ["ab"], [{}]) == [6.0]


@pytest.mark.parametrize(("value", "number"), [("True", 1.0), ("3", 3.0), ("numpy.float32(0.5)", 0.5)])
def test_what_counts_as_a_number(own, value, number):
    assert own(f"import numpy\ndef score(p, c, r): return {value}")([""], ["a"], [{}]) == [number]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def score(p, c, r):\n  return 1 / len(c)", "mine.py:2: ZeroDivisionError: division by zero; completion ''"),
        ("def score(p, c, r): return r['answer']", "mine.py:1: KeyError: 'answer'; completion '', record 1"),
        ("def score(p, c, r): return float('nan')", "it returned nan; completion '', record 1"),
        ("def score(p, c, r): return 10**400", "OverflowError"),
        ("def score(p, c, r): return 'good'", "it returned 'good', which is no number; completion ''"),
        ("def score(p, c, r): return None", "it returned None, which is no number"),
        ("import random\ndef score(p, c, r): return random.random()", "two calls with the same completion gave 0."),
        ("n = 0\ndef score(p, c, r):\n  global n\n  n += 1\n  return n", "two calls with the same completion gave"),
        ("def score(p, c): return 1", "TypeError: score() takes 2 positional arguments but 3 were given"),
        ("def other(p, c, r): return 1", "there is no function 'score', only other"),
        ("def score(p, c, r:", "mine.py:1: SyntaxError"),
        ("import nothing_of_this_name", "mine.py:1: ModuleNotFoundError"),
        ("raise SystemExit(3)", "mine.py:1: SystemExit: 3"),
        ("import os\ndef score(p, c, r): os._exit(5)", "its process has ended by itself, exit code 5"),
    ],
)
def test_each_fault_is_one_line_that_names_the_reward(own, code, said):
    reward = own(code)
    for _ in range(2):  # the second time as the first
        with pytest.raises(PrimegptError) as error:
            reward([""], [""], [{}])
        assert said in str(error.value)
        assert str(error.value).startswith("reward mine.py:score: ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def scores(p, c, r): return 1", "there is no function 'score', only scores"),
        ("def score(p, c, r:", "mine.py:1: SyntaxError"),
    ],
)
def test_what_cannot_be_run_is_found_before_anything_is_written(own, code, said):
    with pytest.raises(RewardError, match=re.escape(said)):
        own(code).check([])


@pytest.mark.parametrize("code", ["def score(p, c, r):\n  while c == 'slow': pass\n  return 1"])
def test_one_that_hangs_is_ended_and_can_be_asked_again(own, code):
    reward = own(code, seconds=0.5)
    assert reward([""], ["fast"], [{}]) == [1.0]
    started = time.monotonic()
    with pytest.raises(RewardError, match=r"it takes more than 0.5 s; completion 'slow', record 1"):
        reward([""], ["slow"], [{}])
    assert time.monotonic() - started < 5
    assert reward([""], ["fast"], [{}]) == [1.0]


def test_a_pattern_that_hangs_is_ended():
    reward = parse(["regex:(a+)+$"], seconds=0.5)
    with pytest.raises(RewardError, match="takes more than"):
        reward([""], ["a" * 60 + "b"], [{}])


def test_the_same_sets_in_every_process(own):
    """Python walks through a set of texts in another order in each process, unless it is told not to."""
    code = "def score(p, c, r): return float(list(set('abcdefgh')).index('a'))"
    assert len({own(code)([""], ["x"], [{}])[0] for _ in range(4)}) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="has no alarm")
def test_a_process_that_nobody_ends_ends_itself():
    """A pattern keeps the thread from running that would see that the input has ended."""
    told = {"pattern": "(a+)+$", "modules": [], "loading": 20, "seconds": 0.5}
    with subprocess.Popen([sys.executable, str(PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(f"{json.dumps(told)}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == {"ready": True}
            process.stdin.write(f"{json.dumps({'asked': ['', 'a' * 60 + 'b', {}]})}\n".encode())
            process.stdin.flush()
            assert process.wait(10) == -signal.SIGALRM
        finally:
            process.kill()


@pytest.mark.reliability
def test_its_process_ends_with_the_one_that_asked(tmp_path):
    """Even when that is killed while the function runs, which would otherwise go on for ever."""
    (tmp_path / "mine.py").write_text(
        "import os, time, pathlib\n"
        "def score(p, c, r):\n  pathlib.Path('pid').write_text(str(os.getpid()))\n  while True: time.sleep(0.01)"
    )
    code = "from primegpt.evaluation.rewards import parse; parse(['mine.py:score'])([''], ['a'], [{}])"
    asks = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    asks.kill()
    asks.wait()
    import psutil

    deadline = time.monotonic() + 10
    while (alive := psutil.pid_exists(int(pid.read_text()))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
