"""What a step minimises. A new one is a class here and its choice in `objective_for`; see CONTRIBUTING.md."""

from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor

from primegpt.config import Config
from primegpt.data.batching.batches import Batch
from primegpt.evaluation.perplexity import Figures, cross_entropy
from primegpt.extend import ExtensionError, find, place_of, told
from primegpt.model.gpt import GPT
from primegpt.training.preference import OBJECTIVES


class Objective(Protocol):
    """The loss of a step is Σ loss / Σ count, both over all micro-batches of all ranks.

    Rows are taken one by one: where memory runs out, a micro-batch is divided down to a single row.
    """

    is_likelihood: bool
    """Whether it is -log p of supervised targets, and so has a perplexity."""
    unit: str
    """What `count` counts, in the singular; "" for targets."""

    def count(self, batch: Batch) -> int:
        """How many tokens, pairs or completions of `batch` the loss is a sum of; 0 if no target is supervised.

        It is asked before the first forward pass, so that how a step is divided changes nothing but rounding.
        """
        ...

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, Tensor | int, Figures]:
        """The summed loss of a micro-batch, a scalar; what `count` says; and figures, under the names the field has.

        Evaluations call it too, with `model.training` False. Figures carry no gradient, and are the same ones on all
        ranks; the first two are shown while it trains.
        """
        ...


class CrossEntropy:
    """The next token: -log p of every supervised target."""

    is_likelihood = True
    unit = ""

    def count(self, batch: Batch) -> int:
        return batch.supervised

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, Tensor, Figures]:
        return cross_entropy(model, batch)


class OfExtension:
    """A function of model and batch, or a class with such a `__call__`, of an extension.

    What it gives is the summed loss of a batch's supervised targets, or that and summed figures by name. A class may
    say more of an Objective: `is_likelihood`, for what is -log p in evaluations, `count` and its `unit`.
    """

    def __init__(self, config: Config) -> None:
        name, sha256 = config.train.objective, config.model.extension
        self.place = place_of("objective", name, sha256)
        part = find("objective", name, sha256)
        with told(place=self.place):
            self.part: Any = part(config.train) if isinstance(part, type) else part
            signature(self.part).bind("model", "batch")
        self.is_likelihood = bool(getattr(self.part, "is_likelihood", False))
        self.unit = str(getattr(self.part, "unit", ""))

    def count(self, batch: Batch) -> int:
        return self.part.count(batch) if hasattr(self.part, "count") else batch.supervised

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, int, Figures]:
        given = self.part(model, batch)
        loss, figures = given if isinstance(given, tuple) else (given, {})
        if not isinstance(loss, Tensor) or loss.dim():
            shown = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            what = f"{self.place} gave a loss of {shown}"
            raise ExtensionError(what, "give the sum over all targets, a scalar tensor")
        count = self.count(batch)
        return loss, count, {name: (torch.as_tensor(total).detach(), count) for name, total in figures.items()}


CROSS_ENTROPY = CrossEntropy()


def objective_for(config: Config) -> Objective:
    """What a run of `config` minimises."""
    if config.train.objective == "cross_entropy":
        return CROSS_ENTROPY
    if config.train.objective in OBJECTIVES:
        return OBJECTIVES[config.train.objective](config.train)
    return OfExtension(config)
