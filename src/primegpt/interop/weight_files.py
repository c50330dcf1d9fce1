"""Safetensors files that may come from anyone: every name, shape and type is known before one tensor is read.

Nothing is held: a tensor is read from the disk when it is asked for, and its pages are let go with it.
"""

import json
import re
import shlex
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from primegpt.errors import RESTORE, UsageError, quoted
from primegpt.interop.families import Family, Weight
from primegpt.run import atomic
from primegpt.run.tensors import MAX_HEADER_BYTES

if TYPE_CHECKING:
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "rng_state.pth")  # Transformers'
MAX_FILES = 1000
PLAIN = "import weights that are not quantized"


class StoredTensors(Protocol):
    """Tensors in files, of whatever format: shapes and places by name, and a way to read one."""

    shapes: "dict[str, Tensor]"
    files: dict[str, Path]

    def read(self, name: str) -> "Tensor": ...


class WeightFiles:
    """The tensors of some safetensors files, by name.

    Attributes:
        shapes: name -> a tensor without storage (on the meta device) that has its shape and type.
        files: name -> the file that holds it.
        stored: name -> what it is called there, which `rename` may have changed here.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Reads the headers only. Raises UsageError naming the file that is damaged, or the tensor that is twice."""
        self.shapes: dict[str, Tensor] = {}
        self.files: dict[str, Path] = {}
        for path in paths:
            for name, shape in _header(path).items():
                if name in self.files:
                    raise UsageError(f"tensor {name!r} is in {self.files[name].name} and in {path.name}", RESTORE)
                self.shapes[name], self.files[name] = shape, path
        self.stored = {name: name for name in self.shapes}

    def rename(self, new_name: Callable[[str], str]) -> None:
        """Know the tensors by other names. Raises UsageError for two that would have the same one."""
        olds: dict[str, str] = {}
        for old in self.shapes:
            if (new := new_name(old)) in olds:
                both = f"{self.stored[olds[new]]!r} and {self.stored[old]!r}"
                raise UsageError(f"{self.files[old]}: the tensors {both} are both {new!r}", "keep one of them")
            olds[new] = old
        self.shapes = {new: self.shapes[old] for new, old in olds.items()}
        self.files = {new: self.files[old] for new, old in olds.items()}
        self.stored = {new: self.stored[old] for new, old in olds.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> "Tensor":
        """The tensor `name`, or its rows from `start` to `stop`, as stored. Nothing else is read."""
        from safetensors import safe_open

        path = self.files[name]
        try:
            with safe_open(path, "pt") as file:  # opened anew each time, else all pages read so far would stay
                return file.get_slice(self.stored[name])[start:stop]
        except Exception as error:  # the library's own errors are of many kinds
            raise UsageError(f"{path}: tensor {name!r} cannot be read ({error})", RESTORE) from error


def open_folder(folder: Path) -> WeightFiles:
    """The weights of a Transformers folder, in one file or sharded. Raises UsageError."""
    if (folder / INDEX).exists() and not (folder / SINGLE).exists():
        return _open_sharded(folder)
    if (folder / SINGLE).exists():
        return WeightFiles([inside(folder, SINGLE)])
    pickled = sorted(path.name for path in folder.iterdir() if is_pickle(path) and path.name not in NOT_WEIGHTS)
    if pickled:
        what = f"{folder} has its weights in {pickled[0]}, a pickle, which could run code when it is opened"
        raise UsageError(what, f"write them as {SINGLE} beside it, tensors alone: {unpickling(folder, pickled)}")
    raise UsageError(f"{folder} holds no {SINGLE}", "name a folder as Transformers saves it")


def is_pickle(path: Path) -> bool:
    return path.suffix.lower() in PICKLED


def unpickling(folder: Path, names: list[str]) -> str:
    """The command that turns pickled weights into safetensors in their own folder, where the tokenizer stays theirs.

    Torch reads nothing but tensors then. Clones, because tensors that share memory cannot be written.
    """
    all_of_them = f"pytorch_model-*{Path(names[0]).suffix}" if len(names) > 1 else names[0]
    code = (
        f"import glob, torch; from safetensors.torch import save_file; A = {str(folder)!r}; "
        f"files = glob.glob({all_of_them!r}, root_dir=A); "
        "read = lambda f: torch.load(A + '/' + f, map_location='cpu', weights_only=True).items(); "
        f"save_file({{k: v.clone().contiguous() for f in files for k, v in read(f)}}, A + '/{SINGLE}')"
    )
    return f"python -c {shlex.quote(code)}"


def _open_sharded(folder: Path) -> WeightFiles:
    where = folder / INDEX
    shards = read_json(folder, INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UsageError(f"{where} has no weight_map", RESTORE)
    for tensor, name in shards.items():  # nothing outside the folder is ever opened, whoever wrote the index
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise UsageError(f"{where} says that tensor {tensor!r} is in {name!r}, which is no file of this folder")
    names = sorted(set(shards.values()))
    if len(names) > MAX_FILES:
        raise UsageError(f"{where} names {len(names)} files", "no model has so many")
    weights = WeightFiles(inside(folder, name) for name in names)
    for tensor, name in shards.items():
        if tensor not in weights.files or weights.files[tensor].name != name:
            raise UsageError(f"{folder / name} lacks the tensor {tensor!r} that {INDEX} places there", RESTORE)
    for tensor in weights.files.keys() - shards.keys():
        raise UsageError(f"{weights.files[tensor]} holds the tensor {tensor!r}, which {INDEX} does not know", RESTORE)
    return weights


def checked_table(
    tensors: StoredTensors, table: Iterable[Weight], owner: Path, says: str, family: Family, also: Container[str]
) -> dict[str, Weight]:
    """Our weights by name, once it is certain that `owner` holds exactly what they are made of.

    `says` is what the shapes follow from, and `also` the names of tensors that may be there or not. Raises UsageError.
    """
    checked, used = {}, set()
    for weight in table:
        for part in weight.parts:
            if part.name not in tensors.shapes:
                raise UsageError(f"{owner} lacks the tensor {part.name!r}", RESTORE)
            found, expected = tuple(tensors.shapes[part.name].shape), weight.their_shape(part)
            where = f"{tensors.files[part.name]}: tensor {part.name!r}"
            if found != expected:
                raise UsageError(f"{where} has the shape {list(found)}, {says} asks for {list(expected)}", RESTORE)
            if not tensors.shapes[part.name].is_floating_point():
                raise UsageError(f"{where} does not hold floating-point numbers", RESTORE)
            used.add(part.name)
        checked[weight.ours] = weight
    for name in sorted(tensors.shapes.keys() - used):
        if name not in also:
            what = f"{tensors.files[name]} holds the tensor {quoted(name)}"
            raise UsageError(f"{what}, which no {family.title} model has")
    return checked


def inside(folder: Path, name: str) -> Path:
    """`folder/name`, if that is a file of the folder. A link may lead to the blobs of the hub's own cache alone."""
    path = folder / name
    with atomic.io_errors(f"open {path}", UsageError):  # a name may be too long
        real, home, found = path.resolve(), folder.resolve(), path.is_file()
    if real.parent != home and (real.parent.name != "blobs" or real.parent.parent not in home.parents):
        raise UsageError(f"{path} leads outside its folder, to {real}", "copy the file itself")
    if not found:
        raise UsageError(f"{path} is missing", RESTORE)
    return path


def read_json(folder: Path, name: str, limit: int = atomic.MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a JSON file of `folder`. Raises UsageError if it is none, or larger than `limit` bytes."""
    path = inside(folder, name)
    with atomic.io_errors(f"read {path}", UsageError), open(path, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UsageError(f"{path} is larger than {limit >> 20} MB", "no such file is")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", RESTORE) from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} does not hold a JSON object", RESTORE)
    return values


def _header(path: Path) -> "dict[str, Tensor]":
    import torch
    from safetensors import safe_open

    with atomic.io_errors(f"read {path}", UsageError), open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > MAX_HEADER_BYTES:
        raise UsageError(f"{path} claims a header of {size} bytes, above the limit of {MAX_HEADER_BYTES}", RESTORE)
    try:
        shapes = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no dict)
                entry = file.get_slice(name)
                shapes[name] = (entry.get_dtype(), entry.get_shape())
    except Exception as error:  # the library's own errors are of many kinds
        raise UsageError(f"{path} is not a whole safetensors file ({error})", RESTORE) from error
    for name, (dtype, _) in shapes.items():
        if dtype not in _DTYPES:
            raise UsageError(f"{path}: tensor {name!r} holds {dtype}, not floating-point numbers", PLAIN)
    return {
        name: torch.empty(shape, dtype=getattr(torch, _DTYPES[dtype]), device="meta")
        for name, (dtype, shape) in shapes.items()
    }


_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "U8": "uint8", "BOOL": "bool"}


def shard(shapes: "Mapping[str, Tensor]", limit: int) -> dict[str, list[str]]:
    """File name -> the tensors it holds, in order, each file at most `limit` bytes unless one tensor is larger."""
    groups: list[list[str]] = [[]]
    room = limit
    for name, shape in shapes.items():
        size = shape.numel() * shape.element_size()
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    if len(groups) == 1:
        return {SINGLE: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, 1)}


def index_of(shards: Mapping[str, list[str]], shapes: "Mapping[str, Tensor]") -> dict[str, Any]:
    """The content of model.safetensors.index.json."""
    total = sum(shape.numel() * shape.element_size() for shape in shapes.values())
    where = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    return {"metadata": {"total_size": total}, "weight_map": where}
