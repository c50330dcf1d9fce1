"""Common to all tests: one thread a process, since several run at once, and a cache of their own."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes that spin on two cores slow each other many times over


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def shared_data() -> Path:
    """The folder of public texts that tests use when it is there (tinyshakespeare.txt, gpt2/)."""
    folder = Path(os.environ.get("PRIMEGPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared data is not on this machine")
    return folder
