"""Text to shards, end to end, beside as many processes of a library as there are cores on the same bytes.

Ours loads the vocabulary, reads files, hashes them, holds out validation text, encodes, writes and syncs shards, and
hashes these too. The peers only encode, with the libraries that have this vocabulary, each as it does so fastest: they
have the vocabulary loaded and their share of the text in memory before the clock starts, and throw their ids away.
Starting Python counts for neither.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.bench.compare import Comparison, Run, compare, seconds
from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing.prepare import prepare
from primegpt.data.reading.sources import read_documents
from primegpt.device import available_cores
from primegpt.errors import ConfigError
from primegpt.terminal import Say, silent
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.tokenizers.bpe import ByteLevelBPE
from primegpt.tokenizers.imported import Imported
from primegpt.tokenizers.ranks import RankEncoding
from primegpt.tokenizers.sentencepiece import SentencePieceBPE
from primegpt.tokenizers.sentencepiece_files import SentencePieceVocabulary
from primegpt.tokenizers.tiktoken_files import TiktokenVocabulary
from primegpt.tokenizers.tokenizer_json import JsonVocabulary

if TYPE_CHECKING:
    import tiktoken

DOCUMENT = 3_000  # characters of a document of the benchmark, about those of a web page
CALL = 256  # documents that a peer encodes in one call, where its library takes several

Encode = Callable[[Sequence[str]], object]

_held: dict[str, Any] = {}  # in a peer's process: its share of the text, and what encodes it, by library


def bench_tokenize(
    source: str,
    tokenizer: str,
    *,
    megabytes: float = 50,
    turns: int = 3,
    say: Say = silent,
) -> Comparison:
    """Compare preparing about `megabytes` of text like `source` with bare encoding by the same vocabulary.

    `tokenizer` is a folder or a file that `--tokenizer.path` takes, if a library has its vocabulary.
    """
    sample = "".join(document.text for document in read_documents([source], songs=2000))
    characters = int(megabytes * 1e6)
    text = (sample * (characters // len(sample) + 1))[:characters]
    documents = [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]
    size, given = len(text.encode()) / 1e6, store.load(tokenizer)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder)
        store.save(given, home / "tokenizer")
        lines = home / "corpus.jsonl"
        _write_lines(lines, documents)

        def ours() -> float:
            shutil.rmtree(home / "cache", ignore_errors=True)
            data, kind = DataConfig(sources=(str(lines),)), TokenizerConfig(path=str(home / "tokenizer"))
            return size / seconds(lambda: prepare(data, kind, cache=home / "cache").close())

        return compare(
            f"{given.kind}, {given.vocab_size:,} ids, {size:.0f} MB in {len(documents):,} documents",
            "MB/s",
            {"primegpt data prepare": ours, **_peers(stack, home / "tokenizer", documents, size)},
            turns=turns,
            say=say,
        )


def _write_lines(path: Path, documents: list[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents)


def _peers(stack: ExitStack, tokenizer: Path, documents: list[str], size: float) -> dict[str, Run]:
    """A contestant for each library: its processes, which wait with their shares until they are asked."""
    cores = available_cores()
    workers = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in range(cores)]
    shares = (documents[n::cores] for n in range(cores))
    handed = [worker.submit(_receive, str(tokenizer), s) for worker, s in zip(workers, shares, strict=True)]
    names, *_ = [work.result() for work in handed]

    def rate(library: str) -> float:
        return size / seconds(lambda: [work.result() for work in [w.submit(_encode, library) for w in workers]])

    return {f"{cores} {name} processes": partial(rate, name) for name in names}


def _receive(tokenizer: str, share: list[str]) -> list[str]:
    """Take a share; the names of the libraries that can encode it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    found = libraries(store.load(tokenizer))
    _held.update(libraries=found, share=share)
    return list(found)


def _encode(library: str) -> None:
    share, encode = _held["share"], _held["libraries"][library]
    for start in range(0, len(share), CALL):
        encode(share[start : start + CALL])


def libraries(tokenizer: Tokenizer) -> dict[str, Encode]:
    """What encodes texts with this vocabulary on one thread, by the name of the library.

    Raises ConfigError if there is none.
    """
    match tokenizer:
        case Imported(vocabulary=JsonVocabulary(backend=backend, faster=faster)):
            found: dict[str, Encode] = {"tokenizers": partial(backend.encode_batch_fast, add_special_tokens=False)}
            return found | ({"tiktoken": _each(faster.backend)} if faster else {})
        case (
            Imported(vocabulary=TiktokenVocabulary(encoding=RankEncoding(backend=encoding)))
            | ByteLevelBPE(encoding=encoding)
        ):
            return {"tiktoken": _each(encoding)}
        case Imported(vocabulary=SentencePieceVocabulary(backend=processor)) | SentencePieceBPE(processor=processor):
            return {"sentencepiece": partial(processor.encode, out_type=int, num_threads=1)}
        case _:
            raise ConfigError(f"no library has a {tokenizer.kind} tokenizer", "give one of another kind")


def _each(encoding: "tiktoken.Encoding") -> Encode:
    """By a call a text, which is twice as fast as tiktoken's own threads for several."""
    return lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts]
