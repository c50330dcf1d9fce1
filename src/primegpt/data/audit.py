"""What a text is worth as training data: its size, its copies, its oddities, and what to do about them.

    report = audit(read_documents(...), n_parameters=800_000)
    for warning in report.warnings: ...

One pass over the documents, at about 10 MB a second, in memory that does not grow with their length: copies are found
through a sample of all 64-byte spans that is drawn by the spans' own hashes, so that every copy of a sampled span is in
the sample too (Broder 1997). Shares are estimates where the text is larger than the sample, with an error below 1%.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from primegpt.data.audit_counts import Integers, TextCounts, held_out_places
from primegpt.data.audit_pairs import PairReport, pairs_in, report_of
from primegpt.data.cleaning.spans import LONG
from primegpt.data.layout import CUT
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import REJECTED, Shards
from primegpt.data.reading.formats import Document
from primegpt.model.size import human_bytes, human_count
from primegpt.tokenizers.base import Tokenizer

SMALL = 1e6  # bytes
# 20 tokens a parameter are what a model can use (Hoffmann et al. 2022). Below half a token a parameter they are more
# than 40 passes over the text, and by then another pass teaches nothing (Muennighoff et al. 2023, section 6).
TOKENS_PER_PARAMETER = 0.5
GUARDED = 0.0625  # the same of a run that averages its weights and ends when it learns no more (docs/planning.md)
COPIED, DUPLICATED, NEARLY_DUPLICATED, LEAKED = 0.2, 0.05, 0.1, 0.05
EXAMPLES_FROM = 0.05
UNKNOWN, HTML, SUPERVISED = 0.001, 0.01, 0.05
SCRIPT, ONE_SIDED = 0.02, 20  # of the letters on one side, and how many times as many as on the other


@dataclass(frozen=True)
class AuditReport:
    """What was found. Shares are of 0 … 1; None is what could not be known from what was given."""

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
    """Documents (or paragraphs of long ones) whose 16-byte spans are like an earlier one's: Jaccard 0.6, by MinHash."""
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
    truncated_share: float | None = None
    """Examples that were cut to fit."""
    supervised_share: float | None = None
    """Tokens that the loss is taken of."""
    cut_tokens: int = 0
    """Tokens to be learnt that did not fit ..."""
    cut_share: float | None = None
    """... and their share of all that were to be learnt."""
    context: int | None = None
    """Tokens that an example may have in front of its last one ..."""
    fitting_context: int | None = None
    """... and how many would cut off few of all tokens (`CUT`)."""
    dropped: str = "keep"
    """Which duplicates have been dropped already, as in data.duplicates."""
    copied_share: float = 0.0
    """64-byte spans that stood before and are no refrain: in another document, or long before in the same."""
    copied_lines_share: float = 0.0
    """The part of the text in lines of long documents that begin so."""
    end_marks: dict[str, int] = field(default_factory=dict)
    """How often the text spells what ends a document elsewhere."""
    one_sided: list[tuple[str, float, float]] = field(default_factory=list)
    """Scripts, with their shares of the letters of the training and the validation text, if one has next to none."""
    guarded: bool = False
    """Whether the weights are averaged (`train.average`), or the plan is of few passes."""
    pairs: PairReport | None = None
    """Of pairs of answers: what these are worth."""

    @property
    def distinct_bytes(self) -> float:
        """Size without copies."""
        return self.bytes * (1 - self.copied_share)

    @property
    def tokens_per_parameter(self) -> float | None:
        """Tokens that are no repetition, for each parameter of the model."""
        return self.distinct_tokens / self.n_parameters if self.tokens and self.n_parameters else None

    @property
    def distinct_tokens(self) -> float:
        """Tokens that are no repetition."""
        return (self.tokens or 0) * (1 - self.repeated_share)

    @property
    def fitting_parameters(self) -> float:
        """Of the largest model that will not learn the text by heart."""
        return self.distinct_tokens / (GUARDED if self.guarded else TOKENS_PER_PARAMETER)

    @property
    def warnings(self) -> list[str]:
        return warnings_worth_saying(self)

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"tokens_per_parameter": self.tokens_per_parameter, "warnings": self.warnings}

    @classmethod
    def from_json(cls, values: Any) -> "AuditReport | None":
        """The report that `as_json` gave; None if `values` is none, such as one of another version."""
        try:
            known = {field.name: values[field.name] for field in fields(cls) if field.name in values}
            return cls(**known | {"pairs": PairReport(**known["pairs"]) if known.get("pairs") else None})
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
        rows.append(("copied text", f"{self.copied_share:.1%}: that without refrains"))
        if self.repeated_share >= EXAMPLES_FROM:
            rows += [("", f"{count:,} times {text!r}") for text, count in self.repeated_examples]
        rows.append(("split leakage", f"{self.leaked_share:.1%} of {self.held_out} stands in the rest too"))
        rows.append(("characters", f"{self.distinct_characters:,} different; {self.non_ascii_share:.2%} are not ASCII"))
        if self.end_marks:
            rows.append(("end marks", ", ".join(f"{count:,} times {mark!r}" for mark, count in self.end_marks.items())))
        if self.unknown_share is not None:
            rows.append(("<UNK>", f"{self.unknown_share:.3%} of the characters"))
        rows.append(("HTML", f"{self.html_share:.2%} of the characters"))
        if self.truncated_share is not None:
            tokens = "" if self.cut_share is None else f", which lose {self.cut_share:.1%} of the tokens to be learnt"
            rows.append(("truncated", f"{self.truncated_share:.1%} of the examples{tokens}"))
        if self.supervised_share is not None:
            rows.append(("supervised", f"{self.supervised_share:.1%} of the tokens"))
        return [*rows, *(self.pairs.rows() if self.pairs else ())]


