"""From text to shards and back: nothing lost at the split, nothing prepared twice, nothing stale ever reused."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data import build, entry, formats
from primegpt.data import corpus as corpus_module
from primegpt.data.corpus import Corpus
from primegpt.data.entry import Entry
from primegpt.data.prepare import prepare, reopen
from primegpt.data.shards import Shards
from primegpt.data.sources import Document
from primegpt.data.split import split_documents
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError
from primegpt.tokenizers import base, store

CHAR = TokenizerConfig(kind="char")
BPE = TokenizerConfig(kind="bpe", vocab_size=300)
TEXT = "Ein Männlein steht im Walde, 漢字 🎵\r\nganz still und stumm.\n" * 20


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a text, and a cache of its own."""
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    return tmp_path


def sources(home: Path, *names: str, **settings) -> DataConfig:
    return DataConfig(sources=tuple(str(home / name) for name in names or ("text.txt",)), **settings)


def texts(corpus: Corpus, shards: Shards) -> list[str]:
    """The documents in `shards`, each checked to begin with the end-of-text id."""
    found = []
    for start, stop in zip(shards.document_starts, [*shards.document_starts[1:], len(shards)], strict=True):
        first, *ids = shards.slice(start, stop).tolist()
        assert first == corpus.tokenizer.eot_id
        assert corpus.tokenizer.eot_id not in ids
        found.append(corpus.tokenizer.decode(ids))
    return found


# ---- the split


@pytest.mark.parametrize("tokenizer", [CHAR, BPE])
@pytest.mark.parametrize("fraction", [0.1, 0.37, 0.999])
def test_a_single_document_loses_its_last_bytes_to_validation(home, tokenizer, fraction):
    corpus = prepare(sources(home, val_fraction=fraction), tokenizer)
    (train,), (val,) = texts(corpus, corpus.train), texts(corpus, corpus.val)
    data = TEXT.encode()
    assert train + val == TEXT
    assert 0 <= len(train.encode()) - int(len(data) * (1 - fraction)) < 4
    assert (corpus.train_bytes, corpus.val_bytes) == (len(train.encode()), len(val.encode()))
    assert corpus.n_documents == 1
    assert corpus.bytes_per_token == len(val.encode()) / len(corpus.tokenizer.encode(val))
    assert (corpus.train.split, corpus.val.split) == ("train", "val")


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 50), min_size=2, max_size=30), fraction=st.floats(0.01, 0.99))
def test_several_documents_are_held_out_whole(sizes, fraction):
    documents = [Document(f"{index:02d}" + "x" * size, "") for index, size in enumerate(sizes)]
    train, val = split_documents(documents, fraction)
    assert sorted([*train, *val], key=lambda document: document.text) == documents
    assert train == sorted(train, key=lambda document: document.text)  # in their order
    assert train
    assert val
    assert (train, val) == split_documents(list(documents), fraction)
    total, held_out = sum(size + 2 for size in sizes), sum(len(document.text) for document in val)
    fitting = [size + 2 for size in sizes if size + 2 <= fraction * total]
    if sum(fitting) - max(fitting, default=0) >= fraction * total:  # enough small ones: the fraction is reached
        assert fraction * total <= held_out < 2 * fraction * total


def test_held_out_documents_are_drawn_rather_than_the_first_or_last():
    documents = [Document(f"{index:03d}", "") for index in range(200)]
    _, val = split_documents(documents, 0.1)
    places = [int(document.text) for document in val]
    assert len(places) == 20
    assert places == sorted(places)  # but stay in their order
    assert min(places) < 40
    assert max(places) > 160


def test_a_long_book_among_short_ones_is_never_the_validation_text():
    for place in range(4):
        documents = [Document("x" * (1000 if index == place else 10), str(index)) for index in range(4)]
        train, val = split_documents(documents, 0.1)
        assert documents[place] in train
        assert all(len(document.text) == 10 for document in val)


def test_a_text_too_short_to_split_is_refused(home):
    (home / "x.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.txt is too short: data\.val_fraction = 0\.1 cannot be held out"):
        prepare(sources(home, "x.txt"), CHAR)


# ---- tokenizers


