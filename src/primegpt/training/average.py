"""A running average of the weights while they learn: what is judged, sampled and used, where a run asks for one.

    average += (weights - average) * min(1, (1 / share - 1) / step)

so that what is in it is on average `share` of the steps so far old, however many there will be: each step counts by a
power of its number (Karras et al. 2024, arXiv:2312.02696). At a high rate, weights jump around a better place than
any that they are at; their average is what a rate that falls to nothing would come to, at any step.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from primegpt.model.gpt import GPT
from primegpt.parallel.world import like, local, release


class Average:
    """The average of `model`'s weights, on average `share` of the steps so far old; with a share of 0 there is none."""

    def __init__(self, model: GPT, share: float) -> None:
        self.model, self.share = model, share
        self.weights = {name: weight.clone() for name, weight in model.weights().items()} if share else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights as they are after `step` steps."""
        if self.share:
            now = self.model.weights()
            ours, theirs = zip(
                *((local(average), local(now[name])) for name, average in self.weights.items()), strict=True
            )
            torch._foreach_lerp_(ours, theirs, min(1.0, (1 / self.share - 1) / step))

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint has by its files' names: `model` is for everyone else, `learning` what goes on learning."""
        return {"model": self.weights, "learning": self.model.weights()} if self.share else {}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put the model and its average where those of a checkpoint were."""
        own = self.model.weights()
        stems = {"model", "learning"} & tensors.keys()
        spread = {stem: {n: like(w, own.get(n, w)) for n, w in tensors[stem].items()} for stem in stems}
        self.model.load_weights(spread.get("learning", spread["model"]))
        for name, weight in self.weights.items():
            weight.copy_(spread["model"][name])

    @contextmanager
    def in_use(self) -> Generator[None]:
        """Inside, the model has the averaged weights, if there are any; afterwards its own, to the bit."""
        if not self.share:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        """Each of the model's weights and its average in the other's place: no third copy of them all."""
        if any(local(weight) is not weight for weight in self.weights.values()):
            release(self.model)  # a forward pass alone leaves weights gathered, which are not this rank's own
        for name, weight in self.model.weights().items():
            mine, averaged = local(weight), local(self.weights[name])
            kept = mine.clone()
            mine.copy_(averaged)
            averaged.copy_(kept)
