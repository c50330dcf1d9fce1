"""What a run tells: flat objects for metrics.jsonl, in the names that other tools expect, and to a person its plan
before the first step and what is to be known after the last. display.py has what is seen in between.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from primegpt.config import Config, PlanRecord
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import Mixture, training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.device import resident_memory
from primegpt.evaluation.perplexity import LossResult, means
from primegpt.model.size import human_bytes, human_count, human_seconds, lora_parameter_count, parameter_count
from primegpt.training.state import TrainState


def train_line(state: TrainState, *, lr: float, grad_norm: float, speed: "Speed", memory_mb: float) -> dict[str, Any]:
    """The record of the steps since the last one. Loss in nats per token, rates in tokens per second."""
    return {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "train/loss": state.loss_sum / state.loss_tokens,
        "lr": lr,
        "grad_norm": grad_norm,
        "tokens_per_sec": round(speed.tokens_per_second, 1),
        "mfu": round(speed.mfu, 4),
        "memory_mb": round(memory_mb, 1),
        **means(state.figures),
    }


def evaluation_line(
    state: TrainState, *, train: LossResult, val: LossResult, is_likelihood: bool = True
) -> dict[str, Any]:
    """The record of one evaluation on the fixed sets; what follows from -log p only of a likelihood.

    Where prompts are answered, there is no fixed set of training.
    """
    line = {
        "step": state.step,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        **({"train/eval_loss": train.loss} if train.targets else {}),
        "val/loss": val.loss,
    }
    if is_likelihood:
        line |= {"val/perplexity": val.perplexity, "val/bits_per_byte": val.bits_per_byte}
    return line | {f"val/{name}": value for name, value in means(val.figures).items()}


def is_finite(line: Mapping[str, Any]) -> bool:
    """Whether the losses of an evaluation are numbers."""
    return math.isfinite(line["val/loss"]) and math.isfinite(line.get("train/eval_loss", 0.0))


# Values that depend on the clock or the machine, and may differ between a run and its exact resumption.
TIMING_KEYS = frozenset({"seconds", "seconds_before", "tokens_per_sec", "mfu", "memory_mb"})


@dataclass
class Speed:
    """Throughput of the training steps alone (evaluation, samples and saving left out) since the last `reset`."""

    flops_per_token: float
    peak_flops: float
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + seconds

    def reset(self) -> None:
        self.tokens, self.seconds = 0, 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def mfu(self) -> float:
        """Share of the machine's measured matrix-product rate that the model's own arithmetic reaches."""
        return self.tokens_per_second * self.flops_per_token / self.peak_flops if self.peak_flops else 0.0


def memory_mb(device: str) -> float:
    """Memory in use, in MB: allocated on the GPU, or the process's largest resident size so far on the CPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    if peak := resident_memory("VmHWM"):
        return peak / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # in bytes on macOS


