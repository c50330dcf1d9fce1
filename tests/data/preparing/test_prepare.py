"""From text to shards and back: nothing lost at the split, nothing prepared twice, nothing stale ever reused."""

import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.audit import audit_corpus
from primegpt.data.preparing import build, entry
from primegpt.data.preparing import corpus as corpus_module
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.entry import Entry
from primegpt.data.preparing.prepare import prepare, reopen
from primegpt.data.preparing.shards import Shards
from primegpt.data.preparing.survey import Library
from primegpt.data.reading import formats
from primegpt.errors import ConfigError, DataError, MismatchError, PrimegptError
from primegpt.tokenizers import base, store

CHAR = TokenizerConfig(kind="char")
BPE = TokenizerConfig(kind="bpe", vocab_size=300)
TEXT = "Ein Männlein steht im Walde, 漢字 🎵\r\nganz still und stumm.\n" * 20


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a text, and a cache of its own."""
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path / "cache"))
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


# ---- rows


@pytest.mark.parametrize("weights", [(), (1.0, 2.0)])
def test_the_rows_of_split_conversations_stay_with_their_source(home, weights):
    """Sources are told apart by counting rows, of which a long conversation has several."""
    for name in "ab":
        turns = [("user", f"{name}?"), ("assistant", name * 20)]
        said = [{"role": role, "content": content} for _ in range(9) for role, content in turns]
        (home / f"{name}.jsonl").write_text(f"{json.dumps({'messages': said})}\n" * 20, encoding="utf-8")
    config = sources(home, "a.jsonl", "b.jsonl", template="chat", weights=weights)
    corpus = prepare(config, CHAR, context=64)
    assert corpus.train.n_documents + corpus.val.n_documents == corpus.tally.examples > 2 * corpus.n_documents
    assert corpus.tally.truncated == 0
    parts = corpus.train_parts()
    found = [set(corpus.tokenizer.decode(part.slice(0, len(part)), skip_special_tokens=True)) for part in parts]
    assert found == [{"a", "?"}, {"b", "?"}]


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


def test_a_text_too_short_to_split_is_refused(home):
    (home / "x.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match=r"x\.txt is too short: data\.val_fraction = 0\.1 cannot be held out"):
        prepare(sources(home, "x.txt"), CHAR)


# ---- so many bytes of it


@pytest.mark.parametrize("limit", [2, 3, 4, 40, 100, 333, 1000, len(TEXT.encode()), 10**6])
@pytest.mark.parametrize("part", [16, formats.PART])
def test_a_text_is_cut_at_the_byte_asked_for(home, monkeypatch, limit, part):
    """Wherever its parts end; at the character before, if a byte more would be half of one."""
    monkeypatch.setattr(formats, "PART", part)
    lines: list[str] = []
    found = "".join(document.text for document in Library(sources(home, max_bytes=limit), lines.append))
    assert found == TEXT.encode()[:limit].decode("utf-8", "ignore")
    assert lines == (
        [f"reading stops at {home / 'text.txt'} (data.max_bytes = {limit:,})"] if limit < len(TEXT.encode()) else []
    )


def test_sources_after_the_byte_asked_for_are_named(home):
    for name in ("other.txt", "third.txt"):
        (home / name).write_text("other", encoding="utf-8")
    lines: list[str] = []
    config = sources(home, "text.txt", "other.txt", "third.txt", max_bytes=len(TEXT.encode()) + 3)
    assert [document.text for document in Library(config, lines.append)] == [TEXT, "oth"]
    (line,) = lines
    place = f"reading stops at {home / 'other.txt'} (data.max_bytes = {config.max_bytes:,})"
    assert line == f"{place}; nothing of {home / 'third.txt'} is read"


def test_records_are_taken_whole_as_far_as_they_fit(home):
    (home / "a.jsonl").write_text('{"prompt": "é", "response": "ab"}\n' * 9, encoding="utf-8")
    for limit, n_records in ((4, 1), (7, 1), (8, 2), (35, 8), (36, 9), (99, 9)):
        assert len(list(Library(sources(home, "a.jsonl", template="response", max_bytes=limit), print))) == n_records
    with pytest.raises(DataError, match=r"max_bytes = 3 has no room for the first record, of 4 bytes; raise it"):
        list(Library(sources(home, "a.jsonl", template="response", max_bytes=3), print))
    (home / "é.txt").write_text("é" * 9, encoding="utf-8")
    with pytest.raises(DataError, match=r"max_bytes = 1 has no room for the first character"):
        list(Library(sources(home, "é.txt", max_bytes=1), print))


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
    assert (corpus.n_documents, corpus.train.n_documents) == (9, 7)
    assert corpus.record() | {"folder": ""} == expected.record() | {"folder": ""}


ODD_TEXTS = {
    "one line and no end": "word " * 3000,
    "one word": "x" * 5000,
    "empty lines": "a\n\n\n\nb\n" * 400 + "\n" * 500,
    "line ends of three systems": "one\r\ntwo\rthree\n\r\n" * 400,
    "a line end at the end of a part": ("x" * 298 + "\r\n") * 40,
    "characters of four bytes": "🎵é漢" * 900,
    "ends of lines that Python knows": "a\x0bb\x0cc\x85d\u2028e\x00f\n" * 300,
}


@pytest.mark.parametrize("name", ODD_TEXTS)
@pytest.mark.parametrize("tokenizer", [CHAR, BPE])
def test_odd_texts_come_back_as_they_were(home, monkeypatch, name, tokenizer):
    """What people ask about: very long lines, empty ones, other systems' line ends, a single document."""
    text = ODD_TEXTS[name]
    (home / "odd.txt").write_bytes(text.encode())
    (home / "odd.jsonl").write_text(json.dumps({"text": text}) + "\n\n\r\n", encoding="utf-8")
    expected = prepare(sources(home, "odd.txt"), tokenizer, cache=home / "whole")
    monkeypatch.setattr(build, "PIECE", 300)
    if tokenizer is CHAR:  # a part of 4 MB without a line to end at is cut anywhere, which merges may notice
        monkeypatch.setattr(formats, "PART", 300)
    for file in ("odd.txt", "odd.jsonl"):
        corpus = prepare(sources(home, file), tokenizer)
        assert corpus.n_documents == 1
        assert texts(corpus, corpus.train)[0] + texts(corpus, corpus.val)[0] == text
        for found, wanted in ((corpus.train, expected.train), (corpus.val, expected.val)):
            assert found.slice(0, len(found)).tolist() == wanted.slice(0, len(wanted)).tolist()


