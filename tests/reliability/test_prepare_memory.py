"""Preparing ten times as much text takes no more memory."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from primegpt.tokenizers import store

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.alone,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory as Linux tells it"),
]

# All buffers are cut to a few per cent of the smaller text, which then fills them as the larger one does. Encoding is
# done in threads, so the process is all there is.
SCRIPT = """if True:
    import sys
    from pathlib import Path
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data.preparing import blocks, build, survey
    from primegpt.data.reading import formats
    from primegpt.data.preparing.prepare import prepare
    buffers = {(survey, "IN_MEMORY"): 2e6, (formats, "PART"): 5e5, (build, "PIECE"): 2e5, (blocks, "BLOCK"): 1e6}
    for (module, name), size in buffers.items():
        getattr(module, name)  # else a buffer that has moved would keep its size
        setattr(module, name, int(size))
    corpus = prepare(DataConfig(sources=(sys.argv[1],)), TokenizerConfig(path=sys.argv[2]), cache=Path(sys.argv[3]))
    print(len(corpus.train))
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(1024 * int(line.split()[1]))"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    store.save(store.train("bpe", [next(documents(200_000))], 600), folder)
    return folder


def documents(size: int):
    """Texts of random words, of `size` characters or a little more each."""
    draw = random.Random(size)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 9))) for _ in range(3000)]
    while True:
        yield " ".join(draw.choices(words, k=size // 6 + 1))


def write(path: Path, n_bytes: int) -> Path:
    texts, written = documents(3000), 0
    with path.open("w", encoding="utf-8") as file:
        while written < n_bytes:
            text = next(texts)
            written += file.write(json.dumps({"text": text}) if path.suffix == ".jsonl" else text)
            file.write("\n")
    return path


def peak_of(corpus: Path, tokenizer: Path, cache: Path) -> tuple[int, int]:
    """Tokens in the training split, and the most memory that was held, in bytes."""
    arguments = [sys.executable, "-c", SCRIPT, corpus, tokenizer, cache]
    n_tokens, peak = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
    return int(n_tokens), int(peak)


def test_fields_that_nobody_reads_are_not_kept(tokenizer, tmp_path):
    """Of 2 MB of text with 60 MB beside it only the text is small enough to be kept."""
    draw, texts, peaks = random.Random(1), documents(600), []
    for beside in (10, 20_000):
        corpus = tmp_path / f"{beside}.jsonl"
        records = ({"text": next(texts), "page": draw.choice("xyz") * beside} for _ in range(3000))
        corpus.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        peaks.append(peak_of(corpus, tokenizer, tmp_path / f"cache{beside}")[1])
    print([round(peak / 1e6) for peak in peaks])
    assert peaks[1] < peaks[0] + 20_000_000


@pytest.mark.parametrize("suffix", [".jsonl", ".txt"])
def test_ten_times_the_text_in_the_same_memory(suffix, tokenizer, tmp_path):
    """Shards are in the end about a third of the text: keeping them, or the text, would show at once."""
    tokens, peaks = [], []
    for n_bytes in (5_000_000, 50_000_000):
        corpus = write(tmp_path / f"{n_bytes}{suffix}", n_bytes)
        n_tokens, peak = peak_of(corpus, tokenizer, tmp_path / f"cache{n_bytes}")
        tokens.append(n_tokens)
        peaks.append(peak)
    print(suffix, [round(peak / 1e6) for peak in peaks])
    assert tokens[1] > 9 * tokens[0]
    assert peaks[1] < peaks[0] + 15_000_000
