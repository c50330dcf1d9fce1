"""Files that mean harm are one line each, in bounded time and memory: whole commands, each in a process of its own."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from primegpt import api, tokenizers
from primegpt.tokenizers import splits
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.sentencepiece_model import message

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it"),
]

SECONDS, MEMORY = 30, 1.5e9  # processor time, so that other programs do not matter
PATIENCE = 200  # seconds until a command is stopped
# The most that the command itself held, or one of the processes that it started; and what all took.
SCRIPT = """if True:
    import os, resource, sys, time
    from pathlib import Path
    from primegpt.cli.main import run
    code = run(sys.argv[1:], time.monotonic())
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print("peak", 1024 * max(int(line.split()[1]), children), sum(os.times()[:4]))
    sys.exit(code)"""

Arguments = list[object]


def refused(arguments: Arguments) -> str:
    """The one line that a command ends with."""
    code, told = carried_out(arguments)
    assert code == 2
    assert told.startswith("primegpt: ")
    assert told.count("\n") == 1, told
    return told


def carried_out(arguments: Arguments, given: str = "") -> tuple[int, str]:
    """The exit code and the complaints of a command that keeps within the bounds."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=PATIENCE, encoding="utf-8")
    peak, seconds = map(float, done.stdout.rpartition("peak ")[2].split())
    print(f"{peak / 1e6:.0f} MB, {seconds:.1f} s: {done.stderr.strip()[:200]}")
    assert peak < MEMORY
    assert seconds < SECONDS
    return done.returncode, done.stderr


# ---- tokenizers

NOTHING = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
END = {"id": 0, "content": "</s>", "special": True}


def document(merges: object = (), vocabulary: object = None, added: object = (END,), pattern: str = "") -> str:
    """A tokenizer.json."""
    pieces = {"</s>": 0, "a": 1, "b": 2, "ab": 3} if vocabulary is None else vocabulary
    steps = {"type": "Sequence", "pretokenizers": [splits.split(pattern), LEVEL]} if pattern else LEVEL
    model = {"type": "BPE", "vocab": pieces, "merges": merges}
    parts = {"version": "1.0", **NOTHING, "pre_tokenizer": steps, "added_tokens": added, "model": model}
    return json.dumps(parts)


def with_list(key: str, entry: str, count: int) -> str:
    """A tokenizer.json with `entry` in a list `count` times; each %d in it is another number."""
    entries = ",".join(entry.replace("%d", str(n)) for n in range(count))
    return document().replace(f'"{key}": [', f'"{key}": [{entries}' + (", " if key == "added_tokens" else ""))


def values(opening: str, closing: str, count: int) -> str:
    """A tokenizer.json with so many lists or objects where merges belong."""
    return document().replace('"merges": []', '"merges": [' + ",".join([opening + closing] * count) + "]")


JSON: dict[str, Callable[[], str]] = {
    "an expression with a loop of loops": lambda: document(pattern=r"(a+)+$"),
    "an expression that takes minutes": lambda: document(pattern=r"[^\d]*[^\d]*\d\d\d\d\d\d"),
    "ten million added tokens": lambda: with_list("added_tokens", '{"content":"<%d>","id":%d}', 10_000_000),
    "as many added tokens as pass for values": lambda: with_list("added_tokens", '{"id":1,"content":"a"}', 1_150_000),
    "millions of objects": lambda: values('{"":0', "}", 8_000_000),
    "lists in lists": lambda: values("[" * 900, "]" * 900, 50_000),
    "as many lists in lists as pass for values": lambda: values("[" * 900, "]" * 900, 3_850),
    "as many objects": lambda: values('{"":0', "}", 1_740_000),
    "millions of merges": lambda: with_list("merges", '"a b"', 3_400_000),
    "as many merges as pass": lambda: with_list("merges", '"a%d b"', 1_990_000),
    "as many pairs as pass": lambda: with_list("merges", '["a%d","b"]', 1_150_000),
    "a merge that makes one of its parts": lambda: document(merges=[["a", ""], ["", "ab"]]),
    "merges in a circle": lambda: document(merges=[["ab", "a"], ["aba", "b"], ["a", "bab"]]),
    "millions of ids": lambda: document(vocabulary={f"{n}": n for n in range(3_400_000)}),
    "as many ids as pass": lambda: document(vocabulary={f"{n}": n % 1_990_000 for n in range(1_990_001)}),
    "an id far away": lambda: document(vocabulary={"</s>": 0, "a": 1_999_999}),
    "a score that is no number": lambda: (
        document()
        .replace('"BPE"', '"Unigram", "unk_id": 0')
        .replace(json.dumps({"</s>": 0, "a": 1, "b": 2, "ab": 3}), '[["</s>", NaN]]')
    ),
}


@pytest.mark.parametrize("name", JSON)
def test_a_tokenizer_json(name, tmp_path):
    (tmp_path / "tokenizer.json").write_text(JSON[name](), encoding="utf-8")
    refused(["tokenizer", "show", tmp_path, "abab"])


def test_ten_million_tokens_beside_a_vocabulary(tmp_path):
    (tmp_path / "tokenizer.json").write_text(document(), encoding="utf-8")
    for count in (1_000_000, 10_000_000):
        tokens = ",".join(f'"{n}":{n}' for n in range(count))
        (tmp_path / "added_tokens.json").write_text("{" + tokens + "}", encoding="utf-8")
        refused(["tokenizer", "show", tmp_path])


