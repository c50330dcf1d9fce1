"""Parts of your own: what a file registers by a decorator can be named in the configuration like a built-in one.

    @extend.norm("dyt")                  # mine.py; then: extension = "mine.py", model.norm = "dyt"
    class DyT(torch.nn.Module): ...

The file is run, with the rights of whoever runs primegpt. What it registers is found by the SHA-256 of the file: a run
has the parts of the file that it began with, whatever has been edited or opened in the same process since. What is
registered elsewhere than in such a file, as in a notebook, is of the session, and replaced when it is registered anew.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from primegpt.config import Config, ModelConfig, TrainConfig, built_in_choices
from primegpt.errors import PrimegptError, UsageError, is_out_of_memory, nearest, quoted

__all__ = ["attention", "find", "load", "measure", "mlp", "norm", "objective", "optimizer", "reward", "schedule"]

MODEL_KINDS, TRAIN_KINDS = built_in_choices(ModelConfig), built_in_choices(TrainConfig)
KINDS: dict[str, tuple[str, ...]] = {
    **MODEL_KINDS,
    **TRAIN_KINDS,
    "measure": (),
    "reward": (),
}  # and what is built in of each
MAX_BYTES = 2**22
MEND = "it is code of your own: mend it there"

T = TypeVar("T")


class ExtensionError(UsageError):
    """A file with parts of one's own cannot be used: it fails, or is not what it was."""


class ExtensionFailure(PrimegptError):
    """A part of one's own failed while running."""


