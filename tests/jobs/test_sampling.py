"""Best of n and preference pairs from a run's own answers: what is kept, and that stopping changes nothing."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from primegpt import api
from primegpt.cli.main import run
from primegpt.errors import UsageError
from primegpt.evaluation.rewards import parse
from primegpt.jobs import prompts as prompts_module
from primegpt.jobs.growing import GrowingFile
from primegpt.jobs.instructing import instruct
from primegpt.jobs.prompts import read_prompts, written_to
from primegpt.jobs.sampling import sample
from primegpt.jobs.text_loss import reading_of

SONG = {"prompt": "a song of the river", "genre": "rock", "emotion": "sad", "lyrics": "[verse]\nlow river run"}
CHAT = {"messages": [{"role": "user", "content": "12 + 7"}, {"role": "assistant", "content": "19"}], "answer": "19"}
REWARD = ["regex:r", "0.01*length:3"]  # of random letters some have one


@pytest.fixture(autouse=True)
def place(run_on) -> None:
    """Runs on songs and conversations, and twelve prompts for each."""
    for kind, record in {"song": SONG, "chat": CHAT}.items():
        lines = [json.dumps(record | {"number": number}) for number in range(12)]
        Path(f"{kind}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        run_on(kind)


def lines(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def scored(kind: str, n: int) -> list[list[tuple[float, str]]]:
    """What the run writes, and what that is worth, without `sample`."""
    opened = api.load(kind)
    asked = read_prompts(opened, reading_of(opened.config, f"{kind}.jsonl"))
    reward, found = parse(REWARD), []
    for prompt, samples in zip(asked, written_to(opened, asked, opened.settings(), n), strict=True):
        texts = [each.text for each in samples]
        found.append(list(zip(reward([prompt.text] * n, texts, [{}] * n), texts, strict=True)))
    return found


def test_the_best_of_several_is_the_new_answer():
    made = sample("song", "song.jsonl", reward=REWARD, num_samples=3, out="best.jsonl")
    every = scored("song", 3)
    best = [max(samples, key=lambda each: each[0]) for samples in every]
    records = lines("best.jsonl")
    labels = {"prompt": SONG["prompt"], "genre": "rock", "emotion": "sad"}
    assert records == [{**labels, "lyrics": text.strip(), "reward": value} for value, text in best]
    assert made.facts["reward_of_best"] == pytest.approx(sum(value for value, _ in best) / 12)
    assert made.facts["reward_of_all"] == pytest.approx(sum(value for s in every for value, _ in s) / 36)
    assert run(["data", "prepare", "best.jsonl", "--data.template", "song", "--tokenizer.kind", "char"], 0.0) == 0


def test_pairs_are_the_best_and_the_worst_unless_they_are_worth_the_same():
    sample("chat", "chat.jsonl", reward=["regex:r"], num_samples=2, keep="pairs", out="pairs.jsonl")
    reward, records = parse(["regex:r"]), lines("pairs.jsonl")
    opened = api.load("chat")
    asked = read_prompts(opened, reading_of(opened.config, "chat.jsonl"))
    written = [[s.text for s in samples] for samples in written_to(opened, asked, opened.settings(), 2)]
    differ = [texts for texts in written if ("r" in texts[0]) != ("r" in texts[1])]
    assert 0 < len(records) == len(differ) < 12
    assert [sorted((r["chosen"][0]["content"], r["rejected"][0]["content"])) for r in records] == list(
        map(sorted, differ)
    )
    for record in records:
        assert record["prompt"] == CHAT["messages"][:1]
        (chosen,), (rejected,) = record["chosen"], record["rejected"]
        assert chosen["role"] == rejected["role"] == "assistant"
        worth = reward([""] * 2, [chosen["content"], rejected["content"]], [{}] * 2)
        assert worth == [record["chosen_reward"], record["rejected_reward"]] == [1.0, 0.0]
        assert record["answer"] == "19"


def test_what_is_worth_too_little_is_left_out():
    sample("song", "song.jsonl", reward=REWARD, num_samples=3, out="some.jsonl", at_least=1.0)
    best = [max(value for value, _ in samples) for samples in scored("song", 3)]
    assert [record["reward"] for record in lines("some.jsonl")] == [value for value in best if value >= 1]
    with pytest.raises(UsageError, match="nothing is worth keeping: no answer is worth 5"):
        sample("song", "song.jsonl", reward=REWARD, num_samples=2, out="none.jsonl", at_least=5.0)


@pytest.mark.parametrize("cut", [0, 9])
def test_stopped_and_gone_on_with_it_is_the_same_file(monkeypatch, cut):
    """Stopped in the middle, and with a torn last line as a kill leaves it."""
    monkeypatch.setattr(prompts_module, "ROWS", 6)
    asked = {"reward": REWARD, "num_samples": 3, "keep": "pairs"}
    sample("song", "song.jsonl", **asked, out="whole.jsonl")
    scores, calls = parse(REWARD).__class__.__call__, []

    def fails(self, *given):
        calls.append(given)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return scores(self, *given)

    monkeypatch.setattr(parse(REWARD).__class__, "__call__", fails)
    with pytest.raises(KeyboardInterrupt):
        sample("song", "song.jsonl", **asked, out="stopped.jsonl")
    partial = Path(".stopped.jsonl.partial")
    assert not Path("stopped.jsonl").exists()
    partial.write_bytes(partial.read_bytes()[: -cut or None])
    said = []
    sample("song", "song.jsonl", **asked, out="stopped.jsonl", say=said.append)
    assert Path("stopped.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert f"{6 - bool(cut)} prompts or texts were done before" in "\n".join(said)
    assert len(calls) == 7 + 12 - 6 + bool(cut)
    assert not partial.exists()


@pytest.mark.reliability
def test_killed_again_and_again_it_is_the_same_file():
    """SIGKILL wherever it happens to be, five times, while answers are written and noted."""
    prompts = [json.dumps(SONG | {"number": number}) for number in range(1500)]
    Path("many.jsonl").write_text("\n".join(prompts), encoding="utf-8")
    asked = {"reward": ["words"], "num_samples": 2}
    sample("song", "many.jsonl", **asked, out="whole.jsonl")
    code = f"from primegpt.jobs.sampling import sample; sample('song', 'many.jsonl', **{asked}, out='killed.jsonl')"
    partial, seen = Path(".killed.jsonl.partial"), 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            size = partial.stat().st_size if partial.exists() else 0
            if size > seen + 5000:
                break
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert not Path("killed.jsonl").exists(), "it was not killed in time"
        seen = partial.stat().st_size
    sample("song", "many.jsonl", **asked, out="killed.jsonl")
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


@pytest.mark.parametrize("left", ["another seed's", "no JSON"])
def test_what_was_made_with_something_else_is_not_gone_on_with(left):
    sample("song", "song.jsonl", reward=REWARD, num_samples=2, out="b.jsonl", seed=2)
    whole = Path("b.jsonl").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GrowingFile, "finish", lambda *_: None)  # as if it was killed just before
        sample("song", "song.jsonl", reward=REWARD, num_samples=2, out="b.jsonl", seed=1)
    partial = Path(".b.jsonl.partial")
    assert len(lines(str(partial))) == 1 + 12
    if left == "no JSON":
        partial.write_text("not json\n")
    before, said = partial.read_bytes(), []
    for _ in range(2):
        sample("song", "song.jsonl", reward=REWARD, num_samples=2, out="b.jsonl", seed=2, say=said.append)
        assert Path("b.jsonl").read_bytes() == whole
        assert not partial.exists()
    kept = Path(".b.jsonl.old")
    told = "12 prompts or texts were done before from other inputs" in "".join(said)
    assert kept.exists() == told == (left != "no JSON")
    assert not kept.exists() or kept.read_bytes() == before


def test_what_is_kept_of_other_calls_is_never_lost():
    for number in range(3):
        GrowingFile("c.jsonl", {"seed": number}, print).add({"n": number})
    files = [".c.jsonl.old", ".c.jsonl.old1", ".c.jsonl.partial"]
    assert [lines(file)[1]["n"] for file in files] == [0, 1, 2]


def test_a_file_that_is_read_is_not_written_over():
    before = Path("song.jsonl").read_bytes()
    for call in (
        lambda: sample("song", "song.jsonl", reward=REWARD, out="./song.jsonl"),
        lambda: instruct("song.jsonl", out="song.jsonl"),
        lambda: instruct("*.jsonl", out="song.jsonl"),
    ):
        with pytest.raises(UsageError, match=r"song\.jsonl is what is read; choose another name with --out"):
            call()
    assert Path("song.jsonl").read_bytes() == before


def test_a_preview_shows_samples_and_writes_nothing(capsys):
    flags = ["--reward", "regex:r", "--reward", "-0.5*length:3", "--num-samples", "3", "--preview", "2"]
    assert run(["data", "sample", "song", "song.jsonl", *flags, "--out", "never.jsonl", "--json"], 0.0) == 0
    previews = json.loads(capsys.readouterr().out)["previews"]
    assert [len(each["samples"]) for each in previews] == [3, 3]
    values = [each["reward"] for each in previews[0]["samples"]]
    assert values == sorted(values, reverse=True)
    assert not Path("never.jsonl").exists()
    assert run(["data", "sample", "song", "song.jsonl", *flags], 0.0) == 0
    assert "» a song of the river" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"out": None}, "there is no file to write to"),
        ({"out": "a.txt"}, "a.txt: records are written as .jsonl"),
        ({"out": "nowhere/a.jsonl"}, "there is no folder nowhere"),
        ({"keep": "pairs", "num_samples": 1}, "num_samples = 1"),
        ({"keep": "most"}, "keep = 'most'"),
        ({"temperature": 0.0}, "at temperature 0 all samples are the same"),
        ({"reward": ["exact"]}, "song.jsonl, line 1: the reward 'exact' reads the field 'answer'"),
        ({"reward": ["nothing"]}, "there is no reward 'nothing'"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_comes_first(asked, said):
    given = {"reward": REWARD, "out": "refused.jsonl"} | asked
    with pytest.raises(UsageError) as error:
        sample("song", "song.jsonl", **given)
    assert said in str(error.value)
    assert not list(Path().glob("*refused*"))
