"""Whether a device computes what the formula says: small networks on it, beside the CPU in fp64, and beside themselves.

What the tests hold on a CPU, looked at on a GPU, where torch has other kernels: losses and gradients, each way to
attend, packed rows, compiled graphs, the optimizers, and that a text does not depend on its cache or its neighbours.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from primegpt.bench.compare import table
from primegpt.bench.random_run import made_up_tokenizer
from primegpt.config import Config, resolve
from primegpt.data.batching.batches import Batch
from primegpt.inference.decoder import Decoder
from primegpt.model.gpt import GPT
from primegpt.run.tensors import serialize
from primegpt.training.optimizers import Optimizers
from primegpt.training.step import Precision, compute_gradients, update

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 128, "block_size": 64, "vocab_size": 320}
TOKENS = 24  # that are written
STEPS = 5


@dataclass(frozen=True)
class Check:
    """How far two ways to compute the same are apart."""

    name: str
    error: float
    bound: float | None
    """What it may be at most; None for what is told, and need not hold."""

    @property
    def holds(self) -> bool:
        return self.bound is None or self.error <= self.bound


@dataclass(frozen=True)
class Checks:
    """All of them, as a table."""

    device: str
    checks: tuple[Check, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"hold": all(check.holds for check in self.checks)}

    def as_markdown(self) -> str:
        rows = [["", "apart by", "at most", ""], ["---"] * 4]
        for check in self.checks:
            bound = "" if check.bound is None else f"{check.bound:g}"
            rows.append([check.name, f"{check.error:.2g}", bound, "" if check.holds else "**does not hold**"])
        return "\n".join([f"Exactness on {self.device}", "", *table(rows)])


def check_exactness(device: str, name: str, *, compile: bool = True) -> Iterator[Checks]:
    """What has been checked so far, again and again as it grows."""
    done: list[Check] = []
    with exact_products():
        for preset in ("gpt2", "prime"):
            config = resolve({"model": {"preset": preset, **SIZES}, "train": {"device": device}})
            for check in checks_of(config, device, compile):
                done.append(Check(f"{preset}: {check.name}", check.error, check.bound))
                yield Checks(name, tuple(done))


@contextmanager
def exact_products() -> Iterator[None]:
    """Products in fp32 are computed in fp32, and not in TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def checks_of(config: Config, device: str, compile: bool) -> Iterator[Check]:
    """The checks of one architecture, the plainest first."""
    reference = perturbed(config)
    model = copy.deepcopy(reference).to(device)
    ids = torch.randint(SIZES["vocab_size"], (4, SIZES["block_size"]), generator=torch.Generator().manual_seed(0))
    loss, gradient = loss_and_gradient(copy.deepcopy(reference).double(), ids, "fp32", "cpu")
    for precision, of_loss, of_gradient in (("fp32", 1e-5, 1e-4), ("bf16", 1e-2, 0.1)):
        found = loss_and_gradient(copy.deepcopy(model), ids, precision, device)
        yield Check(f"loss in {precision}, of fp64 on the CPU", abs(found[0] / loss - 1), of_loss)
        yield Check(f"gradient in {precision}, of fp64 on the CPU", distance(found[1], gradient), of_gradient)
    explicit = loss_and_gradient(copy.deepcopy(model).use_attention("explicit"), ids, "fp32", device)
    yield Check("gradient with explicit attention, of fp64 on the CPU", distance(explicit[1], gradient), 1e-4)
    for documents in (2, 4):  # as a mask, and each taken apart
        yield Check(f"{documents} documents in a row, of each alone", packed_error(model, ids, documents), 1e-4)
    yield Check(f"a step of {config.train.optimizer}, of the CPU's", step_error(config, reference, model, ids), 1e-2)
    written = [texts(model, [ids[0, :8].tolist()], cached) for cached in (True, False)]
    yield Check("ids written with a cache, of those without", differing(*written), 0)
    beside = texts(model, [row[:8].tolist() for row in ids], True)
    yield Check("ids written beside other texts, of those alone", differing(beside[:1], written[0]), 0)
    on_disk = [b"".join(serialize(each.weights())) for each in (model, reference)]
    yield Check("bytes of a checkpoint, of the CPU's", on_disk[0] != on_disk[1], 0)
    if compile:
        yield compiled_check(model, ids, gradient)
    yield Check(f"weights after {STEPS} steps in bf16, of the same again", repeated_error(config, model, ids), None)


