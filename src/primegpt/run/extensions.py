"""The extension of a run: opened as it was when the run began, and only if this user has trained with it or read it.

$PRIMEGPT_DATA/extensions.txt       a line a file: its SHA-256, where it lay, and when; lines are only added

Its code runs with the rights of whoever opens the run, so nothing that lies in the run can vouch for it.
"""

import errno
import hashlib
import os
from datetime import datetime
from pathlib import Path

from primegpt import extend
from primegpt.config import Config
from primegpt.errors import MismatchError
from primegpt.extend import Extension, ExtensionError
from primegpt.run import atomic
from primegpt.run.folder import RunFolder


def trusted_list() -> Path:
    """Where the hashes are kept of the files that may run: in $PRIMEGPT_DATA, else in the user's data folder."""
    from platformdirs import user_data_path

    return Path(os.environ.get("PRIMEGPT_DATA") or user_data_path("primegpt")) / "extensions.txt"


def is_trusted(sha256: str) -> bool:
    """Whether this user has trained with the file of that hash, or has said that it may run."""
    try:
        lines = trusted_list().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.split(" ", 1)[0] == sha256 for line in lines)


def trust(sha256: str, path: Path) -> None:
    """Remember that the file of that hash, which lay at `path`, may run. Raises DiskError where it cannot be."""
    if is_trusted(sha256):
        return
    kept, now = trusted_list(), datetime.now().isoformat(" ", "seconds")
    line = f"{sha256} {now} {str(path.absolute())!a}\n".encode()  # no name of a file makes a second line
    with atomic.io_errors(f"write {kept}"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        if kept.exists() and not kept.read_bytes().endswith(b"\n"):
            line = b"\n" + line  # torn, by a full disk: it must not swallow this one
        # Only its owner writes it, whatever the umask says: a line lets code run. One write at the end of the file: two
        # processes do not mix their lines.
        with open(kept, "ab", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            atomic.perform(file.write, line)


def extension_in(folder: RunFolder, config: Config) -> tuple[bytes, str]:
    """The file of the run's extension, and its hash. Raises MismatchError for another one than it was trained with."""
    expected, path = config.model.extension, folder.extension_path
    try:
        source = _read(path)
    except OSError as error:
        what = f"{path} cannot be read: {atomic.reason(error)}"
        raise MismatchError(what, "the run was trained with parts in it: put it back from a copy") from error
    if (found := hashlib.sha256(source).hexdigest()) != expected:
        what = f"{path} is not what the run was trained with: its SHA-256 is {found[:12]}…, not {expected[:12]}…"
        raise MismatchError(what, "put it back from a copy, or start another run with it")
    return source, found


def _read(path: Path) -> bytes:
    """As much of a file as an extension may have, and a byte. Raises OSError for a pipe or a device."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")
    with open(path, "rb") as file:
        return file.read(extend.MAX_BYTES + 1)


def has_changed(config: Config) -> bool:
    """Whether there is still a file where the run's extension came from, and it is another one by now."""
    try:
        return hashlib.sha256(_read(Path(config.extension or ""))).hexdigest() != config.model.extension
    except OSError:
        return False


def open_extension(folder: RunFolder, config: Config, *, trusted: bool = False) -> Extension | None:
    """Load the extension of a run, for parts that `config` names; None where it has none.

    Raises MismatchError if it was changed, and ExtensionError, and nothing runs, if it is not `trusted` nor was before.
    """
    if not config.model.extension:
        if config.own:
            raise ExtensionError(f"{folder.config_path} names parts of an extension, and not which", "it was edited")
        return None
    source, sha256 = extension_in(folder, config)
    if not (trusted or extend.has_run(sha256) or is_trusted(sha256)):
        what = f"{folder.extension_path} is code that would run with your rights, and you have not trained with it"
        raise ExtensionError(what, f"read it; then `primegpt trust {folder.path}` lets it run")
    extension = extend.load_source(source, folder.extension_path)
    extend.require_names(config, extension)
    return extension
