"""Cleaning, all of it off by default: documents in, fewer and tidier documents out, and what was dropped is said.

    documents = clean(read_documents(...), config.data, report)

Each document passes through the same steps, in this order: HTML to text, whitespace, characters beyond ASCII, length,
duplicates. A record (a document of fields without a text) is cleaned in each of its strings. Duplicates are dropped
over the whole corpus, before any of it is held out: a copy of a training document cannot become validation text.
"""

import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from primegpt.config import DataConfig
from primegpt.data.formats import INSTALL_DATA, Document
from primegpt.data.sources import read_documents
from primegpt.errors import DataError

SHINGLE = 5  # words of a span that near-duplicates are compared by
PERMUTATIONS, BANDS = 128, 32  # finds 99.98% of the pairs at similarity 0.7; every find is then verified
NEAR_BYTES = 4500  # memory a document of the near-duplicate index, measured
EXACT_BYTES = 110  # memory a document of the set of hashes
LONG_WORD = 20.0  # characters a word on average: the script does not part words by spaces

NO_TEXT = ["head", "script", "style", "template", "noscript"]
BLOCKS = (
    "p,div,li,tr,dt,dd,h1,h2,h3,h4,h5,h6,pre,blockquote,section,article,header,footer,nav,main,aside,hr,table,ul,ol"
)
MARK = "\x1e"  # where a block begins or ends, until the text is put together

Report = Callable[[str], None]


def clean_documents(config: DataConfig, report: Report = lambda line: None) -> Iterator[Document]:
    """The documents of `config.sources`, cleaned as `config` asks for."""
    text_field = config.text_field if config.template == "text" else None
    documents = read_documents(config.sources, songs=config.songs, text_field=text_field)
    if not _change(config) and len(_reasons_to_drop(config)) == 1:
        return documents  # in parts, however long they are
    return clean(whole(documents), config, report)


def whole(documents: Iterable[Document]) -> Iterator[Document]:
    """`documents` with the parts of long ones put together: to judge a text one must have read it."""
    parts: list[Document] = []
    for document in documents:
        if parts and not document.continues:
            yield _joined(parts)
            parts = []
        parts.append(document)
    if parts:
        yield _joined(parts)


def _joined(parts: list[Document]) -> Document:
    return replace(parts[0], text="".join(part.text for part in parts)) if len(parts) > 1 else parts[0]


def clean(documents: Iterable[Document], config: DataConfig, report: Report = lambda line: None) -> Iterator[Document]:
    """`documents` as `config` asks for, as a stream; at its end `report` gets one line, if anything was done.

    Raises DataError if nothing is left, or if near-duplicates are to go and the library for it is not installed.
    """
    change = _change(config)
    reasons_to_drop = _reasons_to_drop(config)
    n_documents, n_changed, dropped = 0, 0, Counter[str]()
    for document in documents:
        n_documents += 1
        tidy = _map_text(document, change) if change else document
        n_changed += tidy != document
        text = _all_text(tidy)
        reason = next((name for name, applies in reasons_to_drop if applies(text)), None)
        if reason:
            dropped[reason] += 1
        else:
            yield tidy
    n_left = n_documents - dropped.total()
    if n_changed or dropped:
        report(_summary(n_documents, n_left, n_changed, dropped, config))
    if n_documents and not n_left:
        raise DataError(f"cleaning dropped every one of {n_documents:,} documents: {_counts(dropped)}", "relax data.*")


def html_to_text(text: str) -> str:
    """The text of an HTML document or fragment: entities resolved, tags, comments, scripts and the head gone.

    `<br>` and the ends of paragraphs, list items and the like become line ends. A text without tags or entities is
    left as it is. Parsed as browsers do, so that no broken page is refused.
    """
    if "<" not in text and "&" not in text:
        return text
    tree = _html_parser()(text)
    tree.strip_tags(NO_TEXT)
    for node in tree.css("br"):
        node.insert_before("\n")
    for node in tree.css(BLOCKS):
        node.insert_before(MARK)
        node.insert_after(MARK)
    blocks = tree.root.text().split(MARK)
    return "\n".join(stripped for block in blocks if (stripped := block.strip()))