@dataclass
class Extension:
    """A file as it was when it was run, and the parts that it registered: kind -> name -> class or function."""

    path: Path
    source: bytes = b""
    sha256: str = ""
    parts: dict[str, dict[str, Any]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def __str__(self) -> str:
        """What it registers, in words."""
        return ", ".join(f"{kind} {name!r}" for kind, named in self.parts.items() for name in named)

    def find(self, kind: str, name: str) -> Any:
        """The part of that kind and name. Raises ExtensionError naming those that there are."""
        if name not in self.parts[kind]:
            remedy = nearest(name, [*KINDS[kind], *self.parts[kind]])
            raise ExtensionError(f"{self.path} registers no {kind} {name!r}, but {self}", remedy)
        return self.parts[kind][name]


_session = Extension(Path("this session"))
_loaded: dict[str, Extension] = {}  # by SHA-256, in the order in which they were loaded
_loading: ContextVar[Extension | None] = ContextVar("loading", default=None)


# ---- Registering


def _register(kind: str, name: str) -> Callable[[T], T]:
    into = _loading.get()
    where = into or _session
    if not isinstance(name, str) or not name.isidentifier():
        raise ExtensionError(f"{kind} {quoted(name)}: no part can be called so", "take letters, digits and underscores")
    if name in KINDS[kind]:
        raise ExtensionError(f"{kind} {name!r} is built in", "take another name")
    if into and name in into.parts[kind]:
        raise ExtensionError(f"{kind} {name!r} is registered twice", "take another name for one of them")

    def register(part: T) -> T:
        if not callable(part):
            raise ExtensionError(f"{kind} {name!r} is neither a class nor a function", "decorate one")
        where.parts[kind][name] = part
        return part

    return register


def norm(name: str) -> Callable[[T], T]:
    """A norm: `Norm(config)`, a module on (..., C) → (..., C)."""
    return _register("norm", name)


def mlp(name: str) -> Callable[[T], T]:
    """An MLP: `MLP(config)`, a module on (B, T, C) → (B, T, C)."""
    return _register("mlp", name)


def attention(name: str) -> Callable[[T], T]:
    """An attention: `Attention(config)`, a module whose `forward(x, view, past=None)` gives (B, T, C) for (B, T, C)."""
    return _register("attention", name)


def optimizer(name: str) -> Callable[[T], T]:
    """An optimizer: `make(groups, config)`, a torch.optim.Optimizer; each group has its params, lr and weight_decay."""
    return _register("optimizer", name)


def schedule(name: str) -> Callable[[T], T]:
    """A shape of the learning rate: `f(done)`, its share of the peak when `done` (0 to 1) of the run is gone."""
    return _register("schedule", name)


def objective(name: str) -> Callable[[T], T]:
    """What a step minimises: `f(model, batch)`, or a class with such a `__call__`; its value is a summed loss."""
    return _register("objective", name)


def measure(name: str) -> Callable[[T], T]:
    """A figure of a finished run, for experiments: `f(run)`, a number."""
    return _register("measure", name)


def reward(name: str) -> Callable[[T], T]:
    """What a completion is worth, to `reinforce`: `f(prompt, completion, record)`, a number; a process of its own."""
    return _register("reward", name)


# ---- Loading


def load(path: str | Path) -> Extension:
    """Run the file at `path`, once a process as long as it stays the same. Raises ExtensionError, in one line."""
    try:
        with open(path, "rb") as file:
            source = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ExtensionError(f"extension {path}: {reason}", "name a Python file with parts of your own") from error
    return load_source(source, Path(path))


def load_source(source: bytes, path: Path) -> Extension:
    """The same for what was read from `path`, so that what was hashed is what runs."""
    sha256 = hashlib.sha256(source).hexdigest()
    if sha256 in _loaded:
        return _loaded[sha256]
    if len(source) > MAX_BYTES:
        raise ExtensionError(f"{path} is larger than {MAX_BYTES >> 20} MB", "no file with parts of your own is")
    extension = Extension(path, source, sha256)
    with told(extension):
        run(extension)
    if not any(extension.parts.values()):
        kinds = ", ".join(f"@extend.{kind}" for kind in KINDS)
        raise ExtensionError(f"{path} registers nothing", f"decorate a class or a function: {kinds}")
    _loaded[sha256] = extension
    return extension


def run(extension: Extension) -> ModuleType:
    """Run a file that was read; the module that it makes. Raises ExtensionError for what is no Python."""
    path = str(extension.path)
    try:
        code = compile(extension.source, path, "exec")
    except (SyntaxError, ValueError) as error:  # ValueError: a NUL
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ExtensionError(f"{path}{line}: {type(error).__name__}: {said}", MEND) from error
    module = ModuleType(f"primegpt_extension_{extension.sha256[:16]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and compilers look a class's module up
    token = _loading.set(extension)
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        del sys.modules[module.__name__]
        if isinstance(error, ExtensionError):  # of a decorator, which does not know where it stands
            raise ExtensionError(f"{_line_in(error, [extension])}: {error.what}", error.remedy) from error
        raise
    finally:
        _loading.reset(token)
    return module


def find(kind: str, name: str, sha256: str | None = None) -> Any:
    """The class or function registered as `name`: by the file of that hash, else in this session, or by any file.

    Of several files the last one that was loaded counts. Raises UsageError naming what there is.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind of part {quoted(kind)}", nearest(kind, KINDS))
    if sha256:
        return loaded(sha256).find(kind, name)
    places = [_session, *reversed(_loaded.values())]
    if place := next((place for place in places if name in place.parts[kind]), None):
        return place.parts[kind][name]
    known = [*KINDS[kind], *(known for place in places for known in place.parts[kind])]
    remedy = nearest(name, known) if known else "name the file that registers one as `extension`"
    raise UsageError(f"there is no {kind} {quoted(name)}", remedy)


def loaded(sha256: str) -> Extension:
    """The extension of that hash, which has run in this process. Raises ExtensionError if none has."""
    if sha256 not in _loaded:
        what = f"the file of SHA-256 {sha256[:12]}…, which has parts of this model, was not loaded"
        raise ExtensionError(what, "load it first: primegpt.extend.load(FILE)")
    return _loaded[sha256]


def has_run(sha256: str) -> bool:
    """Whether the extension of that hash has run in this process."""
    return sha256 in _loaded


def place_of(kind: str, name: str, sha256: str = "") -> str:
    """A part as messages name it: `mine.py, norm 'dyt'`."""
    return f"{(loaded(sha256) if sha256 else _session).path}, {kind} {name!r}"


def require_names(config: Config, extension: Extension) -> None:
    """Raise ExtensionError if the configuration chooses a part that is neither built in nor in `extension`."""
    for key, name in config.own.items():
        extension.find(key.partition(".")[2], name)


# ---- What goes wrong in it


@contextmanager
def told(*extensions: Extension, place: str = "", running: bool = False) -> Generator[None, None, None]:
    """Turn an exception out of an extension's code into one line; of all that were loaded where none is named.

    At a `place` every exception is the extension's, as where a part is called with what it does not take.
    """
    try:
        yield
    except PrimegptError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not _is_innermost(error, extensions):  # it is a signal's
            raise
        line = blamed(error, extensions) or (f"{place}: {_said(error)}" if place else None)
        if not line or is_out_of_memory(error):
            raise
        raise (ExtensionFailure if running else ExtensionError)(line, MEND) from error


def blamed(error: BaseException, extensions: Iterable[Extension] = ()) -> str | None:
    """`error` as one line, where an extension's code raised it, or called what did; None where none was involved."""
    extensions = list(extensions or _loaded.values())
    chain, seen = error, set[int]()
    while chain and id(chain) not in seen:  # a compiler's error has ours as its cause
        seen.add(id(chain))
        if line := _line_in(chain, extensions):
            return f"{line}: {_said(chain)}"
        chain = chain.__cause__ or chain.__context__
    return None


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _line_in(error: BaseException, extensions: Iterable[Extension]) -> str | None:
    """`mine.py:12, norm 'dyt'`: the innermost line of an extension, and the part that it is of."""
    files = {str(extension.path): extension for extension in extensions}
    frames = [(f, n) for f, n in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename in files]
    if not frames:
        return None
    frame, number = frames[-1]
    extension = files[frame.f_code.co_filename]
    parts = (part for frame, _ in reversed(frames) if (part := _part_of(frame, extension)))
    part = next(parts, None)
    return f"{extension.path}:{number}" + (f", {part}" if part else "")


def _is_innermost(error: BaseException, extensions: Iterable[Extension]) -> bool:
    """Whether it was raised in an extension's file itself, and not by what that called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code.co_filename in {str(extension.path) for extension in extensions or _loaded.values()}


def _part_of(frame: Any, extension: Extension) -> str | None:
    """Which part a frame runs: a method of its class, or its function."""
    owner = type(frame.f_locals.get("self"))
    for kind, named in extension.parts.items():
        for name, part in named.items():
            if owner is part or getattr(part, "__code__", None) is frame.f_code:
                return f"{kind} {name!r}"
    return None
