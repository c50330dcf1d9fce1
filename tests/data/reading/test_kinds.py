"""What is no text is called by its name, whatever its own name is; what is text is never taken for anything else."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import struct
import tarfile
import wave
import zipfile

import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet
from safetensors.numpy import save

from primegpt.data.reading.kinds import HEAD, kind_of
from primegpt.data.reading.sources import read_documents
from primegpt.errors import DataError

TEXT = "Der Fluss, der Mond und ein altes Boot – “we went along”.\n" * 40
RUSSIAN, CHINESE = "Старая лодка у реки.\n" * 40, "河边的一条旧船。\n" * 40


def zipped(**members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), text)
    return file.getvalue()


def tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = len(TEXT.encode())
        archive.addfile(info, io.BytesIO(TEXT.encode()))
    return file.getvalue()


def made(write, *arguments) -> bytes:
    file = io.BytesIO()
    write(*arguments, file)
    return file.getvalue()


def wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(range(256)))
    return file.getvalue()


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table songs (text)")
    return connection.serialize()


TABLE = pyarrow.table({"text": ["a", "b"]})
FILES = {
    "UTF-16 text": [
        TEXT.encode("utf-16"),
        *(text.encode(f"utf-16-{order}") for text in (TEXT, RUSSIAN, CHINESE) for order in ("le", "be")),
    ],
    "UTF-32 text": [TEXT.encode("utf-32"), CHINESE.encode("utf-32-le"), RUSSIAN.encode("utf-32-be")],
    "a PDF document": [b"%PDF-1.4\n1 0 obj\n<</Length 60>>\nstream\nBT (River rain) Tj ET\nendstream\n", b"\n%PDF-1.7"],
    "an RTF document": [rb"{\rtf1\ansi River rain.\par}"],
    "a PostScript document": [b"%!PS-Adobe-3.0\n"],
    "a Word document": [zipped(_Content_Types__xml="<Types/>", word__document_xml="<w/>")],
    "an Excel workbook": [zipped(_Content_Types__xml="<Types/>", xl__workbook_xml="<w/>")],
    "a PowerPoint presentation": [zipped(_Content_Types__xml="<Types/>", ppt__slides_xml="<w/>")],
    "an OpenDocument file": [
        b"PK\3\4" + bytes(22) + struct.pack("<HH", 8, 0) + b"mimetypeapplication/vnd.oasis.opendocument.text"
    ],
    "an EPUB book": [b"PK\3\4" + bytes(22) + struct.pack("<HH", 8, 0) + b"mimetypeapplication/epub+zip"],
    "an old Word, Excel or PowerPoint file": [bytes.fromhex("d0cf11e0a1b11ae1") + bytes(500)],
    "a zip archive": [zipped(a_txt=TEXT)],
    "a tar archive": [tarred("w")],
    "a tar archive in gzip": [tarred("w:gz")],
    "a gzip file": [gzip.compress(TEXT.encode())],
    "a bzip2 file": [bz2.compress(TEXT.encode()), tarred("w:bz2")],
    "an xz file": [lzma.compress(TEXT.encode())],
    "a Zstandard file": [b"\x28\xb5\x2f\xfd" + bytes(range(200))],
    "a 7-Zip archive": [b"7z\xbc\xaf\x27\x1c\0\4" + bytes(range(200))],
    "a RAR archive": [b"Rar!\x1a\7\1\0" + bytes(range(200))],
    "a PNG image": [b"\x89PNG\r\n\x1a\n" + bytes(range(200))],
    "a JPEG image": [b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(200))],
    "a GIF image": [b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,"],
    "a WebP image": [b"RIFF\x24\0\0\0WEBPVP8 " + bytes(30)],
    "a TIFF image": [b"II*\0\x08\0\0\0" + bytes(30), b"MM\0*\0\0\0\x08" + bytes(30)],
    "a BMP image": [b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0" + bytes(60)],
    "a HEIF image": [b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"],
    "MP3 audio": [b"ID3\3\0\0\0\0\0\x21TIT2", b"\xff\xfb\x90\x64" + bytes(200)],
    "FLAC audio": [b"fLaC\0\0\0\x22" + bytes(60)],
    "Ogg audio": [b"OggS\0\2" + bytes(60)],
    "WAV audio": [wav()],
    "a video": [b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", b"\x1a\x45\xdf\xa3\x9fB\x86\x81\1", b"RIFF\x24\0\0\0AVI LIST"],
    "a program": [b"\x7fELF\2\1\1" + bytes(60), b"MZ\x90\0\3\0\0\0\4" + bytes(60), b"\xcf\xfa\xed\xfe\7\0\0\1"],
    "an SQLite database": [database()],
    "a Parquet file": [made(parquet.write_table, TABLE)],
    "an Arrow file": [made(feather.write_feather, TABLE)],
    "a NumPy file": [made(lambda file: np.save(file, np.arange(9))), made(lambda file: np.savez(file, a=np.arange(9)))],
    "a PyTorch file": [made(torch.save, {"a": torch.zeros(3)})],
    "a safetensors file": [save({"a": np.zeros(3)})],
    "a GGUF model": [b"GGUF\3\0\0\0" + struct.pack("<QQ", 1, 2) + b"general.architecture" * 900],
    "a Python pickle": [pickle.dumps({"a": TEXT}), pickle.dumps([TEXT], protocol=2)],
    "a font": [b"\0\1\0\0\0\x0fOS/2" + bytes(60), b"wOF2\0\1\0\0" + bytes(60)],
    "the Git LFS pointer to a file": [b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"],
    "binary data": [bytes(range(256)) * 9, b"\1\2\3 a few words \4\5\6", struct.pack("<900I", *range(900))],
}


@pytest.mark.parametrize(("name", "data"), [(name, data) for name in FILES for data in FILES[name]])
def test_each_kind_by_its_name_with_the_way_out(tmp_path, name, data):
    kind = kind_of(data)
    assert kind
    assert kind.name == name
    path = tmp_path / "notes.txt"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_documents([str(path)], songs=1))
    assert str(caught.value) == f"{path} is {name}, not UTF-8 text; {kind.remedy}"


@pytest.mark.parametrize(
    "text",
    [
        "a\x00b", "läuft\x00\u200b", TEXT, RUSSIAN, CHINESE, "", "x", "<!DOCTYPE html><p>Hello</p>", "<svg/>", "PK",
        "PK is a town", "BM 100", "MZ", "GIF89a is a format", "ID3 tags", "%PDF is no PDF", "GGUF", "RIFF-raff",
        "\x1b[1mbold\x1b[0m and man\bmanual\n" * 99, "a\tb\tc\n" * 999, "#!/bin/sh\n", "\ufeffone", "version https://x",
        "N\bNA\bAM\bME\bE\n" * 99, "page one\fpage two\n" * 9,
    ],
)  # fmt: skip
def test_text_stays_text(text):
    assert kind_of(text.encode()) is None


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=300))
def test_no_text_of_letters_is_taken_for_anything_else(text):
    assert kind_of(text.encode()) is None or text.lstrip().startswith(("%PDF-", "{\\rtf", "%!PS-Adobe", "version http"))


def test_a_character_that_the_looked_at_bytes_cut_is_no_sign():
    assert kind_of(("a" + "漢" * HEAD).encode()[:HEAD]) is None


def test_an_8_bit_encoding_is_left_to_the_decoder():
    """Which says at which byte: nobody can tell which of them it is."""
    assert kind_of(TEXT.encode("cp1252")) is None


def test_inside_gzip_it_is_the_same(tmp_path):
    for name, data in (("a.txt.gz", FILES["a PDF document"][0]), ("texts.tar.gz", tarred("w"))):
        (tmp_path / name).write_bytes(gzip.compress(data))
        with pytest.raises(DataError, match=r"is a (PDF document|tar archive), not UTF-8 text"):
            list(read_documents([str(tmp_path / name)], songs=1))


def test_a_table_of_json_is_text():
    assert kind_of(json.dumps({"text": TEXT}).encode()) is None