def normalize_whitespace(text: str) -> str:
    r"""Line ends as \n, one space for a run of them, none at the ends of lines, one empty line for a run of them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = re.sub(r"[^\S\n]+", " ", text)
    text = re.sub(r" ?\n ?", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _html_parser() -> Any:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise DataError(
            'data.html = "text" needs the package selectolax, which is not installed', INSTALL_DATA
        ) from None
    return LexborHTMLParser


# ---- what is changed


def _change(config: DataConfig) -> Callable[[str], str] | None:
    """All that `config` changes about a text, or None if that is nothing."""
    steps: list[Callable[[str], str]] = []
    if config.html == "text":
        steps.append(html_to_text)
    if config.whitespace == "normalize":
        steps.append(normalize_whitespace)
    if config.non_ascii == "strip":
        steps.append(lambda text: text if text.isascii() else text.encode("ascii", "ignore").decode())

    def change(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return change if steps else None


def _map_text(document: Document, change: Callable[[str], str]) -> Document:
    if document.text:
        return replace(document, text=change(document.text))
    return replace(document, fields={name: _map_strings(value, change) for name, value in document.fields.items()})


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(each, change) for each in value]
    return {key: _map_strings(each, change) for key, each in value.items()} if isinstance(value, dict) else value


def _all_text(document: Document) -> str:
    """The text of a document; of a record, its strings, the way they are named and nested."""
    if document.text or not document.fields:
        return document.text
    return json.dumps(dict(document.fields), ensure_ascii=False, sort_keys=True, default=str)


# ---- what is dropped


def _reasons_to_drop(config: DataConfig) -> list[tuple[str, Callable[[str], bool]]]:
    """Why a text is dropped, each with its test; the first that holds counts."""
    reasons: list[tuple[str, Callable[[str], bool]]] = [("empty", lambda text: not text or text.isspace())]
    if config.non_ascii == "drop":
        reasons.append(("not ASCII", lambda text: not text.isascii()))
    if (shortest := config.min_length) is not None:
        reasons.append((f"shorter than {shortest:,}", lambda text: len(text) < shortest))
    if (longest := config.max_length) is not None:
        reasons.append((f"longer than {longest:,}", lambda text: len(text) > longest))
    if config.duplicates != "keep":
        reasons.append(("exact copies", SeenBefore()))
    if config.duplicates == "near":
        reasons.append(("near-duplicates", MuchLikeBefore(config.similarity)))
    return reasons


class SeenBefore:
    """Whether exactly this text was asked about before, by a hash of 16 bytes."""

    def __init__(self) -> None:
        self._hashes: set[bytes] = set()

    def __call__(self, text: str) -> bool:
        before = len(self._hashes)
        self._hashes.add(hashlib.blake2b(text.encode(), digest_size=16).digest())
        return len(self._hashes) == before


class MuchLikeBefore:
    """Whether a text shares `similarity` of its spans with an earlier one that was not a near-duplicate itself.

    MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998), by rensa. Similarity is Jaccard's, of
    the sets of five-word spans (case and spaces aside), estimated with a standard error of 0.04. About 4.5 kB a text.
    """

    def __init__(self, similarity: float) -> None:
        try:
            rensa: Any = importlib.import_module("rensa")  # compiled, without type hints
        except ImportError:
            raise DataError(
                'data.duplicates = "near" needs the package rensa, which is not installed', INSTALL_DATA
            ) from None
        self._hasher = rensa.RMinHash
        self._index = rensa.RMinHashDeduplicator(similarity, PERMUTATIONS, True, BANDS, 0)
        self._n_kept = 0

    def __call__(self, text: str) -> bool:
        minhash = self._hasher(PERMUTATIONS, 0)
        minhash.update(shingles(text))
        kept = self._index.add(str(self._n_kept), minhash)
        self._n_kept += kept
        return not kept


def shingles(text: str) -> list[str]:
    """The spans of five words, or of five characters where words are not parted by spaces; at least one."""
    text = text.lower()
    words: list[str] = text.split()
    if len(text) > LONG_WORD * len(words) + LONG_WORD:
        words = list("".join(words))
    return [" ".join(words[at : at + SHINGLE]) for at in range(max(1, len(words) - SHINGLE + 1))]


# ---- what is said


def _summary(n_documents: int, n_left: int, n_changed: int, dropped: Counter[str], config: DataConfig) -> str:
    parts = [f"cleaning: {n_left:,} of {n_documents:,} documents are left"]
    if n_changed:
        parts.append(f"{n_changed:,} changed")
    if dropped:
        parts.append(f"dropped: {_counts(dropped)}")
    if config.duplicates != "keep":
        a_document = EXACT_BYTES + (NEAR_BYTES if config.duplicates == "near" else 0)
        parts.append(f"the index of duplicates took about {n_left * a_document / 1e6:,.0f} MB")
    return "; ".join(parts)


def _counts(dropped: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
