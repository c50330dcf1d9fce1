"""Which extensions of runs may run: those this user has trained with, or has read."""

import hashlib
import os

import pytest

from primegpt import extend
from primegpt.config import resolve
from primegpt.errors import MismatchError
from primegpt.extend import ExtensionError
from primegpt.run.extensions import is_trusted, open_extension, trust, trusted_list
from primegpt.run.folder import RunFolder


@pytest.fixture
def strangers(tmp_path):
    """A run from elsewhere whose extension leaves a mark where it runs, its configuration, and the mark."""
    mark, folder = tmp_path / "it ran", RunFolder.create(tmp_path / "run")
    source = f"open({str(mark)!r}, 'w').close()\nfrom primegpt import extend\nextend.norm('dyt')(len)\n".encode()
    folder.extension_path.write_bytes(source)
    model = {"norm": "dyt", "extension": hashlib.sha256(source).hexdigest()}
    return folder, resolve({"model": model, "extension": "mine.py"}), mark


def test_a_strangers_extension_does_not_run(strangers):
    folder, config, mark = strangers
    with pytest.raises(ExtensionError) as caught:
        open_extension(folder, config)
    assert not mark.exists()
    assert f"{folder.extension_path} is code that would run with your rights" in str(caught.value)
    assert f"`primegpt trust {folder.path}`" in str(caught.value)


@pytest.mark.parametrize("how", ["once", "from now on"])
def test_it_runs_when_it_is_trusted(how, strangers):
    folder, config, mark = strangers
    if how == "from now on":
        trust(config.model.extension, folder.extension_path)
    extension = open_extension(folder, config, trusted=how == "once")
    assert mark.exists()
    assert extension.find("norm", "dyt") is len
    assert is_trusted(config.model.extension) == (how == "from now on")


def test_another_file_than_it_was_trained_with_is_refused_trusted_or_not(strangers):
    folder, config, mark = strangers
    folder.extension_path.write_bytes(folder.extension_path.read_bytes() + b"# one more line\n")
    trust(hashlib.sha256(folder.extension_path.read_bytes()).hexdigest(), folder.extension_path)
    with pytest.raises(MismatchError, match="is not what the run was trained with: its SHA-256 is"):
        open_extension(folder, config, trusted=True)
    folder.extension_path.unlink()
    with pytest.raises(MismatchError, match="cannot be read: No such file"):
        open_extension(folder, config, trusted=True)
    assert not mark.exists()


def test_what_is_no_file_or_has_no_end_is_refused_before_it_is_read(strangers):
    folder, config, _ = strangers
    folder.extension_path.unlink()
    folder.extension_path.symlink_to("/dev/zero")
    with pytest.raises(MismatchError, match="it is no regular file"):
        open_extension(folder, config)
    folder.extension_path.unlink()
    with folder.extension_path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(MismatchError, match="is not what the run was trained with"):
        open_extension(folder, config)


def test_an_edited_configuration_does_not_get_around_it(strangers):
    """Without a hash nothing is opened, though the name of a part is there."""
    folder, config, mark = strangers
    with pytest.raises(ExtensionError, match="names parts of an extension, and not which"):
        open_extension(folder, config.with_values(model={"extension": ""}))
    assert not mark.exists()


def test_lines_are_only_added_and_a_files_name_makes_no_second_one(tmp_path):
    other = "b" * 64
    trust("a" * 64, tmp_path / f"mine\n{other} .py")
    trust("a" * 64, tmp_path / "again.py")
    assert len(trusted_list().read_text().splitlines()) == 1
    assert is_trusted("a" * 64)
    assert not is_trusted(other)
    assert not is_trusted("a" * 63)
    assert not is_trusted("")


def test_a_torn_line_does_not_swallow_the_next(tmp_path):
    trust("a" * 64, tmp_path / "mine.py")
    trusted_list().write_bytes(trusted_list().read_bytes()[:40])
    trust("b" * 64, tmp_path / "mine.py")
    assert is_trusted("b" * 64)


def test_what_ran_in_this_process_needs_no_list(strangers):
    """Where the list cannot be written, a run is still judged and used by the process that trains it."""
    folder, config, _ = strangers
    extend.load_source(folder.extension_path.read_bytes(), folder.extension_path)
    assert open_extension(folder, config) is extend.loaded(config.model.extension)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_nobody_else_adds_to_the_list(tmp_path, monkeypatch):
    monkeypatch.setenv("PRIMEGPT_DATA", str(tmp_path / "data"))
    old = os.umask(0)
    try:
        trust("a" * 64, tmp_path / "mine.py")
    finally:
        os.umask(old)
    assert trusted_list().stat().st_mode & 0o777 == 0o600
