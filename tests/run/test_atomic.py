"""Whole or not at all: the file operations that everything in a run folder goes through."""

import errno
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from primegpt.errors import PrimegptError
from primegpt.run import atomic


def test_writes_the_very_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    atomic.write_text_atomic(path, "two\nlines\r\nand é\n")
    assert path.read_bytes() == b"two\nlines\r\nand \xc3\xa9\n"
    atomic.write_text_atomic(path, "")
    assert path.read_bytes() == b""
    assert os.listdir(tmp_path) == ["note.txt"]


def test_json_floats_come_back_to_the_same_bits(tmp_path: Path) -> None:
    floats = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 2**53 + 1.0, 6e-4]
    atomic.write_json_atomic(tmp_path / "a.json", {"b": floats, "a": 10**30})
    read = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [value.hex() for value in read["b"]] == [value.hex() for value in floats]
    assert list(read) == ["a", "b"]
    assert read["a"] == 10**30


def test_nan_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json_atomic(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    target, link = tmp_path / "precious", tmp_path / "best"
    target.write_text("precious", encoding="utf-8")
    _symlink(link, target)
    atomic.write_text_atomic(link, "step-000500\n")
    assert target.read_text(encoding="utf-8") == "precious"
    assert not link.is_symlink()
    assert link.read_text(encoding="utf-8") == "step-000500\n"


def test_a_planted_temporary_link_is_not_written_through(tmp_path: Path) -> None:
    target, path = tmp_path / "precious", tmp_path / "best"
    target.write_text("precious", encoding="utf-8")
    _symlink(atomic.temporary_name(path), target)
    atomic.write_text_atomic(path, "new")
    assert target.read_text(encoding="utf-8") == "precious"
    assert path.read_text(encoding="utf-8") == "new"


def test_a_new_file_is_new(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old", encoding="utf-8")
    with pytest.raises(FileExistsError):
        atomic.write_synced(tmp_path / "a", [b"new"])
    assert atomic.write_synced(tmp_path / "b", [b"a", b"", memoryview(b"bc")]) == {
        "size": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",  # FIPS 180-2: SHA-256 of "abc"
    }


def test_removing_a_link_to_a_folder_leaves_the_folder(tmp_path: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    (folder / "file").write_text("kept", encoding="utf-8")
    _symlink(link, folder)
    atomic.remove(link)
    assert (folder / "file").read_text(encoding="utf-8") == "kept"
    assert not link.is_symlink()
    atomic.remove(link)  # a missing one is fine


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic.write_text_atomic(tmp_path / "a", "text")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failing_disk_is_one_line_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "best"
    atomic.write_text_atomic(path, "old")

    def perform(operation, *args, **kwargs):  # type: ignore[no-untyped-def]
        if getattr(operation, "__name__", "") == "fsync":
            raise OSError(number, os.strerror(number))
        return operation(*args, **kwargs)

    monkeypatch.setattr(atomic, "perform", perform)
    with pytest.raises(PrimegptError, match=r"could not write .*best: " + os.strerror(number)) as caught:
        atomic.write_text_atomic(path, "new")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    assert path.read_text(encoding="utf-8") == "old"
    assert os.listdir(tmp_path) == ["best"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to hit")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """The system itself refuses the bytes: a limit on the size of files stands in for a full disk."""
    import resource

    path = tmp_path / "big"
    atomic.write_text_atomic(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(PrimegptError, match=r"could not write .*big"):
            atomic.write_bytes_atomic(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["big"]


def _symlink(link: Path, target: Path) -> None:
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system does not let us make symbolic links")
