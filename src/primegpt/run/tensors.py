"""Named tensors as bytes and back, in the safetensors format.

A file is the length of its header (8 bytes), the header in JSON, then the tensors' bytes. We write it ourselves, since
the library's `save` holds two more copies of the whole file in memory, and what its `save_file` wrote could only be
hashed by reading it back. Reading, where the bytes may be anyone's, is the library's.
"""

import json
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from primegpt.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 2**24  # room for 100,000 tensors; GPT-2 XL and its optimizer need 0.2 MB

Chunks = Iterable[bytes | memoryview]


def serialize(tensors: "Mapping[str, Tensor]") -> Chunks:
    """The bytes of a safetensors file, one tensor at a time; equal tensors give equal bytes, whatever their order.

    No two tensors may share memory. The largest tensor is all the memory it needs, and on a CPU not even that.
    """
    pointers = [tensor.data_ptr() for tensor in tensors.values() if tensor.numel()]
    assert len(set(pointers)) == len(pointers), "tensors share memory: give each of them once"
    return serialize_lazily(tensors, tensors.__getitem__)


def serialize_lazily(shapes: "Mapping[str, Tensor]", read: "Callable[[str], Tensor]") -> Chunks:
    """As `serialize`, of tensors that `read` makes when their turn comes; `shapes` may lie on the meta device."""
    order = sorted(shapes, key=lambda name: (-shapes[name].element_size(), name))  # so each one starts aligned
    header = _header({name: shapes[name] for name in order})
    return chain([header], (_tensor_bytes(_as_promised(read(name), shapes[name])) for name in order))


def _as_promised(tensor: "Tensor", promised: "Tensor") -> "Tensor":
    assert (tensor.shape, tensor.dtype) == (promised.shape, promised.dtype), "the header has already been written"
    return tensor


def deserialize(data: bytes) -> "dict[str, Tensor]":
    """The tensors, on the CPU, of a safetensors file's bytes. Raises ValueError if that is not what they are."""
    from safetensors.torch import load

    _check_header_size(data[:8])
    try:
        return load(data)
    except Exception as error:  # the library's own errors are of many kinds
        raise ValueError(f"it is not in the safetensors format ({error})") from error


class OnDisk(Mapping[str, "Tensor"]):
    """The tensors of some safetensors files by name, each read when it is asked for: no more memory than it takes.

    Raises ValueError for a file that is not in the format, CheckpointError for one that cannot be read any more.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = {name: path for path in paths for name in _names_in(path)}

    def __getitem__(self, name: str) -> "Tensor":
        from safetensors import safe_open

        path = self._paths[name]
        try:
            with safe_open(path, framework="pt") as file:  # anew each time, else all pages read so far would stay
                return file.get_tensor(name)
        except Exception as error:  # the library's own errors are of many kinds
            raise CheckpointError(f"{path}: tensor {name!r} cannot be read ({error})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def _names_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with path.open("rb") as file:
        _check_header_size(file.read(8))
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except Exception as error:  # the library's own errors are of many kinds
        raise ValueError(f"it is not in the safetensors format ({error})") from error


def _check_header_size(beginning: bytes) -> None:
    header_bytes = int.from_bytes(beginning, "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"it claims a header of {header_bytes} bytes, above the limit of {MAX_HEADER_BYTES}")


def _header(tensors: "Mapping[str, Tensor]") -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # what other libraries look for
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        fields[name] = {"dtype": _DTYPES[str(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(fields, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _tensor_bytes(tensor: "Tensor") -> memoryview:
    import torch

    assert sys.byteorder == "little", "the format is little-endian"
    flat = tensor.detach().cpu().reshape(-1)  # copies only what lies elsewhere, or not in order
    return memoryview(cast(Any, flat.view(torch.uint8).numpy()))


_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}
