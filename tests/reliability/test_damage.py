"""Random damage to every file of eight kinds of run folder, and every command that reads them.

A command must do what it did before the damage, or refuse in one line, or say what is different: no traceback, no
hang, no silent difference. PRIMEGPT_DAMAGES and PRIMEGPT_DAMAGE_SEED choose how many, and which.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from primegpt import api
from primegpt.data.songbook import songbook
from primegpt.errors import PrimegptError
from primegpt.jobs.bases import open_base
from primegpt.report.history import History
from primegpt.report.report import report_page
from primegpt.training.progress import TIMING_KEYS

pytestmark = [pytest.mark.reliability, pytest.mark.timeout(3600)]

DAMAGES = int(os.environ.get("PRIMEGPT_DAMAGES", "800"))
SEED = int(os.environ.get("PRIMEGPT_DAMAGE_SEED", "0"))
RESUMED = 0.15  # share of the damages after which a run is resumed too, if other commands read the file as well
SECONDS = 60  # after which a command counts as hung

SMALL = {
    "model": {"preset": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 64},
    "tokenizer": {"kind": "char"},
    "data": {"val_tokens": 64},
    "train": {"max_steps": 6, "batch_size": 2, "eval_interval": 2, "log_interval": 1, "sample_interval": 3}
    | {"threads": 1, "precision": "fp32", "attention": "sdpa", "device": "cpu"},
    "generate": {"max_new_tokens": 5},
}


def settings(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: SMALL.get(name, {}) | sections.get(name, {}) for name in {*SMALL, *sections}}


def silent(line: str) -> None:
    pass


# Runs


class Watching:
    """An observer that keeps what it sees to itself, and under whose eyes the process ends at step `end`."""

    def __init__(self, say: Callable[[str], None], end: int | None = None) -> None:
        self.on_message, self.end = say, end

    def on_step(self, state: Any, line: Any) -> None:
        if state.step == self.end:
            raise KeyboardInterrupt

    def on_evaluation(self, *_: Any) -> None:
        pass

    def on_sample(self, *_: Any) -> None:
        pass


class Maker:
    """Makes a run of each kind, and a twin of it with other weights and the same names."""

    def __init__(self, place: Path) -> None:
        self.place = place
        draw = random.Random(1)
        words = ["river", "stone", "light", "song", "winter", "road", "the", "a", "of", "my", "your"]
        for name in ("one", "two"):
            (place / f"{name}.txt").write_text(" ".join(draw.choices(words, k=600)) + "\n", encoding="utf-8")
        songs = [
            {"prompt": s.prompt, "lyrics": "la la\nlo", "genre": s.genre, "emotion": s.emotion} for s in songbook(40)
        ]
        turns = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "I."}]
        chats = [{"messages": turns * draw.randint(1, 2)} for _ in range(40)]
        for name, rows in (("songs", songs), ("chats", chats)):
            (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    def train(self, out: str, seed: int, *sources: str, observer: Any = None, **sections: dict[str, Any]) -> Path:
        sections["train"] = sections.get("train", {}) | {"seed": seed}
        texts = [self.place / source for source in sources or ("one.txt",)]
        api.train(*texts, out=self.place / out, settings=settings(**sections), say=silent, observer=observer)
        return self.place / out

    def plain(self, out: str, seed: int) -> None:
        self.train(out, seed)

    def killed(self, out: str, seed: int) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.train(out, seed, observer=Watching(silent, end=5))

    def adapted(self, out: str, seed: int) -> None:
        base = self.train(f"{out}-base", seed)
        tuned = {"train": SMALL["train"] | {"seed": seed, "learning_rate": 1e-2}}
        api.finetune(base, self.place / "two.txt", lora=True, out=self.place / out, settings=tuned, say=silent)

    def song(self, out: str, seed: int) -> None:
        self.train(out, seed, "songs.jsonl", data={"template": "song"}, tokenizer={"kind": "bpe", "vocab_size": 320})

    def chat(self, out: str, seed: int) -> None:
        self.train(out, seed, "chats.jsonl", data={"template": "chat"}, tokenizer={"kind": "bpe", "vocab_size": 300})

    def mixture(self, out: str, seed: int) -> None:
        self.train(out, seed, "one.txt", "two.txt", data={"weights": [3, 1]}, model={"preset": "qwen3"})

    def imported(self, out: str, seed: int) -> None:
        exported = api.export(self.train(f"{out}-source", seed), self.place / f"{out}-hf", say=silent)
        api.import_model(exported, self.place / out, say=silent)

    def milestones(self, out: str, seed: int) -> None:
        often = {"eval_interval": 1, "max_steps": 8, "keep_checkpoints": "milestones", "patience": 3}
        self.train(out, seed, train=often, model={"preset": "prime"})


KINDS = ("plain", "killed", "adapted", "song", "chat", "mixture", "imported", "milestones")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Iterator[Path]:
    """A folder with a run of each kind and its twin, never to be changed."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMEGPT_CACHE", str(place / "cache"))
        torch.set_num_threads(1)
        maker = Maker(place)
        for kind in KINDS:
            for seed, name in enumerate((kind, f"{kind}-twin")):
                getattr(maker, kind)(name, seed)
        yield place


