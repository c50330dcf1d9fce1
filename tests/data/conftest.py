"""What tests of data share: the memory that a fresh process takes."""

import subprocess
import sys
from collections.abc import Callable

import pytest

# Not getrusage on Linux: a child begins with its parent's peak there.
PEAK = """
    from pathlib import Path
    if sys.platform == "darwin":
        import resource
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    else:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(1024 * int(line.split()[1]))"""


@pytest.fixture
def peak_memory() -> Callable[..., tuple[str, int]]:
    """Run a script ("if True: ...", indented by four) in a fresh process: what it printed, and its peak in bytes."""
    if sys.platform == "win32":
        pytest.skip("measures memory as Linux and macOS tell it")

    def run(script: str, *arguments: str) -> tuple[str, int]:
        command = [sys.executable, "-c", f"import sys\n{script.rstrip()}{PEAK}", *arguments]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return " ".join(printed[:-1]), int(printed[-1])

    return run
