"""Signs that a model learns to be rewarded rather than to be good, or that it learns nothing: each is told once."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from statistics import mean

LOOKED_AT = 10  # rollouts in a row
NO_SPREAD = 0.9  # of the groups, whose completions all have one reward
CUT = 0.5  # of the completions, more than at the beginning
LONGER = 3.0  # times as long as at the beginning
FAR = 0.5  # nats a token from the model that it began with


class Collapse:
    """Hears the mean figures of each rollout; a warning to `say` for each sign, once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.heard: deque[Mapping[str, float]] = deque(maxlen=LOOKED_AT)
        self.first: dict[str, float] = {}
        self.told = set[str]()

    def __call__(self, figures: Mapping[str, float]) -> None:
        self.heard.append(figures)
        if len(self.heard) < LOOKED_AT:
            return
        now = {name: mean(each[name] for each in self.heard) for name in figures}
        self.first = self.first or now
        for sign, warning in self.signs(now):
            if sign not in self.told:
                self.told.add(sign)
                self.say(f"warning: {warning}")

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
