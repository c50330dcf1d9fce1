"""How far a run is, and what follows from that alone: what is due, the learning rate, the last step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from primegpt.config import TrainConfig
from primegpt.training.early_stopping import EarlyStopping
from primegpt.training.schedule import Stretch, after_warmup, learning_rate_factor, progress

PACE_TOLERANCE = 0.05  # of the steps left: below this the plan stands


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
    loss_sum: float = 0.0
    """Summed loss since the last line of metrics.jsonl ..."""
    loss_tokens: int = 0
    """... over so many targets."""
    skipped_updates: int = 0
    """Steps whose fp16 gradients overflowed."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """What happened to the plan: out-of-memory back-offs, a schedule fitted to its deadline."""
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    @classmethod
    def saved(cls, values: Mapping[str, Any]) -> "TrainState":
        """The state whose `asdict` is `values`."""
        state = cls(**values)
        state.early_stopping = EarlyStopping(**values["early_stopping"])
        return state

    @property
    def finished(self) -> bool:
        return self.step >= self.max_steps or self.early_stopping.should_stop

    def due(self, interval: int | None) -> bool:
        """Whether what happens every `interval` steps, and at the end, happens now."""
        return interval is not None and (self.step % interval == 0 or self.finished)

    @property
    def stretches(self) -> list[Stretch]:
        events = (event for event in self.events if "max_steps" in event)
        return [Stretch(event["step"], event["max_steps"], event.get("anew", False)) for event in events]

    def learning_rate_factor(self, train: TrainConfig) -> float:
        """The share of each peak learning rate for the next update."""
        begun = max((stretch.step for stretch in self.stretches if stretch.anew), default=0)
        steps = self.step, begun + train.warmup_steps
        done = after_warmup(*(progress(step, train.max_steps or 1, self.stretches) for step in steps))
        falls_to_zero = train.schedule in ("linear", "wsd")
        floor = (0.0 if falls_to_zero else 0.1) if train.min_lr is None else train.min_lr / train.learning_rate
        return learning_rate_factor(self.step - begun, done, train.schedule, train.warmup_steps, floor)

    def deadline(self, planned: float) -> float:
        """Seconds of training, over all sessions, after which it should be over; 0 when the budget is not of time."""
        ends = [event["training_seconds"] for event in self.events if "training_seconds" in event]
        return ends[-1] if ends else planned

    def meet_deadline(self, deadline: float, step_seconds: float) -> None:
        """Fit the rest of the schedule to the time that is left, where `step_seconds` are not as planned.

        A machine's speed changes while it trains (other programs, heat). The run then ends later or earlier in steps,
        but on time and with its learning rate all the way down.
        """
        affordable = self.step + max(1, int((deadline - self.seconds) / step_seconds))
        if abs(affordable - self.max_steps) > PACE_TOLERANCE * (self.max_steps - self.step) + 1:
            self.events.append({"step": self.step, "max_steps": affordable})
            self.max_steps = affordable

    def extend(self, max_steps: int, seconds: float | None = None) -> None:
        """Go on to step `max_steps`, in `seconds` of training if that is the budget; the schedule is planned anew.

        Where it was over already, it begins again from its peak; else what is left of it is stretched.
        """
        event = {"step": self.step, "max_steps": max_steps, "anew": self.finished}
        self.events.append(event | {"training_seconds": self.seconds + seconds if seconds else 0.0})
        self.max_steps, self.early_stopping.waited = max_steps, 0
