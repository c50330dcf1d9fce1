"""Cleaning, all of it off by default: documents in, fewer and tidier documents out, and what was dropped is said.

    documents = clean(read_documents(...), config.data, say)

Each document passes through the same steps, in this order: HTML to text, whitespace, characters beyond ASCII, length,
duplicates. A record (a document of fields without a text) is cleaned in each of its strings, and judged by what is
learnt of it. Duplicates are dropped over the whole corpus, before any of it is held out: a copy of a training document
cannot become validation text. A text file is one document, so long ones are looked at line by line too.
"""

import hashlib
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from primegpt.config import DataConfig
from primegpt.data.cleaning.spans import REFRAIN
from primegpt.data.layout import Layout
from primegpt.data.reading.formats import INSTALL_DATA
from primegpt.data.reading.records import Document
from primegpt.data.reading.sources import read_documents
from primegpt.data.template import layout_for
from primegpt.errors import DataError
from primegpt.terminal import Say, silent

SHINGLE = 5  # words of a span that near-duplicates are compared by
PERMUTATIONS, BANDS = 128, 32  # finds 99.98% of the pairs at similarity 0.7; every find is then verified
NEAR_BYTES = 4500  # memory a document of the near-duplicate index, measured
EXACT_BYTES = 110  # memory a document of the set of hashes
LONG_TEXT = 10_000  # characters; of longer ones, lines and paragraphs are compared
COPIED = 100  # characters at least of what is called a copy inside a text
LONG_WORD = 20.0  # characters a word on average: the script does not part words by spaces

NO_TEXT = ["head", "script", "style", "template", "noscript"]
BLOCKS = (
    "p,div,li,tr,dt,dd,h1,h2,h3,h4,h5,h6,pre,blockquote,section,article,header,footer,nav,main,aside,hr,table,ul,ol"
)
MARK = "\x1e"  # where a block begins or ends, until the text is put together


def clean_documents(config: DataConfig, say: Say = silent) -> Iterator[Document]:
    """The documents of `config.sources`, cleaned as `config` asks for."""
    own = [config.of(group) for group in range(len(config.sources))]
    documents = read_documents(
        config.sources,
        songs=config.songs,
        text_field=[each.text_field if each.template == "text" else None for each in own],
        limit=config.max_record_bytes,
        named=set(filter(None, (name for each in own for name in _fields_asked_for(each)))),
        say=say,
    )
    if not _change(config) and len(_reasons_to_drop(config)) == 1:
        return documents  # in parts, however long they are
    return clean(whole(documents), config, say)


def _fields_asked_for(config: DataConfig) -> Iterator[str | None]:
    yield from (*config.prompt_field, config.response_field, config.genre_field, config.emotion_field)


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


def clean(documents: Iterable[Document], config: DataConfig, say: Say = silent) -> Iterator[Document]:
    """`documents` as `config` asks for, as a stream; at its end `say` gets one line, if anything was done.

    Raises DataError if nothing is left, or if near-duplicates are to go and the library for it is not installed.
    """
    change = _change(config)
    reasons_to_drop, layout = _reasons_to_drop(config), layout_for(config)
    repetitions = Repetitions(config) if config.duplicates != "keep" else None
    n_documents, n_changed, dropped = 0, 0, Counter[str]()
    for document in documents:
        n_documents += 1
        tidy = _map_text(document, change) if change else document
        n_changed += tidy != document
        text = _all_text(tidy, layout)
        reason = next((name for name, applies in reasons_to_drop if applies(text)), None)
        if not reason and repetitions and len(tidy.text) > LONG_TEXT:
            tidy = replace(tidy, text=repetitions.taken_out_of(tidy.text))
            reason = None if tidy.text else "nothing but copies"
        if reason:
            dropped[reason] += 1
        else:
            yield tidy
    n_left = n_documents - dropped.total()
    if n_changed or dropped:
        say(_summary(n_documents, n_left, n_changed, dropped, config))
    if repetitions and repetitions.n_characters:
        say(f"cleaning: {repetitions.n_characters:,} characters of lines and paragraphs were copies")
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


def _map_strings(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(each, change) for each in value]
    return {key: _map_strings(each, change) for key, each in value.items()} if isinstance(value, dict) else value


def _all_text(document: Document, layout: Layout | None) -> str:
    """The text of a document; of a record what is learnt of it, so that a number of its own makes no other of it."""
    if layout is None or not document.fields:
        return document.text
    with suppress(DataError):  # of a record that is refused later; or of labels that only the tokenizer knows
        return "\0".join(layout.texts(document, 0))
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
        return self.first_like(text, self._n_kept) is not None

    def first_like(self, text: str, name: int) -> int | None:
        """The least name of the texts that this one is much like; None if there is none, and then it is remembered."""
        minhash = self._hasher(PERMUTATIONS, 0)
        minhash.update(shingles(text))
        if like := self._index.get_duplicates(minhash):
            return min(map(int, like))
        self._index.add(str(name), minhash)
        self._n_kept += 1
        return None


class Repetitions:
    """Takes lines out of long texts that stood before, in the same or another; and paragraphs much like earlier ones.

    A line is a copy if it and what comes after it, to 100 characters, stood before: no short line is one by itself.
    What first stood within the 10,000 characters before is a refrain, and stays. It takes about 150 bytes a line.
    """

    def __init__(self, config: DataConfig) -> None:
        self.n_characters = 0
        self._seen: dict[bytes, int] = {}
        self._like = MuchLikeBefore(config.similarity) if config.duplicates == "near" else None
        self._begin = 0  # of the text, among all of them, with a gap between any two

    def taken_out_of(self, text: str) -> str:
        left = self._without_lines(text)
        if self._like:
            left = self._without_paragraphs(left, self._like)
        self._begin += len(text) + REFRAIN + 1
        self.n_characters += len(text) - len(left)
        return left

    def _without_lines(self, text: str) -> str:
        left, copied = list[str](), 0  # up to where a copy goes
        for line in re.finditer(r"[^\n]*\n|[^\n]+", text):
            stretch = text[line.start() : line.start() + max(len(line[0].rstrip()), COPIED)]
            if len(stretch) >= COPIED:
                key = hashlib.blake2b(stretch.encode(), digest_size=16).digest()
                here = self._begin + line.start()
                if here - self._seen.setdefault(key, here) > REFRAIN:
                    copied = max(line.end(), line.start() + len(stretch))
            if line.end() > copied:
                left.append(line[0])
        return "".join(left)

    def _without_paragraphs(self, text: str, like: MuchLikeBefore) -> str:
        left, here = list[str](), self._begin
        pieces = re.split(r"(\n[^\S\n]*\n\s*)", text)  # paragraphs, and between them what parts them
        for paragraph, gap in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            first = like.first_like(paragraph, here) if len(paragraph) >= COPIED else None
            if first is None or here - first <= REFRAIN:
                left += paragraph, gap
            here += len(paragraph) + len(gap)
        return "".join(left)


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