def test_documents_keep_their_order_and_borders(home):
    for index in range(30):
        (home / f"song{index:02d}.txt").write_text(f"song {index} ñ", encoding="utf-8")
    corpus = prepare(sources(home, "song*.txt"), BPE)
    train, val = texts(corpus, corpus.train), texts(corpus, corpus.val)
    assert sorted([*train, *val], key=lambda text: int(text.split()[1])) == [f"song {i} ñ" for i in range(30)]
    assert train == sorted(train, key=lambda text: int(text.split()[1]))
    assert (len(val), corpus.n_documents) == (3, 30)


def test_pieces_of_text_leave_nothing_out_and_change_no_id(home, monkeypatch):
    for index in range(9):
        (home / f"{index}.txt").write_text(f"abc {index}\n" * (1 + 9 * (index % 4)), encoding="utf-8")
    expected = prepare(sources(home, "[0-9].txt"), CHAR, cache=home / "whole")
    monkeypatch.setattr(build, "PIECE", 10)
    monkeypatch.setattr(formats, "PART", 16)
    monkeypatch.setattr(base, "SECTION", 5)
    corpus = prepare(sources(home, "[0-9].txt"), CHAR)
    assert corpus.train.n_documents + corpus.val.n_documents == 9
    assert corpus.record() | {"folder": ""} == expected.record() | {"folder": ""}


def test_characters_come_from_all_of_the_text_and_merges_from_training_text_only(home):
    (home / "text.txt").write_bytes(("ab" * 450 + "xyz" * 33).encode())
    config = sources(home)
    assert prepare(config, CHAR).tokenizer.count_unknown("xyz") == {}
    assert len(prepare(config, BPE).tokenizer.encode("xyzxyz")) == 6


def test_a_given_tokenizer_is_used_and_its_unknown_characters_are_named(home):
    given = store.train("char", ["Ein Waldgztulsmi,.\r\n"])
    store.save(given, home / "tok")
    lines: list[str] = []
    config = TokenizerConfig(path=str(home / "tok"))
    corpus = prepare(sources(home), config, report=lines.append)
    assert corpus.tokenizer.fingerprint == given.fingerprint == corpus.train.tokenizer_fingerprint
    unknown = [line for line in lines if "become <UNK>" in line]
    counts = sorted(given.count_unknown(TEXT).items(), key=lambda item: -item[1])
    assert len(unknown) == 1
    assert f"{sum(count for _, count in counts):,} characters are not in the tokenizer" in unknown[0]
    assert all(f"{character!r} ×{count}" in unknown[0] for character, count in counts)


def test_many_unknown_characters_are_summed_up(home):
    (home / "text.txt").write_bytes("".join(map(chr, range(0x4E00, 0x4E00 + 50))).encode())
    store.save(store.train("char", ["a"]), home / "tok")
    lines: list[str] = []
    prepare(sources(home), TokenizerConfig(path=str(home / "tok")), report=lines.append)
    assert lines[0].startswith("50 characters are not in")
    assert lines[0].endswith(" and 40 other kinds")


# ---- the cache


def entries(home: Path) -> list[Path]:
    return sorted(path for path in (home / "cache" / "data").iterdir() if not path.suffix)


def test_equal_requests_share_one_entry_and_do_the_work_once(home, monkeypatch):
    first = prepare(sources(home), BPE)
    monkeypatch.setattr(store, "train", None)
    monkeypatch.setattr(Entry, "build", None)
    (home / "text.txt").rename(home / "moved.md")
    again = prepare(sources(home, "moved.md", stride=3, isolate_documents=True, val_tokens=7), BPE)
    assert again.record() == first.record()
    assert entries(home) == [first.folder]
    prepared = first.train.slice(0, len(first.train)).tolist()
    assert again.train.slice(0, len(again.train)).tolist() == prepared


