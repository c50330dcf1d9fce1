"""What a file is by its first bytes, whatever its name says: text, or something that has to become text first.

Only a sign that no text bears counts: bytes that text does not hold, or an opening like %PDF-. A single odd character
is the author's, and stays.
"""

import codecs
import re
import unicodedata
import zlib
from typing import NamedTuple

HEAD = 1 << 16  # bytes looked at
WIDE = 1 << 12  # of them, for UTF-16
ODD = 0.1  # share of control characters that no text has; UTF-16 has half or more
CONTROLS = bytes([*range(8), *range(14, 27), *range(28, 32), 127])  # but for \b \t \n \v \f \r and escape


class Kind(NamedTuple):
    """What a file is, with its article, and how to get text from it."""

    name: str
    remedy: str


UNPACK = "unpack it, and name the files or the folder"
SAVE = "save it as plain text (.txt, UTF-8)"
LEAVE_OUT = "leave it out: a model learns from text"
WEIGHTS = "leave it out; `primegpt import` reads folders of models"
TABLE = "save it as .csv"

# Each is known by a pattern at the start of the file. The order matters: what is inside a zip before the zip itself.
_KINDS = [
    (rb"\s{0,64}%PDF-", "a PDF document", "get its text with pdftotext, or save it as plain text"),
    (rb"\s{0,64}\{\\rtf", "an RTF document", SAVE),
    (rb"%!PS-Adobe", "a PostScript document", "get its text with ps2ascii"),
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "the Git LFS pointer to a file",
        "run git lfs pull",
    ),
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff", "UTF-32 text", "save it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW"),
    (rb"\xff\xfe|\xfe\xff", "UTF-16 text", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW"),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", "an EPUB book", SAVE),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis\.opendocument", "an OpenDocument file", SAVE),
    (rb"PK\x03\x04.*word/", "a Word document", SAVE),
    (rb"PK\x03\x04.*xl/", "an Excel workbook", TABLE),
    (rb"PK\x03\x04.*ppt/", "a PowerPoint presentation", SAVE),
    (rb"PK\x03\x04.*/data\.pkl", "a PyTorch file", WEIGHTS),
    (rb"PK\x03\x04.{26}[^/\x00]{1,200}\.npy", "a NumPy file", LEAVE_OUT),
    (rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", UNPACK),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word, Excel or PowerPoint file", SAVE),
    (rb".{60}BOOKMOBI", "a Kindle book", SAVE),
    (rb".{257}ustar[\x00 ]", "a tar archive", "unpack it (tar -xf), and name the files or the folder"),
    (rb"\x1f\x8b\x08", "a gzip file", "name it .gz after its ending, as in text.txt.gz, or unpack it with gunzip"),
    (rb"BZh[1-9]1AY&SY", "a bzip2 file", "unpack it with bunzip2"),
    (rb"\xfd7zXZ\x00", "an xz file", "unpack it with unxz"),
    (rb"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it with unzstd"),
    (rb"\x04\x22\x4d\x18", "an LZ4 file", "unpack it with unlz4"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (rb"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (rb"MSCF\x00\x00\x00\x00", "a cabinet archive", UNPACK),
    (rb"\x89PNG\r\n\x1a\n", "a PNG image", LEAVE_OUT),
    (rb"\xff\xd8\xff", "a JPEG image", LEAVE_OUT),
    (rb"GIF8[79]a.{4}[\x80-\xff]", "a GIF image", LEAVE_OUT),
    (rb"RIFF.{4}WEBP", "a WebP image", LEAVE_OUT),
    (rb"BM.{4}\x00\x00\x00\x00", "a BMP image", LEAVE_OUT),
    (rb"II\*\x00|MM\x00\*", "a TIFF image", LEAVE_OUT),
    (rb"\x00\x00\x01\x00", "an icon", LEAVE_OUT),
    (rb"8BPS\x00\x01", "a Photoshop image", LEAVE_OUT),
    (rb"\x00.{3}ftyp(?:heic|heix|mif1|avif)", "a HEIF image", LEAVE_OUT),
    (rb"ID3[\x02-\x04]|\xff[\xf2\xf3\xfa\xfb]", "MP3 audio", LEAVE_OUT),
    (rb"fLaC\x00", "FLAC audio", LEAVE_OUT),
    (rb"OggS\x00", "Ogg audio", LEAVE_OUT),
    (rb"RIFF.{4}WAVE", "WAV audio", LEAVE_OUT),
    (rb"MThd\x00\x00\x00\x06", "MIDI music", LEAVE_OUT),
    (rb"\x00.{3}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video", LEAVE_OUT),
    (rb"\x7fELF|MZ.{2}[\x00-\x0f]\x00|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe|\x00asm", "a program", LEAVE_OUT),
    (rb"SQLite format 3\x00", "an SQLite database", "export its text as .csv with sqlite3"),
    (rb"PAR1[\x15\x19\x1c]", "a Parquet file", "name it .parquet"),
    (rb"ARROW1\x00\x00", "an Arrow file", "save it as .parquet"),
    (rb"\x93NUMPY", "a NumPy file", LEAVE_OUT),
    (rb"\x89HDF\r\n", "an HDF5 file", LEAVE_OUT),
    (rb".{2,5}\x00{3,6}\{\"", "a safetensors file", WEIGHTS),
    (rb"GGUF[\x01-\x03]\x00\x00\x00", "a GGUF model", "leave it out: it holds a model, not text"),
    (rb"\x80[\x02-\x05](?:\x95.{8}|[\]}(c])", "a Python pickle", LEAVE_OUT),
    (rb"\x00\x01\x00\x00\x00|OTTO\x00|wOF[F2]\x00", "a font", LEAVE_OUT),
]
KINDS = [(re.compile(pattern, re.DOTALL), Kind(name, remedy)) for pattern, name, remedy in _KINDS]
PARQUET, GZIP = (next(kind for _, kind in KINDS if kind.name == f"a {name} file") for name in ("Parquet", "gzip"))


def kind_of(head: bytes) -> Kind | None:
    """What a file that begins with `head` (HEAD bytes, or all there are) is, if it is no text."""
    found = next((kind for pattern, kind in KINDS if pattern.match(head)), None)
    if found == GZIP and (inner := kind_of(_inflated(head))):
        return Kind(f"{inner.name} in gzip", inner.remedy)
    return found or _wide(head) or _binary(head)


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(head, HEAD)
    except zlib.error:
        return b""


def _wide(head: bytes) -> Kind | None:
    """UTF-16 or UTF-32 without a byte order mark: what decodes as that into words, with spaces or lines between."""
    if b"\0" not in head:
        return None
    found = {encoding: _words(head[:WIDE], encoding) for encoding in ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")}
    encoding = max(found, key=lambda encoding: found[encoding])
    return (
        Kind(f"{encoding[:6]} text", f"save it as UTF-8: iconv -f {encoding} -t UTF-8 FILE > NEW")
        if found[encoding]
        else None
    )


def _words(head: bytes, encoding: str) -> int:
    """Spaces and line ends in a text of that encoding; 0 if it is none."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return 0
    good = all(c.isspace() or unicodedata.category(c) not in ("Cc", "Cn", "Co", "Cs") for c in text)
    return good * (text.count(" ") + text.count("\n"))


def _binary(head: bytes) -> Kind | None:
    few = 0.01 if b"\0" in head and not _is_utf8(head) else ODD
    if _controls(head) > few and _controls(head) * len(head) >= 3:
        return Kind("binary data", "save it as UTF-8 if it is text, or leave it out")
    return None


def _controls(data: bytes) -> float:
    return 1 - len(data.translate(None, CONTROLS)) / len(data) if data else 0.0


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return True
