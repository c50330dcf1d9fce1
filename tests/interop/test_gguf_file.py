"""What stands before the weights of a GGUF file: as the library reads it, and bounded whatever a file claims."""

import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primegpt.errors import UsageError
from primegpt.interop.gguf_file import GGUFFile, is_gguf

F32, Q8_0 = gguf.GGMLQuantizationType.F32.value, gguf.GGMLQuantizationType.Q8_0.value
U8, U32, STRING, ARRAY = 0, 4, 8, 9


def string(text: str | bytes) -> bytes:
    content = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(content)) + content


def info(name: str, shape: tuple[int, ...], kind: int = F32, offset: int = 0) -> bytes:
    dimensions = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return string(name) + dimensions + struct.pack("<IQ", kind, offset)


def file(
    *infos: bytes, keys: tuple[bytes, ...] = (), data: int = 0, version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    tensors, values = counts or (len(infos), len(keys))
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, values) + b"".join(keys) + b"".join(infos)
    return header + bytes(-len(header) % 32) + bytes(data)


def array(name: str, kind: int, count: int, content: bytes) -> bytes:
    return string(name) + struct.pack("<IIQ", ARRAY, kind, count) + content


def alignment(value: int) -> bytes:
    return string("general.alignment") + struct.pack("<II", U32, value)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A small file of the library's own making, with a value of every type."""
    path = tmp_path_factory.mktemp("gguf") / "library.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"a.{kind}", 7)
    writer.add_float32("a.float32", 1e-5)
    writer.add_float64("a.float64", 1e-5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "mörning")
    writer.add_array("a.strings", ["one", "", "drei — 三"])
    writer.add_array("a.numbers", [1.5, -2.0])
    writer.add_tensor("odd", np.arange(15, dtype=np.float32).reshape(3, 5))
    writer.add_tensor("vector", np.arange(7, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refused(path: Path, content: bytes, *expected: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        GGUFFile(path)
    for text in (str(path), *expected):
        assert text in str(caught.value), str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_library_reads_the_same(written):
    ours, theirs = GGUFFile(written), gguf.GGUFReader(written)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata.keys() == fields.keys()
    for name, value in fields.items():
        found = ours.metadata[name]
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == pytest.approx(value), name
    assert ours.metadata["a.float32"] == 1e-5
    for tensor in theirs.tensors:
        assert np.array_equal(ours.read(tensor.name).numpy(), tensor.data)


def test_a_file_is_known_by_its_beginning_or_its_name(written, tmp_path):
    assert is_gguf(written)
    (tmp_path / "blob").write_bytes(written.read_bytes())
    (tmp_path / "other.gguf").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"GG")
    assert is_gguf(tmp_path / "blob")
    assert is_gguf(tmp_path / "other.gguf")
    assert not is_gguf(tmp_path / "other")
    assert not is_gguf(tmp_path)
    assert not is_gguf(tmp_path / "missing.gguf")


LIES = {
    "another beginning": (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
    "nothing": (b"", "cut short"),
    "version 1": (file(version=1), "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "many tensors": (file(counts=(2**63, 0)), "9,223,372,036,854,775,808 tensors"),
    "many keys": (file(counts=(0, 2**40)), "1,099,511,627,776 keys"),
    "fewer keys": (file(counts=(0, 9000)), "cut short, or lies"),
    "fewer tensors": (file(counts=(9000, 0)), "cut short, or lies"),
    "long name": (file(keys=(struct.pack("<Q", 2**62) + b"x",)), "bytes for the name of a key"),
    "long string": (file(keys=(string("k") + struct.pack("<IQ", STRING, 2**62),)), "bytes for the value of 'k'"),
    "long array": (file(keys=(array("k", U8, 2**62, b""),)), "the value of 'k' would end beyond"),
    "many strings": (file(keys=(array("k", STRING, 2**62, b""),)), "strings for the value of 'k'"),
    "nested arrays": (file(keys=(array("k", ARRAY, 1, b""),)), "array of the type 9"),
    "unknown value": (file(keys=(string("k") + struct.pack("<I", 77),)), "unknown type 77"),
    "not UTF-8": (file(keys=(string(b"\xff"),)), "not UTF-8"),
    "key twice": (file(keys=(alignment(32), alignment(32))), "'general.alignment' twice"),
    "alignment 0": (file(keys=(alignment(0),)), "general.alignment = 0"),
    "alignment 3": (file(keys=(alignment(3),)), "general.alignment = 3"),
    "alignment 2^31": (file(keys=(alignment(2**31),)), "general.alignment"),
    "no dimensions": (file(info("t", ())), "'t' has 0 dimensions"),
    "dimensions": (file(string("t") + struct.pack("<I", 2**32 - 1)), "4,294,967,295 dimensions"),
    "empty tensor": (file(info("t", (4, 0)), data=64), "shape [4, 0]"),
    "bomb": (file(info("t", (2**31, 2**31)), data=64), "would end at byte"),
    "overflow": (file(info("t", (2**62, 2**62, 2**62)), data=64), "would end at byte"),
    "beyond": (file(info("t", (8,), offset=64), data=64), "would end at byte"),
    "far beyond": (file(info("t", (8,), offset=2**64 - 32), data=64), "would end at byte"),
    "not aligned": (file(info("t", (8,), offset=4), data=64), "not aligned"),
    "same place": (file(info("t", (16,)), info("u", (16,)), data=64), "lies in another tensor"),
    "tensor twice": (file(info("t", (8,)), info("t", (8,), offset=32), data=64), "tensor 't' twice"),
    "unknown type": (file(info("t", (8,), 4000), data=64), "the unknown type 4000"),
    "integers": (file(info("t", (8,), gguf.GGMLQuantizationType.I32.value), data=64), "stored as I32"),
    "other blocks": (file(info("t", (256,), gguf.GGMLQuantizationType.IQ2_S.value), data=640), "stored as IQ2_S"),
    "part of a block": (file(info("t", (4, 33), Q8_0), data=640), "blocks of 32"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_one_line(lie, tmp_path):
    content, expected = LIES[lie]
    refused(tmp_path / "m.gguf", content, expected)


def test_wherever_a_file_is_cut_it_is_one_line(written, tmp_path):
    content = written.read_bytes()
    end = max(place.end for place in GGUFFile(written)._places.values())
    for size in [*range(0, end - 3, 3), end - 1]:
        refused(tmp_path / "m.gguf", content[:size])


@given(st.data())
def test_whatever_is_altered_it_is_read_or_one_line(written, data):
    content = bytearray(written.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = written.with_name("altered.gguf")
    path.write_bytes(content)
    try:
        opened = GGUFFile(path)
        for name in opened.shapes:
            opened.read(name)
    except UsageError as error:
        message = str(error)
        assert "\n" not in message


def test_large_arrays_take_no_more_memory_than_their_bytes(tmp_path):
    """Twice, that is; the library's own reader takes several objects an element."""
    size = 20 * 2**20
    (tmp_path / "m.gguf").write_bytes(file(keys=(array("k", U8, size, bytes(size)),)))
    tracemalloc.start()
    started = time.perf_counter()
    GGUFFile(tmp_path / "m.gguf")
    peak, took = tracemalloc.get_traced_memory()[1], time.perf_counter() - started
    tracemalloc.stop()
    assert peak < 2.5 * size
    assert took < 5
    size = 70 * 2**20
    refused(tmp_path / "m.gguf", file(keys=(array("k", U8, size, bytes(size)),)), "more than 64 MB before its weights")


def test_a_file_that_shrinks_while_it_is_read(written, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(written.read_bytes())
    opened = GGUFFile(path)
    path.write_bytes(written.read_bytes()[: opened._places["odd"].end - 1])
    with pytest.raises(UsageError, match="'odd' is cut short"):
        opened.read("odd")
