"""What each way of cleaning keeps, changes and drops, and that no copy of a training document is held out."""

import random
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import DataConfig, resolve
from primegpt.data.cleaning.clean import clean, clean_documents, html_to_text, normalize_whitespace, shingles
from primegpt.data.preparing.split import split_documents
from primegpt.data.reading.formats import Document
from primegpt.errors import ConfigError, DataError


def cleaned(texts: Iterable[str], **options: Any) -> tuple[list[str], list[str]]:
    """The texts that are left, and the lines reported."""
    lines: list[str] = []
    documents = [Document(text, f"{number}.txt") for number, text in enumerate(texts)]
    return [document.text for document in clean(documents, DataConfig(**options), lines.append)], lines


def test_by_default_text_is_kept_as_it_is_and_nothing_is_said():
    texts = ["  a\r\n\tb  ", "<b>caf\xe9</b> &amp;", "x", "x", "漢" * 10]
    assert cleaned(texts) == (texts, [])


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("no markup:  a > b\r\n", "no markup:  a > b\r\n"),
        ("I <3 you & me, a < b", "I <3 you & me, a < b"),
        ("Great.<br /><br />Not bad<br>at all", "Great.\n\nNot bad\nat all"),
        ("<p>One &amp; <b>two</b></p><p>three</p>four", "One & two\nthree\nfour"),
        ("<html><head><title>T</title></head><body><script>if (a<b) {}</script>B<!-- c --></body></html>", "B"),
        ("<ul><li>a<li>b</ul><table><tr><td>c</table>", "a\nb\nc"),
        ("&lt;song&gt; &#127925; caf&eacute;", "<song> 🎵 café"),
        ("<p>unclosed <i>and <p>nested", "unclosed and\nnested"),
        ("<img src='x'>", ""),
    ],
)
def test_html_becomes_the_text_one_would_read(html, text):
    assert html_to_text(html) == text


@given(st.text("<>&;ab /!-='\"", max_size=60))
def test_no_markup_however_broken_is_refused(text):
    assert isinstance(html_to_text(text), str)


def test_whitespace():
    text = "\r\n a \t b\u00a0\u3000c \r\rd\n \n\n\n  e\x0bf\n"
    assert normalize_whitespace(text) == "a b c\n\nd\n\ne f"


@given(st.text(" \t\n\rab\u00a0", max_size=60))
def test_whitespace_is_normalized_once_and_for_all(text):
    once = normalize_whitespace(text)
    assert normalize_whitespace(once) == once
    assert once.split() == text.split()
    assert not any(pattern in once for pattern in ("  ", " \n", "\n ", "\n\n\n", "\r"))


def test_characters_beyond_ascii():
    texts = ["caf\xe9", "plain", "漢字"]
    assert cleaned(texts, non_ascii="strip") == (
        ["caf", "plain"],
        ["cleaning: 2 of 3 documents are left; 2 changed; dropped: 1 empty"],
    )
    assert cleaned(texts, non_ascii="drop") == (
        ["plain"],
        ["cleaning: 1 of 3 documents are left; dropped: 2 not ASCII"],
    )


def test_lengths_are_in_characters_and_both_ends_are_kept():
    texts = ["漢" * n for n in range(1, 8)]
    left, lines = cleaned(texts, min_length=3, max_length=5)
    assert left == texts[2:5]
    assert lines == ["cleaning: 3 of 7 documents are left; dropped: 2 shorter than 3, 2 longer than 5"]
    with pytest.raises(ConfigError, match=r"min_length = 5 is above data\.max_length = 3"):
        resolve({"data": {"min_length": 5, "max_length": 3}})


def test_steps_come_in_order():
    """Copies are found among what is left of the texts, and their lengths are those after cleaning."""
    texts = ["<b>a  song</b>", "a song", "<i>a</i>"]
    left, lines = cleaned(texts, html="text", whitespace="normalize", duplicates="exact", min_length=2)
    assert left == ["a song"]
    assert "dropped: 1 exact copies, 1 shorter than 2" in lines[0]


