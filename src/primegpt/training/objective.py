"""What a step minimises. A new one is a class here and its choice in `objective_for`; see CONTRIBUTING.md."""

from typing import Protocol

from torch import Tensor

from primegpt.config import Config
from primegpt.data.batching.batches import Batch
from primegpt.evaluation.perplexity import Figures, cross_entropy
from primegpt.model.gpt import GPT


class Objective(Protocol):
    """The loss of a step is Σ loss / Σ count, both over all micro-batches of all ranks.

    Rows are taken one by one: where memory runs out, a micro-batch is divided down to a single row.
    """

    is_likelihood: bool
    """Whether it is -log p of supervised targets, and so has a perplexity."""

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

    def count(self, batch: Batch) -> int:
        return batch.supervised

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, Tensor, Figures]:
        return cross_entropy(model, batch)


CROSS_ENTROPY = CrossEntropy()


def objective_for(config: Config) -> Objective:
    """What a run of `config` minimises."""
    return CROSS_ENTROPY