def perturbed(config: Config) -> GPT:
    """A model in which everything matters: as initialised, some branches add nothing."""
    model, generator = GPT(config.model), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def loss_and_gradient(model: GPT, ids: Tensor, precision: str, device: str) -> tuple[float, Tensor]:
    """The mean loss over `ids`, and all gradients one after the other, in fp64 on the CPU."""
    model.train()
    with Precision(precision, device).autocast():
        loss, count = model(ids[:, :-1].to(device), targets=ids[:, 1:].to(device))
    (loss / count).backward()
    gradient = torch.cat([p.grad.double().cpu().flatten() for p in model.parameters() if p.grad is not None])
    return loss.item() / int(count), gradient


def distance(x: Tensor, exact: Tensor) -> float:
    """|x - exact| / |exact|."""
    return ((x - exact).norm() / exact.norm()).item()


def compiled_check(model: GPT, ids: Tensor, gradient: Tensor) -> Check:
    """The gradient of the compiled model; where there is none, why."""
    compiled, name = copy.deepcopy(model), "gradient compiled, of fp64 on the CPU"
    compiled.compile()
    try:
        return Check(name, distance(loss_and_gradient(compiled, ids, "fp32", model.device.type)[1], gradient), 1e-4)
    except Exception as error:  # whatever a compiler, or the lack of one, may raise
        return Check(f"{name}: {type(error).__name__}: {error}".splitlines()[0][:200], math.inf, 1e-4)


@torch.no_grad()
def packed_error(model: GPT, ids: Tensor, documents: int) -> float:
    """How far the logits of rows that hold `documents` are from those of each by itself."""
    (B, T), length = ids.shape, ids.size(1) // documents
    ids = ids.to(model.device)
    positions = torch.arange(T, device=model.device).expand(B, T)
    packed = model.eval()(ids, segments=positions // length, positions=positions % length)
    alone = model(ids.view(B * documents, length))
    assert isinstance(packed, Tensor)
    assert isinstance(alone, Tensor)
    return distance(packed.double().view_as(alone), alone.double())


def step_error(config: Config, reference: GPT, model: GPT, ids: Tensor) -> float:
    """How far one step of the optimizer is from the CPU's, by the same gradient."""
    moved = []
    of_reference = copy.deepcopy(reference)
    loss_and_gradient(of_reference, ids, "fp32", "cpu")
    of_device = copy.deepcopy(model)
    for twin, parameter in zip(of_device.parameters(), of_reference.parameters(), strict=True):
        twin.grad = None if parameter.grad is None else parameter.grad.to(twin.device)
    for start, each in ((reference, of_reference), (model, of_device)):
        Optimizers(each, config.train).step()
        pairs = zip(each.parameters(), start.parameters(), strict=True)
        moved.append(
            torch.cat([(after.detach() - before.detach()).double().cpu().flatten() for after, before in pairs])
        )
    return distance(moved[1], moved[0])


def texts(model: GPT, prompts: Sequence[list[int]], cached: bool) -> list[list[int]]:
    """What is written after `prompts`, greedily, none of which ends early."""
    decoder = Decoder(model.eval(), made_up_tokenizer(SIZES["vocab_size"]), use_cache=cached)
    decoder.stop_ids = frozenset()
    settings = resolve({"generate": {"temperature": 0.0, "max_new_tokens": TOKENS, "repetition_penalty": 1.0}}).generate
    rows = [decoder.row(prompt, settings) for prompt in prompts]
    for _ in decoder.decode_loop(rows, settings):
        pass
    return [row.added for row in rows]


def differing(texts: Sequence[list[int]], others: Sequence[list[int]]) -> int:
    pairs = zip(texts, others, strict=True)
    return sum(a != b for text, other in pairs for a, b in zip(text, other, strict=True))


def repeated_error(config: Config, model: GPT, ids: Tensor) -> float:
    """How far the same steps end apart when they are made twice; 0 is bit for bit."""
    ends = []
    for _ in range(2):
        trained = copy.deepcopy(model).train()
        precision = Precision("bf16", model.device.type)
        optimizers = Optimizers(trained, config.train, precision.dtype)
        batch = Batch(ids[:, :-1], ids[:, 1:], None, None, 0)
        for step in range(STEPS):
            compute_gradients(trained, [batch], precision, 0, step)
            update(trained, optimizers, precision, config.train.grad_clip)
        ends.append(torch.cat([p.detach().double().cpu().flatten() for p in trained.parameters()]))
    return distance(ends[1], ends[0])
