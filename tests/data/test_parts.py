"""A text that several machines prepare, a part each: the same bytes as one machine's, or one line that says why not."""

import itertools
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from primegpt.config import DataConfig, TokenizerConfig
from primegpt.data.preparing import blocks as blocks_module
from primegpt.data.preparing import build, survey
from primegpt.data.preparing.blocks import Blocks, Part, parse_part
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import Unfinished, prepare, prepare_part
from primegpt.data.reading import formats, objects
from primegpt.errors import ConfigError, DataError, MismatchError
from primegpt.tokenizers import store

BLOCK = 2_000  # bytes: five or six blocks of the texts below


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with texts of every kind and a tokenizer, and blocks that are small."""
    monkeypatch.setattr(blocks_module, "BLOCK", BLOCK)
    monkeypatch.setattr(build, "PIECE", 300)
    monkeypatch.setattr(formats, "PART", 700)
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinšé漢", k=draw.randint(1, 9))) for _ in range(100)]
    (tmp_path / "long.txt").write_text("\n".join(" ".join(draw.choices(words, k=9)) for _ in range(100)), "utf-8")
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 200))) for _ in range(25)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    songs = [{"prompt": text[:20], "lyrics": f"[chorus]\n{text}\n[solo]"} for text in texts]
    (tmp_path / "songs.jsonl").write_text("".join(json.dumps(song) + "\n" for song in songs), "utf-8")
    kinds = {"control": ("<prompt>", "<song>", "</song>"), "structure": ("[chorus]",)}
    store.save(store.train("bpe", texts, 400), tmp_path / "bpe")
    store.save(store.train("char", ["abc", *words], special_tokens=kinds), tmp_path / "songs")
    return tmp_path


REQUESTS = {
    "long": {"sources": ["long.txt"]},
    "many": {"sources": ["many.jsonl"]},
    "weighted": {"sources": ["many.jsonl", "long.txt"], "weights": (1, 2)},
    "deduplicated": {"sources": ["many.jsonl", "many.jsonl"], "duplicates": "exact"},
    "songs": {"sources": ["songs.jsonl"], "template": "song"},
}


def request(home: Path, name: str = "many", tokenizer: str | None = None, **settings) -> tuple:
    asked = REQUESTS[name] | settings
    sources = tuple(str(home / source) for source in asked.pop("sources"))
    path = home / (tokenizer or ("songs" if name == "songs" else "bpe"))
    return DataConfig(sources=sources, **asked), TokenizerConfig(path=str(path))


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an entry of the cache."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def part(home: Path, index: int, count: int, *asked, cache: str = "parts", **settings) -> Corpus | Unfinished:
    return prepare_part(*(asked or request(home, **settings)), Part(index, count), cache=home / cache)


def test_texts_of_one_name_in_two_folders_do_not_meet(home, tmp_path, monkeypatch):
    for folder, word in (("here", "river"), ("there", "bridge")):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        Path("data.txt").write_text(f"the {word} and the song went on until morning\n" * 50, "utf-8")
        asked = DataConfig(sources=("data.txt",)), TokenizerConfig(path=str(home / "bpe"))
        assert isinstance(prepare_part(*asked, Part(1, 2), cache=tmp_path / "parts"), Unfinished | Corpus)


# ---- the same bytes


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_parts_are_byte_for_byte_what_one_preparation_makes(home, name, count):
    expected = prepare(*request(home, name), cache=home / "whole")
    for index in range(1, count):
        unfinished = part(home, index, count, *request(home, name))
        assert isinstance(unfinished, Unfinished)
        assert Part(count, count) in unfinished.missing
        assert Part(index, count) not in unfinished.missing
    found = part(home, count, count, *request(home, name))
    assert isinstance(found, Corpus)
    assert found.folder.name == expected.folder.name
    assert content(found.folder) == content(expected.folder)
    assert len(list(found.folder.glob("train/tokens-*"))) > 3
    assert sorted(path.suffix for path in found.folder.parent.iterdir() if path.is_dir()) == [""]


@pytest.mark.parametrize("name", REQUESTS)
def test_blocks_change_no_id_and_no_place_of_a_document(home, monkeypatch, name):
    cut = prepare(*request(home, name), cache=home / "cut")
    monkeypatch.setattr(blocks_module, "BLOCK", 10**9)
    whole = prepare(*request(home, name), cache=home / "whole")
    assert len(list(whole.folder.glob("train/tokens-*"))) == 1
    assert (cut.tally, cut.train_documents) == (whole.tally, whole.train_documents)
    for found, expected in ((cut.train, whole.train), (cut.val, whole.val)):
        assert found.slice(0, len(found)).tolist() == expected.slice(0, len(expected)).tolist()
        assert found.document_starts.tolist() == expected.document_starts.tolist()
        assert (found.text_bytes, found.supervised_tokens) == (expected.text_bytes, expected.supervised_tokens)
        if found.has_roles:
            assert found.roles(0, len(found)).tolist() == expected.roles(0, len(expected)).tolist()


def test_the_order_of_starting_does_not_matter(home):
    expected = content(prepare(*request(home), cache=home / "whole").folder)
    for number, order in enumerate(itertools.permutations((1, 2, 3))):
        for index in order:
            found = part(home, index, 3, cache=f"cache{number}")
        assert content(found.folder) == expected


def test_blocks_share_a_text_out_completely_and_hold_no_more_files_than_a_system_allows():
    for n_bytes, count in itertools.product((0, 1, 63_999_999, 64_000_001, 10**10, 10**13), (1, 2, 7, 200)):
        blocks = Blocks.of(n_bytes)
        shared = [number for index in range(1, count + 1) for number in blocks.range(Part(index, count))]
        assert shared == list(range(blocks.count))
        assert blocks.count <= 128
        assert blocks.bytes_of(shared) == n_bytes
        assert blocks.at(max(0, n_bytes - 1)) == blocks.count - 1
        sizes = [len(blocks.range(Part(index, count))) for index in range(1, count + 1)]
        assert max(sizes) - min(sizes) <= 1


def test_parts_from_separate_folders_are_merged_by_laying_them_together(home):
    expected = prepare(*request(home), cache=home / "whole")
    for index in (1, 2, 3):
        unfinished = part(home, index, 3, cache=f"machine{index}")
        shutil.copytree(unfinished.folder, home / "parts" / "data" / unfinished.folder.name, dirs_exist_ok=True)
    lines: list[str] = []
    found = prepare(*request(home), cache=home / "parts", say=lines.append)
    assert content(found.folder) == content(expected.folder)
    assert lines == []  # nothing was left to tokenize


def test_one_process_without_a_part_finishes_what_machines_have_begun(home, monkeypatch):
    expected = content(prepare(*request(home), cache=home / "whole").folder)
    part(home, 2, 3)
    part(home, 4, 4)  # of other parts even
    lines: list[str] = []
    written = []
    monkeypatch.setattr(build, "_write_block", spy(build._write_block, written))
    found = prepare(*request(home), cache=home / "parts", say=lines.append)
    assert content(found.folder) == expected
    assert written == [0, 1, 2, 3, 9]  # of 14
    assert sum(line.startswith("going on with the preparation that was begun") for line in lines) == 1


def spy(function, calls):
    def spied(*arguments):
        calls.append(arguments[1])
        return function(*arguments)

    return spied


def test_a_part_reads_nothing_behind_its_own_blocks(home, monkeypatch):
    monkeypatch.setattr(survey, "IN_MEMORY", 0)
    read, parse = [], objects.from_json
    monkeypatch.setattr(objects, "from_json", lambda line: (read.append(line), parse(line))[1])
    part(home, 1, 3)
    assert 25 < len(read) < 45  # all of it once, and a third of it again; 50 would be all of it twice


# ---- killed, twice, damaged


def test_a_part_that_was_killed_goes_on_behind_its_last_block(home, monkeypatch):
    expected = content(prepare(*request(home), cache=home / "whole").folder)
    record, killed = build.record_block, []

    def killed_after_two(unfinished, number, facts):
        if len(killed) == 1:
            killed.append(number)
            (unfinished / "train" / ".tmp-tokens-00001.bin-x").write_bytes(b"half")  # as SIGKILL leaves it
            raise KeyboardInterrupt
        killed.append(number)
        record(unfinished, number, facts)

    with monkeypatch.context() as patch:
        patch.setattr(build, "record_block", killed_after_two)
        with pytest.raises(KeyboardInterrupt):
            part(home, 1, 2)
    assert killed == [0, 1]
    assert isinstance(part(home, 2, 2), Unfinished)
    written = []
    monkeypatch.setattr(build, "_write_block", spy(build._write_block, written))
    found = part(home, 1, 2)
    assert written[0] == 1
    assert content(found.folder) == expected


def test_a_kill_while_parts_are_put_together_is_made_up_for(home, monkeypatch):
    expected = content(prepare(*request(home), cache=home / "whole").folder)
    part(home, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            part(home, 2, 2)
    assert content(part(home, 1, 2).folder) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: bytes([data[0] ^ 1]) + data[1:], None])
def test_a_block_that_was_damaged_on_its_way_is_missing_again(home, damage):
    expected = content(prepare(*request(home), cache=home / "whole").folder)
    unfinished = part(home, 1, 2)
    path = unfinished.folder / "train" / "tokens-00000.bin"
    path.write_bytes(damage(path.read_bytes())) if damage else path.unlink()
    found = part(home, 2, 2)
    assert isinstance(found, Unfinished)
    assert found.missing == [Part(1, 2)]
    assert content(part(home, 1, 2).folder) == expected


@pytest.mark.parametrize("junk", [b"", b"[]", b"5", b"{}", None])
def test_a_block_whose_record_was_damaged_is_missing_again(home, junk):
    unfinished = part(home, 1, 2)
    path = unfinished.folder / "blocks" / "00001.json"
    path.write_bytes(path.read_bytes().replace(b'"n_tokens": ', b'"n_tokens": 1') if junk is None else junk)
    (unfinished.folder / "request.json").write_bytes(junk or b"{}")
    found = part(home, 2, 2)
    assert isinstance(found, Unfinished)
    assert found.missing == [Part(1, 2)]
    assert isinstance(part(home, 1, 2), Corpus)


def test_the_same_part_twice_at_once_is_refused(home):
    unfinished = part(home, 1, 2)
    lock = unfinished.folder.with_name(unfinished.folder.name.removesuffix(".partial") + ".1-of-2.lock")
    with FileLock(lock, timeout=0), pytest.raises(DataError, match="part 1 of 2 is being prepared by another process"):
        part(home, 1, 2)
    assert isinstance(part(home, 1, 2), Unfinished)  # one after the other is fine
    assert isinstance(part(home, 2, 2), Corpus)
    assert isinstance(part(home, 1, 2), Corpus)


@pytest.mark.parametrize("in_time", [True, False])
def test_an_entry_that_another_process_finished_meanwhile_is_taken(home, monkeypatch, in_time):
    """Somebody prepares all of it beside a part, is faster, and takes the unfinished folder away."""
    record = build.record_block

    def overtaken(*arguments):
        monkeypatch.setattr(build, "record_block", record)
        if in_time:
            record(*arguments)
        prepare(*request(home), cache=home / "parts")
        if not in_time:
            record(*arguments)

    monkeypatch.setattr(build, "record_block", overtaken)
    found = part(home, 1, 2)
    assert isinstance(found, Corpus)
    assert content(found.folder) == content(prepare(*request(home), cache=home / "whole").folder)
    assert [path for path in found.folder.parent.iterdir() if path.is_dir()] == [found.folder]


# ---- refused


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"val_fraction": 0.2}, r"has data\.val_fraction 0\.1, this one 0\.2"),
        ({"max_bytes": 5000}, r"has the text \w{64}, this one \w{64}"),
        ({"tokenizer": "songs"}, r"has the tokenizer \['\w{64}'\], this one \['\w{64}'\]"),
    ],
)
def test_a_part_of_other_text_or_settings_is_refused_and_does_no_harm(home, settings, difference):
    part(home, 1, 3)
    with pytest.raises(MismatchError, match=f"another part of .*many.jsonl {difference}; give all parts the same"):
        part(home, 2, 3, **settings)
    assert len([path for path in (home / "parts" / "data").iterdir() if path.is_dir()]) == 1
    part(home, 2, 3)
    assert isinstance(part(home, 3, 3), Corpus)
    assert isinstance(part(home, 1, 2, **settings), Unfinished)  # nobody waits any more


def test_a_part_of_another_corpus_laid_beside_the_others_is_refused(home):
    ours = part(home, 1, 2, cache="a").folder
    theirs = part(home, 2, 2, cache="b", val_fraction=0.2).folder
    shutil.copytree(theirs, ours, dirs_exist_ok=True)
    with pytest.raises(MismatchError, match=r"blocks.\d+\.json was made for corpus \w+, not \w+; prepare that part"):
        prepare(*request(home), cache=home / "a")


@pytest.mark.parametrize("kind", ["char", "bpe", "sentencepiece"])
def test_parts_learn_no_tokenizer(home, kind):
    asked = request(home)[0], TokenizerConfig(kind=kind)
    with pytest.raises(ConfigError, match=f"part 1 of 2 cannot train a {kind} .*tokenizer train SOURCE --kind {kind}"):
        part(home, 1, 2, *asked)
    assert not (home / "parts").exists()
    assert isinstance(part(home, 1, 1, *asked), Corpus)  # which is all of it


@pytest.mark.parametrize(
    "text", ["", "2", "2/", "/2", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1.0/2", "²/3", "1 /2"]
)
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ConfigError, match=r"--shard .*: (this is no part|there is no such part)"):
        parse_part(text)


def test_what_is_a_part():
    assert [parse_part(text) for text in ("1/1", "2/8", "08/8")] == [(1, 1), (2, 8), (8, 8)]


# ---- at once

SCRIPT = """if True:
    import sys
    from pathlib import Path
    from primegpt.config import DataConfig, TokenizerConfig
    from primegpt.data.preparing import blocks, build
    from primegpt.data.preparing.prepare import prepare_part
    blocks.BLOCK, build.PIECE = 2_000, 300
    home, text = Path(sys.argv[1]), sys.argv[2]
    data = DataConfig(sources=(str(home / "many.jsonl"),))
    prepare_part(data, TokenizerConfig(path=str(home / "bpe")), blocks.parse_part(text), cache=home / "parts")"""


def test_processes_that_run_at_once_leave_one_whole_entry(home):
    command = [sys.executable, "-c", SCRIPT, str(home)]
    processes = [subprocess.Popen([*command, f"{index}/3"], stderr=subprocess.PIPE) for index in (1, 2, 3)]
    assert [process.communicate(timeout=100)[1] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    (folder,) = (path for path in (home / "parts" / "data").iterdir() if path.is_dir())
    assert content(folder) == content(prepare(*request(home), cache=home / "whole").folder)
