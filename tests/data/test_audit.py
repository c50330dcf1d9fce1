"""What the audit finds, on texts whose faults are known; and that it is quiet where there are none."""

import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.audit import BATCH, AuditReport, _Reading, audit, audit_corpus, warnings_worth_saying
from primegpt.data.formats import Document
from primegpt.data.prepare import prepare
from primegpt.data.songbook import songbook
from primegpt.data.spans import LONG, SHORT, SpanSample, span_hashes
from primegpt.tokenizers import store


def documents(texts: Iterable[str]) -> list[Document]:
    return [Document(text, str(number)) for number, text in enumerate(texts)]


def words(n_bytes: int, seed: int = 0) -> str:
    """Text without repetitions: words of random letters, in lines and paragraphs."""
    letters = np.random.default_rng(seed).integers(ord("a"), ord("z") + 1, n_bytes, dtype=np.uint8)
    letters[::6] = ord(" ")
    letters[48::60] = ord("\n")
    letters[600::600] = letters[599::600][: len(letters[600::600])] = ord("\n")
    return letters.tobytes().decode()


def edited(text: str, seed: int, share: float = 0.03) -> str:
    draw = random.Random(seed)
    return " ".join("changed" if draw.random() < share else word for word in text.split(" "))


SONGS = [song.text for song in songbook(1400)]


# ---- what must be found


def test_70_kb_copied_to_10_mb():
    began = time.process_time()
    report = audit(documents([(words(70_000) * 143)[:10_000_000]]))
    assert time.process_time() - began < 10  # about 1.5 s; the machine may be busy
    assert report.repeated_share == pytest.approx(0.993, abs=0.001)
    assert report.distinct_bytes == pytest.approx(70_000, rel=0.02)
    assert report.leaked_share > 0.99
    text, count = report.repeated_examples[0]
    assert count in (142, 143)
    assert len(text) == LONG
    warning = report.warnings[0]
    assert "99% of the text repeats what stood before: 10 MB, but only 70 KB of it is distinct" in warning
    assert "give the original text once" in warning


def test_a_corpus_with_30_percent_near_duplicates():
    texts = SONGS[:700] + [edited(text, seed) for seed, text in enumerate(SONGS[:300])]
    random.Random(0).shuffle(texts)
    report = audit(documents(texts))
    assert report.near_duplicate_share == pytest.approx(0.3, abs=0.02)
    assert report.duplicate_share < 0.02
    assert any(
        "30% of the documents copy an earlier one" in line and "duplicates near" in line for line in report.warnings
    )


def test_the_same_in_one_file():
    texts = [words(500, seed) for seed in range(700)]
    texts += [edited(text, seed) for seed, text in enumerate(texts[:300])]
    random.Random(0).shuffle(texts)
    report = audit(documents(["\n\n".join(text.strip().replace("\n\n", "\n") for text in texts)]))
    assert report.near_duplicates_of == "paragraphs"
    assert report.near_duplicate_share == pytest.approx(0.3, abs=0.03)
    assert any("% of the paragraphs copy an earlier one; remove them" in line for line in report.warnings)


def test_a_validation_split_that_leaks():
    leaking = audit(documents(SONGS[:900]), validation=documents([*SONGS[900:960], *SONGS[:40]]))
    assert leaking.leaked_share == pytest.approx(0.4, abs=0.03)
    assert any("40% of the validation text stands in the training text too" in line for line in leaking.warnings)
    sound = audit(documents(SONGS[:900]), validation=documents(SONGS[900:1000]))
    assert sound.leaked_share < 0.01
    assert not any("validation" in line for line in sound.warnings)


def test_near_copies_leak_too():
    copies = [edited(text, seed, 0.05) for seed, text in enumerate(SONGS[:100])]
    report = audit(documents(SONGS[:900]), validation=documents(copies))
    assert report.leaked_share > 0.9


def test_50_kb_for_10_million_parameters():
    report = audit(documents([words(50_000)]), n_parameters=10_000_000, by_character=True)
    assert report.tokens_per_parameter == pytest.approx(0.005)
    assert report.warnings == [
        "the text is 50 KB, less than 1 MB: expect words rather than sense; add more text",
        "0.005 distinct tokens for each of the model's 10M parameters are few: it will learn the text by heart; "
        "use a model of at most 100K parameters, or more text",
    ]


