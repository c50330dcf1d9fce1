"""What a user can do wrong, each with its remedy.

Every error that is the user's to mend is a `PrimegptError`: one line that says what is wrong, where, and what to
do. The command line prints it and exits with `exit_code`; a traceback is therefore always a bug of ours.
"""

import difflib
from collections.abc import Iterable


class PrimegptError(Exception):
    """Something failed while running (exit 1). `what` names the thing and the place, `remedy` what to do about it."""

    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        self.what, self.remedy = what, remedy
        text = f"{what}; {remedy}" if remedy else what
        super().__init__(" ".join(text.split()))  # one line, whatever a file name or a value contains


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


def nearest(name: str, valid: Iterable[str]) -> str:
    """A remedy for a misspelt `name`: the closest valid one, or the whole list when nothing is close."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"valid names: {', '.join(valid)}"
