"""Text to shards, end to end, beside as many tiktoken processes as there are cores on the same bytes.

Ours loads the vocabulary, reads files, hashes them, holds out validation text, encodes, writes and syncs shards, and
hashes these too. The peers only encode, with tiktoken's own pattern: each has the vocabulary loaded and its share of
the text in memory before the clock starts, and throws its ids away. Starting Python counts for neither.
"""

import json
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from primegpt.bench.compare import Comparison, compare, seconds
from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.prepare import prepare
from primegpt.data.reading.sources import read_documents
from primegpt.device import available_cores
from primegpt.errors import ConfigError
from primegpt.terminal import Say, silent
from primegpt.tokenizers import store

DOCUMENT = 3_000  # characters of a document of the benchmark, about those of a web page

_held: dict[str, Any] = {}  # in a peer's process: its share of the text, and the encoding


def bench_tokenize(
    source: str,
    tokenizer: str,
    *,
    megabytes: float = 50,
    turns: int = 3,
    say: Say = silent,
) -> Comparison:
    """Compare preparing about `megabytes` of text like `source` with bare encoding by the same vocabulary.

    `tokenizer` is a folder with GPT-2's files or a saved tokenizer that encodes through tiktoken.
    """
    sample = "".join(document.text for document in read_documents([source], songs=2000))
    characters = int(megabytes * 1e6)
    text = (sample * (characters // len(sample) + 1))[:characters]
    documents = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
    size, cores = len(text.encode()) / 1e6, available_cores()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store.save(store.load(tokenizer), home / "tokenizer")
        lines = home / "corpus.jsonl"
        _write_lines(lines, documents)

        def ours() -> float:
            shutil.rmtree(home / "cache", ignore_errors=True)
            data, kind = DataConfig(sources=(str(lines),)), TokenizerConfig(path=str(home / "tokenizer"))
            return size / seconds(lambda: prepare(data, kind, cache=home / "cache").close())

        with ExitStack() as stack:
            peers = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(cores)]
            shares = (documents[n::cores] for n in range(cores))
            for handed in [p.submit(_receive, str(home / "tokenizer"), s) for p, s in zip(peers, shares, strict=True)]:
                handed.result()

            def theirs() -> float:
                return size / seconds(lambda: [work.result() for work in [peer.submit(_encode) for peer in peers]])

            return compare(
                f"GPT-2 BPE, {size:.0f} MB in {len(documents):,} documents",
                "MB/s",
                {"primegpt data prepare": ours, f"{cores} tiktoken processes": theirs},
                turns=turns,
                say=say,
            )


def _write_lines(path: Path, documents: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)


def _receive(tokenizer: str, share: list[str]) -> None:
    encoding = getattr(store.load(tokenizer), "encoding", None)
    if encoding is None:
        raise ConfigError("this tokenizer does not encode through tiktoken", "give GPT-2's or a bpe tokenizer")
    _held.update(encoding=encoding, share=share)


def _encode() -> None:
    for text in _held["share"]:
        _held["encoding"].encode_ordinary(text)