def audit_documents(
    documents: Iterable[Document],
    tokenizer: Tokenizer | None = None,
    n_parameters: int | None = None,
    *,
    validation: Iterable[Document] | None = None,
    by_character: bool = False,
    dropped: str = "keep",
    complete: bool = True,
) -> AuditReport:
    """Look at `documents`, once.

    Tokens are told from a part by `tokenizer`, else they are the characters if the model is to read `by_character`,
    else told from the size. Leakage is measured from `validation`, else from a tenth of the documents (or the end of a
    single one). `complete` is false for a part of the text; `dropped` is the data.duplicates it was read with.
    """
    seen = TextCounts(tokenizer).read(documents)
    n_training, training_letters = len(seen.sizes), seen.letters.copy()
    seen.read(validation or ())
    held_out, name = held_out_places(seen, n_training, validation is not None)
    tokens, exact = seen.tokens(by_character=by_character)
    spans, similar = seen.spans, seen.similar.resolve()
    told_apart = validation is not None and complete  # the beginnings of both need not be of the same files
    return AuditReport(
        n_documents=len(seen.sizes),
        bytes=seen.bytes,
        characters=seen.characters,
        complete=complete,
        tokens=tokens,
        tokens_are_exact=exact,
        n_parameters=n_parameters,
        lengths=seen.lengths_of_documents(),
        duplicate_share=seen.duplicate_share(),
        near_duplicate_share=similar.copied_share,
        near_duplicates_of="paragraphs" if seen.blockwise else "documents",
        repeated_share=spans.repeated_share(),
        repeated_elsewhere_share=spans.repeated_elsewhere_share(),
        repeated_examples=spans.examples(bytes(seen.head)),
        leaked_share=max(spans.leaked_share(held_out), similar.leaked_share(held_out)),
        held_out=name,
        distinct_characters=int(np.count_nonzero(seen.letters)),
        non_ascii_share=seen.non_ascii / max(1, seen.characters),
        unknown_share=seen.unknown_share(),
        html_share=seen.html / max(1, seen.characters),
        dropped=dropped,
        copied_share=spans.copied_share(),
        copied_lines_share=seen.lines.copied_share() * seen.long_bytes / max(1, seen.bytes),
        end_marks=dict(seen.end_marks.most_common()),
        one_sided=_one_sided(training_letters, seen.letters - training_letters) if told_apart else [],
    )


