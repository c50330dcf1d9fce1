"""What this machine can do: devices, number formats, threads, memory, and whether one training step works."""

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from primegpt import __version__
from primegpt.config import resolve
from primegpt.data.preparing.corpus import cache_folder
from primegpt.device import available_cores, choose_device, choose_precision, matmul_rate
from primegpt.model.gpt import GPT
from primegpt.model.size import human_bytes
from primegpt.planning.rate import training_rate
from primegpt.training.optimizers import Optimizers
from primegpt.training.step import DTYPES, Precision


@dataclass(frozen=True)
class Finding:
    """One line of the report; `ok` is None for a mere fact."""

    name: str
    value: str
    ok: bool | None = None


def examine() -> list[Finding]:
    """Look at the machine; takes a few seconds and writes nothing."""
    torch.set_num_threads(available_cores())
    device = choose_device("auto")
    precision = choose_precision("auto", device)
    rates = {name: matmul_rate(device, dtype) for name, dtype in DTYPES.items() if name != "fp16" or device != "cpu"}
    findings = [
        Finding("primegpt", f"{__version__}, Python {platform.python_version()}, torch {torch.__version__}"),
        Finding("system", f"{platform.system()} {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"),
        Finding("device", device_name(device)),
        Finding("threads", str(torch.get_num_threads())),
        Finding("memory", memory()),
        Finding("matrix products", ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())),
        Finding("precision", f"{precision} (what --train.precision auto takes)"),
        Finding("training", f"{training_rate(device, precision) / 1e9:,.0f} GFLOP/s (what plans go by)"),
        Finding("compiler", compiler()),
    ]
    return [*findings, one_step(device, precision), cache()]


def device_name(device: str) -> str:
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        return f"cuda: {torch.cuda.get_device_name(0)}, {human_bytes(total)}, {torch.cuda.device_count()} in all"
    return device if device == "cpu" else f"{device} (unverified: never measured by the authors)"


def memory() -> str:
    """Memory of the machine, where the system tells."""
    try:
        import os

        pages, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
        size = os.sysconf("SC_PAGE_SIZE")
        return f"{human_bytes(pages * size)}, {human_bytes(free * size)} free"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def compiler() -> str:
    """torch.compile needs a C++ compiler on the CPU."""
    found = next((name for name in ("c++", "g++", "clang++", "cl") if shutil.which(name)), None)
    return f"{found} (torch.compile can be used)" if found else "none (torch.compile on the CPU needs one)"


def one_step(device: str, precision: str) -> Finding:
    """Ten steps of a tiny model on a repeated sequence: the loss must fall."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 64}
    config = resolve({"model": sizes, "train": {"learning_rate": 1e-2}})
    model, numbers = GPT(config.model).to(device), Precision(precision, device)
    optimizers = Optimizers(model, config.train)
    ids = torch.arange(33, device=device).repeat(4, 1) % 7  # (4, 33)
    losses = []
    for _ in range(10):
        with numbers.autocast():
            loss, count = model(ids[:, :-1], targets=ids[:, 1:])
        (loss / count).backward()
        optimizers.step()
        optimizers.zero_grad()
        losses.append(loss.item() / int(count))
    fell = losses[-1] < 0.8 * losses[0]
    return Finding("training steps", f"loss {losses[0]:.2f} → {losses[-1]:.2f} in {precision} on {device}", fell)


def cache() -> Finding:
    """Where tokenized text is kept, and the room there."""
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    free = shutil.disk_usage(existing).free
    return Finding("cache", f"{folder}, {human_bytes(size)} used, {human_bytes(free)} free", free > 1e9)