# Commands: each returns what it computed, and tells what it has to say to `say`

Say = Callable[[str], None]


def generate(path: Path, say: Say) -> Any:
    run = api.load(path, say=say)
    done = run.complete("the river")[0]
    return run.step, done.ids, run.config.generate.model_dump()


def evaluate(path: Path, say: Say) -> Any:
    return api.evaluate(path, batch_size=4, say=say)


def export(path: Path, say: Say) -> Any:
    out = path.parent / "exported"
    shutil.rmtree(out, ignore_errors=True)
    api.export(path, out, say=lambda line: None if line.startswith("wrote ") else say(line))
    return {file.name: file.read_bytes() for file in out.iterdir()}


def told(path: Path, say: Say) -> Any:
    """What `report`, `info` and `runs` tell of a run."""
    history = History.read(path)
    report_page([history])
    for line in [*history.remarks, *history.edits]:
        say(line)
    state = {key: value for key, value in history.state.items() if key not in TIMING_KEYS}
    config = history.config.model_dump()
    tokenizer = history.tokenizer and history.tokenizer.fingerprint
    summary = {key: value for key, value in history.summary().items() if key not in ("written", "remarks")}
    return config, history.lines, history.samples, without_folder(history.data), tokenizer, state, summary


def base(path: Path, say: Say) -> Any:
    """What fine-tuning from it would begin with."""
    opened, copy = open_base(path, say=say), path.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    opened.copy_to(copy)
    weights = api.load(copy, say=say).model.state_dict()
    return opened.config.model_dump(), {name: weight.tolist() for name, weight in weights.items()}


def resume(path: Path, say: Say) -> Any:
    work = path.parent / "resumed"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(path, work)
    run = api.resume(work, say=lambda line: None if is_usual(line) else say(line), observer=Watching(say))
    last = run.folder.load_checkpoint("last", silent)
    weights = {stem: {name: t.tolist() for name, t in named.items()} for stem, named in last.tensors.items()}
    state = {key: value for key, value in last.state["train"].items() if key not in TIMING_KEYS}
    rows = [{key: value for key, value in row.items() if key not in TIMING_KEYS} for row in run.folder.read_metrics()]
    return weights, state, rows, run.step


COMMANDS = {command.__name__: command for command in (generate, evaluate, export, told, base, resume)}
KNOWN = {"text", "mixture", "tokenizer", "model", "data", "steps", "machine", "expected", "lora", "continuing"} | {
    *("result", "run", "base text", "adapter", "")
}


def is_usual(line: str) -> bool:
    """Whether a command says this of an undamaged run too."""
    return line[:10].strip() in KNOWN and "not read again" not in line


READ_BY = {  # what is not here is read by all commands
    "*/optimizer.safetensors": {"resume"},
    "checkpoints/*/adapter.safetensors": {"resume"},
    "metrics.jsonl": {"told", "resume"},
    "samples/*": {"told", "resume"},
    "MANIFEST.json": {"told", "resume"},
    "data.json": {"told", "evaluate", "base", "resume"},
    "base/*": {"resume"},
    "adapter/*": {"resume"},
    "loss.png": {"told"},
}


def without_folder(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "folder"}


@contextmanager
def no_hang() -> Iterator[None]:
    def hung(*_: Any) -> None:
        raise AssertionError(f"still busy after {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


@dataclass
class Outcome:
    """What a command computed, or the line with which it refused; and what it said."""

    result: Any = None
    error: str = ""
    said: tuple[str, ...] = ()


def carry_out(name: str, path: Path, capsys: Any) -> Outcome:
    said: list[str] = []
    capsys.readouterr()
    try:
        with no_hang():
            outcome = Outcome(COMMANDS[name](path, said.append))
    except PrimegptError as error:
        outcome = Outcome(error=str(error))
    assert "\n" not in outcome.error
    assert len(outcome.error) < 3000
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    words = [line for line in (captured.err + captured.out).splitlines() if not is_usual(line)]
    return replace(outcome, said=tuple(said + words))


# Damage


def flip(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content or b"\0")
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def digit(content: bytes, draw: random.Random) -> bytes:
    """Another digit for one of its digits: the damage that is hardest to see."""
    places = [i for i, byte in enumerate(content) if byte in b"0123456789"]
    if not places:
        return flip(content, draw)
    place = draw.choice(places)
    return (
        content[:place]
        + draw.choice([b"%d" % n for n in range(10) if b"%d" % n != content[place : place + 1]])
        + content[place + 1 :]
    )


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) or 1)]


def cut_at_line(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: draw.randrange(len(lines) or 1)])


