"""Objectives of pairs of answers: to prefer the chosen answer y₊ to the rejected one y₋, each to the prompt x.

    h = r(y₊) - r(y₋)                                   by how much the model's own reward r prefers y₊
    DPO     r = β log π(y|x) / π₀(y|x)                  -log σ(h)                Rafailov et al. 2023, arXiv:2305.18290
    IPO     r as in DPO, but a mean over tokens         (h / β - 1 / 2β)²        Azar et al. 2023, arXiv:2310.12036
    SimPO   r = β / |y| log π(y|x)                      -log σ(h - γ)            Meng et al. 2024, arXiv:2405.14734

π is the model that learns, π₀ the one it began as, whose log-probabilities reference.py keeps. Smoothing ε takes each
pair to be the wrong way round with that probability. As both answers may become unlikely while h grows, `sft_weight`
times -log π(y₊|x) / |y₊| may be added (Pang et al. 2024, arXiv:2404.19733). The figures have TRL's names, and are what
TRL's trainers log.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from primegpt.config import TrainConfig
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.evaluation.perplexity import Figures
from primegpt.model.gpt import GPT

ACCURACY = "rewards/accuracies"  # the share of pairs whose chosen answer has the higher reward


class Answers(NamedTuple):
    """One answer of each pair; (B,) each."""

    logps: Tensor
    """log π(y|x), summed over the answer's tokens."""
    tokens: Tensor
    """|y|, its tokens."""
    reference: Tensor
    """log π₀(y|x)."""

    @property
    def log_ratio(self) -> Tensor:
        return self.logps - self.reference

    def of(self, rows: Tensor) -> "Answers":
        return Answers(*(values[rows] for values in self))


class Preference(ABC):
    """The loss of a pair, and what its two answers are worth to the model. A batch counts its pairs."""

    is_likelihood = False
    unit = "pair"
    has_reference = True

    def __init__(self, train: TrainConfig) -> None:
        self.beta, self.smoothing, self.gamma = train.beta, train.label_smoothing, train.simpo_gamma
        self.sft_weight = train.sft_weight

    @abstractmethod
    def reward(self, answers: Answers) -> Tensor:
        """What the model thinks of answers, (B,)."""

    @abstractmethod
    def loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        """The loss of each pair, (B,)."""

    def logps(self, answers: Answers) -> Tensor:
        """The log-probabilities that are shown, (B,)."""
        return answers.logps

    def count(self, batch: Batch) -> int:
        return int(is_asked(batch).sum())

    def __call__(self, model: GPT, batch: Batch) -> tuple[Tensor, int, Figures]:
        pairs = is_asked(batch)
        chosen, rejected = (answers.of(pairs) for answers in answers_of(model, batch))
        count, losses = int(pairs.sum()), self.loss(chosen, rejected)
        if self.sft_weight:
            losses = losses - self.sft_weight * chosen.logps / chosen.tokens
        with torch.no_grad():
            plus, minus = self.reward(chosen), self.reward(rejected)
            figures = {
                "rewards/chosen": plus,
                "rewards/rejected": minus,
                ACCURACY: (plus > minus).float(),
                "rewards/margins": plus - minus,
                "logps/chosen": self.logps(chosen),
                "logps/rejected": self.logps(rejected),
            }
        return losses.sum(), count, {name: (values.sum().detach(), count) for name, values in figures.items()}

    def surprise(self, margin: Tensor) -> Tensor:
        """-log σ(margin), or with smoothing the mean of that and its opposite; (B,)."""
        return -(1 - self.smoothing) * F.logsigmoid(margin) - self.smoothing * F.logsigmoid(-margin)


class DPO(Preference):
    """Direct preference optimisation: the likelihood of the preference under rewards against the reference."""

    def reward(self, answers: Answers) -> Tensor:
        return self.beta * answers.log_ratio

    def loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return self.surprise(self.reward(chosen) - self.reward(rejected))


class IPO(DPO):
    """Identity preference optimisation: a margin is aimed at, and not to be exceeded.

    The margin is of means over tokens, as the authors confirmed to TRL; rewards are shown as DPO has them.
    """

    def loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        margin = chosen.log_ratio / chosen.tokens - rejected.log_ratio / rejected.tokens
        return (margin - 1 / (2 * self.beta)) ** 2


class SimPO(Preference):
    """Simple preference optimisation: no reference, and long answers are worth no more than short ones."""

    has_reference = False

    def logps(self, answers: Answers) -> Tensor:
        return answers.logps / answers.tokens

    def reward(self, answers: Answers) -> Tensor:
        return self.beta * self.logps(answers)

    def loss(self, chosen: Answers, rejected: Answers) -> Tensor:
        return self.surprise(self.reward(chosen) - self.reward(rejected) - self.gamma)


OBJECTIVES: dict[str, type[Preference]] = {"dpo": DPO, "ipo": IPO, "simpo": SimPO}


def has_reference(train: TrainConfig) -> bool:
    """Whether what is minimised compares the model with the one that it began as."""
    return train.objective in OBJECTIVES and OBJECTIVES[train.objective].has_reference


def is_asked(batch: Batch) -> Tensor:
    """Which rows are pairs to learn from, (B,): all but what fills a step up."""
    return (batch.targets != IGNORED).any(1)


def answers_of(model: GPT, batch: Batch) -> tuple[Answers, Answers]:
    """The chosen and the rejected answers of a batch, in one forward pass."""
    extras = batch.extras
    ids = torch.cat([batch.ids, extras["rejected_ids"]])  # (2B, T)
    targets = torch.cat([batch.targets, extras["rejected_targets"]])
    logps = model(ids, targets=targets, logprobs=True).sum(1)  # (2B,)
    tokens = (targets != IGNORED).sum(1)
    reference = torch.cat([extras["reference_chosen"], extras["reference_rejected"]])
    chosen, rejected = (
        Answers(*values) for values in zip(*(each.chunk(2) for each in (logps, tokens, reference)), strict=True)
    )
    return chosen, rejected
