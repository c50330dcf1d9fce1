"""What the audit finds, on texts whose faults are known; and that it is quiet where there are none."""

import dataclasses
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.audit import AuditReport, audit_corpus, audit_documents, warnings_worth_saying
from primegpt.data.audit_counts import BATCH, TextCounts
from primegpt.data.cleaning.spans import LONG, SHORT, SpanSample, span_hashes
from primegpt.data.preparing.prepare import prepare
from primegpt.data.preparing.survey import Library
from primegpt.data.reading import formats
from primegpt.data.reading.formats import Document
from primegpt.data.songbook import songbook
from primegpt.data.template import as_texts, template_for
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
    report = audit_documents(documents([(words(70_000) * 143)[:10_000_000]]))
    assert time.process_time() - began < 10  # about 1.5 s; the machine may be busy
    assert report.repeated_share == pytest.approx(0.993, abs=0.001)
    assert report.distinct_bytes == pytest.approx(70_000, rel=0.02)
    assert report.leaked_share > 0.99
    text, count = report.repeated_examples[0]
    assert count in (142, 143)
    assert len(text) == LONG
    warning = report.warnings[0]
    assert "99% of the text repeats what stood before: 10 MB, but only 70 KB of it is distinct" in warning
    assert "drop copied lines with --data.duplicates exact" in warning


def test_a_corpus_with_30_percent_near_duplicates():
    texts = SONGS[:700] + [edited(text, seed) for seed, text in enumerate(SONGS[:300])]
    random.Random(0).shuffle(texts)
    report = audit_documents(documents(texts))
    assert report.near_duplicate_share == pytest.approx(0.3, abs=0.03)
    assert report.duplicate_share < 0.02
    assert any(
        f"{report.near_duplicate_share:.0%} of the documents copy an earlier one" in line and "duplicates near" in line
        for line in report.warnings
    )


def test_the_same_in_one_file():
    texts = [words(500, seed) for seed in range(700)]
    texts += [edited(text, seed) for seed, text in enumerate(texts[:300])]
    random.Random(0).shuffle(texts)
    report = audit_documents(documents(["\n\n".join(text.strip().replace("\n\n", "\n") for text in texts)]))
    assert report.near_duplicates_of == "paragraphs"
    assert report.near_duplicate_share == pytest.approx(0.3, abs=0.03)
    assert any("of the paragraphs copy an earlier one; drop copied paragraphs with" in line for line in report.warnings)


def test_a_validation_split_that_leaks():
    leaking = audit_documents(documents(SONGS[:900]), validation=documents([*SONGS[900:960], *SONGS[:40]]))
    assert leaking.leaked_share == pytest.approx(0.4, abs=0.03)
    assert any("40% of the validation text stands in the training text too" in line for line in leaking.warnings)
    sound = audit_documents(documents(SONGS[:900]), validation=documents(SONGS[900:1000]))
    assert sound.leaked_share < 0.01
    assert not any("validation" in line for line in sound.warnings)


def test_near_copies_leak_too():
    copies = [edited(text, seed, 0.05) for seed, text in enumerate(SONGS[:100])]
    report = audit_documents(documents(SONGS[:900]), validation=documents(copies))
    assert report.leaked_share > 0.9


def test_50_kb_for_10_million_parameters():
    report = audit_documents(documents([words(50_000)]), n_parameters=10_000_000, by_character=True)
    assert report.tokens_per_parameter == pytest.approx(0.005)
    assert report.warnings == [
        "the text is 50 KB, less than 1 MB: expect words rather than sense; add more text",
        "0.005 distinct tokens for each of the model's 10M parameters are few: it will learn the text by heart; "
        "use a model of at most 100K parameters, or more text",
    ]


