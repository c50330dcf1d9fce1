"""Functions of the user's own, named in an experiment: `FILE.py:name`, or `package.module:name`.

They run as code of the user's, with the user's rights. What they raise becomes one line that names them.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from primegpt import extend
from primegpt.errors import UsageError, nearest, quoted
from primegpt.extend import Extension


def load_function(named: str) -> Callable[..., Any]:
    """The function that `named` stands for; what it raises is a UsageError. Raises UsageError where there is none."""
    home, _, name = named.rpartition(":")
    if not home or not name:
        raise UsageError(f"{quoted(named)} names no function", "FILE.py:name does")
    extension = Extension(Path(home))
    with extend.told(extension, place=home):
        known = vars(_of_file(extension) if home.endswith(".py") else importlib.import_module(home))
    function = known.get(name)
    if not callable(function):
        own = [key for key, value in known.items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{home} has no function {quoted(name)}", nearest(name, own))

    def guarded(*arguments: Any, **options: Any) -> Any:
        with extend.told(extension, place=named):
            return function(*arguments, **options)

    return guarded


def _of_file(extension: Extension) -> object:
    try:
        extension.source = extension.path.read_bytes()
    except OSError as error:
        raise UsageError(f"{extension.path}: {error.strerror}", "name a file of yours") from error
    return extend.run(extension)
