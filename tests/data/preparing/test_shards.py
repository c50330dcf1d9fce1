"""Shards against plain numpy arrays of the same documents, and against every kind of damage."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.data.preparing.shard_writer import StretchWriter, seal
from primegpt.data.preparing.shards import Shards
from primegpt.errors import DataError, MismatchError, UsageError


@pytest.fixture(scope="module")
def write(write_shards):
    return partial(write_shards, shard_tokens=100)


DOCUMENTS = st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=12), min_size=1, max_size=8)


@given(documents=DOCUMENTS, shard_tokens=st.integers(1, 20), data=st.data())
def test_equal_to_one_array_however_it_is_cut(tmp_path_factory, documents, shard_tokens, data, write):
    stream = np.concatenate(documents)
    with write(tmp_path_factory.mktemp("shards"), documents, shard_tokens=shard_tokens) as shards:
        files = sorted(shards.folder.glob("tokens-*.bin"))
        assert len(files) == -(-len(stream) // shard_tokens)
        assert b"".join(file.read_bytes() for file in files) == stream.astype("<u2").tobytes()
        assert len(shards) == len(stream)
        start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(stream))] * 2)))
        assert shards.slice(start, stop).tolist() == stream[start:stop].tolist()
        positions = np.array(data.draw(st.lists(st.integers(0, len(stream) - 1), min_size=4, max_size=4)))
        assert shards.gather(positions.reshape(2, 2)).tolist() == stream[positions].reshape(2, 2).tolist()
        owners = [index for index, ids in enumerate(documents) for _ in ids]
        assert shards.n_documents == len(documents)
        assert shards.document_index(np.arange(len(stream))).tolist() == owners
        shards.verify()


def test_manifest_says_what_belongs_together(tmp_path, write):
    with write(tmp_path, [[1, 2], [3]], split="val", text_bytes=42) as shards:
        assert (shards.split, shards.text_bytes) == ("val", 42)
        assert (shards.tokenizer_fingerprint, shards.source_fingerprint) == ("tok", "src")
        manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["files"].keys() == {"tokens-00000.bin", "documents.bin"}
        assert manifest["files"]["tokens-00000.bin"]["bytes"] == 6


def test_fingerprint_follows_content_and_nothing_else(tmp_path, write):
    def fingerprint(name, *args, **close):
        with write(tmp_path / name, *args, **close) as shards:
            return shards.fingerprint

    base = fingerprint("a", [[1, 2], [3]])
    assert fingerprint("b", [[1, 2], [3]]) == base
    others = [
        fingerprint("c", [[1, 2], [4]]),
        fingerprint("d", [[1], [2, 3]]),
        fingerprint("e", [[1, 2], [3]], tokenizer_fingerprint="other"),
        fingerprint("f", [[1, 2], [3]], source_fingerprint="other"),
    ]
    assert len({base, *others}) == 5


def test_dtype_at_the_boundary(tmp_path, write):
    with write(tmp_path / "16", [[0, 65_535]]) as shards:
        assert shards.slice(0, 2).tolist() == [0, 65_535]
    with write(tmp_path / "32", [[0, 65_536, 2**32 - 1]], "uint32") as shards:
        assert shards.slice(0, 3).tolist() == [0, 65_536, 2**32 - 1]


@pytest.mark.parametrize(
    ("ids", "dtype"), [([65_536], "uint16"), ([-1], "uint16"), ([2**32], "uint32"), ([-1], "uint32")]
)
def test_an_id_that_does_not_fit_is_refused_rather_than_wrapped(tmp_path, ids, dtype, write):
    with pytest.raises(ValueError, match=f"token id {ids[0]} is outside"):
        write(tmp_path, [[1], ids], dtype)
    with pytest.raises(DataError, match="no finished shards"):
        Shards.open(tmp_path)


@pytest.mark.parametrize("ids", [[], np.empty(0, int), [[1, 2]], [1.5]])
def test_only_rows_of_integers_are_documents(tmp_path, ids, write):
    with pytest.raises(ValueError, match="row of integer ids"):
        write(tmp_path, [ids])


def test_only_two_dtypes_are_stored(tmp_path):
    with pytest.raises(ValueError, match="uint16 or uint32, not int64"):
        StretchWriter(tmp_path, 0, np.int64)


def test_what_is_not_finished_leaves_nothing(tmp_path):
    with StretchWriter(tmp_path, 0, "uint16") as writer:
        writer.write([1, 2, 3])
    assert list(tmp_path.iterdir()) == []


def test_a_stream_of_no_tokens_is_refused(tmp_path):
    facts = {"tokenizer_fingerprint": "tok", "source_fingerprint": "src", "split": "train", "text_bytes": 7}
    with StretchWriter(tmp_path, 0, "uint16") as writer:
        nothing = writer.finish()
    with pytest.raises(ValueError, match="no document was written"):
        seal(tmp_path, [nothing], dtype="uint16", **facts)


def test_files_are_on_the_disk_before_they_get_their_names_and_the_manifest_comes_last(tmp_path, monkeypatch, write):
    """After a power cut a folder with a manifest must be whole: bytes first, then names, then the manifest."""
    events = []
    replace = Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("synced"))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append(Path(to).name), replace(path, to)))
    write(tmp_path, [range(150)]).close()
    stretches = [f"{kind}-0000{number}.bin" for number in (0, 1) for kind in ("starts", "tokens")]
    names = [*stretches, "documents.bin", "manifest.json"]
    assert events == [event for name in names for event in ("synced", name)]


def test_another_tokenizer_is_refused_with_both_fingerprints(tmp_path, write):
    write(tmp_path, [[1]]).close()
    Shards.open(tmp_path, "tok").close()
    with pytest.raises(MismatchError, match=r"by tokenizer tok, not by mine"):
        Shards.open(tmp_path, "mine")


def _truncate(folder: Path) -> None:
    with (folder / "tokens-00001.bin").open("r+b") as file:
        file.truncate(10)


def _replace(name: str, old: bytes, new: bytes):
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"tokens-00001\.bin is damaged: 10 bytes instead of 200"),
        (lambda folder: (folder / "tokens-00002.bin").unlink(), r"tokens-00002\.bin: No such file"),
        (lambda folder: (folder / "documents.bin").unlink(), r"documents\.bin: No such file"),
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json: No such file"),
        (_replace("manifest.json", b"{", b""), r"manifest\.json is damaged"),
        (_replace("manifest.json", b'"text_bytes": 7', b'"text_bytes": 8'), r"manifest\.json is damaged"),
        (_replace("manifest.json", b'"format_version": 2', b'"format_version": 9'), r"format version 9"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"[]"), r"manifest\.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\x00"), r"manifest\.json is damaged"),
    ],
)
def test_damage_is_one_line_on_opening(tmp_path, damage, message, write):
    write(tmp_path, [range(250)], text_bytes=7).close()
    damage(tmp_path)
    with pytest.raises(UsageError, match=message) as caught:
        Shards.open(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tokens-00000.bin", "tokens-00002.bin", "documents.bin"])
def test_one_flipped_bit_is_found_by_verify(tmp_path, name, write):
    write(tmp_path, [range(250)]).close()
    data = bytearray((tmp_path / name).read_bytes())
    data[3] ^= 16
    (tmp_path / name).write_bytes(data)
    with Shards.open(tmp_path) as shards, pytest.raises(DataError, match=f"{name} is damaged"):
        shards.verify()


def test_an_unreadable_file_is_one_line_too(tmp_path, monkeypatch, write):
    shards = write(tmp_path, [range(250)])

    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", denied)
        with pytest.raises(DataError, match=r"\.bin: Permission denied"):
            shards.verify()
    monkeypatch.setattr(np, "memmap", denied)
    with pytest.raises(DataError, match=r"tokens-00000\.bin: Permission denied"):
        Shards.open(tmp_path)


def test_the_mapping_is_read_only_and_reads_are_copies(tmp_path, write):
    with write(tmp_path, [range(250)]) as shards:
        copy = shards.slice(90, 110)
        copy[:] = 0
        shards.gather(np.arange(5))[:] = 9
        assert shards.slice(90, 92).tolist() == [90, 91]
        with pytest.raises(ValueError, match="read-only"):
            shards.document_starts[0] = 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts open files in /proc")
def test_close_returns_every_file_handle(tmp_path, write):
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count(str(tmp_path))

    before = handles()
    shards = write(tmp_path, [range(250)]).verify()
    shards.gather(np.arange(200))
    assert mapped() == 4
    shards.close()
    assert (handles(), mapped()) == (before, 0)


def test_stretches_written_in_any_order_are_the_stream_that_one_writer_makes(tmp_path, write):
    documents = [(np.arange(n, 38 * n + 37), np.full(37 * (n + 1), n % 3)) for n in range(7)]
    expected = write(tmp_path / "a", documents, roles=True, shard_tokens=10_000)
    stretches = {}
    for number in (2, 0, 1):
        with StretchWriter(tmp_path / "b", number, "uint16", roles=True) as writer:
            for ids, roles in documents[3 * number : 3 * number + 3]:
                writer.write(ids, roles)
            stretches[number] = json.loads(json.dumps(writer.finish()))
    facts = {"tokenizer_fingerprint": "tok", "source_fingerprint": "src", "split": "train", "text_bytes": 7}
    seal(tmp_path / "b", [stretches[number] for number in range(3)], dtype="uint16", roles=True, **facts)
    found = Shards.open(tmp_path / "b").verify()
    assert len(list(found.folder.glob("tokens-*"))) == 3
    assert found.document_starts.tolist() == expected.document_starts.tolist()
    assert found.slice(0, len(found)).tolist() == expected.slice(0, len(expected)).tolist()
    assert found.roles(0, len(found)).tolist() == [int(role) for _, roles in documents for role in roles]
    assert found.supervised_tokens == sum(len(ids) for number, (ids, _) in enumerate(documents) if number % 3 == 1)
