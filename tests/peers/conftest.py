"""Common to tests beside others' libraries: real vocabularies, which come with llama.cpp's source."""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

SOURCE = "llama-cpp-python==0.3.36"


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """A folder of ggml-vocab-NAME.gguf, with strings and ids. pip fetches it once; it is never committed."""
    folder = Path(tempfile.gettempdir()) / "primegpt-vocabularies"
    if not list(folder.glob("*.gguf")):
        folder.mkdir(exist_ok=True)
        fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", SOURCE]
        done = subprocess.run([*fetch, "-d", str(folder)], capture_output=True, timeout=280)
        found = list(folder.glob("*.tar.gz"))
        if done.returncode or not found:
            pytest.skip("llama-cpp-python's source cannot be fetched")
        with tarfile.open(found[0]) as archive:
            for member in archive:
                if "/models/ggml-vocab-" in member.name:
                    member.name = Path(member.name).name
                    archive.extract(member, folder, filter="data")
    return folder