def test_no_copy_of_a_training_document_is_held_out_unsaid(home):
    """Where copies are kept, the audit of what was prepared says what they do to the validation loss."""
    lines = [json.dumps({"text": f"{n % 100} " + TEXT[n % 100 :][:300]}) for n in range(300)]
    (home / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    corpus = prepare(sources(home, "a.jsonl"), CHAR)
    (leak,) = [
        line for line in audit_corpus(corpus, None, 10**6).warnings if "validation loss will be too good" in line
    ]
    assert "--data.duplicates exact" in leak
    dropped = prepare(sources(home, "a.jsonl", duplicates="exact"), CHAR)
    assert not set(texts(dropped, dropped.train)) & set(texts(dropped, dropped.val))


@pytest.mark.parametrize("tokenizer", [CHAR, BPE])
def test_a_text_may_begin_with_more_whitespace_than_a_part_holds(home, tokenizer):
    for name in ("a.txt", "b.txt"):
        (home / name).write_text(" " * (formats.PART + 10) + TEXT, encoding="utf-8", newline="")
    corpus = prepare(sources(home, "a.txt"), tokenizer)
    assert texts(corpus, corpus.train)[0] + texts(corpus, corpus.val)[0] == (home / "a.txt").read_bytes().decode()
    assert prepare(sources(home, "text.txt", "b.txt"), tokenizer).n_documents == 2


def test_characters_come_from_all_of_the_text_and_merges_from_training_text_only(home):
    (home / "text.txt").write_bytes(("ab" * 450 + "xyz" * 33).encode())
    config = sources(home)
    assert prepare(config, CHAR).tokenizer.count_unknown("xyz") == {}
    assert len(prepare(config, BPE).tokenizer.encode("xyzxyz")) == 6


def test_a_tokenizer_is_learnt_from_all_over_a_large_text(home, monkeypatch):
    """One in so many bytes; it was one in so many documents, which a README before one large file may be all of."""
    monkeypatch.setattr(entry, "LEARNT_FROM", 8_000)
    monkeypatch.setattr(formats, "PART", 1_000)
    (home / "a.txt").write_text("read me " * 20, encoding="utf-8")
    (home / "b.txt").write_text("".join(f"verse {n} of a long song\n" for n in range(2_000)), encoding="utf-8")
    learnt: list[str] = []

    def train(kind, texts, *others):
        learnt.extend(texts)
        return tokenizer_of(kind, learnt, *others)

    tokenizer_of = store.train
    monkeypatch.setattr(store, "train", train)
    prepare(sources(home, "a.txt", "b.txt"), BPE)
    assert learnt[0].startswith("read me")
    assert 5_000 < sum(map(len, learnt)) < 11_000
    verses = [n for n in range(2_000) if any(f"verse {n} of" in text for text in learnt)]
    assert verses[0] < 400
    assert verses[-1] > 1_600


def test_a_given_tokenizer_is_used_and_its_unknown_characters_are_named(home):
    given = store.train("char", ["Ein Waldgztulsmi,.\r\n"])
    store.save(given, home / "tok")
    lines: list[str] = []
    config = TokenizerConfig(path=str(home / "tok"))
    corpus = prepare(sources(home), config, say=lines.append)
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
    prepare(sources(home), TokenizerConfig(path=str(home / "tok")), say=lines.append)
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
    # An alphabet may be limited, and is another vocabulary then.
    assert prepare(sources(home), TokenizerConfig(kind="char", vocab_size=5)).folder not in folders


def test_the_cache_is_where_it_was_asked_for(home, monkeypatch):
    assert prepare(sources(home), CHAR).folder.parent == home / "cache" / "data"
    assert prepare(sources(home), CHAR, cache=home / "other").folder.parent == home / "other" / "data"
    monkeypatch.delenv("PRIMEGPT_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: home / "user" / name)
    assert prepare(sources(home), CHAR).folder.parent == home / "user" / "primegpt" / "data"


@pytest.mark.parametrize(
    "name",
    ["train/tokens-00000.bin", "val/documents.bin", "val/manifest.json", "tokenizer/tokenizer.json", "corpus.json"],
)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_entry_is_reported_and_replaced(home, name, missing):
    record = prepare(sources(home), CHAR).record()
    path = Path(record["folder"]) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink() if missing else path.write_bytes(data)
    lines: list[str] = []
    assert prepare(sources(home), CHAR, say=lines.append).record() == record
    assert str(Path(record["folder"])) in lines[0]
    assert "prepared again" in lines[0]
    lines.clear()
    prepare(sources(home), CHAR, say=lines.append)
    assert lines == []
    assert len(entries(home)) == 1


def damage(path: Path, draw: random.Random) -> str:
    """Damage a file as disks, kills and editors do; how."""
    data = path.read_bytes()
    how = draw.choice(("bit", "bit", "bit", "digit", "cut", "empty", "gone", "junk", "folder", "of another"))
    if how in ("gone", "folder"):
        path.unlink()
        if how == "folder":
            path.mkdir()
        return how
    at = draw.randrange(len(data))
    digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    if how == "digit" and digits:
        at = draw.choice(digits)
        damaged = data[:at] + bytes([48 + (data[at] - 47) % 10]) + data[at + 1 :]
    elif how == "junk":
        damaged = draw.choice((b"[]", b"{}", b"5", b"null", b'"a"', b"[" * 99_999, b"\xff" * 9, b'{"fingerprint": 1}'))
    elif how == "of another":
        other = path.parent.parent / ("val" if path.parent.name == "train" else "train") / path.name
        damaged = other.read_bytes() if other.is_file() else b"\0" * len(data)
    else:
        flipped = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        damaged = {"cut": data[:at], "empty": b""}.get(how, flipped)
    path.write_bytes(damaged)
    return "nothing" if damaged == data else how


KINDS = {
    "char": CHAR,
    "bpe": BPE,
    "sentencepiece": TokenizerConfig(kind="sentencepiece", vocab_size=400),
}


def assert_no_damage_is_used(home: Path, seed: int, count: int) -> None:
    """Whatever befalls a file of an entry, what is served is what was prepared, and it is said."""
    draw = random.Random(seed)
    write = (home / "a.jsonl").write_text
    write(
        "".join(json.dumps({"prompt": f"p{n}", "text": f"t {n}", "lyrics": f"[x]\nla {n}"}) + "\n" for n in range(30))
    )
    (home / "b.jsonl").write_bytes((home / "a.jsonl").read_bytes())
    for kind, template in (("char", "song"), ("bpe", "text"), ("sentencepiece", "song"), ("char", "text")):
        config = sources(home, "a.jsonl", "b.jsonl", template=template, weights=(1, 2))
        first = prepare(config, KINDS[kind])
        expected = first.record(), first.tally, first.train_documents, first.tokenizer.fingerprint
        first.close()
        for number in range(count):
            path = draw.choice(sorted(path for path in first.folder.rglob("*") if path.is_file()))
            how = damage(path, draw)
            lines: list[str] = []
            again = prepare(config, KINDS[kind], say=lines.append)
            where = kind, template, number, how, path.name
            assert (again.record(), again.tally, again.train_documents, again.tokenizer.fingerprint) == expected, where
            assert any("prepared again" in line for line in lines) or how == "nothing" or path.suffix == ".json", where
            again.close()


def test_no_damage_of_an_entry_is_used(home):
    assert_no_damage_is_used(home, seed=0, count=12)


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(1, 9))
def test_none_of_a_thousand_damages_of_an_entry_is_used(home, seed):
    assert_no_damage_is_used(home, seed, count=32)


@pytest.mark.parametrize("weights", [(), (1.0, 2.0)])
def test_an_entry_without_a_hash_is_taken_as_far_as_its_shards_bear_it_out(home, weights):
    """As earlier versions wrote them: a run on one goes on, unless the documents of its sources do not add up."""
    (home / "other.txt").write_text("other " * 50, encoding="utf-8")
    config = sources(home, "text.txt", "other.txt", weights=weights)
    corpus = prepare(config, CHAR)
    path = corpus.folder / "corpus.json"
    facts = {"n_documents": 2, "tally": {}, "train_documents": [1, 1]}
    path.write_text(json.dumps(facts), encoding="utf-8")
    (home / "text.txt").rename(home / "gone.txt")
    assert reopen(corpus.record(), config, corpus.tokenizer).train_documents == [1, 1]
    (home / "gone.txt").rename(home / "text.txt")
    for damaged in (facts | {"train_documents": [1, 3]}, [], 5, None, "a"):
        path.write_text(json.dumps(damaged), encoding="utf-8")
        lines: list[str] = []
        assert reopen(corpus.record(), config, corpus.tokenizer, say=lines.append).train_documents == [1, 1]
        assert "corpus.json is damaged" in lines[0]
        path = prepare(config, CHAR).folder / "corpus.json"


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
    from primegpt.data.preparing import prepare
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
    corpus = reopen(record, sources(home), tokenizer, cache=cache, say=lines.append)
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


def test_a_run_of_an_earlier_version_is_told_that_this_may_be_why(home, run):
    """Its shards are gone, and what that version made of the text is not known any more."""
    record, tokenizer = run
    del record["preparation"]
    shutil.rmtree(home / "cache")
    with pytest.raises(
        MismatchError,
        match=r"or an earlier version of primegpt prepared it otherwise: its .*; put .*, resume with the version",
    ):
        reopen(record | {"source_fingerprint": "0" * 64}, sources(home), tokenizer)
    with pytest.raises(
        MismatchError, match=r"now gives .*, or an earlier version of primegpt prepared it otherwise; res"
    ):
        reopen(record | {"val_fingerprint": "0" * 64}, sources(home), tokenizer)


def test_a_plain_text_of_an_earlier_version_is_still_prepared_as_it_was(home, run):
    record, tokenizer = run
    del record["preparation"]
    shutil.rmtree(home / "cache")
    assert reopen(record, sources(home), tokenizer).train.fingerprint == record["train_fingerprint"]


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
