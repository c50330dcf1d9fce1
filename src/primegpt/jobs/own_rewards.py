"""Rewards of the user's own: what an extension registers, and the files that a run keeps as they were.

    RUN/rewards/1.py        of the first reward of reinforce.reward, if that is FILE.py:function

A run goes on with its own copies, wherever it lies and whatever has become of the files since. As of an extension,
nothing that lies in the run can vouch for them: only code runs that this user has named, or let run.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from primegpt import extend
from primegpt.config import Config
from primegpt.errors import DiskError
from primegpt.evaluation.rewards import KNOWN, Reward, divided, parse
from primegpt.extend import Extension, ExtensionError
from primegpt.run import atomic
from primegpt.run.extensions import is_trusted, trust
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say

Told = dict[str, dict[str, str]]  # by name, what the process of a reward is told


def reward_of(config: Config, kept: Told | None = None) -> Reward:
    """The reward of `config`, with the files as they are now, or as they were `kept`. Raises as `parse` does."""
    return parse(config.reinforce.reward, own=registered(config) | (kept or {}))


def in_use(config: Config, extension: Extension) -> bool:
    """Whether a reward of `config` is one that the extension has."""
    return any(divided(spec)[1] in extension.parts["reward"] for spec in config.reinforce.reward)


def registered(config: Config) -> Told:
    """Those that the extension has. Raises ExtensionError for one that has the name of a built-in one."""
    if not config.model.extension:
        return {}
    extension = extend.loaded(config.model.extension)
    source, names = extension.source.decode(), extension.parts["reward"]
    if name := next((name for name in names if name in KNOWN), None):
        raise ExtensionError(f"{extension.path}: reward {name!r} is built in", "take another name")
    return {name: {"path": str(extension.path), "source": source, "registered": name} for name in names}


def keep(folder: RunFolder, reward: Reward, say: Say) -> None:
    """Write the files of functions into the run, to which they belong from now on."""
    for number, part in enumerate(reward.parts, 1):
        if part.code and "function" in part.code.told:
            source, path = part.code.source.encode(), folder.reward_path(number)
            path.parent.mkdir(exist_ok=True)
            atomic.write_bytes_atomic(path, source)
            try:
                trust(hashlib.sha256(source).hexdigest(), path)
            except DiskError as error:
                say(f"{'warning':<10} {error}; `primegpt trust RUN` will be needed to go on with the run")


def kept(folder: RunFolder, config: Config, say: Say) -> Told:
    """What the run has kept. Raises ExtensionError, and nothing runs, for code that this user has neither named nor let
    run; a copy that was changed is other code."""
    found = Told()
    for number, path, name in files_of(folder, config):
        source = path.read_bytes()
        if not is_trusted(hashlib.sha256(source).hexdigest()):
            what = f"{path} is code that would run with your rights, and you have not trained with it"
            raise ExtensionError(what, f"read it; then `primegpt trust {folder.path}` lets it run")
        original, _, function = name.rpartition(":")
        try:
            changed = Path(original).read_bytes() != source
        except OSError:
            changed = False
        if changed:
            say(f"{'reward':<10} {original} is not what it was: the run goes on with its own copy, rewards/{number}.py")
        found[name] = {"path": original, "function": function, "source": source.decode()}
    return found


def files_of(folder: RunFolder, config: Config) -> Iterator[tuple[int, Path, str]]:
    """The number, the place and the reward of each file that the run keeps."""
    for number, spec in enumerate(config.reinforce.reward, 1):
        if (path := folder.reward_path(number)).is_file():
            yield number, path, divided(spec)[1]
