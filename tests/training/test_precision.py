"""Which device and number format are taken, for machines that are not here: what torch says of them is made up."""

import pytest
import torch

from primegpt.errors import ConfigError
from primegpt.training import precision
from primegpt.training.precision import DTYPES, Precision, choose_device, choose_precision


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
        monkeypatch.setattr(precision, "bf16_speedup", lambda: cpu_speedup)

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


@pytest.mark.parametrize(("there", "device", "number_format"), TABLE)
def test_what_auto_takes(machine, there, device, number_format):
    machine(**there)
    assert choose_device("auto") == device
    assert choose_precision("auto", device) == number_format


@pytest.mark.parametrize("wanted", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_what_is_asked_for_is_taken(machine, wanted, device):
    machine(cuda=True, mps=True)
    assert choose_device(device) == device
    assert choose_precision(wanted, device) == wanted


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


@pytest.mark.parametrize("name", DTYPES)
def test_only_fp16_scales_its_loss_and_only_products_are_in_16_bits(name):
    precision = Precision(name, "cpu")
    assert precision.scaler.is_enabled() == (name == "fp16")
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == DTYPES[name]
        assert (
            torch.nn.functional.cross_entropy(torch.ones(2, 3), torch.ones(2, dtype=torch.long)).dtype == torch.float32
        )
