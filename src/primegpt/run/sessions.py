"""sessions.jsonl of a run: when, by which command and on what machine each of its sessions began, a line each.

Nothing depends on it; it is what someone who finds a run a year later asks first.
"""

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import primegpt
from primegpt.device import available_cores
from primegpt.run import atomic
from primegpt.run.files import RunFiles

KEYS = ("started", "command", "primegpt", "python", "torch", "machine")


def add_session(folder: RunFiles, torch: str, command: str | None = None) -> None:
    """Write down that a session begins now, by `command` (this process's own) and with a version of torch."""
    folder.run_lock.require()
    values = (
        datetime.now().astimezone().isoformat(timespec="seconds"),
        own_command() if command is None else command,
        primegpt.__version__,
        platform.python_version(),
        torch,
        machine(),
    )
    lines = [*map(json.dumps, sessions(folder)), json.dumps(dict(zip(KEYS, values, strict=True)))]
    atomic.write_text_atomic(folder.sessions_path, "\n".join(lines) + "\n")


def sessions(folder: RunFiles) -> list[Mapping[str, str]]:
    """The sessions of a run, the first one first; none of what earlier versions have trained, or what is damaged."""
    try:
        text = folder.sessions_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [row for row in map(_row, text.splitlines()) if row]


def _row(line: str) -> dict[str, str] | None:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in KEYS):
        return None
    return {key: row[key] for key in KEYS}


def own_command() -> str:
    """The command line of this process as it was typed; of a path to a program or a script, the name alone."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    if name in ("__main__.py", "primegpt.exe"):
        name = "primegpt"
    return shlex.join([name, *arguments]) if name else "Python"


def machine() -> str:
    """The processor, the cores of it that may be used, and the system: "Xeon 6130, 2 cores, Linux x86_64"."""
    processor = _processor() or platform.processor() or platform.machine()
    cores, all_cores = available_cores(), os.cpu_count() or 1
    of = f" of {all_cores}" if cores < all_cores else ""
    return f"{processor}, {cores}{of} core{'s' * (max(cores, all_cores) > 1)}, {platform.system()} {platform.machine()}"


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    names = (line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name"))
    return next(names, "")
