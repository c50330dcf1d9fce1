"""What a text is worth as training data: its size, its copies, its oddities, and what to do about them.

    report = audit(read_documents(...), n_parameters=800_000)
    for warning in report.warnings: ...

One pass over the documents, at about 10 MB a second, in memory that does not grow with their length: copies are found
through a sample of all 64-byte spans that is drawn by the spans' own hashes, so that every copy of a sampled span is in
the sample too (Broder 1997). Shares are estimates where the text is larger than the sample, with an error below 1%.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from primegpt.data.corpus import Corpus
from primegpt.data.formats import Document
from primegpt.data.shards import Shards
from primegpt.data.spans import LONG, Similar, SpanSample, blocks, span_hashes
from primegpt.model.size import human_bytes, human_count
from primegpt.tokenizers.base import Tokenizer

BATCH = 1 << 20  # bytes looked at together
TOKENIZED = 1_000_000  # characters tokenized to tell the number of tokens
TYPICAL_BYTES_PER_TOKEN = 4.0  # of English in a vocabulary of tens of thousands
HELD_OUT = 0.1
BLOCKWISE = 10_000  # bytes; longer documents are compared paragraph by paragraph

SMALL = 1e6  # bytes
# 20 tokens a parameter are what a model can use (Hoffmann et al. 2022). Below half a token a parameter they are more
# than 40 passes over the text, and by then another pass teaches nothing (Muennighoff et al. 2023, section 6).
TOKENS_PER_PARAMETER = 0.5
REPEATED, DUPLICATED, NEARLY_DUPLICATED, LEAKED = 0.2, 0.05, 0.1, 0.05
EXAMPLES_FROM = 0.05
UNKNOWN, HTML, TRUNCATED, SUPERVISED = 0.001, 0.01, 0.1, 0.05

_TAGS = "a abbr article b blockquote body br center code div em font footer h1 h2 h3 h4 h5 h6 head header hr html i"
_TAGS += " iframe img input li link main meta nav ol option p pre script section small span strong style sub sup table"
_TAGS += " tbody td th thead title tr u ul"
_HTML = re.compile(
    rf"</?(?:{'|'.join(_TAGS.split())})(?:\s[^<>]{{0,300}})?/?>|<!--|&(?:amp|lt|gt|quot|nbsp|apos|#\d{{1,6}});", re.I
)


@dataclass(frozen=True)
class AuditReport:
    """What was found. Shares are of 0 … 1; None is what could not be told from what was given."""

    n_documents: int
    bytes: int
    characters: int
    complete: bool
    """Whether all of the text was looked at."""
    tokens: int | None
    """Tokens of the whole text."""
    tokens_are_exact: bool
    n_parameters: int | None
    lengths: dict[str, int]
    """Characters of the documents: shortest, 5%, median, 95%, longest."""
    duplicate_share: float
    """Documents that are exactly an earlier one."""
    near_duplicate_share: float
    """Documents (or paragraphs of long ones) that share half of their 16-byte spans with an earlier one."""
    near_duplicates_of: str
    """What was compared: documents, or paragraphs."""
    repeated_share: float
    """64-byte spans of the text that stood before, anywhere."""
    repeated_elsewhere_share: float
    """64-byte spans of a document that another document has too."""
    repeated_examples: list[tuple[str, int]]
    """The most frequent of them, and how often they stand there."""
    leaked_share: float
    """Held-out spans (or documents) that the training part has too."""
    held_out: str
    """Which part was held out for that."""
    distinct_characters: int
    non_ascii_share: float
    unknown_share: float | None
    """Characters that the tokenizer does not know."""
    html_share: float
    """Characters that belong to HTML tags and entities."""
    truncated_share: float | None
    """Examples that were cut to fit."""
    supervised_share: float | None
    """Tokens that the loss is taken of."""

    @property
    def distinct_bytes(self) -> float:
        """Size without what stood before."""
        return self.bytes * (1 - self.repeated_share)

    @property
    def tokens_per_parameter(self) -> float | None:
        """Tokens that are no repetition, for each parameter of the model."""
        if not self.tokens or not self.n_parameters:
            return None
        return self.tokens * (1 - self.repeated_share) / self.n_parameters

    @property
    def warnings(self) -> list[str]:
        return warnings_worth_saying(self)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_parameter": self.tokens_per_parameter, "warnings": self.warnings}

    @classmethod
    def from_json(cls, values: Any) -> "AuditReport | None":
        """The report that `as_json` gave; None if `values` is none, such as one of another version."""
        try:
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (KeyError, TypeError):
            return None

    def rows(self) -> list[tuple[str, str]]:
        """The report as a table: names and values."""
        n, lengths = self.n_documents, self.lengths
        part = "" if self.complete else " (the beginning of a larger text)"
        rows = [("size", f"{human_bytes(self.bytes)} in {n:,} document{'s' * (n != 1)}{part}")]
        if self.tokens is not None:
            unit = " (characters)" if self.tokens == self.characters else ""
            rows.append(("tokens", f"{'' if self.tokens_are_exact else 'about '}{human_count(self.tokens)}{unit}"))
        if (ratio := self.tokens_per_parameter) is not None:
            model = human_count(self.n_parameters or 0)
            rows.append(("per parameter", f"{ratio:.2g} distinct tokens (model: {model})"))
        if n > 1:
            spread = f"5% below {lengths['5%']:,}, 5% above {lengths['95%']:,}, longest {lengths['longest']:,}"
            rows.append(("document length", f"median {lengths['median']:,} characters; {spread}"))
            rows.append(("exact copies", f"{self.duplicate_share:.1%} of the documents"))
        rows.append(("near-duplicates", f"{self.near_duplicate_share:.1%} of the {self.near_duplicates_of}"))
        elsewhere = f"; {self.repeated_elsewhere_share:.1%} in other documents" if n > 1 else ""
        rows.append(("repeated text", f"{self.repeated_share:.1%} of all {LONG}-byte spans{elsewhere}"))
        if self.repeated_share >= EXAMPLES_FROM:
            rows += [("", f"{count:,} times {text!r}") for text, count in self.repeated_examples]
        rows.append(("split leakage", f"{self.leaked_share:.1%} of {self.held_out} stands in the rest too"))
        rows.append(("characters", f"{self.distinct_characters:,} different; {self.non_ascii_share:.2%} are not ASCII"))
        if self.unknown_share is not None:
            rows.append(("<UNK>", f"{self.unknown_share:.3%} of the characters"))
        rows.append(("HTML", f"{self.html_share:.2%} of the characters"))
        if self.truncated_share is not None:
            rows.append(("truncated", f"{self.truncated_share:.1%} of the examples"))
        if self.supervised_share is not None:
            rows.append(("supervised", f"{self.supervised_share:.1%} of the tokens"))
        return rows


def audit(
    documents: Iterable[Document],
    tokenizer: Tokenizer | None = None,
    n_parameters: int | None = None,
    *,
    validation: Iterable[Document] | None = None,
    n_tokens: int | None = None,
    by_character: bool = False,
    complete: bool = True,
    truncated_share: float | None = None,
    supervised_share: float | None = None,
) -> AuditReport:
    """Look at `documents`, once.

    Tokens are `n_tokens` if that is known, else told from a part by `tokenizer`, else the characters if the model is to
    read `by_character`, else told from the size. With `validation`
    documents, leakage is measured between the two; without, between a tenth of the documents and the rest (or the last
    tenth of a single one and what comes before). `complete` is false if `documents` are a part of the text.
    """
    reading = _Reading(tokenizer)
    reading.read(documents)
    n_training = len(reading.sizes)
    if validation is not None:
        reading.read(validation)
    held_out, name = _held_out(reading, n_training, validation is not None)
    tokens, exact = n_tokens, n_tokens is not None
    if tokens is None and tokenizer is None and by_character:
        tokens, exact = reading.characters, True
    if tokens is None:
        tokens = round(reading.bytes / reading.bytes_per_token)
        exact = tokenizer is not None and reading.all_tokenized
    lengths = np.sort(np.asarray(reading.lengths)) if reading.lengths else np.zeros(1, np.int64)
    points = zip(("shortest", "5%", "median", "95%", "longest"), (0, 0.05, 0.5, 0.95, 1), strict=True)
    characters = max(1, reading.characters)
    spans, similar = reading.spans, reading.similar.resolve()
    return AuditReport(
        n_documents=len(reading.sizes),
        bytes=reading.bytes,
        characters=reading.characters,
        complete=complete,
        tokens=tokens,
        tokens_are_exact=exact,
        n_parameters=n_parameters,
        lengths={point: int(lengths[round(at * (len(lengths) - 1))]) for point, at in points},
        duplicate_share=1 - len(np.unique(np.asarray(reading.hashes))) / max(1, len(reading.hashes)),
        near_duplicate_share=similar.share,
        near_duplicates_of="paragraphs" if reading.blockwise else "documents",
        repeated_share=spans.repeated_share(),
        repeated_elsewhere_share=spans.repeated_elsewhere_share(),
        repeated_examples=spans.examples(bytes(reading.head)),
        leaked_share=max(spans.leaked_share(held_out), similar.leaked_share(held_out)),
        held_out=name,
        distinct_characters=len(reading.alphabet),
        non_ascii_share=reading.non_ascii / characters,
        unknown_share=None if tokenizer is None or tokenizer.unk_token is None else reading.unknown / characters,
        html_share=reading.html / characters,
        truncated_share=truncated_share,
        supervised_share=supervised_share,
    )


def audit_corpus(corpus: Corpus, n_parameters: int | None, max_tokens: int) -> AuditReport:
    """Audit what a run is about to learn from and to be judged by, as it stands in the shards.

    Of either split no more than the first `max_tokens` are looked at; their number is that of all.
    """
    complete = max(len(corpus.train), len(corpus.val)) <= max_tokens
    tally = corpus.tally
    report = audit(
        _decoded(corpus.train, corpus.tokenizer, max_tokens),
        n_parameters=n_parameters,
        validation=_decoded(corpus.val, corpus.tokenizer, max_tokens),
        n_tokens=len(corpus.train) + len(corpus.val),
        complete=complete,
        truncated_share=tally.truncated / tally.examples if tally.examples else None,
        supervised_share=tally.supervised_share if tally.examples else None,
    )
    report = replace(report, n_documents=corpus.n_documents)  # a single one lies in both splits
    if corpus.tokenizer.unk_id is None:
        return report
    unknown = np.mean(corpus.train.slice(0, min(max_tokens, len(corpus.train))) == corpus.tokenizer.unk_id)
    return replace(report, unknown_share=float(unknown))


def _decoded(shards: Shards, tokenizer: Tokenizer, max_tokens: int) -> Iterator[Document]:
    """The documents in the first `max_tokens` of `shards`, as text again."""
    stop = min(max_tokens, len(shards))
    starts = [int(start) for start in shards.document_starts if start < stop]
    for start, end in zip(starts, [*starts[1:], stop], strict=True):
        yield Document(tokenizer.decode(shards.slice(start, end), skip_special_tokens=True), str(shards.folder))


def warnings_worth_saying(report: AuditReport) -> list[str]:
    """What is wrong enough with the data to be told before time is spent on it: one line each, with its remedy."""
    warnings = list[str]()
    size, distinct = human_bytes(report.bytes), human_bytes(report.distinct_bytes)
    n, repeated = report.n_documents, report.repeated_share
    copied = repeated >= REPEATED
    if copied:
        remedy = "--data.duplicates near drops copied documents" if n > 1 else "give the original text once"
        warnings.append(
            f"{repeated:.0%} of the text repeats what stood before: {size}, but only {distinct} of it is distinct; "
            f"a model learns copies by heart, so {remedy}"
        )
    if report.complete and (report.distinct_bytes if copied else report.bytes) < SMALL:
        only = f"the distinct text is {distinct}" if copied else f"the text is {size}"
        warnings.append(f"{only}, less than 1 MB: expect words rather than sense; add more text")
    ratio = report.tokens_per_parameter
    if ratio is not None and ratio < TOKENS_PER_PARAMETER:
        fitting = human_count(ratio * (report.n_parameters or 0) / TOKENS_PER_PARAMETER)
        warnings.append(
            f"{ratio:.2g} distinct tokens for each of the model's {human_count(report.n_parameters or 0)} parameters "
            f"are few: it will learn the text by heart; use a model of at most {fitting} parameters, or more text"
        )
    near, exact = report.near_duplicate_share, report.duplicate_share
    if exact >= DUPLICATED or near >= NEARLY_DUPLICATED:
        exactly = f" ({exact:.0%} exactly)" if n > 1 else ""
        kind = "exact" if near - exact < NEARLY_DUPLICATED / 2 else "near"
        remedy = f"drop them with --data.duplicates {kind}" if n > 1 else "remove them from the file"
        warnings.append(
            f"{max(near, exact):.0%} of the {report.near_duplicates_of} copy an earlier one{exactly}; {remedy}"
        )
    if report.leaked_share >= LEAKED:
        remedy = "drop copies with --data.duplicates near" if n > 1 else "remove the repetitions"
        warnings.append(
            f"{report.leaked_share:.0%} of {report.held_out} stands in the training text too: the validation loss "
            f"will be too good; {remedy}"
        )
    if (report.unknown_share or 0) >= UNKNOWN:
        warnings.append(
            f"the tokenizer does not know {report.unknown_share:.1%} of the characters, which become <UNK>; "
            f"train one on this text, or use --tokenizer.kind bpe"
        )
    if report.html_share >= HTML:
        warnings.append(f"{report.html_share:.1%} of the characters are HTML; --data.html text turns it into text")
    if (report.truncated_share or 0) >= TRUNCATED:
        warnings.append(f"{report.truncated_share:.0%} of the examples are cut to fit; raise --model.block_size")
    if report.supervised_share is not None and report.supervised_share < SUPERVISED:
        warnings.append(
            f"only {report.supervised_share:.1%} of the tokens are learnt from; check the template's fields"
        )
    return warnings


class _Reading:
    """What is gathered while documents go by. It takes 24 bytes a document, and the samples."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.bytes = self.characters = self.non_ascii = self.html = self.unknown = 0
        self.sizes, self.lengths, self.hashes = array("q"), array("q"), array("Q")
        self.alphabet: set[str] = set()
        self.spans, self.similar = SpanSample(), Similar()
        self.blockwise = False
        self.head = bytearray()  # the beginning, where examples are quoted from
        self.tokenized = [0, 0, 0]  # characters, bytes, tokens

    def read(self, documents: Iterable[Document]) -> None:
        for batch in _batches(documents):
            self._read_batch(batch)

    @property
    def bytes_per_token(self) -> float:
        _, size, tokens = self.tokenized
        return size / tokens if tokens else TYPICAL_BYTES_PER_TOKEN

    @property
    def all_tokenized(self) -> bool:
        return self.tokenized[1] == self.bytes

    def _read_batch(self, documents: list[Document]) -> None:
        """Documents of about BATCH bytes together, or a single longer one."""
        encoded = [document.text.encode() for document in documents]
        first = len(self.sizes)
        for document, data in zip(documents, encoded, strict=True):
            self._count(document.text, data)
        if len(self.head) < BATCH:
            self.head += b"\0".join(encoded)[: BATCH - len(self.head)]
        if len(encoded) > 1:
            self._hash(b"".join(encoded), np.array([len(data) for data in encoded]), first, 0)
            return
        for start in range(0, len(encoded[0]), BATCH):  # overlapping, so that no span is lost between two pieces
            piece = encoded[0][start : start + BATCH + LONG - 1]
            self._hash(piece, np.array([len(piece)]), first, start)

    def _count(self, text: str, data: bytes) -> None:
        self.sizes.append(len(data))
        self.lengths.append(len(text))
        self.hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
        self.bytes += len(data)
        self.characters += len(text)
        self.alphabet.update(text)
        if len(text) != len(data):
            self.non_ascii += int(np.count_nonzero(np.frombuffer(data, np.uint8) >= 0xC0))  # first bytes of characters
        if "<" in text or "&" in text:
            self.html += sum(match.end() - match.start() for match in _HTML.finditer(text))
        if self.tokenizer is not None:
            self.unknown += sum(self.tokenizer.count_unknown(text).values())
            if (room := TOKENIZED - self.tokenized[0]) > 0:
                part = text[:room]
                size = len(data) if len(part) == len(text) else len(part.encode())
                counted = (len(part), size, len(self.tokenizer.encode_array(part)))
                self.tokenized = [a + b for a, b in zip(self.tokenized, counted, strict=True)]

    def _hash(self, data: bytes, sizes: npt.NDArray[np.int64], first: int, start: int) -> None:
        """Sample the spans of documents `first`, `first` + 1, …, whose bytes stand in `data` one after another."""
        array_of_bytes = np.frombuffer(data, np.uint8)
        ends = np.cumsum(sizes)
        owner = np.repeat(np.arange(len(sizes)), sizes)  # which document each byte belongs to
        short, long = span_hashes(array_of_bytes)
        whole = ends[owner[: len(long)]] - np.arange(len(long)) >= LONG
        position = start + np.arange(len(long)) - (ends - sizes)[owner[: len(long)]]
        self.spans.add(long[whole], first + owner[: len(long)][whole], position[whole])
        starts = ends - sizes
        if int(sizes.max(initial=0)) > BLOCKWISE:
            self.blockwise = True
            starts = blocks(array_of_bytes, starts[sizes > 0])
        else:
            starts = starts[sizes > 0]
        self.similar.add(
            short, starts, len(data), first + owner[starts], start + starts - (ends - sizes)[owner[starts]]
        )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents of about BATCH bytes together; one that is longer comes alone."""
    batch, size = list[Document](), 0
    for document in documents:
        if len(document.text) >= BATCH:
            if batch:
                yield batch
            yield [document]
            batch, size = [], 0
            continue
        batch.append(document)
        size += len(document.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _held_out(reading: _Reading, n_training: int, given: bool) -> tuple[Any, str]:
    """Whether a place in the text, (document, position), is held out, for arrays of them; and the name of that part."""
    if given:
        return (lambda document, position: document >= n_training), "the validation text"
    if n_training > 1:  # evenly spread over the corpus, whatever order it is in
        golden = (5**0.5 - 1) / 2
        return (
            lambda document, position: (document * golden) % 1 < HELD_OUT
        ), f"a random {HELD_OUT:.0%} of the documents"
    cut = (1 - HELD_OUT) * reading.bytes
    return (lambda document, position: position >= cut), f"the last {HELD_OUT:.0%} of the text"
