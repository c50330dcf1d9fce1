"""Checkpoints that several ranks write together. The ranks are threads here; real ones are in test_ranks.py."""

import threading
from contextlib import contextmanager

import pytest
import torch

from primegpt.errors import CheckpointError, PrimegptError
from primegpt.interop.weight_files import WeightFiles
from primegpt.parallel.world import World, dealt_out
from primegpt.run import saving
from primegpt.run.checkpoint import load_checkpoint, load_newest, read_manifest, tensor_files, verify_checkpoint
from primegpt.run.saving import save_checkpoint
from primegpt.training import checkpoints
from primegpt.training.checkpoints import in_background, save_shares

TENSORS = {
    "model": {"wte.weight": torch.randn(7, 4), "ln_f.bias": torch.randn(4).bfloat16(), "head": torch.randn(2, 3)},
    "optimizer": {"wte.weight/exp_avg": torch.randn(7, 4), "wte.weight/step": torch.tensor(3.0)},
}
STATE = {"step": 5}


class Thread(World):
    """One of several ranks in this process."""

    def __init__(self, rank: int, table: list, meeting: threading.Barrier) -> None:
        self.rank, self.size, self.table, self.meeting = rank, len(table), table, meeting

    def collect(self, value):
        self.table[self.rank] = value
        self.meeting.wait(10)
        said = list(self.table)
        self.meeting.wait(10)
        return said

    def tell(self, value):
        return self.collect(value)[0]

    @contextmanager
    def together(self):
        failure = None
        try:
            yield
        except PrimegptError as error:
            failure = error
        if failed := [rank for rank, error in enumerate(self.collect(failure)) if error]:
            raise failure if failed[0] == self.rank else SystemExit(1)


def saved_by(ranks: int, folder) -> list[BaseException | None]:
    """Save step 5 from so many ranks, and what each one raised."""
    table, meeting = [None] * ranks, threading.Barrier(ranks)
    raised: list[BaseException | None] = [None] * ranks

    def save(rank: int) -> None:
        def share(named):
            owners = dealt_out({name: tensor.numel() for name, tensor in named.items()}, ranks)
            return {name: tensor for name, tensor in named.items() if owners[name] == rank}

        try:
            mine = {stem: share(named) for stem, named in TENSORS.items()}
            save_shares(Thread(rank, table, meeting), folder, 5, mine, STATE)
        except BaseException as error:
            raised[rank] = error

    threads = [threading.Thread(target=save, args=[rank]) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return raised


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_what_ranks_wrote_is_read_as_what_one_process_wrote(tmp_path, ranks, lazily):
    assert saved_by(ranks, tmp_path) == [None] * ranks
    checkpoint = load_newest(tmp_path, pytest.fail, lazily=lazily)
    assert verify_checkpoint(checkpoint.path).resumable
    assert checkpoint.state == STATE
    save_checkpoint(tmp_path / "alone", 5, TENSORS, STATE)
    expected = load_checkpoint(tmp_path / "alone" / "step-000005").tensors
    assert checkpoint.tensors.keys() == expected.keys()
    for stem, named in expected.items():
        assert checkpoint.tensors[stem].keys() == named.keys()
        assert all(checkpoint.tensors[stem][name].equal(tensor) for name, tensor in named.items())
    files = tensor_files("model", read_manifest(checkpoint.path))
    assert len(files) == ranks
    assert WeightFiles(checkpoint.path / name for name in files).shapes.keys() == expected["model"].keys()


def test_each_rank_writes_about_as_much():
    sizes = {f"h.{i}": size for i, size in enumerate([40, 10, 10, 30, 20, 20, 5, 5])}
    owners = dealt_out(sizes, 3)
    loads = [sum(size for name, size in sizes.items() if owners[name] == rank) for rank in range(3)]
    assert sum(loads) == 140
    assert max(loads) - min(loads) <= 10
    assert dealt_out(dict(reversed(sizes.items())), 3) == owners  # whatever order each rank has them in
    assert set(dealt_out({"a": 1}, 3).values()) == {0}


def test_a_lost_share_is_missed(tmp_path):
    saved_by(2, tmp_path)
    (tmp_path / "step-000005" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        load_newest(tmp_path, pytest.fail)


def test_a_slim_copy_keeps_all_shares_of_the_weights(tmp_path):
    saved_by(2, tmp_path)
    saving.copy_weights(tmp_path / "step-000005", tmp_path / "copy")
    copy = load_checkpoint(tmp_path / "copy" / "step-000005")
    assert copy.tensors.keys() == {"model"}
    assert copy.tensors["model"].keys() == TENSORS["model"].keys()


def test_a_disk_that_fails_on_one_rank_fails_all_and_leaves_nothing(tmp_path, monkeypatch):
    write = checkpoints.write_files

    def fail_second(temporary, contents):
        if any("-00002-of" in name for name in contents):
            raise OSError(28, "No space left on device")
        return write(temporary, contents)

    monkeypatch.setattr(checkpoints, "write_files", fail_second)
    first, second = saved_by(2, tmp_path)
    assert isinstance(first, SystemExit)
    assert f"could not save step 5 in {tmp_path}: No space left on device" in str(second)
    assert list(tmp_path.iterdir()) == []


def test_work_in_the_background_raises_where_it_is_waited_for():
    def fail():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        in_background(fail)()
    in_background(lambda: None)()
