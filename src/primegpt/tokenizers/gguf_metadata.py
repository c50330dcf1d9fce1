"""What a GGUF file says of itself before its tensors: keys and values, where llama.cpp keeps a model's vocabulary too.

The file may come from anyone. The `gguf` package's own reader makes several objects of every element of an array before
anything is checked, so a small file could take all memory; here every count is held against the bytes that are left.
"""

import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

from primegpt.errors import RESTORE, UsageError, quoted
from primegpt.run import atomic

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # the first had counts of 32 bits, and has not been written since 2023
# Real files have some 50 keys, 1,000 tensors, 600,000 strings (tokens and merges) and 10 MB before the weights.
MAX_HEADER, MAX_KEYS, MAX_TENSORS, MAX_STRINGS = 64 * 2**20, 10_000, 100_000, 4_000_000
MAX_NAME = 1024

_STRING, _ARRAY = 8, 9
_FLOAT, _SCALARS = 6, dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))


class GGUFHeader:
    """Reads what stands before the weights, and never more bytes than are there, or than MAX_HEADER.

    Attributes:
        metadata: key -> number, flag, string, list of strings or array of numbers.
        tensors: how many are described after it, at `at`.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Reads the keys. Raises UsageError, one line, for a file that is not whole."""
        self.path, self.file = path, file
        self.size = path.stat().st_size
        self.at = self.strings = 0
        if self.take(4, "its first bytes") != MAGIC:
            raise UsageError(f"{self.path} is not a GGUF file: it does not begin with {MAGIC.decode()}", RESTORE)
        self.require_version(*self.unpack("I"))
        self.tensors, keys = self.unpack("QQ")
        for count, most, what in ((self.tensors, MAX_TENSORS, "tensors"), (keys, MAX_KEYS, "keys")):
            if count > most:
                raise UsageError(f"{self.path} claims {count:,} {what}, above the limit of {most:,}", RESTORE)
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            key = self.name("a key")
            if key in self.metadata:
                raise UsageError(f"{self.path} has the key {quoted(key)} twice", RESTORE)
            self.metadata[key] = self.value(key, *self.unpack("I"))

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Generator[Self]:
        """The header of the file at `path`, which is open meanwhile. Raises UsageError where it cannot be read."""
        with atomic.io_errors(f"read {path}", UsageError), open(path, "rb") as file:
            yield cls(path, file)

    def require_version(self, version: int) -> None:
        if version in VERSIONS:
            return
        if version in [value << 24 for value in VERSIONS]:
            raise UsageError(f"{self.path} is in big-endian order", "`gguf-convert-endian FILE little` turns it round")
        what = f"{self.path} has version {version} of the format, where primegpt reads 2 and 3"
        raise UsageError(what, "convert it again with a newer llama.cpp")

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.at:
            raise UsageError(f"{self.path} is cut short, or lies about its sizes: {what} would end beyond it", RESTORE)
        if self.at + count > MAX_HEADER:
            most = f"{MAX_HEADER >> 20} MB"
            raise UsageError(f"{self.path} has more than {most} before its weights, at {what}", "no model's file does")
        self.at += count
        return self.file.read(count)

    def unpack(self, form: str, what: str = "a number") -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def string(self, what: str, most: int = MAX_HEADER) -> str:
        (length,) = self.unpack("Q", what)
        if length > most:
            raise UsageError(f"{self.path} claims {length:,} bytes for {what}", RESTORE)
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise UsageError(f"{self.path}: {what} is not UTF-8", RESTORE) from error

    def name(self, what: str) -> str:
        return self.string(f"the name of {what}", MAX_NAME)

    def value(self, key: str, kind: int) -> Any:
        what = f"the value of {quoted(key)}"
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.array(what, *self.unpack("IQ", what))
        if kind not in _SCALARS:
            raise UsageError(f"{self.path}: {what} is of the unknown type {kind}", RESTORE)
        (number,) = self.unpack(_SCALARS[kind], what)
        return _shortest(number) if kind == _FLOAT else number

    def array(self, what: str, kind: int, count: int) -> Any:
        import numpy as np

        if kind == _STRING:
            self.strings += count
            if self.strings > MAX_STRINGS:
                raise UsageError(f"{self.path} claims {count:,} strings for {what}", "no vocabulary has so many")
            return [self.string(what) for _ in range(count)]
        if kind not in _SCALARS:
            raise UsageError(f"{self.path}: {what} is an array of the type {kind}, which no model has", RESTORE)
        dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
        return np.frombuffer(self.take(count * dtype.itemsize, what), dtype)


def _shortest(number: float) -> float:
    """1e-05 for the fp32 number nearest to it: the shortest that becomes the same fp32 number again."""
    import numpy as np

    return float(str(np.float32(number)))
