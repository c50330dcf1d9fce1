"""GGUF files that may come from anyone: metadata, names, shapes and places are known before one tensor is read.

What the numbers of a tensor are is the `gguf` package's word.

    magic, version, how many tensors, how many keys
    keys: a name, a type, a value        tensors: a name, a shape, a type, an offset
    padding up to the alignment, then the tensors' bytes
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primegpt.errors import RESTORE, UsageError, quoted
from primegpt.run import atomic
from primegpt.tokenizers.gguf_metadata import MAGIC, GGUFHeader

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType
    from torch import Tensor

MAX_DIMENSIONS = 4
CHUNK = 2**22  # numbers that are unpacked at a time

# Types of numbers that `gguf` unpacks, of those in which weights of language models are published.
READABLE = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: (rows, numbers in a row), the bytes of a row, and where the first one begins."""

    kind: "GGMLQuantizationType"
    rows: int
    columns: int
    row_bytes: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.rows * self.row_bytes


class GGUFFile:
    """The metadata of a GGUF file, and its tensors by name; it can stand where `WeightFiles` does.

    Attributes:
        metadata: key -> number, flag, string, list of strings or array of numbers.
        shapes: name -> an fp32 tensor without storage that has its shape.
        files: name -> the file, for messages.
        kinds: the types in which its numbers are stored.
    """

    def __init__(self, path: Path) -> None:
        """Reads what stands before the weights. Raises UsageError, one line, for a file that is not whole."""
        import torch

        self.path = path
        with GGUFHeader.opened(path) as header:
            self.metadata, found = header.metadata, list(_Places(header).read())
        self.shapes: dict[str, Tensor] = {}
        self._places: dict[str, Place] = {}
        for name, shape, place in found:
            self.shapes[name] = torch.empty(shape, device="meta")
            self._places[name] = place
        self.files = dict.fromkeys(self.shapes, path)
        self.kinds = sorted({place.kind.name for place in self._places.values()})

    def read(self, name: str) -> "Tensor":
        """The tensor `name`, unpacked to fp32; a part of it is held as it is stored, too."""
        import numpy as np
        import torch
        from gguf.quants import dequantize

        place = self._places[name]
        tensor = torch.empty(self.shapes[name].shape)
        numbers = tensor.view(-1, place.columns).numpy()
        step = max(1, CHUNK // place.columns)
        quiet = np.errstate(all="ignore")  # numbers that are none are found later, by name
        with atomic.io_errors(f"read {self.path}", UsageError), open(self.path, "rb") as file, quiet:
            file.seek(place.offset)
            for first in range(0, place.rows, step):
                rows = numbers[first : first + step]
                stored = np.fromfile(file, np.uint8, len(rows) * place.row_bytes)
                if stored.size < len(rows) * place.row_bytes:  # it was whole when it was opened
                    raise UsageError(f"{self.path}: tensor {name!r} is cut short", RESTORE)
                rows[:] = dequantize(stored.reshape(-1, place.row_bytes), place.kind)
        return tensor


def is_gguf(path: Path) -> bool:
    """Whether `path` is a file that begins as GGUF files do, or is called like one."""
    with atomic.io_errors(f"read {path}", UsageError):  # a name may be too long
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return path.suffix.lower() == ".gguf" or file.read(len(MAGIC)) == MAGIC


class _Places:
    """The descriptions of tensors that follow the keys, once it is certain that the file holds all of them."""

    def __init__(self, header: GGUFHeader) -> None:
        self.header, self.path = header, header.path

    def read(self) -> Iterator[tuple[str, tuple[int, ...], Place]]:
        infos = [self.tensor() for _ in range(self.header.tensors)]
        return self.placed(infos, self.header.metadata.get("general.alignment", 32))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.header.name("a tensor")
        (dimensions,) = self.header.unpack("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise UsageError(f"{self.path}: tensor {quoted(name)} has {dimensions:,} dimensions", RESTORE)
        *shape, kind, offset = self.header.unpack(f"{dimensions}QIQ", f"tensor {quoted(name)}")
        return name, tuple(reversed(shape)), kind, offset

    def placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: Any
    ) -> Iterator[tuple[str, tuple[int, ...], Place]]:
        """Every tensor with its place, once it is certain that the file holds all of them, each by itself."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 2**20:
            raise UsageError(f"{self.path}: general.alignment = {quoted(alignment)} is no alignment", RESTORE)
        start, seen, end = -(-self.header.at // alignment) * alignment, set[str](), 0
        for name, shape, kind, offset in sorted(infos, key=lambda info: info[3]):
            if name in seen:
                raise UsageError(f"{self.path} has the tensor {quoted(name)} twice", RESTORE)
            if offset % alignment or start + offset < end:
                where = f"the offset {offset:,} of tensor {quoted(name)}"
                raise UsageError(f"{self.path}: {where} is not aligned, or lies in another tensor", RESTORE)
            place = self.place(name, shape, kind, start + offset)
            seen.add(name)
            end = place.end
            yield name, shape, place

    def place(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> Place:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        known = {entry.value: entry for entry in GGMLQuantizationType}
        if kind not in known or known[kind].name not in READABLE:
            title = known[kind].name if kind in known else f"the unknown type {kind}"
            what = f"{self.path}: tensor {quoted(name)} is stored as {title}, which primegpt does not read"
            raise UsageError(what, f"take a file with {', '.join(READABLE).lower()} (`llama-quantize` makes one)")
        block, block_bytes = GGML_QUANT_SIZES[known[kind]]
        *above, columns = shape
        if min(shape) < 1 or columns % block:
            what = f"{self.path}: tensor {quoted(name)} has the shape {list(shape)}"
            raise UsageError(what, f"its rows should be filled with blocks of {block}")
        place = Place(known[kind], prod(above), columns, columns // block * block_bytes, offset)
        if place.end > self.header.size:
            ends = f"would end at byte {place.end:,}, the file ends at {self.header.size:,}"
            raise UsageError(f"{self.path}: tensor {quoted(name)} {ends}", RESTORE)
        return place