def line_lost(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def garbage(content: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        [draw.randbytes(draw.randrange(200)), b"", b"{}", b"[]", b"null", b"[" * 50_000, b"\xff\xfe", b"\0" * 64]
    )


CONTENT = (flip, flip, digit, digit, cut, cut_at_line, line_lost, garbage)


def damage(run: Path, twin: Path, draw: random.Random) -> str:
    """Damage one file or folder of `run`; what was done to which."""
    files = sorted(path for path in run.rglob("*") if path.is_file())
    folders = sorted(path for path in run.rglob("*") if path.is_dir())
    kind = draw.choice(["content"] * 6 + ["deleted", "swapped", "swapped", "folder"])
    # Of each name equally often: there is one config.toml and a lot of weights.
    name = draw.choice(sorted({path.name for path in files if path.parent.name != "samples"} | {"step-000000.txt"}))
    named = [path for path in files if path.name == name] or files
    path = draw.choice(folders if kind == "folder" else named)
    other = twin / path.relative_to(run)
    if kind == "content":
        change = draw.choice(CONTENT)
        path.write_bytes(change(path.read_bytes(), draw))
        kind = change.__name__
    elif kind == "swapped":
        strange = draw.choice(
            [other, *sorted(twin.parent.glob(f"*/{path.relative_to(run).as_posix()}")), draw.choice(files)]
        )
        content = strange.read_bytes() if strange.exists() else b""
        path.write_bytes(content)
    elif kind == "deleted":
        path.unlink()
    else:
        shutil.rmtree(path)
        if other.exists() and draw.random() < 0.6:
            shutil.copytree(other, path)
            kind = "folder swapped"
    return f"{path.relative_to(run).as_posix()} {kind}"


def copied(run: Path, place: Path) -> Path:
    copy = place / run.name
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    return copy


def only_beyond_the_seal(run: Path, whole: Path) -> bool:
    """Whether only lines of the log are damaged that no checkpoint has followed: a resume will write them anew."""
    log, manifest = "metrics.jsonl", whole / "MANIFEST.json"
    if not (whole / log).exists() or not (run / log).exists():
        return False
    size = json.loads(manifest.read_bytes())["files"][log]["size"]
    now, before = (run / log).read_bytes(), (whole / log).read_bytes()
    return now != before and now[:size] == before[:size]


def readers(what: str) -> set[str]:
    name = what.partition(" ")[0]
    return next((commands for pattern, commands in READ_BY.items() if fnmatch(name, pattern)), set(COMMANDS))


def test_damage_is_never_silent(runs, tmp_path, capsys):
    draw = random.Random(SEED)
    whole: dict[str, dict[str, Outcome]] = {}
    for kind in KINDS:
        run = copied(runs / kind, tmp_path)
        whole[kind] = {name: carry_out(name, run, capsys) for name in COMMANDS}
    counts: Counter[str] = Counter()
    faults: list[str] = []
    spent: Counter[str] = Counter()
    for number in range(DAMAGES):
        kind = KINDS[number % len(KINDS)]
        run = copied(runs / kind, tmp_path)
        what = damage(run, runs / f"{kind}-twin", draw)
        commands = readers(what)
        if len(commands) > 1 and draw.random() > RESUMED:
            commands = commands - {"resume"}
        if only_beyond_the_seal(run, runs / kind):
            commands = commands - {"told"}
        for name in sorted(commands):
            before = whole[kind][name]
            began = time.process_time()
            try:
                after = carry_out(name, run, capsys)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                faults.append(f"{number} {kind}: {what}: {name}: {type(error).__name__}: {error}"[:600])
                continue
            outcome = verdict(before, after)
            spent[name] += time.process_time() - began
            counts[outcome] += 1
            if outcome == "silent":
                faults.append(f"{number} {kind}: {what}: {name}: {difference(before.result, after.result)}"[:600])
    print(f"{DAMAGES} damages, seed {SEED}: {dict(counts)}, {len(faults)} faults")
    print({name: f"{seconds:.1f} s" for name, seconds in spent.items()})
    assert not faults, "\n".join(faults[:40])
    assert min(counts["same"], counts["refused"], counts["said"]) > DAMAGES / 20


def verdict(before: Outcome, after: Outcome) -> str:
    if after.error:
        return "refused" if after.error != before.error else "same"
    if before.error or after.result != before.result:
        return "said" if set(after.said) - set(before.said) else "silent"
    return "same"


def difference(before: Any, after: Any, where: str = "") -> str:
    """Where two results differ first."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *after]:
            if before.get(key) != after.get(key):
                return difference(before.get(key), after.get(key), f"{where}.{key}")
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for i, (one, other) in enumerate(zip(before, after, strict=True)):
            if one != other:
                return difference(one, other, f"{where}[{i}]")
    return f"{where}: {str(before)[:100]} -> {str(after)[:100]}"
