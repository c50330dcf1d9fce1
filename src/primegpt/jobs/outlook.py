"""What a plan would be for a text, budget by budget, here or on GPUs that are not here: a forecast by the law."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primegpt.config import TrainConfig
from primegpt.device import choose_device
from primegpt.errors import ConfigError, nearest
from primegpt.jobs.configuring import rate_for
from primegpt.model.size import human_bytes, human_count
from primegpt.planning import passes
from primegpt.planning.forecast import GPUS
from primegpt.planning.law import STATED_RATES, Network, tokens_in
from primegpt.planning.recipe import CHARACTERS, distinct_tokens, network_for, tokenizer_for

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


def outlook(source: str | Path, gpus: int | None = None, kind: str = "h100") -> list[Outlook]:
    """The plans for a text: of this machine, or of `gpus` GPUs of a `kind`. Raises ConfigError for a kind not known."""
    if gpus and kind not in GPUS:
        raise ConfigError(f"--gpu {kind!r} is not known", nearest(kind, GPUS))
    device = "cuda" if gpus else choose_device("auto")
    # Products reach a part of the rate that a maker states.
    stated = STATED_RATES["cuda"] * GPUS[kind].flops / GPUS["h100"].flops
    rate = gpus * stated if gpus else rate_for(TrainConfig(), device, counted=False)
    size = Path(source).stat().st_size
    tokenizer = tokenizer_for(size)
    vocab_size, distinct = tokenizer.get("vocab_size", CHARACTERS), distinct_tokens(size, tokenizer)
    found = []
    for minutes in BUDGETS:
        network = network_for(size, tokenizer, 60 * minutes, rate, device)
        tokens = min(passes.MOST * distinct, tokens_in(network, 60 * minutes, rate, device, vocab_size))
        found.append(Outlook(minutes, network, network.parameters(vocab_size), tokens, tokens / distinct))
    return found


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
            f"{human_count(float(f'{plan.tokens:.2g}')):>8} {plan.passes:>6.2g}"
        )
    size = human_bytes(Path(source).stat().st_size)
    return "\n".join([*lines, f"{source}, {size}, on {where}: a forecast by the law of docs/planning.md"])
