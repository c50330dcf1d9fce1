"""What a plan would be for a text, budget by budget, here or on GPUs that are not here: a forecast by the law."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from primegpt.config import TokenizerConfig, TrainConfig
from primegpt.data.reading.formats import read_file, read_text, reader_of
from primegpt.data.reading.records import TEXT_FIELD, Reading
from primegpt.data.reading.sources import source_bytes
from primegpt.device import choose_device
from primegpt.errors import ConfigError, DataError, nearest
from primegpt.jobs.configuring import rate_for
from primegpt.model.size import human_bytes, human_count
from primegpt.planning import passes
from primegpt.planning.forecast import GPU, GPUS
from primegpt.planning.law import STATED_RATES, Network, tokens_in
from primegpt.planning.recipe import guessed, network_for, tokenizer_for

BUDGETS = (0.2, 0.5, 1, 2, 5, 10, 30, 60, 480)  # minutes


@dataclass(frozen=True)
class Outlook:
    """The plan of one budget."""

    minutes: float
    network: Network
    parameters: int
    tokens: float
    """That it learns from; no more than make `passes.MOST` passes."""
    passes: float

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "network": self.network._asdict()}


def outlook(source: str | Path, gpus: int | None = None, kind: str = "h100") -> list[Outlook]:
    """The plans for a text: of this machine, or of `gpus` GPUs of a `kind`. Raises ConfigError for a kind not known."""
    if gpus and kind not in GPUS:
        raise ConfigError(f"--gpu {kind!r} is not known", nearest(kind, GPUS))
    device = "cuda" if gpus else choose_device("auto")
    rate = rate_for(TrainConfig(), device, counted=False) if not gpus else gpus * _rate_of(GPUS[kind])
    size = text_bytes(source)
    facts = guessed(size, TokenizerConfig(**tokenizer_for(size)))
    found = []
    for minutes in BUDGETS:
        network = network_for(facts, 60 * minutes, rate, device)
        tokens = tokens_in(network, 60 * minutes, rate, device, facts.vocab_size)
        tokens = min(passes.MOST * facts.distinct, tokens)
        parameters = network.parameters(facts.vocab_size)
        found.append(Outlook(minutes, network, parameters, tokens, tokens / facts.distinct))
    return found


def _rate_of(gpu: GPU) -> float:
    """Of products, which reach a part of what a maker states."""
    return STATED_RATES["cuda"] * gpu.flops / GPUS["h100"].flops


def text_bytes(source: str | Path) -> int:
    """About how much text is in a file. Raises DataError for one that is empty or no text."""
    path = Path(source)
    field = TEXT_FIELD if reader_of(path) is read_text else None  # of records any field will do
    first = next(read_file(path, Reading(field)), None)
    if not first or not (first.text or first.fields):
        raise DataError(f"{source} is empty", "give a text")
    return source_bytes([str(source)], songs=1) or 0


def outlook_table(source: str | Path, plans: Sequence[Outlook], where: str) -> str:
    """`outlook` in words, a line a budget."""
    header = (
        f"{'minutes':>8} {'layers x width':>15} {'context, rows':>14} {'parameters':>11} {'tokens':>8} {'passes':>7}"
    )
    lines = [header]
    for plan in plans:
        network = plan.network
        lines.append(
            f"{plan.minutes:>8g} {f'{network.n_layer} x {network.n_embd}':>15} "
            f"{f'{network.block_size}, {network.batch_size}':>14} {human_count(plan.parameters):>11} "
            f"{human_count(float(f'{plan.tokens:.2g}')):>8} {plan.passes:>7.2g}"
        )
    size = human_bytes(text_bytes(source))
    return "\n".join([*lines, f"{source}, {size}, on {where}: a forecast by the law of docs/planning.md"])
