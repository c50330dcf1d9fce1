"""Signs that a model learns to be rewarded rather than to be good, or that it learns nothing: each is told once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import mean

import torch
from torch import Tensor

Figures = Mapping[str, float]

LOOKED_AT = 10  # rollouts in a row
NO_SPREAD = 0.9  # of the groups, whose completions all have one reward
CUT = 0.5  # of the completions, more than at the beginning
LONGER = 3.0  # times as long as at the beginning
FAR = 0.5  # nats a token from the model that it began with


class Collapse:
    """Hears the mean figures of the rollout of each step; a warning to `say` for each sign, once.

    What it has heard is part of a checkpoint: where a run goes on, the beginning is still that of the run.
    """

    def __init__(self, say: Callable[[str], None] = lambda warning: None) -> None:
        self.say = say
        self.heard: deque[tuple[int, Figures]] = deque(maxlen=LOOKED_AT)
        self.first: Figures = {}
        self.told = set[str]()

    def __call__(self, step: int, figures: Figures) -> None:
        while self.heard and self.heard[-1][0] >= step:  # written again, after an interruption
            self.heard.pop()
        self.heard.append((step, figures))
        if len(self.heard) < LOOKED_AT:
            return
        now = {name: mean(each[name] for _, each in self.heard) for name in figures}
        self.first = self.first or now
        for sign, warning in self.signs(now):
            if sign not in self.told:
                self.told.add(sign)
                self.say(f"warning: {warning}")

    def state(self) -> dict[str, Tensor]:
        if not self.heard:
            return {}
        told = {f"told.{sign}": torch.ones(1) for sign in self.told}
        heard = {f"heard.{name}": as_tensor(each[name] for _, each in self.heard) for name in self.heard[-1][1]}
        first = {f"first.{name}": as_tensor([value]) for name, value in self.first.items()}
        return {"steps": torch.tensor([step for step, _ in self.heard]), **heard, **first, **told}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        def named(kind: str) -> dict[str, list[float]]:
            return {name.removeprefix(kind): value.tolist() for name, value in state.items() if name.startswith(kind)}

        heard = named("heard.")
        rows = [dict(zip(heard, values, strict=True)) for values in zip(*heard.values(), strict=True)]
        self.heard.extend(zip(state["steps"].tolist(), rows, strict=True))
        self.first = {name: value for name, (value,) in named("first.").items()}
        self.told = set(named("told."))

    def signs(self, now: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """What is wrong with the mean figures of the last rollouts, and what to do about it."""
        last, share = f"in the last {LOOKED_AT} rollouts", now["frac_reward_zero_std"]
        if share >= NO_SPREAD:
            yield (
                "spread",
                f"{share:.0%} of the groups {last} have one reward for all completions, and teach nothing: take "
                "a reward with degrees, easier or harder prompts, a higher reinforce.temperature, or more "
                "reinforce.num_generations",
            )
        cut, length = "completions/clipped_ratio", "completions/mean_length"
        if now[cut] - self.first[cut] >= CUT or now[length] >= LONGER * self.first[length]:
            yield (
                "length",
                f"completions are {now[length]:.0f} tokens long {last}, {self.first[length]:.0f} at the beginning, and "
                f"{now[cut]:.0%} are cut: the reward may pay for length; add length:WORDS to it, or set "
                "--reinforce.mask-truncated-completions",
            )
        if now.get("kl", 0.0) >= FAR:
            yield (
                "kl",
                f"the model is {now['kl']:.2f} nats a token away from the one it began with: raise reinforce.beta, or "
                "lower train.learning_rate",
            )


def as_tensor(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)
