"""Functions of the user's own, named in an experiment: `FILE.py:name`, or `package.module:name`.

They run as code of the user's, with the user's rights. What they raise becomes one line that names them.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from primegpt.errors import PrimegptError, UsageError, nearest, quoted


def load_function(named: str) -> Callable[..., Any]:
    """The function that `named` stands for. Raises UsageError where there is none."""
    home, _, name = named.rpartition(":")
    if not home or not name:
        raise UsageError(f"{quoted(named)} names no function", "FILE.py:name does")
    module = guarded(named, _module, home)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{home} has no function {quoted(name)}", nearest(name, known))
    return function


def guarded(named: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`function(*arguments, **options)`. Raises UsageError, with the line of the user's file, for what it raises."""
    try:
        return function(*arguments, **options)
    except PrimegptError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        home = Path(named.rpartition(":")[0]).name
        place = next((f"{f.filename}:{f.lineno}: " for f in reversed(frames) if Path(f.filename).name == home), "")
        raise UsageError(f"{named}: {place}{type(error).__name__}: {error}", "mend it, and run this again") from error


def _module(home: str) -> object:
    if not home.endswith(".py"):
        return importlib.import_module(home)
    path = Path(home)
    if not path.is_file():
        raise UsageError(f"{home} does not exist", "name a file of yours")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "it ends in .py"
    assert spec.loader is not None, "it ends in .py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
