"""300 absurd values over every key of the configuration, by flag, by TOML, from Python: an error of one line, or a run.

Keys, bounds and kinds come from the sections themselves, so that a new key is covered. What is accepted has to work:
each command ends, or is stopped as Ctrl-C stops it, within a time limit; what cannot fit is refused before it is taken.
"""

import contextlib
import io
import json
import math
import random
import signal
import sys
import time
import zlib
from pathlib import Path
from typing import Any, get_args

import annotated_types
import pytest
import torch

from primegpt import api
from primegpt.cli.main import run
from primegpt.config import Config, read_saved, resolve, sections
from primegpt.errors import PrimegptError

pytestmark = [
    pytest.mark.reliability,
    # An interrupt may fall into a callback of the garbage collector, which swallows it; the next one comes.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SEED = 18
ENOUGH = 1.0  # seconds, after which a run that has begun is interrupted: it works
LIMIT = 30.0  # seconds of this process that no case may take; of the clock, on a busy machine, pytest allows 300
TEXT = "".join(f"{n} green bottles, hanging on the wall.\n" for n in range(400))
# The smallest run that has every part: samples, evaluations, checkpoints.
BASE: dict[str, dict[str, Any]] = {
    "model": {"preset": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16},
    "tokenizer": {"kind": "char"},
    "train": {"max_steps": 2, "batch_size": 2, "device": "cpu", "precision": "fp32", "threads": 1, "attention": "sdpa"},
    "generate": {"max_new_tokens": 3},
}
# What a plan makes of what was asked for: budgets become steps, lengths of text tokens, `auto` a choice.
PLANNED = {"minutes", "tokens", "epochs", "max_steps", "val_tokens", "sources", "kind", "vocab_size", "start_document"}
PLANNED |= {"batch_size", "gradient_accumulation_steps", "attention", "precision", "device", "threads", "compile"}
PLANNED |= {"eval_interval", "sample_interval", "checkpoint_interval", "log_interval", "keep_checkpoints"}
PLANNED |= {"sequence_length", "warmup_steps"}
KEYS = [(section, name) for section, kind in sections().items() for name in kind.model_fields]
ABSURD: list[Any] = [
    -1, 0, 1, 10**12, 2**31, 2**63, 2**64, 10**30, -(10**30), 10**5000,
    0.5, -0.0, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf,
    True, False, "", " ", "nan", "1e999", "-1", "0x10", "１２", "true", "None", "../..", "/dev/zero", "a\tb", "é" * 300,
    "\u202e\x1b[31mx", "x" * 100_000, "x " * 50_000, [], [[]], [[[[1]]]], ["x", 1], {}, {"a": {"b": 1}}, {"": ""},
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("absurd")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    # What is imported here cannot be interrupted later, which would leave half a module to the tests that follow.
    assert by_flags(BASE, folder / "text.txt", folder / "base") == 0
    with contextlib.suppress(Exception):  # there may be no compiler
        torch.compile(torch.sin)(torch.ones(2, requires_grad=True))
    return folder


def bounds(section: str, name: str) -> list[Any]:
    """The largest and the smallest number that the key takes: the hardest to be accepted."""
    field = sections()[section].model_fields[name]
    kinds = {field.annotation, *get_args(field.annotation)}
    found = []
    for bound in field.metadata:
        for kind in (annotated_types.Le, annotated_types.Ge):
            if isinstance(bound, kind):
                value = getattr(bound, kind.__name__.lower())
                found.append(value if int in kinds else float(value))
    return found


def drawn(section: str, name: str) -> list[Any]:
    """Three of ABSURD, and the bounds; the same for a key whatever other keys there are."""
    rng = random.Random(zlib.crc32(f"{SEED} {section}.{name}".encode()))
    return [*rng.sample(ABSURD, 3), *bounds(section, name)]


def with_key(section: str, name: str, value: Any) -> dict[str, dict[str, Any]]:
    """BASE with the key; a budget takes the place of the one that is there."""
    values = {key: dict(given) for key, given in BASE.items()}
    if section == "train" and name in ("minutes", "tokens", "epochs"):
        del values["train"]["max_steps"]
    values.setdefault(section, {})[name] = value
    return values


def toml_of(value: Any) -> str | None:
    """TOML for what it can say."""
    if isinstance(value, dict):
        inner = [toml_of(item) for item in value.values()]
        pairs = zip(value, inner, strict=True)
        return None if None in inner else "{" + ", ".join(f"{json.dumps(key)} = {item}" for key, item in pairs) + "}"
    if isinstance(value, list | tuple):
        items = [toml_of(item) for item in value]
        return None if None in items else "[" + ", ".join(map(str, items)) + "]"
    if isinstance(value, bool | str):
        return json.dumps(value).replace("\\u001b", "\\u001B")
    if isinstance(value, int):
        return hex(value) if value > 0 else str(value)
    return repr(value)  # nan, inf and 1e+300 are TOML too


def by_flags(values: dict[str, dict[str, Any]], text: Path, out: Path) -> int:
    flags = []
    for section, given in values.items():
        for name, value in given.items():
            shown = "9" * 5000 if value == 10**5000 else value if isinstance(value, str) else str(value)
            flags += [f"--{section}.{name}={shown}"]
    return run(["train", str(text), *flags, "--out", str(out)], 0.0)


def by_toml(values: dict[str, dict[str, Any]], text: Path, out: Path) -> int:
    values = values | {"data": {"sources": [str(text)]} | values.get("data", {})}
    lines = []
    for section, given in values.items():
        lines += [f"[{section}]", *(f"{name} = {toml_of(value)}" for name, value in given.items())]
    recipe = out.with_suffix(".toml")
    recipe.write_text("\n".join(lines), encoding="utf-8")
    return run(["train", str(recipe), "--out", str(out)], 0.0)


def from_python(values: dict[str, dict[str, Any]], text: Path, out: Path) -> int:
    try:
        api.train(text, settings=values, out=out)
    except PrimegptError as error:
        print(f"primegpt: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def carried_out(way: Any, *arguments: Any, begun: Any) -> tuple[int, str, float]:
    """The exit code, what was said, and how long it took; interrupted once it has `begun` and worked for a while."""
    said, started, sent = io.StringIO(), time.process_time(), list[float]()

    def interrupt(*_: object) -> None:
        if begun() and (not sent or time.monotonic() - sent[-1] > LIMIT):  # a second one ends the process at once
            sent.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)

    code, before = 130, signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, ENOUGH, ENOUGH)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = way(*arguments)
    except KeyboardInterrupt:  # just after its end
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return code, said.getvalue(), time.process_time() - started


@pytest.mark.parametrize(("section", "name"), KEYS, ids=lambda part: part)
def test_an_absurd_value_is_an_error_of_one_line_or_a_run(section, name, place):
    """Ways in turn, so that each key goes through all of them."""
    values = drawn(section, name)
    for number, value in enumerate(values):
        ways = [by_flags, by_toml, from_python]
        way = ways[number % 3] if section not in ("plan", "lora") else ways[1 + number % 2]  # these have no flags
        out = place / f"{section}.{name}-{number}"
        arguments = with_key(section, name, value), place / "text.txt", out
        code, said, seconds = carried_out(way, *arguments, begun=(out / "config.toml").exists)
        case = f"{way.__name__} {section}.{name} = {str(value)[:50] if value != 10**5000 else '10**5000'}"
        judge(case, code, said, seconds, name if section != "data" else "")  # of text, the file may be named instead
        assert code != 2 or not out.exists(), case
        assert code != 130 or (out / "config.toml").exists(), f"{case}: interrupted before it began"
        if code in (0, 130) and way is not by_flags and name not in PLANNED and section != "plan":  # as it was said
            said_so, kept = resolve(arguments[0]), read_saved(out / "config.toml")
            assert getattr(getattr(kept, section), name) == getattr(getattr(said_so, section), name), case


def judge(case: str, code: int, said: str, seconds: float, name: str) -> None:
    """One line where it fails, which names the key where that is what is wrong; and in time."""
    last = said.splitlines()[-1] if said else ""
    assert seconds < LIMIT, case
    assert code in (0, 1, 2, 130), f"{case}: {last}"
    assert "Traceback" not in said, case
    if code in (1, 2):
        assert last.startswith("primegpt: "), f"{case}: {last}"
        assert len(last) < 1500, case
    if code == 2:
        assert name in last.replace("-", "_"), f"{case}: {last}"


FLAGS = {"num_beams": "beams", "stop_strings": "stop"}  # of `primegpt generate`, where they are called otherwise
NO_FLAGS = {"start_document"}


@pytest.mark.parametrize("name", [*type(Config().generate).model_fields, "num_samples"])
def test_absurd_settings_of_generation_are_errors_of_one_line_or_text(name, place):
    opened = api.load(place / "base", say=lambda line: None)

    def from_python(value: Any) -> int:
        try:
            opened.generate("nine", **{"max_new_tokens": 3, name: value})
        except PrimegptError as error:
            print(f"primegpt: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return 130
        return 0

    def by_flag(value: Any) -> int:
        shown = "9" * 5000 if value == 10**5000 else value if isinstance(value, str) else str(value)
        flag = f"--{FLAGS.get(name, name).replace('_', '-')}={shown}"
        return run(["generate", str(place / "base"), "nine", flag], 0.0)

    known = name in type(Config().generate).model_fields
    values = (
        [*drawn("generate", name), *random.Random(name).sample(ABSURD, 5)] if known else [0, -1, 10**9, 10**400, "x"]
    )
    for number, value in enumerate(values):
        way = by_flag if number % 2 and name not in NO_FLAGS else from_python
        code, said, seconds = carried_out(way, value, begun=lambda: True)
        case = f"{way.__name__} {name} = {str(value)[:50] if value != 10**5000 else '10**5000'}"
        judge(case, code, said, seconds, FLAGS.get(name, "") or name.partition("_")[0])
