"""What is held out: the ends of a few texts, some of many as a whole, and of every source its share, or it is said."""

import json
import random
import time
from bisect import bisect_left
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing import split as split_module
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare
from primegpt.data.preparing.split import choose_split, hold_out, split_documents
from primegpt.data.preparing.survey import Run, Survey, survey
from primegpt.data.reading.sources import Document
from primegpt.errors import DataError
from primegpt.model.size import human_bytes
from primegpt.seeds import derive_seed

CHAR = TokenizerConfig(kind="char")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepared(*sources: str, **settings) -> tuple[Corpus, list[str]]:
    lines = list[str]()
    return prepare(DataConfig(sources=sources, **settings), CHAR, say=lines.append), lines


def sides(corpus: Corpus) -> tuple[str, str]:
    """All training text, and all validation text."""
    decode = corpus.tokenizer.decode
    train, val = (decode(s.slice(0, len(s)), skip_special_tokens=True) for s in (corpus.train, corpus.val))
    return train, val


def share(corpus: Corpus) -> float:
    return corpus.val_bytes / (corpus.train_bytes + corpus.val_bytes)


def words(letters: str, n_bytes: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    text = ""
    while len(text.encode()) < n_bytes:
        text += "".join(draw.choices(letters, k=draw.randint(2, 9))) + draw.choice("  \n")
    return text


def write_records(name: str, texts: list[str]) -> str:
    Path(name).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return name


RUSSIAN, CHINESE = "абвгдежзиклмн", "的一是不了在人有我"


@pytest.mark.parametrize("sizes", [(57_000, 43_000), (1_000, 90_000), (400, 400), (90_000, 90_000)])
@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize("weights", [(), (1.0, 1.0)])
def test_each_of_two_languages_is_on_both_sides(home, sizes, as_folder, weights):
    Path("texts").mkdir()
    Path("texts/ru.txt").write_text(words(RUSSIAN, sizes[0]), encoding="utf-8")
    Path("texts/zh.txt").write_text(words(CHINESE, sizes[1]), encoding="utf-8")
    sources = ("texts",) if as_folder else ("texts/ru.txt", "texts/zh.txt")
    if as_folder and weights:
        return
    corpus, lines = prepared(*sources, weights=weights)
    for text in sides(corpus):
        assert len(set(text) & set(RUSSIAN)) / len(RUSSIAN) > 0.5
        assert len(set(text) & set(CHINESE)) / len(CHINESE) > 0.5
    assert 0.08 < share(corpus) < 0.12
    assert lines[0] == "held out for validation: the end of each of 2 texts"


@given(
    sizes=st.lists(st.integers(100, 5000), min_size=2, max_size=70),
    fraction=st.floats(0.05, 0.9),
    of_records=st.booleans(),
)
def test_nothing_is_lost_and_the_share_is_within_a_fifth(sizes, fraction, of_records):
    fields = {"text": "x"} if of_records else {}
    documents = [Document(f"{index:02d}" + "x" * (size - 2), "", fields) for index, size in enumerate(sizes)]
    train, val = split_documents(documents, fraction)
    assert (train, val) == split_documents(list(documents), fraction)
    assert sum(len(document.text) for document in (*train, *val)) == sum(sizes)
    assert {document.text[:2] for document in (*train, *val)} >= {f"{index:02d}" for index in range(len(sizes))}
    held = sum(len(document.text) for document in val) / sum(sizes)
    assert abs(held - fraction) <= 0.2 * fraction
    if len(sizes) <= 50 and not of_records and min(sizes) * fraction > 100:
        assert len(train) == len(val) == len(sizes)  # each of them on both sides


def as_before(sizes: list[int], fraction: float) -> set[int]:
    """How whole documents of a single source have always been drawn."""
    budget = fraction * sum(sizes)
    drawn = sorted(range(len(sizes)), key=lambda index: derive_seed(0, "validation split", index))
    fitting = [index for index in drawn if sizes[index] <= budget] or [min(drawn, key=sizes.__getitem__)]
    reached = list(accumulate((sizes[index] for index in fitting), initial=0))
    return set(fitting[: min(bisect_left(reached, budget), len(sizes) - 1)])


@pytest.mark.parametrize("n_documents", [100, 1000])
@pytest.mark.parametrize("fraction", [0.1, 0.3])
@pytest.mark.parametrize("fields", [{}, {"text": "x"}])
def test_of_many_documents_the_same_are_held_out_as_ever(n_documents, fraction, fields):
    draw = random.Random(n_documents)
    sizes = [draw.randint(50, 150) for _ in range(n_documents)]
    documents = [Document(f"{index:04d}".ljust(size, "x"), "", fields) for index, size in enumerate(sizes)]
    train, val = split_documents(documents, fraction)
    assert {int(document.text[:4]) for document in val} == as_before(sizes, fraction)
    assert len(train) + len(val) == n_documents
    assert val == sorted(val, key=lambda document: document.text)  # in their order


def test_held_out_documents_are_drawn_rather_than_the_first_or_last():
    documents = [Document(f"{index:03d}", "") for index in range(200)]
    _, val = split_documents(documents, 0.1)
    places = [int(document.text) for document in val]
    assert len(places) == 20
    assert places == sorted(places)
    assert min(places) < 40
    assert max(places) > 160


def test_short_texts_are_held_out_whole_where_that_meets_the_share():
    """The end of a poem of four lines is no text to be judged by."""
    documents = [Document(f"a poem, number {index:02d}\n", "") for index in range(30)]
    _, val = split_documents(documents, 0.1)
    assert [document in documents for document in val] == [True] * 3


def test_a_book_among_many_short_texts_gives_its_end(home):
    """Too long to be held out, and half of all there is: without that, nothing of its kind would be judged."""
    write_records("short.jsonl", [words("abc", 100, seed) for seed in range(300)])
    write_records("both.jsonl", [words("abc", 100, seed) for seed in range(300)] + [words(RUSSIAN, 40_000)])
    corpus, lines = prepared("both.jsonl")
    _, val = sides(corpus)
    assert 0.3 < sum(letter in RUSSIAN for letter in val) / len(val) < 0.6
    assert 0.09 < share(corpus) < 0.11
    assert corpus.train.n_documents + corpus.val.n_documents == 302
    assert lines == [f"tokenizing {human_bytes(corpus.train_bytes + corpus.val_bytes)}"]


def test_every_file_of_records_and_every_source_has_its_share(home):
    Path("folder").mkdir()
    write_records("folder/en.jsonl", [words("abcdef", 90, seed) for seed in range(600)])
    write_records("folder/ru.jsonl", [words(RUSSIAN, 90, seed) for seed in range(14)])
    write_records("zh.jsonl", [words(CHINESE, 90, seed) for seed in range(12)])
    corpus, lines = prepared("folder", "zh.jsonl")
    for text in sides(corpus):
        assert set(text) >= set(RUSSIAN[:5]) | set(CHINESE[:3])
    assert 0.08 < share(corpus) < 0.12
    assert any(line.startswith("held out for validation: ") for line in lines)
    assert corpus.train_documents == [prepared("folder")[0].train_documents[0], corpus.train_parts()[1].n_documents]


def test_records_are_packed_as_near_to_the_share_as_they_can_be(home):
    """They cannot be cut; what that costs is said."""
    for name, sizes in (("a", [10] * 30 + [50] * 20), ("b", [40, 500, 30, 900, 70, 60, 800]), ("c", [10, 10, 10])):
        records = [{"prompt": "", "response": f"{n:03d}".ljust(size, "x")} for n, size in enumerate(sizes)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for name in "ab":
        corpus, lines = prepared(f"{name}.jsonl", template="response")
        assert 0.08 < share(corpus) < 0.12
        assert not any("val_fraction" in line for line in lines)
    corpus, lines = prepared("c.jsonl", template="response")
    assert share(corpus) == pytest.approx(1 / 3)
    assert "data.val_fraction = 0.1, but documents of these sizes make it 0.33" in lines


def test_a_source_that_is_too_small_is_named(home):
    for name, count in (("a", 1), ("b", 30), ("c", 1)):
        record = json.dumps({"prompt": "why", "response": name * 30})
        Path(f"{name}.jsonl").write_text((record + "\n") * count, encoding="utf-8")
    sources = ("a.jsonl", "b.jsonl", "c.jsonl")
    corpus, lines = prepared(*sources, template="response")
    assert corpus.train_documents == [1, 27, 1]
    assert [line for line in lines if "nothing of" in line] == [
        f"nothing of {name}.jsonl is held out for validation: it is too small" for name in "ac"
    ]
    with pytest.raises(DataError, match=r"^a\.jsonl is a single record: data\.val_fraction = 0\.1 cannot be held out"):
        prepared(*sources, template="response", weights=(1, 1, 1))
    with pytest.raises(DataError, match=r"^a\.jsonl, c\.jsonl is a single record: "):
        prepared("a.jsonl", "c.jsonl", template="response")


def test_weights_change_nothing_of_the_split(home):
    write_records("a.jsonl", [words("abc", 100, seed) for seed in range(40)])
    Path("b.txt").write_text(words("def", 900), encoding="utf-8")
    assert prepared("a.jsonl", "b.txt")[0].folder == prepared("a.jsonl", "b.txt", weights=(3, 1))[0].folder


def test_of_very_many_documents_each_is_drawn_by_itself(monkeypatch):
    monkeypatch.setattr(split_module, "EXACT_SPLIT", 500)
    documents = [Document(f"{index:04d}", "", {"text": "x"}) for index in range(4000)]
    documents[7] = Document("x" * 9000, "", {"text": "x"})
    surveyed = survey(documents)
    split = choose_split(surveyed, 0.1)
    assert list(split.ends) == [7]
    assert sum(split.whole) == pytest.approx(400, abs=60)


@pytest.mark.parametrize("keeps_whole", [False, True])
def test_what_a_large_file_misses_does_not_fall_on_a_small_one(keeps_whole):
    draw = random.Random(2)
    surveyed = Survey()
    surveyed.sizes.extend(draw.randint(600_000, 1_400_000) for _ in range(40))
    surveyed.sizes.extend([1000] * 500)
    surveyed.runs += [Run(0, 0, "a.jsonl"), Run(40, 0, "b.jsonl")]
    for fraction in (0.1, 0.11, 0.12, 0.13, 0.9):
        split = choose_split(surveyed, fraction, keeps_whole=lambda group: keeps_whole)
        assert not any(number >= 40 for number in split.ends)
        assert sum(split.whole[40:]) / 500 == pytest.approx(fraction, rel=0.25)


def test_of_records_packed_into_a_share_one_is_left_to_train_on():
    surveyed = survey(Document("x" * size, "", {"text": "x"}) for size in (100, 100, 100, 100))
    assert len(hold_out(surveyed, range(4), 900)) == 3


def test_many_sources_take_time_by_their_number_and_not_its_square(home, monkeypatch):
    n = 4000
    surveyed = Survey()
    surveyed.sizes.extend([1000] * n)
    surveyed.runs += [Run(number, number, None) for number in range(n)]
    began = time.perf_counter()
    split = choose_split(surveyed, 0.1)
    assert time.perf_counter() - began < 2  # 0.03 s, and once 6 s
    assert len(split.ends) == n
    one = Survey(surveyed.sizes, [Run(number, 0, str(number)) for number in range(n)])
    began = time.perf_counter()
    assert choose_split(one, 0.1).held_bytes(one)[0] == pytest.approx(100 * n, rel=0.2)
    assert time.perf_counter() - began < 2
    calls, sources = list[int](), Survey.sources
    monkeypatch.setattr(Survey, "sources", lambda self: (calls.append(1), sources(self))[1])
    for number in range(30):
        Path(f"{number}.txt").write_text(words("abcdef", 300, number), encoding="utf-8")
    prepared(*(f"{number}.txt" for number in range(30)))
    assert len(calls) < 10