def test_nothing_left_is_refused():
    with pytest.raises(DataError, match="cleaning dropped every one of 2 documents: 2 shorter than 9; relax"):
        cleaned(["a", "b"], min_length=9)


def test_records_are_cleaned_in_each_of_their_strings():
    record = {"prompt": "<b>hi</b>", "messages": [{"role": "user", "content": "a<br>b"}], "n": 1}
    documents = [Document("", "a.jsonl", record, "a.jsonl, line 1"), Document("", "a.jsonl", record, "a.jsonl, line 2")]
    left = list(clean(documents, DataConfig(html="text", duplicates="exact", template="chat")))
    expected = {"prompt": "hi", "messages": [{"role": "user", "content": "a\nb"}], "n": 1}
    assert left == [Document("", "a.jsonl", expected, "a.jsonl, line 1")]


def test_a_record_of_plain_text_is_judged_by_its_text():
    documents = [Document(text, "a", {"text": text}) for text in ("日本語", "the river", "日本語 and")]
    options = DataConfig(non_ascii="strip", min_length=5)
    assert [document.text for document in clean(documents, options)] == ["the river"]


def test_it_is_a_stream():
    def endless():
        yield Document("a", "1")
        raise AssertionError("asked for more than was needed")

    assert next(clean(endless(), DataConfig(duplicates="exact"))).text == "a"


# ---- duplicates

WORDS = "river bridge stone song morning letter train window rain fire winter road hand light city".split()  # noqa: SIM905


def story(seed: int, words: int = 200) -> str:
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) + str(draw.randrange(9)) for _ in range(words))


def edited(text: str, share: float, seed: int) -> str:
    draw = random.Random(seed)
    return " ".join("changed" if draw.random() < share else word for word in text.split())


def jaccard(a: str, b: str) -> float:
    one, other = set(shingles(a)), set(shingles(b))
    return len(one & other) / len(one | other)


def test_exact_copies():
    texts = ["a", "b", "a", "A", "a ", "b"]
    left, lines = cleaned(texts, duplicates="exact")
    assert left == ["a", "b", "A", "a "]
    assert "dropped: 2 exact copies; the index of duplicates took about 0 MB" in lines[0]


def test_near_duplicates_are_those_of_the_similarity_asked_for():
    """Against the exact Jaccard similarity: all pairs well above the bound are found, none well below it."""
    for index in range(60):
        text = story(index)
        copy = edited(text, index / 600, index)
        left, _ = cleaned([text, copy], duplicates="near", similarity=0.7)
        similarity = jaccard(text, copy)
        if similarity > 0.85:
            assert left == [text], similarity
        elif similarity < 0.55:
            assert left == [text, copy], similarity


def test_near_duplicates_where_words_are_not_parted():
    text = "".join(chr(0x4E00 + random.Random(n).randrange(3000)) for n in range(300))
    other = "".join(chr(0x5E00 + n) for n in range(300))
    assert cleaned([text, text[:290], other], duplicates="near")[0] == [text, other]


def test_short_texts_are_no_copies_of_each_other():
    texts = ["a", "b", "one two", "one three", "x y z"]
    assert cleaned(texts, duplicates="near")[0] == texts


def test_no_copy_of_a_training_document_is_held_out():
    """Whatever the order, and whichever document the split draws: duplicates go before it, from the whole corpus."""
    originals = [story(seed) for seed in range(60)]
    copies = [edited(text, 0.01, 1000 + seed) for seed, text in enumerate(originals)] + originals[:20]
    texts = originals + copies
    random.Random(3).shuffle(texts)
    documents = [Document(text, str(number)) for number, text in enumerate(texts)]
    leaky_train, leaky_val = split_documents(documents, 0.2)
    train, val = split_documents(list(clean(documents, DataConfig(duplicates="near"))), 0.2)
    assert any(jaccard(a.text, b.text) > 0.8 for a in leaky_train for b in leaky_val)
    assert len(train) + len(val) == 60
    assert not any(jaccard(a.text, b.text) > 0.7 for a in train for b in val)


