"""Checkpoints come back as they were, or not at all: every kind of damage is found and named."""

import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from primegpt.errors import CheckpointError
from primegpt.run import atomic
from primegpt.run import checkpoint as checkpoint_module
from primegpt.run.checkpoint import (
    commit_evaluation,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    newest_good,
    read_evaluation,
    read_manifest,
    verify_checkpoint,
)
from primegpt.run.saving import save_checkpoint

FILES = ["MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"]
STATE = {"step": 1, "best": 0.1 + 0.2, "events": [{"oom": 3}], "config": {"lr": 6e-4, "none": None, "deep": [[]]}}


def tensors_of(seed: int) -> dict[str, dict[str, Tensor]]:
    torch.manual_seed(seed)
    weights = {"wte.weight": torch.randn(7, 4), "ln_f.bias": torch.randn(4).bfloat16()}
    moments = {f"exp_avg.{name}": torch.randn(tensor.shape) for name, tensor in weights.items()}
    return {"model": weights, "optimizer": {**moments, "step": torch.tensor(3, dtype=torch.int64)}}


def save(folder: Path, step: int, **state: Any) -> Path:
    return save_checkpoint(folder, step, tensors_of(step), {**STATE, "step": step, **state})


def assert_holds(path: Path, seed: int, **how: bool) -> None:
    loaded, expected = load_checkpoint(path, **how).tensors, tensors_of(seed)
    assert loaded.keys() == expected.keys()
    for stem, named in expected.items():
        assert loaded[stem].keys() == named.keys()
        assert all(loaded[stem][name].equal(tensor) for name, tensor in named.items())


class Warnings(list[str]):
    """A `warn` that remembers."""

    def __call__(self, message: str) -> None:
        assert "\n" not in message
        self.append(message)


@pytest.fixture
def warn() -> Warnings:
    return Warnings()


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path, 500)
    assert path == tmp_path / "step-000500"
    assert sorted(os.listdir(path)) == FILES
    assert os.listdir(tmp_path) == ["step-000500"]
    checkpoint = load_checkpoint(path)
    assert (checkpoint.step, checkpoint.resumable, checkpoint.path) == (500, True, path)
    assert checkpoint.state == {**STATE, "step": 500}
    assert checkpoint.state["best"].hex() == (0.1 + 0.2).hex()
    assert_holds(path, 500)
    assert verify_checkpoint(path) == read_manifest(path)


def test_only_the_files_asked_for_are_read(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "optimizer.safetensors").unlink()
    assert load_checkpoint(path, ["model"]).tensors.keys() == {"model"}
    assert load_checkpoint(path, []).tensors == {}
    with pytest.raises(CheckpointError, match=r"holds no ema.safetensors, only model.safetensors, optimizer"):
        load_checkpoint(path, ["ema"])