def audit_corpus(
    corpus: Corpus, n_parameters: int | None, max_tokens: int, *, context: int | None = None, dropped: str = "keep"
) -> AuditReport:
    """Audit what a run is about to learn from and to be judged by, as it stands in the shards.

    Of either split no more than the first `max_tokens` are looked at; their number is that of all.
    """
    complete = max(len(corpus.train), len(corpus.val)) <= max_tokens
    report = audit_documents(
        _decoded(corpus.train, corpus.tokenizer, max_tokens),
        n_parameters=n_parameters,
        validation=_decoded(corpus.val, corpus.tokenizer, max_tokens),
        dropped=dropped,
        complete=complete,
    )
    # A single document lies in both splits.
    n_tokens = len(corpus.train) + len(corpus.val)
    report = replace(report, n_documents=corpus.n_documents, tokens=n_tokens, tokens_are_exact=True)
    if corpus.train.has_pairs:
        report = replace(report, pairs=report_of(*(pairs_in(part, max_tokens) for part in (corpus.train, corpus.val))))
    if (tally := corpus.tally).examples:
        report = replace(
            report,
            truncated_share=tally.truncated / tally.examples,
            cut_tokens=tally.cut_supervised,
            cut_share=tally.cut_share,
            context=context,
            fitting_context=tally.fitting_context(),
            supervised_share=tally.supervised_share,
        )
    if corpus.tokenizer.unk_id is None:
        return report
    unknown = np.mean(corpus.train.slice(0, min(max_tokens, len(corpus.train))) == corpus.tokenizer.unk_id)
    return replace(report, unknown_share=float(unknown))


def _decoded(shards: Shards, tokenizer: Tokenizer, max_tokens: int) -> Iterator[Document]:
    """The documents in the first `max_tokens` of `shards`, as text again."""
    stop = min(max_tokens, len(shards))
    starts = [int(start) for start in shards.document_starts if start < stop]
    paired = shards.has_pairs
    for start, end in zip(starts, [*starts[1:], stop], strict=True):
        ids = shards.slice(start, end)
        ids = ids[shards.roles(start, end) != REJECTED] if paired else ids  # of a pair, the answer to be learnt
        yield Document(tokenizer.decode(ids, skip_special_tokens=True), str(shards.folder))


def warnings_worth_saying(report: AuditReport) -> list[str]:
    """What is wrong enough with the data to say before time is spent on it: one line each, with its remedy."""
    return [*_too_little(report), *_unfit(report), *(report.pairs.warnings() if report.pairs else ())]


def _too_little(report: AuditReport) -> Iterator[str]:
    """Warnings of copies, of too little text, and of validation text that was learnt."""
    size, distinct = human_bytes(report.bytes), human_bytes(report.distinct_bytes)
    n, copied, remedy = report.n_documents, report.copied_share >= COPIED, _remedy(report)
    if copied:
        yield (
            f"{report.copied_share:.0%} of the text repeats what stood before: {size}, but only {distinct} of it is "
            f"distinct; a model learns copies by heart: {remedy}"
        )
    if report.complete and (report.distinct_bytes if copied else report.bytes) < SMALL:
        only = f"the distinct text is {distinct}" if copied else f"the text is {size}"
        yield f"{only}, less than 1 MB: expect words rather than sense; add more text"
    ratio = report.tokens_per_parameter
    if ratio is not None and (report.n_parameters or 0) > report.fitting_parameters:
        fitting = human_count(report.fitting_parameters)
        yield (
            f"{ratio:.2g} distinct tokens for each of the model's {human_count(report.n_parameters or 0)} parameters "
            f"are few: it will learn the text by heart; use a model of at most {fitting} parameters, or more text"
        )
    near, exact = report.near_duplicate_share, report.duplicate_share
    if exact >= DUPLICATED or near >= NEARLY_DUPLICATED:
        exactly = f" ({exact:.0%} exactly)" if n > 1 else ""
        yield (f"{max(near, exact):.0%} of the {report.near_duplicates_of} copy an earlier one{exactly}; {remedy}")
    if report.leaked_share >= LEAKED:
        yield (
            f"{report.leaked_share:.0%} of {report.held_out} stands in the training text too: the validation loss "
            f"will be too good; {remedy}"
        )