def lines_of(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=7)) + f" {draw.randrange(10**6)}\n" for _ in range(count))


@pytest.mark.parametrize("duplicates", ["exact", "near"])
def test_a_text_made_of_copies_is_left_once(duplicates):
    """Lines of text, whatever they are called: a file cannot say where one document ends and the next begins."""
    original = lines_of(1, 1000)
    text = (original * 12)[: -len(original) // 3]
    (left,), (line, *_) = cleaned([text], duplicates=duplicates)
    assert left.startswith(original)
    assert len(left) < len(original) + 12 * 200  # what is cut in two at a border stays
    assert line == f"cleaning: {len(text) - len(left):,} characters of lines and paragraphs were copies"


def test_copies_are_found_across_long_texts_and_one_that_is_nothing_else_goes():
    boilerplate, own = lines_of(1, 20), [lines_of(seed, 300) for seed in (2, 3, 4)]
    (one, two, three), _ = cleaned([boilerplate + text for text in own], duplicates="exact")
    assert one == boilerplate + own[0]
    assert own[1] in two
    assert len(two) < len(own[1]) + 100
    assert len(three) < len(own[2]) + 100
    long_lines = "\n".join(str(number).ljust(120, ".") for number in range(200))
    assert cleaned([long_lines, long_lines.partition("\n")[2]], duplicates="exact")[0] == [long_lines]


def test_refrains_short_lines_and_spaces_stay():
    song = "".join(f"{lines_of(seed, 4)}\n{lines_of(0, 4)}\n" for seed in range(1, 6))
    songs = [song, lines_of(7, 400), *(f"Scene {n}\nROMEO:\n{lines_of(100 + n, 3)}" for n in range(200))]
    text = "\n\n".join(songs) + "\n\n\n"
    assert cleaned([text], duplicates="near") == ([text], [])
    blank = "a" + "\n" * 300_000 + " " * 300_000 + "b"
    assert cleaned([blank], duplicates="near")[0][0].startswith("a\n")


def test_paragraphs_much_like_earlier_ones():
    stories = [story(seed, 60) for seed in range(60)]
    text = "\n\n".join([*stories, *(edited(each, 0.01, 7) for each in stories[:20]), stories[25]])
    (left,), lines = cleaned([text], duplicates="near")
    assert left.startswith("\n\n".join(stories))
    assert left.count("\n\n") <= 62
    assert lines[0].startswith("cleaning: ")
    (left,), _ = cleaned([text], duplicates="exact")
    assert left.split() == " ".join(dict.fromkeys(text.split("\n\n"))).split()


def test_records_are_copies_by_what_is_learnt_of_them():
    fields = {"prompt": "who", "response": "I"}
    documents = [Document("", "a", fields | {"id": number}) for number in range(3)]
    for template, count in (("response", 1), ("chat", 3)):  # which has no such fields, and refuses them later
        assert len(list(clean(documents, DataConfig(duplicates="exact", template=template)))) == count
    chats = [Document("", "a", {"messages": [{"role": "assistant", "content": text}]}) for text in ("a", "b", "a")]
    assert len(list(clean(chats, DataConfig(duplicates="exact", template="chat")))) == 2


def test_without_the_libraries_it_is_said_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    monkeypatch.setitem(sys.modules, "selectolax.lexbor", None)
    with pytest.raises(DataError, match=r'"near" needs the package rensa, .* pip install .primegpt\[data\]'):
        cleaned(["a"], duplicates="near")
    with pytest.raises(DataError, match=r'"text" needs the package selectolax, .* pip install .primegpt\[data\]'):
        cleaned(["<b>a</b>"], html="text")


def test_sources_are_read_and_cleaned_as_configured(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"lyrics": "la  la"}\n{"lyrics": "la  la"}\n', encoding="utf-8")
    lines: list[str] = []
    config = DataConfig(
        sources=(str(tmp_path / "a.jsonl"),), text_field="lyrics", whitespace="normalize", duplicates="exact"
    )
    assert [document.text for document in clean_documents(config, lines.append)] == ["la la"]
    assert "1 of 2 documents are left" in lines[0]
