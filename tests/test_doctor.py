"""What `primegpt doctor` says of a machine."""

import pytest

from primegpt import doctor


def test_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "training_rate", lambda device, precision: 3.3e11)
    found = {finding.name: finding for finding in doctor.examine()}
    assert found["training"].value == "330 GFLOP/s (what plans go by)"
    assert "bf16" in found["matrix products"].value
    assert found["training steps"].ok
    assert all(finding.ok is not False for finding in found.values())