def test_quiet_on_shakespeare_with_a_model_that_fits(shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    report = audit(documents([text]), store.train("char", [text]), 800_000)
    assert report.warnings == []
    assert report.tokens == pytest.approx(len(text), rel=1e-3)
    assert report.distinct_characters == 65
    assert report.repeated_share < 0.001


def test_quiet_on_songs_whether_apart_or_in_one_file():
    """A chorus comes back; that is no copy."""
    for given_texts in (SONGS, ["\n\n\n".join(SONGS)]):
        assert audit(documents(given_texts), n_parameters=100_000).warnings == []


# ---- figures, against what they are by definition


@given(st.lists(st.text("ab", max_size=100), min_size=1, max_size=8), st.integers(0, 3))
def test_repeated_spans_are_counted_exactly_while_all_fit_into_the_sample(texts, copies):
    texts = [text * (copies + 1) for text in texts]
    seen, total, pairs = Counter[bytes](), 0, set[tuple[bytes, int]]()
    for number, text in enumerate(texts):
        for at in range(len(text) - LONG + 1):
            span = text[at : at + LONG].encode()
            total += 1
            seen[span] += 1
            pairs.add((span, number))
    report = audit(documents(texts))
    assert report.repeated_share == pytest.approx(1 - len(seen) / total if total else 0)
    assert report.repeated_elsewhere_share == pytest.approx(1 - len(seen) / len(pairs) if pairs else 0)
    for text, count in report.repeated_examples:
        assert seen[text.encode()] == count
    if seen and seen.most_common(1)[0][1] > 2:
        assert report.repeated_examples[0][1] == seen.most_common(1)[0][1]


def test_a_sample_tells_the_share_of_a_text_that_does_not_fit_into_it():
    texts = [words(100_000, seed) for seed in (1, 2, 3, 1, 2, 1)]
    sample = SpanSample(kept=20_000)
    for number, text in enumerate(texts):
        _, hashes = span_hashes(np.frombuffer(text.encode(), np.uint8))
        sample.add(hashes, np.full(len(hashes), number), np.arange(len(hashes)))
    assert len(sample.places.hashes) <= 20_000
    assert sample.repeated_share() == pytest.approx(0.5, abs=0.02)
    assert sample.repeated_elsewhere_share() == pytest.approx(0.5, abs=0.02)
    assert sample.leaked_share(lambda document, position: document >= 4) == 1
    assert sample.leaked_share(lambda document, position: document == 2) == 0


def test_hashes_are_of_the_bytes_of_a_span_and_of_nothing_else():
    data = np.frombuffer(words(2000).encode() * 2, np.uint8)
    for hashes, length in zip(span_hashes(data), (SHORT, LONG), strict=True):
        assert len(hashes) == len(data) - length + 1
        assert np.array_equal(hashes[:1000], hashes[2000:3000])
        spans = {data[at : at + length].tobytes() for at in range(len(hashes))}
        assert len(np.unique(hashes)) == len(spans)
        assert len(span_hashes(data[: length - 1])[0 if length == SHORT else 1]) == 0


def test_long_documents_lose_no_span_between_two_pieces():
    text = words(BATCH + 1000)
    reading = _Reading(None)
    reading.read(documents([text, text[:-1], "short", ""]))
    assert reading.spans.n_spans == 2 * (len(text) - LONG + 1) - 1
    assert reading.spans.repeated_share() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("<p>" + "x" * 17, 3 / 20),
        ("a &amp; b", 5 / 9),
        ("I <3 you, a < b & c <prompt> <song>", 0),
        ("<br/></div><A HREF='x'>", 1),
        ("&#39;", 1),
    ],
)
def test_html(text, share):
    assert audit(documents([text])).html_share == pytest.approx(share)