def plan_table(
    config: Config, corpus: Corpus, state: TrainState | None = None, batches: Batches | None = None
) -> list[tuple[str, str]]:
    """The plan in words, a row a choice, for printing; of a run in progress as its `state` and `batches` have it."""
    model, train, plan = config.model, config.train, config.plan
    parameters = parameter_count(model)
    batches = batches or training_batches(config, corpus)
    steps = state.max_steps if state else train.max_steps or 0
    total = steps * batches.tokens_per_step
    text = f"{human_bytes(corpus.train_bytes)} to train on, {human_bytes(corpus.val_bytes)} held out"
    kernels = f"{train.attention} attention{', compiled' if train.compile else ''}"
    rows = [
        ("text", f"{text}, {corpus.n_documents} document{'s' if corpus.n_documents > 1 else ''}"),
        *_shares(config, batches, steps),
        ("tokenizer", f"{corpus.tokenizer.kind}, {corpus.tokenizer.vocab_size:,} ids"),
        (
            "model",
            f"{model.preset}, {human_count(parameters)} parameters: {model.n_layer} layers, {model.n_embd} wide, "
            f"{model.n_head} heads, context {model.block_size}",
        ),
        *([("because", plan.why)] if plan.why else ()),
        (
            "data",
            f"{human_count(plan.train_tokens)} tokens, {plan.train_tokens / parameters:.1f} a parameter, "
            f"{batches.epoch(steps):.1f} epochs",
        ),
        (
            "steps",
            f"{steps:,} of {batches.tokens_per_step:,} tokens ({human_count(total)} in all), "
            f"{train.optimizer}, {train.schedule}{_as_it_stands(config, state)}",
        ),
        (
            "machine",
            f"{train.device}, {train.threads} thread{'s' * (train.threads != 1)}, {train.precision}, {kernels}",
        ),
        (
            "expected",
            f"{human_seconds(_still_expected(config, state))}, {plan.expected_memory_mb:,.0f} MB of memory",
        ),
    ]
    if plan.padding:
        rows.insert(-2, ("packing", _packing(plan)))
    if (split := batches.gradient_accumulation_steps) > 1:
        rows.insert(-2, ("micro-batch", f"{batches.batch_size} rows, {split} of them a step"))
    rows += [("warning", note) for note in plan.warnings] if state is None else []
    if config.lora.rank:
        learns = lora_parameter_count(config)
        share = f"{human_count(learns)} parameters learn, {100 * learns / (parameters + learns):.2g}% of all"
        rows.insert(3, ("lora", f"rank {config.lora.rank}: {share}"))
    return rows


def _packing(plan: PlanRecord) -> str:
    """How much of the batches is padding, without and with packing, and which it is."""
    alone, shared = f"{plan.padding:.0%} of batches is padding, one record a row", f"{plan.packed_padding:.0%} packed"
    return f"{alone}; {shared}" if plan.packed_lengths else f"none: {alone}; it would be {shared}"


def _as_it_stands(config: Config, state: TrainState | None) -> str:
    """How far a run in progress is, and what was planned before it began."""
    planned = config.train.max_steps or 0
    if not state:
        return ""
    return f"; {state.step:,} done" + (f", {planned:,} were planned" if planned != state.max_steps else "")


def _still_expected(config: Config, state: TrainState | None) -> float:
    """Seconds from now to the end."""
    plan = config.plan
    if not state:
        return plan.expected_seconds
    if (deadline := state.deadline(plan.training_seconds)) and not plan.most_steps:
        return max(0.0, deadline - state.seconds) + plan.closing_seconds
    pace = state.seconds / state.step if state.step else plan.step_seconds
    return max(0, state.max_steps - state.step) * pace + plan.closing_seconds


def _shares(config: Config, batches: Batches, steps: int) -> list[tuple[str, str]]:
    """What each source gives to a mixture, and how often it will have been seen."""
    mixture = batches.source
    if not isinstance(mixture, Mixture):
        return []
    epochs = mixture.epochs(steps * batches.examples_per_step)
    sources = zip(config.data.sources, mixture.shares, epochs, strict=True)
    return [("mixture", ", ".join(f"{share:.0%} {name} ({epochs:.1f} epochs)" for name, share, epochs in sources))]


def remarks_at_the_end(state: TrainState, *, rewarded: bool = False) -> Iterator[str]:
    """Why a run ends before its last step, where it does, and that `best` is the model before the first step."""
    stopping = state.early_stopping
    measure, never = ("reward of validation prompts", "rose above") if rewarded else ("validation loss", "fell below")
    if stopping.should_stop and state.step < state.max_steps and stopping.best_loss is not None:
        best = -stopping.best_loss if rewarded else stopping.best_loss
        yield (
            f"stopped early at step {state.step:,} of {state.max_steps:,} (train.patience): no {measure} "
            f"since step {stopping.best_step:,} was better than its {best:.4f}"
            + ("" if rewarded else "; this network has learnt what it can from the text: more text would use the time")
        )
    if stopping.best_step == 0 < state.step:
        yield (
            f"warning: the best checkpoint is step 0, since the {measure} never {never} that: train for "
            "longer, or at another --train.learning_rate, and see that what is held out is like the rest "
            "(--checkpoint last is the newest)"
        )