def _unfit(report: AuditReport) -> Iterator[str]:
    """Warnings of what the text is made of."""
    for script, training, held_out in report.one_sided:
        yield (
            f"{script} letters are {training:.1%} of those in the training text and {held_out:.1%} of those in the "
            f"validation text, which therefore judges something else; name the files of each language as a source"
        )
    if sum(report.end_marks.values()) > 1:
        marks = ", ".join(f"{mark!r} {count:,} times" for mark, count in report.end_marks.items())
        yield (
            f"the text spells {marks}: ordinary characters here, which end nothing; make each document a line "
            '{"text": "…"} of a .jsonl file'
        )
    if (report.unknown_share or 0) >= UNKNOWN:
        yield (
            f"the tokenizer does not know {report.unknown_share:.1%} of the characters, which become <UNK>; "
            f"a model that is trained with --tokenizer.kind bpe knows every one"
        )
    if report.html_share >= HTML:
        yield f"{report.html_share:.1%} of the characters are HTML; --data.html text turns it into text"
    if (report.cut_share or 0) > CUT:
        further = (report.fitting_context or 0) > (report.context or 0)
        fitting = f", and {report.fitting_context:,} would cut {CUT:.0%} at most" if further else ""
        yield (
            f"{report.truncated_share or 0:.0%} of the records are longer than the context: {report.cut_tokens:,} "
            f"tokens to be learnt are cut off, {report.cut_share:.0%} of all{fitting}; raise --model.block_size (and "
            "--train.sequence_length where it is set)"
        )
    if report.supervised_share is not None and report.supervised_share < SUPERVISED:
        yield (f"only {report.supervised_share:.1%} of the tokens are learnt from; check the template's fields")


def _remedy(report: AuditReport) -> str:
    """What takes the copies out of this text: told by what they are copies of, and not what was tried already."""
    worth, near = max(report.copied_share, report.near_duplicate_share) / 2, report.near_duplicate_share
    if report.dropped == "keep" and report.duplicate_share > 0 and report.duplicate_share >= worth:
        return "drop copied documents with --data.duplicates exact"
    if (
        report.dropped == "keep"
        and report.copied_lines_share > 0
        and report.copied_lines_share >= max(worth, 0.9 * near)
    ):
        return "drop copied lines with --data.duplicates exact"
    if report.dropped != "near" and near > 0 and near >= worth:
        return f"drop copied {report.near_duplicates_of} with --data.duplicates near"
    return "give each text once" if report.n_documents == 1 else "take out what many documents have in common"


def _one_sided(training: Integers, validation: Integers) -> list[tuple[str, float, float]]:
    """Scripts that one of two texts is partly written in, and the other hardly at all, with their shares of letters."""
    shares = []
    for counts in (training, validation):
        scripts = Counter[str]()
        for code in np.flatnonzero(counts).tolist():
            if (letter := chr(code)).isalpha():
                scripts[unicodedata.name(letter, "other").split()[0]] += int(counts[code])
        shares.append({script: count / scripts.total() for script, count in scripts.items()})
    both = [(script, shares[0].get(script, 0.0), shares[1].get(script, 0.0)) for script in {**shares[0], **shares[1]}]
    return [(script, a, b) for script, a, b in both if max(a, b) >= max(SCRIPT, ONE_SIDED * min(a, b))]