def test_millions_of_lines_of_merges(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}', encoding="utf-8")
    (tmp_path / "merges.txt").write_text("a b\n" * 10_000_000, encoding="utf-8")
    refused(["tokenizer", "show", tmp_path])


@pytest.mark.parametrize("entry", [message([(4, 0)]), message([(1, b"")]), message([(1, message([(1, "a"), (3, 1)]))])])
def test_a_sentencepiece_file_of_millions_of_fields(entry, tmp_path):
    for size in (200_000_000, 24_000_000):
        (tmp_path / "tokenizer.model").write_bytes(entry * (size // len(entry)))
        refused(["tokenizer", "show", tmp_path])


# ---- GGUF files


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def array(name: str, kind: int, count: int, content: bytes) -> bytes:
    return string(name) + struct.pack("<IIQ", 9, kind, count) + content


def header(tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys)


def tensor(name: str, shape: tuple[int, ...], offset: int = 0, kind: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def tokens(count: int, kinds: int = 3) -> bytes:
    """Metadata with a vocabulary of `count` pieces, all of one type: 3 is a control token."""
    named = b"".join(string(f"<{n}>") for n in range(count))
    model = string("tokenizer.ggml.model") + struct.pack("<I", 8) + string("gpt2")
    pre = string("tokenizer.ggml.pre") + struct.pack("<I", 8) + string("gpt-2")
    typed = array("tokenizer.ggml.token_type", 5, count, struct.pack("<i", kinds) * count)
    return (
        header(0, 5)
        + model
        + pre
        + array("tokenizer.ggml.tokens", 8, count, named)
        + typed
        + (array("tokenizer.ggml.merges", 8, 0, b""))
    )


GGUF: dict[str, Callable[[], bytes]] = {
    "tensors": lambda: header(2**63, 0),
    "keys": lambda: header(0, 2**63),
    "a string": lambda: header(0, 1) + string("k") + struct.pack("<IQ", 8, 2**62),
    "an array": lambda: header(0, 1) + array("k", 4, 2**62, b"") + bytes(10_000_000),
    "strings": lambda: header(0, 1) + array("k", 8, 2**62, b"") + bytes(10_000_000),
    "millions of strings": lambda: header(0, 1) + array("k", 8, 3_900_000, bytes(8 * 3_900_000)),
    "a hundred thousand tensors": lambda: header(100_000, 0) + b"".join(tensor(f"{n}", (1,)) for n in range(100_000)),
    "a shape": lambda: header(1, 0) + tensor("t", (2**31, 2**31)) + bytes(64),
    "an offset": lambda: header(1, 0) + tensor("t", (8,), 2**64 - 32) + bytes(64),
    "control tokens": lambda: tokens(1_900_000),
    "pieces": lambda: tokens(1_900_000, 1),
    "as many pieces as pass": lambda: tokens(990_000, 1),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file(name, tmp_path):
    (tmp_path / "m.gguf").write_bytes(GGUF[name]())
    refused(["import", tmp_path / "m.gguf", "--out", tmp_path / "never"])
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "name", ["strings", "millions of strings", "control tokens", "pieces", "as many pieces as pass"]
)
def test_a_gguf_file_for_its_tokenizer(name, tmp_path):
    (tmp_path / "m.gguf").write_bytes(GGUF[name]())
    refused(["tokenizer", "show", tmp_path / "m.gguf"])


def test_scales_that_are_no_numbers(random_model, save_run, tmp_path):
    """Every block of a large matrix."""
    tokenizer = tokenizers.train("bpe", ["the river ran under a bridge"], 270)
    sizes = {"vocab_size": tokenizer.vocab_size, "n_embd": 1024, "intermediate_size": 4096, "n_layer": 1}
    run = save_run(random_model("llama", **sizes), tokenizer)
    path = api.export(run, tmp_path / "m.gguf", to="gguf", dtype="q8_0", say=lambda line: None)
    content = bytearray(path.read_bytes())
    found = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.ffn_up.weight")
    blocks = np.frombuffer(content, np.uint8, found.n_bytes, found.data_offset).reshape(-1, 34)
    blocks[:, :2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    path.write_bytes(content)
    assert "NaN or infinite" in refused(["import", path, "--out", tmp_path / "never"])


# ---- chat templates

LOOPS = {
    "for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "writing": "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endfor %}",
    "growing": "{% set n = namespace(x='x') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_chat_template_that_loops(name, random_model, save_run, spaced_tokenizer, tmp_path):
    settings = json.loads(spaced_tokenizer.files["tokenizer_config.json"]) | {"chat_template": LOOPS[name]}
    files = spaced_tokenizer.files | {"tokenizer_config.json": json.dumps(settings).encode()}
    tokenizer = Imported(files)
    run = save_run(random_model("llama", vocab_size=tokenizer.vocab_size), tokenizer)
    code, told = carried_out(["chat", run], "hello\n")
    *_, line = told.splitlines()  # after the words that `chat` begins with, which goes on
    assert code == 0
    assert "own chat template fails" in line
    assert "Traceback" not in told
