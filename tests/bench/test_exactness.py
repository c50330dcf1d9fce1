"""The checks of a device: they hold on a CPU, and see a wrong kernel, a wrong cache, a neighbour that matters."""

import pytest
import torch

from primegpt.bench import exactness
from primegpt.bench.exactness import Check, Checks, check_exactness, checks_of, differing, distance
from primegpt.config import resolve
from primegpt.model import kernels


def found(preset="gpt2"):
    config = resolve({"model": {"preset": preset, **exactness.SIZES}, "train": {"device": "cpu"}})
    return {check.name: check for check in checks_of(config, "cpu", compile=False)}


def broken(checks):
    return [name for name, check in checks.items() if not check.holds]


def test_all_hold_on_a_cpu_and_are_told_as_they_come():
    told = list(check_exactness("cpu", "this CPU", compile=False))
    assert [len(each.checks) for each in told] == list(range(1, len(told) + 1))
    last = told[-1]
    assert {check.name.split(":")[0] for check in last.checks} == {"gpt2", "prime"}
    assert last.as_dict()["hold"]
    assert "does not hold" not in last.as_markdown()
    # fp32 is not fp64, and bf16 is further off than fp32: the errors are measured.
    errors = {check.name: check.error for check in last.checks}
    assert 0 < errors["gpt2: gradient in fp32, of fp64 on the CPU"] < 1e-5
    assert 1e-3 < errors["gpt2: gradient in bf16, of fp64 on the CPU"] < 1e-1


def test_a_fused_kernel_that_is_off_is_seen(monkeypatch):
    real = kernels.fused_attention

    def off(q, k, v, *rest):
        return real(q, k, v, *rest) * (1.01 if q.dtype == torch.float32 else 1.0)

    monkeypatch.setattr(kernels, "fused_attention", off)
    names = broken(found())
    assert "gradient in fp32, of fp64 on the CPU" in names
    assert "gradient with explicit attention, of fp64 on the CPU" not in names


def test_a_text_that_depends_on_its_cache_or_on_others_is_seen(monkeypatch):
    real = exactness.texts

    def off(model, prompts, cached):
        written = real(model, prompts, cached)
        return [[id + 1 for id in text] for text in written] if len(prompts) > 1 or not cached else written

    monkeypatch.setattr(exactness, "texts", off)
    checks = found("prime")
    assert broken(checks) == [
        "ids written with a cache, of those without",
        "ids written beside other texts, of those alone",
    ]
    assert checks["ids written with a cache, of those without"].error == exactness.TOKENS


def test_texts_say_something():
    config = resolve({"model": {"preset": "prime", **exactness.SIZES}})
    (text,) = exactness.texts(exactness.perturbed(config), [[1, 2, 3]], True)
    assert len(text) == exactness.TOKENS
    assert len(set(text)) > 5  # what repeats one id would be the same by chance


def test_what_cannot_be_compiled_does_not_hold(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr("torch.nn.Module.compile", lambda module: setattr(module, "forward", fail))
    config = resolve({"model": {"preset": "gpt2", **exactness.SIZES}})
    ids = torch.zeros(1, 8, dtype=torch.long)
    check = exactness.compiled_check(exactness.perturbed(config), ids, torch.ones(1))
    assert not check.holds
    assert check.name.endswith("RuntimeError: no compiler")


def test_distances():
    assert distance(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0])) == pytest.approx(0.2)
    assert differing([[1, 2, 3], [4]], [[1, 0, 0], [4]]) == 2
    assert "**does not hold**" in Checks("x", (Check("a", 0.2, 0.1),)).as_markdown()
    assert "**does not hold**" not in Checks("x", (Check("a", 0.2, None),)).as_markdown()
