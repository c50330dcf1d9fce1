"""Contestants that run as processes of their own: their commands, their environment, their times."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from primegpt.bench.compare import Absent
from primegpt.errors import UsageError
from primegpt.tokenizers.base import available_cores

PYTHON = sys.executable
PRIMEGPT = [PYTHON, "-m", "primegpt"]


def asked_threads(threads: int | None) -> int:
    """How many threads every contestant gets: as many as this process may use, where nothing is said."""
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads}: at least one is needed")
    return threads or available_cores()


def missing(module: str) -> str:
    """Why a peer is absent that is a Python package: "" if it is there. Nothing is imported."""
    return "" if importlib.util.find_spec(module) else f"no package {module} is installed"


def environment(threads: int | None = None) -> dict[str, str]:
    """What a contestant is started with: this process's, without what `primegpt` has set there for itself."""
    own = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    return own | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def output_of(
    command: Sequence[str],
    *,
    threads: int | None = None,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> str:
    """What `command` writes to standard output, with more environment `variables` if given.

    Raises Absent, with the last line of its complaint, if it fails.
    """
    given = environment(threads) | dict(variables or {})
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise Absent(f"{Path(command[0]).name} {' '.join(command[1:3])} failed: {last[:200]}")
    return done.stdout


def milliseconds_of(command: Sequence[str], *, threads: int | None = None) -> float:
    """Wall-clock time of a whole process."""
    start = time.perf_counter()
    output_of(command, threads=threads)
    return 1000 * (time.perf_counter() - start)


def milliseconds_to_output(command: Sequence[str]) -> float:
    """Wall-clock time from the start of `command` to the first byte that it writes."""
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = 1000 * (time.perf_counter() - start)
        process.communicate()
    if not first:
        raise Absent(f"{' '.join(command[1:4])} wrote nothing (exit code {process.returncode})")
    return elapsed
