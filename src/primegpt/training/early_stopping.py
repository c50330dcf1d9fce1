"""Remember the best evaluation, and say when to stop waiting for a better one."""

from dataclasses import dataclass


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