def test_whatever_determines_the_shards_makes_an_entry_of_its_own(home, monkeypatch):
    folders = [prepare(sources(home), BPE).folder]
    folders.append(prepare(sources(home, val_fraction=0.2), BPE).folder)
    folders.append(prepare(sources(home), TokenizerConfig(kind="bpe", vocab_size=301)).folder)
    folders.append(prepare(sources(home), CHAR).folder)
    for names in ({"control": ("<a>", "<b>")}, {"control": ("<b>", "<a>")}):  # ids follow the order
        folders.append(prepare(sources(home), TokenizerConfig(kind="char", special_tokens=names)).folder)
    folders.append(prepare(sources(home), TokenizerConfig(path=str(folders[0] / "tokenizer"))).folder)
    monkeypatch.setattr(corpus_module, "FORMAT_VERSION", 99)
    folders.append(prepare(sources(home), BPE).folder)
    monkeypatch.undo()
    monkeypatch.setenv("PRIMEGPT_CACHE", str(home / "cache"))
    data = bytearray(TEXT.encode())
    data[-2] ^= 1
    (home / "text.txt").write_bytes(data)
    changed = prepare(sources(home), BPE)
    assert texts(changed, changed.val)[0].encode() == data[-changed.val_bytes :]
    assert len({*folders, changed.folder}) == 9
    # A vocabulary of characters has the size it has.
    assert (
        prepare(sources(home), TokenizerConfig(kind="char", vocab_size=5)).folder == prepare(sources(home), CHAR).folder
    )


