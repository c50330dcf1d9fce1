"""SentencePiece's `.model` file: a protocol buffer, spelt out so that no library for them is needed.

SentencePiece is only ever given what is made here of a list of pieces, never bytes of someone else's making.
The fields are those of sentencepiece_model.proto; the numbers are its own.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # SentencePiece.Type
BPE = 2  # TrainerSpec.ModelType
VARINT, EIGHT_BYTES, LENGTH_DELIMITED, FOUR_BYTES = 0, 1, 2, 5  # wire types
MAX_FIELDS = 3_000_000  # of a message: more than the largest vocabulary has
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def write_model(system: Sequence[str], controls: Sequence[str], pieces: Sequence[str]) -> bytes:
    """The file of a BPE model with byte fallback that leaves text as it is.

    Ids in order: `system` (padding, unknown, begin and end of text), `controls`, the 256 bytes, and `pieces` in the
    order in which they were learnt, which is the order of merging.
    """
    kinds = [CONTROL, UNKNOWN, CONTROL, CONTROL]
    vocabulary = [
        *((name, 0.0, kind) for name, kind in zip(system, kinds, strict=True)),
        *((name, 0.0, CONTROL) for name in controls),
        *((name, 0.0, BYTE) for name in BYTE_PIECES),
        *((piece, -float(rank), NORMAL) for rank, piece in enumerate(pieces)),
    ]
    pad, unk, bos, eos = range(4)
    trainer = [(3, BPE), (4, len(vocabulary)), (35, 1), (40, unk), (41, bos), (42, eos), (43, pad)]
    names = [(45, system[unk]), (46, system[bos]), (47, system[eos]), (48, system[pad])]
    normalizer = [(1, "identity"), (2, ""), (3, 0), (4, 0)]  # no character map, dummy prefix, or removal of spaces
    entries = [(1, message([(1, piece), (2, score), (3, kind)])) for piece, score, kind in vocabulary]
    return message([*entries, (2, message([*trainer, *names])), (3, message(normalizer))])


def read_names(content: bytes) -> list[str]:
    """The name of each id. Raises ValueError if `content` is not a protocol buffer with names in it."""
    return [dict(fields(entry))[1].decode() for number, entry in fields(content) if number == 1]


def message(fields: Sequence[tuple[int, int | float | str | bytes]]) -> bytes:
    return b"".join([_field(number, value) for number, value in fields])


def _field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3 | VARINT) + _varint(value % 2**64)  # -1 as its two's complement
    if isinstance(value, float):
        return _varint(number << 3 | FOUR_BYTES) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth bit says that more follow."""
    low = bytearray()
    while value > 0x7F:
        low.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*low, value])


def fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message, by number: numbers, or the bytes of all else. Raises ValueError on what is none."""
    at = count = 0
    while at < len(content):
        key, at = _read_varint(content, at)
        count += 1
        if count > MAX_FIELDS:
            raise ValueError(f"it is not a SentencePiece model: it has more than {MAX_FIELDS:,} fields")
        wire = key & 7
        if wire == VARINT:
            value, at = _read_varint(content, at)
            yield key >> 3, value
            continue
        if wire == LENGTH_DELIMITED:
            size, at = _read_varint(content, at)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            size = 4 if wire == FOUR_BYTES else 8
        else:
            raise ValueError(f"it is not a SentencePiece model: byte {at} makes no field")
        yield key >> 3, content[at : at + size]
        at += size
    if at > len(content):
        raise ValueError("the file is cut short")


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at + shift // 7 >= len(content):
            raise ValueError("the file is cut short")
        byte = content[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + shift // 7 + 1
    raise ValueError(f"it is not a SentencePiece model: byte {at} begins no number")
