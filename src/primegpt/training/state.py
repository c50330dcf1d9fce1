"""How far a run is, and what follows from that alone: what is due, the learning rate, the last step, an early one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from primegpt.config import TrainConfig
from primegpt.training.schedule import Stretch, after_warmup, learning_rate_factor, progress

if TYPE_CHECKING:
    from primegpt.evaluation.perplexity import Figures  # which imports torch

INTERVALS = "eval_interval", "sample_interval", "checkpoint_interval", "log_interval"
TOLERANCE = 0.05  # of the steps left: below this a plan stands


@dataclass
class EarlyStopping:
    """`patience` evaluations without a better loss end the run; None never does."""

    patience: int | None = None
    best_loss: float | None = None
    best_step: int | None = None
    waited: int = 0

    def update(self, step: int, loss: float) -> bool:
        """Take in one evaluation; True when it is the best so far."""
        better = self.best_loss is None or loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.waited = loss, step, 0
        else:
            self.waited += 1
        return better

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.waited >= self.patience


@dataclass
class TrainState:
    """All that changes while training, model and optimizers aside; saved in every checkpoint's state.json."""

    step: int = 0
    """Completed optimizer steps."""
    max_steps: int = 0
    """Steps in all, as things stand."""
    tokens: int = 0
    """Supervised targets seen."""
    seconds: float = 0.0
    """Time spent, over all sessions."""
    seconds_before: float = 0.0
    """Of which before the first step: a schedule does not begin with an evaluation."""
    loss_sum: float = 0.0
    """Summed loss since the last line of metrics.jsonl ..."""
    loss_tokens: int = 0
    """... over so many targets, or whatever else the objective counts."""
    figures: "Figures" = field(default_factory=dict)
    """What else the objective has measured since then."""
    skipped_updates: int = 0
    """Steps whose fp16 gradients overflowed."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What happened to the plan: smaller micro-batches, a schedule fitted to its deadline, an extension."""
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    @classmethod
    def saved(cls, values: Mapping[str, Any]) -> "TrainState":
        """The state whose `as_json` is `values`."""
        state = cls(**values)
        state.early_stopping = EarlyStopping(**values["early_stopping"])
        state.figures = {name: (total, count) for name, (total, count) in state.figures.items()}
        return state

    def as_json(self) -> dict[str, Any]:
        """What state.json holds: figures only where there are some, which earlier versions do not know."""
        values = asdict(self)
        figures = {name: list(figure) for name, figure in values.pop("figures").items()}
        return values | ({"figures": figures} if figures else {})

    @property
    def finished(self) -> bool:
        return self.step >= self.max_steps or self.early_stopping.should_stop

    @property
    def is_extended(self) -> bool:
        """Whether the run was given more to do than was planned before its first step."""
        return any("anew" in event for event in self.events)

    def due(self, interval: int | None) -> bool:
        """Whether what happens every `interval` steps, and at the end, happens now."""
        return interval is not None and (self.step % interval == 0 or self.finished)

    def interval(self, name: str, planned: int | None) -> int | None:
        """The steps between evaluations and the like, as the present plan has them."""
        return next((event[name] for event in reversed(self.events) if name in event), planned)

    def asked_for(self, name: str) -> bool:
        """Whether an interval was asked for in a later session than the first."""
        return any(name in event for event in self.events if "asked" in event)

    def still_due(self, interval: int | None) -> int:
        """How often that will be, as things stand."""
        last, now = max(self.step, self.max_steps), self.step
        return last // interval - now // interval + bool(last % interval) if interval else 0

    @property
    def stretches(self) -> list[Stretch]:
        events = (event for event in self.events if "max_steps" in event)
        return [Stretch(e["step"], e["max_steps"], e.get("anew", False), e.get("done")) for e in events]

    def learning_rate_factor(self, train: TrainConfig, extension: str = "") -> float:
        """The share of each peak learning rate for the next update; `extension` is the hash of the run's, if any."""
        stretches = self.stretches
        begun = max((stretch.step for stretch in stretches if stretch.anew), default=0)
        warmup = train.warmup_steps
        if any(stretch.done is not None for stretch in stretches):  # fewer steps than were planned still cool down
            warmup = min(warmup, (self.max_steps - begun) // 2)
        steps = self.step, begun + warmup
        done = after_warmup(*(progress(step, train.max_steps or 1, stretches) for step in steps))
        unset = 0.1 if train.schedule == "cosine" else 0.0
        floor = unset if train.min_lr is None else train.min_lr / train.learning_rate
        return learning_rate_factor(self.step - begun, done, train.schedule, warmup, floor, extension)

    def deadline(self, planned: float) -> float:
        """Seconds of training, over all sessions, after which it should be over; 0 when the budget is not of time."""
        ends = [event["training_seconds"] for event in self.events if "training_seconds" in event]
        return ends[-1] if ends else planned

    def time_share(self, deadline: float) -> float:
        """How much of a schedule that ends at `deadline` is over by now: the share of its time that is spent."""
        extensions = [event for event in self.events if "training_seconds" in event]
        begun = extensions[-1] if extensions else {"seconds": self.seconds_before}
        before, done = begun.get("seconds", 0.0), begun.get("from", 0.0)
        return min(1.0, done + (1 - done) * max(0.0, self.seconds - before) / max(1e-9, deadline - before))

    def meet_deadline(self, deadline: float, steps: int) -> bool:
        """Fit the rest of the schedule to the `steps` that fit into the time left; whether it now does.

        A machine's speed changes while it trains (other programs, heat). The run then ends later or earlier in steps,
        but on time and with its learning rate all the way down. One measurement may be wrong: it takes away no more
        than half of the steps, unless the time is over.
        """
        left = self.max_steps - self.step
        least = 1 if self.seconds >= deadline else -(-left // 2)
        fitting = max(1, least, steps)
        if abs(fitting - left) > TOLERANCE * (left or self.step) + 1:
            self.events.append({"step": self.step, "max_steps": self.step + fitting, "done": self.time_share(deadline)})
            self.max_steps = self.step + fitting
        return fitting <= max(1, steps)

    def take_edits(self, before: Mapping[str, Any], now: TrainConfig) -> None:
        """What was edited in config.toml since the checkpoint, which has `before`, holds from this step on.

        The schedule so far stays that of a run of as many steps as there were to be.
        """
        self.early_stopping.patience = now.patience
        if before["max_steps"] != now.max_steps and (not self.stretches or self.stretches[0].step):
            self.events.insert(0, {"step": 0, "max_steps": before["max_steps"]})
        if edited := {name: getattr(now, name) for name in INTERVALS if getattr(now, name) != before.get(name)}:
            self.events.append({"step": self.step, "asked": True, **edited})

    def extend(self, train: TrainConfig, max_steps: int, seconds: float | None = None) -> None:
        """Go on to step `max_steps`, in `seconds` of training if that is the budget; the schedule is planned anew.

        Where it was over already, it begins again from its peak; else what is left of it is stretched.
        """
        anew, deadline = self.finished, self.seconds + seconds if seconds else 0.0
        done = 0.0 if anew else progress(self.step, train.max_steps or 1, self.stretches)
        event = {"step": self.step, "max_steps": max_steps, "anew": anew, "training_seconds": deadline}
        self.events.append(event | {"seconds": self.seconds, "from": done})
        self.max_steps, self.early_stopping.waited = max_steps, 0