def test_the_plain_library_reads_the_files(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for stem, named in tensors_of(1).items():
        loaded = safetensors.torch.load_file(path / f"{stem}.safetensors")
        assert loaded.keys() == named.keys()
        assert all(loaded[name].equal(tensor) for name, tensor in named.items())
    with safetensors.safe_open(path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_saving_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    first = {name: (path / name).read_bytes() for name in FILES}
    commit_evaluation(path, {"val/loss": 1.5})
    save_checkpoint(tmp_path, 1, tensors_of(1), dict(reversed({**STATE, "step": 1}.items())))
    assert {name: (path / name).read_bytes() for name in os.listdir(path)} == first  # and the evaluation is void
    assert os.listdir(tmp_path) == ["step-000001"]


def test_old_files_that_cannot_be_deleted_do_not_fail_a_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows another process may be reading them."""

    def perform(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.__name__ in ("unlink", "rmtree"):
            raise PermissionError(13, "Permission denied")
        return operation(*args, **kwargs)

    save(tmp_path, 1)
    monkeypatch.setattr(atomic, "perform", perform)
    path = save(tmp_path, 1, again=True)
    assert load_checkpoint(path).state["again"] is True
    assert list_checkpoints(tmp_path) == {1: path}


@pytest.mark.parametrize("state", [{"loss": float("nan")}, {"loss": float("inf")}])
def test_nan_in_the_state_is_our_mistake(tmp_path: Path, state: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path / "checkpoints", 1, tensors_of(1), state)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("state", [{"betas": (0.9, 0.95)}, {"rows": {1: 2}}])
def test_a_state_that_would_change_on_the_way_is_our_mistake(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="come back different"):
        save_checkpoint(tmp_path / "checkpoints", 1, tensors_of(1), state)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_others_may_read_it_if_the_umask_lets_them(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        path = save(tmp_path, 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert {stat.S_IMODE((path / name).stat().st_mode) for name in FILES} == {0o644}


# Damage


def test_two_hundred_flipped_bits_are_all_found(tmp_path: Path) -> None:
    """Every file, both ways of reading. The plain libraries notice almost none of these."""
    path, rng = save(tmp_path, 1), random.Random(1)
    commit_evaluation(path, {"val/loss": 1.2345})
    found = 0
    for flip in range(200):
        file = path / [*FILES, "evaluation.json"][flip % 5]
        original = file.read_bytes()
        data = bytearray(original)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        if file.name == "evaluation.json":
            assert read_evaluation(path, Warnings()) is None
        else:
            for read in (verify_checkpoint, load_checkpoint):
                with pytest.raises(CheckpointError, match=file.name):
                    read(path)
        found += 1
        file.write_bytes(original)
    assert found == 200
    verify_checkpoint(path)


def test_the_manifest_guards_itself_throughout(tmp_path: Path) -> None:
    file = save(tmp_path, 1) / "MANIFEST.json"
    original = file.read_bytes()
    for place in range(0, len(original), 3):
        file.write_bytes(original[:place] + bytes([original[place] ^ 1 << place % 8]) + original[place + 1 :])
        with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
            read_manifest(file.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_lengthened_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    original = (path / name).read_bytes()
    for damaged in (original[:-1], original[: len(original) // 2], b"", original + b"\n", original + b"\0" * 8):
        (path / name).write_bytes(damaged)
        how = "" if name == "MANIFEST.json" else f": it has {len(damaged)} bytes, not {len(original)}"
        for read in (verify_checkpoint, load_checkpoint):
            with pytest.raises(CheckpointError, match=f"{name} is damaged{how}"):
                read(path)
    (path / name).unlink()
    for read in (verify_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            read(path)


def test_both_hashes_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    good = read_manifest(path).files["model.safetensors"]["sha256"]
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors is damaged: its SHA-256 is [0-9a-f]{{64}}, not {good}"
    ):
        verify_checkpoint(path)


def test_a_bit_that_flips_on_its_way_to_the_disk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def perform(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation.__name__ == "write" and Path(operation.__self__.name).name == "model.safetensors":
            args = (bytes([args[0][0] ^ 1]) + bytes(args[0][1:]),)
        return operation(*args, **kwargs)

    monkeypatch.setattr(atomic, "perform", perform)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        verify_checkpoint(save(tmp_path, 1))


def test_an_extra_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / ".DS_Store").write_bytes(b"left by a file manager")
    commit_evaluation(path, {"val/loss": 1.0})
    verify_checkpoint(path)
    (path / "ema.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"ema.safetensors is not in the checkpoint's manifest"):
        verify_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_files_swapped_between_steps_are_found(tmp_path: Path, name: str) -> None:
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    content = (one / name).read_bytes(), (two / name).read_bytes()
    (two / name).write_bytes(content[0])
    (one / name).write_bytes(content[1])
    for path in (one, two):
        for read in (verify_checkpoint, load_checkpoint):
            with pytest.raises(CheckpointError):
                read(path)


def test_a_renamed_checkpoint_is_found_but_a_copy_elsewhere_is_welcome(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / "my-favourite")
    assert_holds(tmp_path / "my-favourite", 1)
    path.rename(tmp_path / "step-000002")
    with pytest.raises(CheckpointError, match="step-000002 holds step 1"):
        verify_checkpoint(tmp_path / "step-000002")


@pytest.mark.parametrize(
    "content",
    [
        {"format": 1, "step": 1, "resumable": True, "files": {"../../secret": {"size": 1, "sha256": ""}}},
        {"format": 1, "step": 1, "resumable": True, "files": {"a/b.safetensors": {"size": 1, "sha256": ""}}},
        {"format": 1, "step": 1, "resumable": True, "files": {"model.safetensors": {}}},
        {"format": 1, "step": 1, "resumable": True, "files": []},
        {"format": 1},
        {"format": 2, "step": 1, "resumable": True, "files": {}},
    ],
)
def test_a_manifest_of_someone_elses_making_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    """The hash of itself proves that it is whole, not that it is honest."""
    from primegpt.run.atomic import seal

    path = save(tmp_path, 1)
    (path / "MANIFEST.json").write_bytes(seal(content))
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        load_checkpoint(path)


@pytest.mark.parametrize("junk", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"sha256": 1}'])
def test_junk_for_a_manifest_is_one_line(tmp_path: Path, junk: bytes) -> None:
    path = save(tmp_path, 1)
    (path / "MANIFEST.json").write_bytes(junk)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is damaged"):
        verify_checkpoint(path)


def test_whole_files_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    from primegpt.run.saving import write_checkpoint

    path = write_checkpoint(tmp_path, 1, {"model.safetensors": [b"\x80\x04 pickled"], "state.json": [b"{}"]}, True)
    verify_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be used: it claims a header"):
        load_checkpoint(path)


def test_a_folder_for_a_file_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "state.json").unlink()
    (path / "state.json").mkdir()
    for read in (verify_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError, match=r"state\.json"):
            read(path)


# Which one is used


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def test_the_newest_is_by_number_not_by_name_or_age(tmp_path: Path, warn: Warnings) -> None:
    for step in (1_000_000, 999_999, 0):
        save(tmp_path, step)
    assert list(list_checkpoints(tmp_path)) == [0, 999_999, 1_000_000]
    assert newest_good(tmp_path, warn) == tmp_path / "step-1000000"
    assert not warn


def test_a_damaged_newest_falls_back_loudly(tmp_path: Path, warn: Warnings) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    flip(tmp_path / "step-000003" / "model.safetensors")
    (tmp_path / "step-000002" / "MANIFEST.json").unlink()
    assert newest_good(tmp_path, warn) == tmp_path / "step-000001"
    loaded = load_newest(tmp_path, warn)
    assert loaded is not None
    assert loaded.step == 1
    assert len(warn) == 2
    for message in warn:
        assert "step-000003" in message
        assert "step-000002" in message
        assert message.endswith("using step-000001 instead")


def test_only_what_is_read_has_to_be_whole(tmp_path: Path, warn: Warnings) -> None:
    save(tmp_path, 1)
    flip(save(tmp_path, 2) / "optimizer.safetensors")
    loaded = load_newest(tmp_path, warn, ["model"])
    assert loaded is not None
    assert (loaded.step, warn) == (2, [])


def test_read_lazily_it_is_verified_before_anything_is_used(tmp_path: Path, warn: Warnings, monkeypatch) -> None:
    """What is read at once is the state; of the tensors each when it is asked for, from files that were hashed."""
    read, verified = [], checkpoint_module.read_verified
    monkeypatch.setattr(checkpoint_module, "read_verified", lambda *a: (read.append(a[1]), verified(*a))[1])
    for step in (1, 2):
        save(tmp_path, step)
    assert_holds(tmp_path / "step-000002", 2, lazily=True)
    flip(tmp_path / "step-000002" / "optimizer.safetensors")
    found = load_newest(tmp_path, warn, lazily=True)
    assert found is not None
    assert found.step == 1
    assert "optimizer.safetensors is damaged" in warn[0]
    assert found.tensors["optimizer"]["step"] == 3
    assert set(read) == {"state.json"}


def test_when_none_is_whole_nothing_starts_afresh(tmp_path: Path, warn: Warnings) -> None:
    assert newest_good(tmp_path / "nowhere", warn) is None
    assert newest_good(tmp_path, warn) is None
    for step in (1, 2):
        flip(save(tmp_path, step) / "state.json")
    for newest in (newest_good, load_newest):
        with pytest.raises(
            CheckpointError, match=r"no checkpoint is whole: .*000002.*state.json.*; .*000001"
        ) as caught:
            newest(tmp_path, warn)
    assert caught.value.exit_code == 1
    assert not warn


def test_an_empty_folder_of_the_right_name_is_a_damaged_checkpoint(tmp_path: Path, warn: Warnings) -> None:
    (tmp_path / "step-000001").mkdir()
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is missing"):
        newest_good(tmp_path, warn)


def test_weights_only_is_for_generating_not_for_resuming(tmp_path: Path, warn: Warnings) -> None:
    path = save_checkpoint(tmp_path, 2, {"model": tensors_of(2)["model"]}, STATE, resumable=False)
    with pytest.raises(CheckpointError, match="holds weights only"):
        newest_good(tmp_path, warn)
    assert newest_good(tmp_path, warn, resumable=False) == path
    assert load_checkpoint(path).tensors.keys() == {"model"}
    full = save(tmp_path, 1)
    assert newest_good(tmp_path, warn) == full
    assert newest_good(tmp_path, warn, resumable=False) == path
    assert not warn


# Evaluations


def test_an_evaluation_is_kept_beside_its_checkpoint(tmp_path: Path, warn: Warnings) -> None:
    path = save(tmp_path, 1)
    assert read_evaluation(path, warn) is None
    commit_evaluation(path, {"val/loss": 0.1 + 0.2, "samples": ["é"]})
    assert read_evaluation(path, warn) == {"val/loss": 0.1 + 0.2, "samples": ["é"]}
    commit_evaluation(path, {"val/loss": 1.0})
    assert read_evaluation(path, warn) == {"val/loss": 1.0}
    assert sorted(os.listdir(path)) == sorted([*FILES, "evaluation.json"])
    assert not warn


def test_the_evaluation_of_another_step_is_done_again(tmp_path: Path, warn: Warnings) -> None:
    one, two = save(tmp_path, 1), save(tmp_path, 2)
    commit_evaluation(one, {"val/loss": 1.0})
    shutil.copy(one / "evaluation.json", two)
    assert read_evaluation(two, warn) is None
    assert "belongs to another checkpoint; evaluating again" in warn[0]
    shutil.copy(one / "MANIFEST.json", one / "evaluation.json")
    assert read_evaluation(one, warn) is None
    assert len(warn) == 2


# Links and imports


def test_links_are_never_followed_to_destroy(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    path = save(elsewhere, 1)
    folder = tmp_path / "checkpoints"
    try:
        folder.symlink_to(tmp_path / "big-disk")
        (tmp_path / "big-disk").mkdir()
        (folder / "step-000001").symlink_to(path)
    except OSError:
        pytest.skip("this system does not let us make symbolic links")
    save(folder, 1, again=True)  # replaces the link
    assert load_checkpoint(path).state == {**STATE, "step": 1}
    assert load_checkpoint(folder / "step-000001").state["again"] is True
    assert folder.is_symlink()
    assert os.listdir(tmp_path / "big-disk") == ["step-000001"]


def test_importing_the_run_floor_does_not_import_torch() -> None:
    code = "import sys, primegpt.run.folder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    for name in FILES:
        data = (path / name).read_bytes()
        header = data[8 : 8 + int.from_bytes(data[:8], "little")] if name.endswith(".safetensors") else data
        json.loads(header)