def test_characters_and_unknown():
    report = audit(documents(["abc", "äbc", "漢字🎵"]), store.train("char", ["abcd"]))
    assert (report.bytes, report.characters, report.n_documents) == (17, 9, 3)
    assert report.non_ascii_share == pytest.approx(4 / 9)
    assert report.unknown_share == pytest.approx(4 / 9)
    assert report.distinct_characters == 7
    assert (report.tokens, report.tokens_are_exact) == (9, True)
    assert any("does not know 44.4% of the characters" in line for line in report.warnings)


def test_lengths():
    report = audit(documents("x" * n for n in range(101)))
    assert report.lengths == {"shortest": 0, "5%": 5, "median": 50, "95%": 95, "longest": 100}


def test_tokens_are_told_from_a_part_of_the_text():
    text = words(1_200_000)
    tokenizer = store.train("bpe", [text[:20_000]], 300)
    report = audit(documents([text]), tokenizer)
    assert not report.tokens_are_exact
    assert report.tokens == pytest.approx(len(tokenizer.encode(text)), rel=0.01)
    assert audit(documents([text])).tokens == 300_000  # by its size alone


@pytest.mark.parametrize("text", ["", " ", "a", "a" * 63, "\n" * 500, "é" * 40])
def test_next_to_nothing(text):
    report = audit(documents([text]))
    assert json.loads(json.dumps(report.as_json()))["n_documents"] == 1
    assert dict(report.rows())["size"]


def test_one_letter_a_million_times():
    report = audit(documents(["a" * 1_000_000]))
    assert report.repeated_share > 0.9999
    assert report.repeated_examples == [("a" * 64, 1_000_000 - 63)]


FINE = AuditReport(
    n_documents=10, bytes=10**7, characters=10**7, complete=True, tokens=10**7, tokens_are_exact=True,
    n_parameters=10**6, lengths={}, duplicate_share=0, near_duplicate_share=0, near_duplicates_of="documents",
    repeated_share=0, repeated_elsewhere_share=0, repeated_examples=[], leaked_share=0, held_out="",
    distinct_characters=9, non_ascii_share=0, unknown_share=0, html_share=0, truncated_share=0, supervised_share=0.5,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, None),
        ({"duplicate_share": 0.2, "near_duplicate_share": 0.2}, "(20% exactly); drop them with --data.duplicates exa"),
        ({"near_duplicate_share": 0.2}, "(0% exactly); drop them with --data.duplicates near"),
        ({"html_share": 0.02}, "2.0% of the characters are HTML; --data.html text"),
        ({"truncated_share": 0.2}, "20% of the examples are cut to fit; raise --model.block_size"),
        ({"supervised_share": 0.01}, "1.0% of the tokens are learnt from"),
        ({"bytes": 900_000, "complete": False, "tokens": 10**8}, None),
        ({"n_parameters": 10**8}, "use a model of at most 20M parameters"),
        ({"n_parameters": 10**8, "repeated_share": 0.5}, "use a model of at most 10M parameters"),
    ],
)  # fmt: skip
def test_each_fault_has_its_remedy(change: dict[str, Any], expected):
    warnings = warnings_worth_saying(dataclasses.replace(FINE, **change))
    assert (expected is None and not warnings) or any(expected in line for line in warnings), warnings
    assert not any("\n" in line for line in warnings)


# ---- the shards of a run


def test_a_prepared_corpus_is_audited_as_it_will_be_trained_on(tmp_path):
    (tmp_path / "a.txt").write_text(words(20_000) * 10, encoding="utf-8")
    corpus = prepare(DataConfig(sources=(str(tmp_path / "a.txt"),)), TokenizerConfig(kind="char"))
    report = audit_corpus(corpus, 1000, max_tokens=10**6)
    assert (report.n_documents, report.complete) == (1, True)
    assert report.bytes == 200_000
    assert report.tokens == len(corpus.train) + len(corpus.val)
    assert report.repeated_share == pytest.approx(0.9, abs=0.01)
    assert report.leaked_share > 0.99
    assert report.unknown_share == 0
    part = audit_corpus(corpus, 1000, max_tokens=30_000)
    assert not part.complete
    assert part.bytes == (30_000 - 1) + 20_000  # without the id that begins a document
    assert part.tokens == report.tokens