def test_quiet_on_shakespeare_with_a_model_that_fits(shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    report = audit_documents(documents([text]), store.train("char", [text]), 800_000)
    assert report.warnings == []
    assert report.tokens == pytest.approx(len(text), rel=1e-3)
    assert report.distinct_characters == 65
    assert report.repeated_share < 0.001


def test_quiet_on_songs_whether_apart_or_in_one_file():
    """A chorus comes back; that is no copy."""
    for given_texts in (SONGS, ["\n\n\n".join(SONGS)]):
        assert audit_documents(documents(given_texts), n_parameters=100_000).warnings == []


# ---- what is advised, followed


def sung(seed: int) -> str:
    """A song whose refrain stands in it three times."""
    refrain = words(300, 10_000 + seed)
    return "\n".join(part for verse in range(3) for part in (words(300, 10 * seed + verse), refrain))


def jsonl(texts: Iterable[str]) -> dict[str, str]:
    return {"a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in texts)}


TALES = [words(2000, seed) for seed in range(200)]
NEAR_TALES = [edited(text.replace("\n\n", "\n"), seed, 0.02) for seed, text in enumerate(TALES[:100])]
SOURCES: dict[str, dict[str, str]] = {
    "copied records": jsonl(TALES + TALES[:100]),
    "records much like others": jsonl([text.replace("\n\n", "\n") for text in TALES] + NEAR_TALES),
    "a file of copies": {"a.txt": words(70_000) * 20},
    "a file of copies, no paragraphs": {"a.txt": words(70_000).replace("\n\n", "\n") * 20},
    "a file of small copies": {"a.txt": words(4_000) * 200},
    "files of copies": {f"{n}.txt": words(30_000, n) * 10 for n in range(3)},
    "the same file under two names": {"a.txt": TALES[0] * 2, "b.txt": TALES[0] * 2, "c.txt": TALES[1] * 2},
    "a file of paragraphs much like others": {
        "a.txt": "\n\n".join(text.strip().replace("\n\n", "\n") for text in TALES + NEAR_TALES)
    },
    "a web page": jsonl([f"<p>{text}</p><br>&amp;" * 3 for text in (words(30, n) for n in range(900))]),
}
SOURCES["copied records with numbers of their own"] = {
    "a.jsonl": "".join(
        json.dumps({"prompt": TALES[n % 100][:300], "response": TALES[n % 100][300:900], "id": n}) + "\n"
        for n in range(300)
    )
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_option_that_is_advised_helps(name, tmp_path):
    """It is given, and the copies are gone; nothing else is advised in its place."""
    for file, text in SOURCES[name].items():
        (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    template = "response" if "numbers" in name else "text"
    settings: dict[str, Any] = {"sources": (str(tmp_path),), "template": template}

    def look() -> tuple[AuditReport, set[tuple[str, str]]]:
        config = DataConfig(**settings)
        report = audit_documents(as_texts(Library(config, print), template_for(config)), dropped=config.duplicates)
        return report, {found for line in report.warnings for found in re.findall(r"--data\.(\w+) (\w+)", line)}

    before, advised = look()
    assert len(advised) == 1, before.warnings
    settings |= dict(advised)
    after, advised_then = look()
    assert advised_then == set(), after.warnings
    assert not any("heart" in line or "copy an earlier" in line or "HTML" in line for line in after.warnings)
    assert after.bytes < 0.9 * before.bytes


@pytest.mark.parametrize("as_one", [False, True])
def test_refrains_are_no_copies(as_one):
    songs = [sung(seed) for seed in range(300)]
    report = audit_documents(documents(["\n\n\n".join(songs)] if as_one else songs))
    assert report.repeated_share > 0.25
    assert report.copied_share < 0.01
    assert [line for line in report.warnings if "more text" not in line] == []


def test_no_option_is_advised_where_none_helps():
    """Words that every record begins with, and copies without a line end: neither has anything to be dropped."""
    common = words(400).replace("\n", " ")
    each = audit_documents(documents(common + words(300, seed) for seed in range(400)))
    assert "heart: take out what many documents have in common" in each.warnings[0]
    once = audit_documents(documents([words(20_000).replace("\n", " ") * 60]))
    assert "heart: give each text once" in once.warnings[0]
    assert not any("--data" in line for report in (each, once) for line in report.warnings)


def test_a_long_text_is_one_document_however_many_parts_it_is_read_in(tmp_path, monkeypatch):
    text = words(90_000) + "é漢" * 300 + "\n" + words(90_000)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    (tmp_path / "b.txt").write_text(words(500, 7), encoding="utf-8", newline="")
    whole = audit_documents(documents([text, words(500, 7)])).as_json()
    monkeypatch.setattr(formats, "PART", 20_001)
    parts = audit_documents(Library(DataConfig(sources=(str(tmp_path),)), print)).as_json()
    about = {"near_duplicate_share", "leaked_share", "copied_lines_share"}  # what lies across two parts is left out
    for name, value in whole.items():
        if name != "warnings":
            assert parts[name] == (pytest.approx(value, abs=0.02) if name in about else value), name


def test_what_ends_documents_elsewhere_is_counted():
    report = audit_documents(documents(["one<|endoftext|>two<|endoftext|>three", "x</s>"]))
    assert report.end_marks == {"<|endoftext|>": 2, "</s>": 1}
    (line,) = [line for line in report.warnings if "spells" in line]
    assert "'<|endoftext|>' 2 times, '</s>' 1 times" in line
    assert '{"text": "…"} of a .jsonl file' in line
    assert ("end marks", "2 times '<|endoftext|>', 1 times '</s>'") in report.rows()
    assert not any("spells" in line for line in audit_documents(documents(["what <|endoftext|> means"])).warnings)


def test_what_is_struck_out_is_no_end():
    struck = "I <s>hate</s> love it.\n<p>So <s>do</s> did</p>\n"
    assert audit_documents(documents([struck])).end_marks == {}
    for text in ("<s>one</s><s>two</s>", "<s> one</s>\n<s> two</s>", "<s> one</s> <s> two</s>", "one</s>two</s>"):
        assert audit_documents(documents([text])).end_marks == {"</s>": 2}


def test_a_script_on_one_side_alone_is_named():
    russian = "съешь ещё этих мягких французских булок " * 30
    report = audit_documents(documents([words(3000)]), validation=documents([russian + words(800, 1)]))
    (line,) = [line for line in report.warnings if "letters" in line]
    assert line.startswith("CYRILLIC letters are 0.0% of those in the training text and 6")
    part = audit_documents(documents([words(3000)]), validation=documents([russian + words(800, 1)]), complete=False)
    assert not any("letters" in line for line in part.warnings)  # the rest may be Russian
    both = audit_documents(documents([words(3000) + russian]), validation=documents([russian + words(800, 1)]))
    assert not any("letters" in line for line in both.warnings)


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
    report = audit_documents(documents(texts))
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
    reading = TextCounts(None)
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
    assert audit_documents(documents([text])).html_share == pytest.approx(share)


def test_characters_and_unknown():
    report = audit_documents(documents(["abc", "äbc", "漢字🎵"]), store.train("char", ["abcd"]))
    assert (report.bytes, report.characters, report.n_documents) == (17, 9, 3)
    assert report.non_ascii_share == pytest.approx(4 / 9)
    assert report.unknown_share == pytest.approx(4 / 9)
    assert report.distinct_characters == 7
    assert (report.tokens, report.tokens_are_exact) == (9, True)
    assert any("does not know 44.4% of the characters" in line for line in report.warnings)


def test_lengths():
    report = audit_documents(documents("x" * n for n in range(101)))
    assert report.lengths == {"shortest": 0, "5%": 5, "median": 50, "95%": 95, "longest": 100}


def test_tokens_are_told_from_a_part_of_the_text():
    text = words(1_200_000)
    tokenizer = store.train("bpe", [text[:20_000]], 300)
    report = audit_documents(documents([text]), tokenizer)
    assert not report.tokens_are_exact
    assert report.tokens == pytest.approx(len(tokenizer.encode(text)), rel=0.01)
    assert audit_documents(documents([text])).tokens == 300_000  # by its size alone


@pytest.mark.parametrize("text", ["", " ", "a", "a" * 63, "\n" * 500, "é" * 40])
def test_next_to_nothing(text):
    report = audit_documents(documents([text]))
    assert json.loads(json.dumps(report.as_json()))["n_documents"] == 1
    assert dict(report.rows())["size"]


def test_one_letter_a_million_times():
    report = audit_documents(documents(["a" * 1_000_000]))
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
        ({"duplicate_share": 0.2, "near_duplicate_share": 0.2}, "(20% exactly); drop copied documents with --data.dup"),
        ({"near_duplicate_share": 0.2}, "(0% exactly); drop copied documents with --data.duplicates near"),
        ({"html_share": 0.02}, "2.0% of the characters are HTML; --data.html text"),
        (
            {"truncated_share": 0.04, "cut_tokens": 12_345, "cut_share": 0.03, "fitting_context": 448},
            "4% of the records are longer than the context: 12,345 tokens to be learnt are cut off, 3% of all, and 448 "
            "would cut 2% at most; raise --model.block_size",
        ),
        (
            {"truncated_share": 0.04, "cut_tokens": 9, "cut_share": 0.03, "context": 448, "fitting_context": 448},
            "9 tokens to be learnt are cut off, 3% of all; raise --model.block_size",
        ),
        ({"truncated_share": 0.5, "cut_tokens": 12_345, "cut_share": 0.01}, None),
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
