"""What pairs of answers are worth: those that say nothing, contradict each other, or prefer what is merely longer."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from primegpt.data.layout import Layout, Part
from primegpt.data.preparing.shards import CONTEXT, REJECTED, SUPERVISED, Shards
from primegpt.data.reading.records import Document
from primegpt.errors import DataError

IDENTICAL, DUPLICATED, SWAPPED, SHARED = 0.01, 0.05, 0.005, 0.05  # shares that are worth a warning
LONGER, LONGER_BY = (
    0.65,
    1.1,
)  # the share of chosen answers that are the longer ones, and by how much they are on average


class Pair(NamedTuple):
    """A pair as bytes, of text or of ids."""

    prompt: bytes
    chosen: bytes
    rejected: bytes


@dataclass(frozen=True)
class PairReport:
    """What was found. Shares are of 0 … 1."""

    pairs: int
    identical_share: float
    """Pairs whose answers are the same."""
    duplicate_share: float
    """Pairs that stood before."""
    swapped_share: float
    """Pairs that stood before the other way round."""
    longer_share: float
    """Chosen answers that are longer than the rejected one, of the pairs where one is."""
    length_ratio: float
    """Mean length of the chosen answers by that of the rejected ones."""
    shared_prompts: float | None
    """Held-out pairs whose prompt is learnt from as well; None where nothing is held out yet."""
    repeated_prompts: float
    """Pairs whose prompt stood before."""

    def rows(self) -> Iterator[tuple[str, str]]:
        """The report as rows of a table."""
        yield "pairs", f"{self.pairs:,}, {self.identical_share:.1%} of one and the same answer"
        yield "pairs again", f"{self.duplicate_share:.1%}; {self.swapped_share:.1%} the other way round"
        longer = f"{self.longer_share:.0%} of the chosen answers are the longer ones"
        yield "length", f"{longer}, on average {self.length_ratio:.2f} times as long"
        yield "prompts again", f"{self.repeated_prompts:.1%} of the pairs"
        if self.shared_prompts is not None:
            yield "prompts", f"{self.shared_prompts:.1%} of those held out are learnt from too"

    def warnings(self) -> Iterator[str]:
        """What is wrong enough to be said before training, each with its remedy."""
        if self.identical_share >= IDENTICAL:
            yield f"{self.identical_share:.1%} of the pairs have the same answer twice, which says nothing: drop them"
        if self.swapped_share >= SWAPPED:
            yield (
                f"{self.swapped_share:.1%} of the pairs stand there the other way round too, so that neither answer is "
                "preferred: leave both out"
            )
        if self.duplicate_share >= DUPLICATED:
            yield f"{self.duplicate_share:.0%} of the pairs stood before; drop them with --data.duplicates exact"
        ratio = self.length_ratio
        for share, by, word in (
            (self.longer_share, ratio, "longer"),
            (1 - self.longer_share, 1 / (ratio or 1), "shorter"),
        ):
            if share >= LONGER and by >= LONGER_BY:
                yield (
                    f"{share:.0%} of the chosen answers are the {word} ones ({ratio:.2f} times as long on average): "
                    f"the model will learn to write {word} ones; balance the pairs, or use --train.objective simpo"
                )
        if (self.shared_prompts or 0) >= SHARED:
            yield (
                f"{self.shared_prompts:.0%} of the validation pairs have a prompt that is learnt from too: the "
                "validation loss will be too good; give each prompt once"
            )

    def refuse_what_says_nothing(self) -> None:
        """Raise DataError if no pair has two different answers."""
        if self.pairs and self.identical_share == 1:
            what = "chosen and rejected are the same in all pairs, and so nothing is preferred"
            raise DataError(what, "look at the file: each pair needs two answers that differ")


@dataclass
class PairCounts:
    """Counts of pairs, by hashes of 16 bytes: memory does not grow with their length."""

    pairs: int = 0
    identical: int = 0
    duplicates: int = 0
    swapped: int = 0
    longer: int = 0
    shorter: int = 0
    chosen_size: int = 0
    rejected_size: int = 0
    repeated_prompts: int = 0
    seen: set[bytes] = field(default_factory=set)
    prompts: set[bytes] = field(default_factory=set)

    def add(self, pair: Pair) -> None:
        hashes = [hashlib.sha256(part).digest()[:16] for part in pair]
        prompt, chosen, rejected = hashes
        whole, other_way = b"".join(hashes), b"".join((prompt, rejected, chosen))
        self.pairs += 1
        self.identical += chosen == rejected
        self.duplicates += whole in self.seen
        self.swapped += chosen != rejected and other_way in self.seen
        self.longer += len(pair.chosen) > len(pair.rejected)
        self.shorter += len(pair.chosen) < len(pair.rejected)
        self.chosen_size += len(pair.chosen)
        self.rejected_size += len(pair.rejected)
        self.repeated_prompts += prompt in self.prompts
        self.seen.add(whole)
        self.prompts.add(prompt)

    def counted(self, documents: Iterable[Document], layout: Layout) -> Iterator[Document]:
        """`documents` as they are, their pairs counted as they pass."""
        for number, document in enumerate(documents):
            self.add(pair_of(layout.parts(document, number)))
            yield document

    def shared(self, held_out: Iterable[Pair]) -> float:
        """The share of `held_out` pairs whose prompt is among ours."""
        found = [hashlib.sha256(pair.prompt).digest()[:16] in self.prompts for pair in held_out]
        return sum(found) / max(1, len(found))

    def report(self, shared_prompts: float | None = None) -> PairReport:
        of = max(1, self.pairs)
        return PairReport(
            pairs=self.pairs,
            identical_share=self.identical / of,
            duplicate_share=self.duplicates / of,
            swapped_share=self.swapped / of,
            longer_share=self.longer / max(1, self.longer + self.shorter) if self.longer + self.shorter else 0.5,
            length_ratio=self.chosen_size / max(1, self.rejected_size),
            shared_prompts=shared_prompts,
            repeated_prompts=self.repeated_prompts / of,
        )


def report_of(training: Iterable[Pair], held_out: Iterable[Pair]) -> PairReport:
    """What is known of pairs that are learnt from and of those that judge what is learnt."""
    counts = PairCounts()
    for pair in training:
        counts.add(pair)
    return counts.report(counts.shared(held_out))


def pairs_in(shards: Shards, max_tokens: int) -> Iterator[Pair]:
    """The pairs in the first `max_tokens` of `shards`, as the bytes of their ids."""
    for record, start in enumerate(shards.document_starts):
        if start >= max_tokens:
            return
        begin, end = shards.document(record)
        ids, roles = shards.slice(begin, end), shards.roles(begin, end)
        yield Pair(*(ids[roles == role].tobytes() for role in (CONTEXT, SUPERVISED, REJECTED)))


def pair_of(parts: Iterable[Part]) -> Pair:
    """The pair that a record's parts are, in UTF-8."""
    parts = list(parts)
    texts = ("".join(p.content for p in parts if p.role == role) for role in (CONTEXT, SUPERVISED, REJECTED))
    return Pair(*(text.encode() for text in texts))