def test_the_cache_is_where_it_was_asked_for(home, monkeypatch):
    assert prepare(sources(home), CHAR).folder.parent == home / "cache" / "data"
    assert prepare(sources(home), CHAR, cache=home / "other").folder.parent == home / "other" / "data"
    monkeypatch.delenv("PRIMEGPT_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: home / "user" / name)
    assert prepare(sources(home), CHAR).folder.parent == home / "user" / "primegpt" / "data"


@pytest.mark.parametrize(
    "name", ["train/tokens-00000.bin", "val/documents.bin", "val/manifest.json", "tokenizer/tokenizer.json"]
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_entry_is_reported_and_replaced(home, name, missing):
    record = prepare(sources(home), CHAR).record()
    path = Path(record["folder"]) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if missing else path.write_bytes(data)
    lines: list[str] = []
    assert prepare(sources(home), CHAR, report=lines.append).record() == record
    assert str(Path(record["folder"])) in lines[0]
    assert "prepared again" in lines[0]
    lines.clear()
    prepare(sources(home), CHAR, report=lines.append)
    assert lines == []
    assert len(entries(home)) == 1


def test_a_full_disk_is_one_line_and_what_was_done_is_not_done_again(home, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(entry, "build", no_space)
        with pytest.raises(PrimegptError, match="No space left on device; make room") as caught:
            prepare(sources(home), BPE)
    assert caught.value.exit_code == 1
    assert entries(home) == []
    (lock,) = (home / "cache" / "data").glob("*.lock")
    with FileLock(lock, timeout=0):  # given back, although the error is still at hand
        pass
    monkeypatch.setattr(store, "train", None)  # the tokenizer is there already
    prepare(sources(home), BPE)


def test_a_cache_that_cannot_be_written_is_said_in_one_line(home):
    (home / "file").touch()
    with pytest.raises(PrimegptError, match="point the environment variable PRIMEGPT_CACHE at another folder"):
        prepare(sources(home), CHAR, cache=home / "file")


RACE = """if True:
    import sys, time
    from pathlib import Path
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data import prepare
    home, me = Path(sys.argv[1]), sys.argv[2]
    locked = prepare.locked
    def meet(*arguments):  # both have found no entry when the first of them gets the lock
        (home / f"ready-{me}").touch()
        while len(list(home.glob("ready-*"))) < 2:
            time.sleep(0.001)
        return locked(*arguments)
    prepare.locked = meet
    corpus = prepare.prepare(DataConfig(sources=(str(home / "text.txt"),)), TokenizerConfig(kind="char"))
    print(corpus.train.verify().fingerprint, len(corpus.val), end="")"""


def test_two_processes_preparing_at_once_end_up_with_one_entry(home):
    command = [sys.executable, "-c", RACE, str(home)]
    racers = [subprocess.Popen([*command, me], stdout=subprocess.PIPE, text=True) for me in ("a", "b")]
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    corpus = prepare(sources(home), CHAR)
    assert set(outputs) == {f"{corpus.train.fingerprint} {len(corpus.val)}"}
    assert entries(home) == [corpus.folder]


# ---- resuming


@pytest.fixture
def run(home):
    """What a run keeps: its record (through JSON, as in data.json) and its tokenizer."""
    corpus = prepare(sources(home), BPE)
    store.save(corpus.tokenizer, home / "run" / "tokenizer")
    return json.loads(json.dumps(corpus.record())), store.load(home / "run")


def test_a_run_reopens_from_the_cache_without_its_sources(home, run, monkeypatch):
    record, tokenizer = run
    (home / "text.txt").unlink()
    corpus = reopen(record, sources(home), tokenizer)
    assert corpus.record() == record
    assert (corpus.n_documents, corpus.train_bytes + corpus.val_bytes) == (1, len(TEXT.encode()))


@pytest.mark.parametrize("how", ["cleared", "damaged", "elsewhere"])
def test_shards_that_left_the_cache_are_built_again_with_the_tokenizer_of_the_run(home, run, monkeypatch, how):
    record, tokenizer = run
    tokens = Path(record["folder"]) / "train" / "tokens-00000.bin"
    if how == "damaged":
        tokens.write_bytes(bytes(tokens.stat().st_size))
    else:
        shutil.rmtree(home / "cache")
    cache = home / "other" if how == "elsewhere" else None
    monkeypatch.setattr(store, "train", None)  # training again might give another one
    lines: list[str] = []
    corpus = reopen(record, sources(home), tokenizer, cache=cache, report=lines.append)
    same = {key: value for key, value in record.items() if key != "folder"}
    assert {key: value for key, value in corpus.record().items() if key != "folder"} == same
    assert any("reading their text again" in line for line in lines)
    (home / "text.txt").unlink()  # from now on they are in the cache again
    assert reopen(record, sources(home), tokenizer, cache=cache).folder == corpus.folder


def test_other_shards_in_the_recorded_place_are_not_taken_for_those_of_the_run(home, run):
    record, tokenizer = run
    other = prepare(sources(home, val_fraction=0.2), BPE)
    moved = record | {"folder": str(other.folder)}
    same = {key: value for key, value in record.items() if key != "folder"}
    found = reopen(moved, sources(home), tokenizer).record()
    assert {key: value for key, value in found.items() if key != "folder"} == same


def test_changed_sources_are_refused_with_both_fingerprints(home, run):
    record, tokenizer = run
    shutil.rmtree(home / "cache")
    (home / "text.txt").write_bytes(TEXT.encode() + b"!")
    found = prepare(sources(home), BPE).source_fingerprint
    with pytest.raises(MismatchError, match=f"was {record['source_fingerprint']} and is now {found}; put the"):
        reopen(record, sources(home), tokenizer)


def test_the_same_text_prepared_otherwise_is_refused(home, run):
    record, tokenizer = run
    shutil.rmtree(home / "cache")
    with pytest.raises(
        MismatchError, match=f"were {record['train_fingerprint']}.* now gives .*resume with the version"
    ):
        reopen(record, sources(home, val_fraction=0.2), tokenizer)


def test_text_from_standard_input_cannot_be_read_again(home, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    config = DataConfig(sources=("-",))
    corpus = prepare(config, CHAR)
    assert reopen(corpus.record(), config, corpus.tokenizer).record() == corpus.record()
    shutil.rmtree(home / "cache")
    with pytest.raises(MismatchError, match="are gone, and their text came from standard input; save that text"):
        reopen(corpus.record(), config, corpus.tokenizer)


def test_closing_a_corpus_lets_its_folder_be_deleted(home):
    corpus = prepare(sources(home), CHAR)
    corpus.close()
    shutil.rmtree(corpus.folder)


def test_a_tokenizer_that_is_not_what_is_asked_for_is_refused(home):
    store.save(store.train("char", [TEXT]), home / "tokenizer")
    path = str(home / "tokenizer")
    assert prepare(sources(home), TokenizerConfig(path=path, kind="char")).tokenizer.kind == "char"
    with pytest.raises(ConfigError, match=r"tokenizer\.kind = 'bpe', but the tokenizer in .* has 'char'"):
        prepare(sources(home), TokenizerConfig(path=path, kind="bpe"))
    with pytest.raises(ConfigError, match=r"tokenizer\.vocab_size = 300, but the tokenizer in .* has"):
        prepare(sources(home), TokenizerConfig(path=path, vocab_size=300))
