"""What a user can do wrong, each with its remedy.

Every error that is the user's to mend is a `PrimegptError`: one line that says what is wrong, where, and what to
do. The command line prints it and exits with `exit_code`; a traceback is therefore always a bug of ours.
"""

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable

from primegpt.terminal import printable

LONGEST = 1000  # characters of each part of a message: a file may hold a label of a megabyte
QUOTED = 60  # characters of a value that a message quotes
RESTORE = "download or copy it again"  # the remedy for a file of others that is damaged


class PrimegptError(Exception):
    """Something failed while running (exit 1). `what` names the thing and the place, `remedy` what to do about it."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = what, remedy
        parts = [shortened(" ".join(part.split())) for part in (what, remedy) if part]
        super().__init__(printable("; ".join(parts)))  # one line, whatever a file name or a value contains


class UsageError(PrimegptError):
    """The request itself cannot be met: a flag, a value, a path (exit 2). Nothing was written."""

    exit_code = 2


class ConfigError(UsageError):
    """A key or value of the configuration is wrong."""


class DataError(UsageError):
    """A text cannot be used: missing, empty, too short, not UTF-8."""


class TokenizerError(UsageError):
    """A tokenizer folder is missing or damaged."""


class RunFolderError(UsageError):
    """A run folder is missing, already there, or in use by another process."""


class MismatchError(UsageError):
    """Two things that belong together no longer do: a tokenizer and a model, shards and a run."""


class CheckpointError(PrimegptError):
    """A checkpoint is damaged, or none is left that is whole."""


class DiskError(PrimegptError):
    """The disk refused to read or write: it is full, may not be written to, or fails."""


class RankError(PrimegptError):
    """Of the processes that train one model together, one is gone or does not answer."""


class NonFiniteError(PrimegptError):
    """Loss or gradients became NaN or infinite; the update was not made."""


class OutOfMemory(PrimegptError):
    """There is not enough memory, and a smaller micro-batch is no help."""


# What Python, torch's allocators, oneDNN and the system say when memory runs out.
OUT_OF_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to) allocate|not enough memory|bad_alloc|failed to map segment"
    r"|could not (create|execute) a (primitive(?! descriptor)|memory)"
    r"|without (setting an )?exception|with an exception set",  # C code that did not look whether it got memory
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error that is not ours says that memory ran out."""
    if isinstance(error, PrimegptError | ImportError):  # of "static TLS" a library says that it cannot be allocated
        return False
    return isinstance(error, MemoryError) or bool(OUT_OF_MEMORY.search(f"{type(error).__name__} {error}"))


def shortened(text: str) -> str:
    """`text` with its middle left out where it is too long to be read."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy for a misspelt `name`: the closest valid one, or the valid ones when nothing is close."""
    valid = list(valid)[:1000]
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6) if len(name) <= QUOTED else []
    return f"did you mean {quoted(close[0])}?" if close else f"valid names: {listed(valid, str, most=50)}"


def require_within(name: str, value: float | None, least: float, most: float) -> None:
    """Raise UsageError, naming the bounds, for a number outside of them (NaN too). None was not asked for."""
    if value is not None and not least <= value <= most:
        raise UsageError(f"{name} = {quoted(value)}", f"give a number from {least:,} to {most:,}")


class _Quoting(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        digits = round(x.bit_length() * 0.30103)  # Python refuses to write out more than 4,300
        return repr(x) if digits < QUOTED else f"an integer of about {digits:,} digits"


def quoted(value: object) -> str:
    """`value` as a message quotes it: its repr, cut where it is long, and how long it is."""
    if not isinstance(value, str):
        return _Quoting().repr(value)
    size = f"… ({len(value):,} characters)" if len(value) > QUOTED else ""
    return f"{value[:QUOTED]!r}{size}"


def listed(names: Iterable[str], shown: Callable[[str], str] = quoted, most: int = 12) -> str:
    """The first of many names."""
    names = list(names)
    return ", ".join(shown(name[: 2 * QUOTED]) for name in names[:most]) + (", …" if len(names) > most else "")
