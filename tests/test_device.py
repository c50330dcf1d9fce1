"""Which device and number format are taken, for machines that are not here: what torch says of them is made up."""

import os
import subprocess
import sys

import pytest
import torch

from primegpt import device
from primegpt.device import available_cores, choose_device, choose_precision, other_load
from primegpt.errors import ConfigError


@pytest.fixture
def machine(monkeypatch):
    """Pretend: what is there, what its GPU can do, and how much faster its CPU multiplies in bf16."""

    def pretend(*, cuda=False, mps=False, cuda_bf16=False, cpu_speedup=1.0):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        # Before Ampere torch emulates bf16, and says that it is supported unless asked for the real thing.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda_bf16 or including_emulation
        )
        monkeypatch.setattr(device, "bf16_speedup", lambda: cpu_speedup)

    return pretend


TABLE = [
    # what is there                                         the device taken, and its format
    ({"cuda": True, "cuda_bf16": True}, "cuda", "bf16"),  # Ampere and later
    ({"cuda": True, "cuda_bf16": False}, "cuda", "fp16"),  # Turing, Volta
    ({"cuda": True, "mps": True, "cuda_bf16": True}, "cuda", "bf16"),
    ({"mps": True, "cpu_speedup": 3.0}, "mps", "fp32"),  # unverified: never measured
    ({"cpu_speedup": 3.0}, "cpu", "bf16"),  # AVX-512-bf16, AMX
    ({"cpu_speedup": 1.31}, "cpu", "bf16"),
    ({"cpu_speedup": 1.3}, "cpu", "fp32"),
    ({"cpu_speedup": 0.2}, "cpu", "fp32"),  # bf16 in software
]


@pytest.mark.parametrize(("there", "taken", "number_format"), TABLE)
def test_what_auto_takes(machine, there, taken, number_format):
    machine(**there)
    assert choose_device("auto") == taken
    assert choose_precision("auto", taken) == number_format


def test_what_a_cpu_is_fast_in_is_measured_by_one_thread(monkeypatch):
    """Two threads wait for each other: beside a program that took a core half of the time, bf16 seemed no faster."""
    counts = []
    rates = {torch.bfloat16: 4.0, torch.float32: 1.0}
    monkeypatch.setattr(
        device, "matmul_rate", lambda _, dtype, **__: counts.append(torch.get_num_threads()) or rates[dtype]
    )
    before = torch.get_num_threads()
    assert choose_precision("auto", "cpu") == "bf16"
    assert set(counts) == {1}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("wanted", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("named", ["cpu", "cuda", "mps"])
def test_what_is_asked_for_is_taken(machine, wanted, named):
    machine(cuda=True, mps=True)
    assert choose_device(named) == named
    assert choose_precision(wanted, named) == wanted


@pytest.mark.parametrize(
    ("there", "wanted", "remedy"),
    [
        ({}, "cuda", "this machine has: cpu"),
        ({}, "mps", "this machine has: cpu"),
        ({"mps": True}, "cuda", "this machine has: mps, cpu"),
        ({"cuda": True}, "mps", "this machine has: cuda, cpu"),
    ],
)
def test_a_device_that_is_not_there(machine, there, wanted, remedy):
    machine(**there)
    with pytest.raises(ConfigError, match=f"train.device = '{wanted}' is not available here; {remedy}"):
        choose_device(wanted)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are bound to cores on Linux alone")
def test_cores_that_the_process_may_not_use_are_not_counted():
    """Under taskset or a scheduler of jobs, a thread for every core of the machine would make them queue for a few."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert available_cores() == len(allowed)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000"}, 2),  # one and a half
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 4),  # more than there are
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu.max": ""}, 4),
        ({}, 4),
    ],
)
def test_a_container_with_a_share_of_the_machine_has_few_cores(tmp_path, monkeypatch, files, cores):
    """`docker run --cpus 2` on 64 cores: as many threads would take turns, and all be halted most of the time."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n", encoding="ascii")
    monkeypatch.setattr(device, "CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    device._share_of_a_container.cache_clear()
    try:
        assert available_cores() == cores
    finally:
        device._share_of_a_container.cache_clear()


def test_to_count_cores_needs_no_torch():
    code = (
        "import sys; from primegpt.device import available_cores; available_cores(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("load", "allowed", "threads", "ranks", "others"),
    [
        (5.0, 4, 2, "1", 1.0),
        (3.0, 4, 2, "1", 0.0),  # there are cores for all
        (30.0, 2, 2, "1", 0.0),  # a share of a machine: who computes on it is not known
        (8.0, 4, 8, "1", 0.0),  # our own threads
        (8.5, 4, 4, "2", 0.5),  # and those of a fellow rank
        (None, 4, 2, "1", 0.0),
    ],
)
def test_who_computes_here_too(monkeypatch, load, allowed, threads, ranks, others):
    def told():
        if load is None:
            raise OSError
        return (load, 0.0, 0.0)

    monkeypatch.setattr(os, "getloadavg", told, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(device, "available_cores", lambda: allowed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert other_load() == others


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells no more")
def test_a_process_counts_its_own_memory_and_not_that_of_its_parent():
    """getrusage's peak is inherited: a run that a large process began had that one's memory in its log."""
    code = "from primegpt.training.progress import memory_mb; print(memory_mb('cpu'))"
    large = bytearray(1_200_000_000)
    large[::4096] = b"x" * len(range(0, len(large), 4096))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(large) > 1e9 > 1e6 * float(done.stdout)
