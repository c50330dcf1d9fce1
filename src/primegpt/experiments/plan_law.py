"""The law that a plan takes its network from (`planning.law`), fitted to runs on several texts at once.

analysis = "primegpt.experiments.plan_law:analysis"   arms are runs of several networks on several texts

Of all texts ALPHA, BETA and WORTH are one; each text has a floor E and a scale B of its own, and a ratio A / B that is
drawn towards the one of all. Residuals of the logarithm of the loss, by Huber's loss, as in `scaling_law`; minimised by
L-BFGS in float64 from several starts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from primegpt.errors import UsageError
from primegpt.experiments.analysis import Findings, Given
from primegpt.model.size import block_matrix_parameters
from primegpt.planning.law import PARAMETERS, TOKENS, worth

LEAST = 4, 2  # runs: as many as there are constants of all texts, and about as many as each text has of its own
FEWEST = 300_000  # tokens, 150 steps: shorter runs are mostly warm-up, and no law of sizes
NOISE = 0.01  # of a loss, relative, beyond which a residual counts linearly from HUBER times this on
HUBER = 2.0
STARTS = [(0.3, 0.4, 5.0), (0.6, 0.3, 15.0), (0.15, 0.7, 3.0)]
ALIKE = 0.5  # how far, in logarithms, the ratio A / B of a text may be from that of all
PRIOR = ((0.35, 0.7), (0.5, 0.7), (5.0, 1.0), (1.0, 1.0))  # ALPHA, BETA, WORTH, RATIO, each with a width in logarithms


@dataclass(frozen=True)
class Run:
    """What a run came to."""

    text: str
    in_blocks: int
    """Parameters of the network's blocks."""
    tokens: int
    """That it has learnt from."""
    distinct: int
    """Tokens of the text."""
    loss: float
    """Of held-out text, at the best moment of the run."""
    vocab_size: int = 0
    """With the context this is what a token costs; the law does not ask for it."""
    block_size: int = 0


@dataclass(frozen=True)
class PlanLaw:
    """The constants of `planning.law`, and what is a text's own: (E, A, B)."""

    alpha: float
    beta: float
    worth: float
    ratio: float
    texts: dict[str, tuple[float, float, float]]
    residuals: tuple[float, ...]
    """Of each run of FEWEST tokens or more, the measured loss over the fitted one, less 1."""

    @property
    def noise(self) -> float:
        """Root of the mean square of the residuals."""
        return math.sqrt(sum(each**2 for each in self.residuals) / len(self.residuals))

    def loss(self, run: Run) -> float:
        """What the law has for a run of one of its texts."""
        E, A, B = self.texts[run.text]
        taught = worth(run.tokens, run.distinct, self.worth)
        return E + A * (PARAMETERS / run.in_blocks) ** self.alpha + B * (TOKENS / taught) ** self.beta


def fit_plan_law(runs: Sequence[Run]) -> PlanLaw:
    """The law that is nearest to those of `runs` that have FEWEST tokens or more.

    Raises UsageError where they are too few, or have no loss.
    """
    runs = [run for run in runs if run.tokens >= FEWEST]
    names = list(dict.fromkeys(run.text for run in runs))
    least = LEAST[0] + LEAST[1] * len(names)
    if len(runs) < least or not all(math.isfinite(run.loss) and run.loss > 0 for run in runs):
        what = f"{len(runs)} runs of {len(names)} texts for the law of plans"
        raise UsageError(what, f"give {least} or more that have a loss and {FEWEST:,} tokens")
    problem = _Problem(runs, names)
    fitted = min((problem.minimised(start) for start in STARTS), key=lambda found: problem.objective(found).item())
    alpha, beta, worth, ratio = fitted[:4].exp().tolist()
    E, B, own = fitted[4:].view(3, len(names)).exp().tolist()
    texts = {name: (E[i], B[i] * own[i], B[i]) for i, name in enumerate(names)}
    law = PlanLaw(alpha, beta, worth, ratio, texts, ())
    residuals = tuple(run.loss / law.loss(run) - 1 for run in runs)
    return PlanLaw(alpha, beta, worth, ratio, texts, residuals)


class _Problem:
    """The law in logarithms: of the four constants, then of E, of B and of A / B of each text."""

    def __init__(self, runs: Sequence[Run], names: Sequence[str]) -> None:
        columns = [(run.in_blocks, run.tokens, run.distinct, run.loss) for run in runs]
        self.n, self.tokens, self.distinct, loss = torch.tensor(columns, dtype=torch.float64).T
        self.logs = loss.log()
        self.text = torch.tensor([names.index(run.text) for run in runs])
        self.least = torch.tensor([loss[self.text == i].min() for i in range(len(names))], dtype=torch.float64)
        self.centre, self.width = torch.tensor([(math.log(middle), width) for middle, width in PRIOR]).double().T

    def minimised(self, start: tuple[float, float, float]) -> Tensor:
        """The nearest minimum to what `start` has for ALPHA, BETA and WORTH."""
        constants = torch.tensor([*start, 1.0], dtype=torch.float64)
        own = torch.cat([0.6 * self.least, 0.2 * self.least, torch.ones_like(self.least)])
        point = torch.cat([constants, own]).log().requires_grad_()
        search = torch.optim.LBFGS([point], max_iter=5000, tolerance_grad=1e-9, tolerance_change=1e-13, history_size=50,
                                   line_search_fn="strong_wolfe")  # fmt: skip

        def closure() -> Tensor:
            search.zero_grad()
            objective = self.objective(point)
            objective.backward()
            return objective.detach()

        search.step(closure)
        return point.detach()

    def objective(self, point: Tensor) -> Tensor:
        """Huber's loss of the residuals, and what the priors say."""
        away = (point[:4] - self.centre) / self.width
        alike = (point[4:].view(3, -1)[2] - point[3]) / ALIKE
        residuals = (self.predicted(point) - self.logs) / NOISE
        huber = torch.nn.functional.huber_loss(residuals, torch.zeros_like(residuals), reduction="sum", delta=HUBER)
        return huber + away.square().sum() / 2 + alike.square().sum() / 2

    def predicted(self, point: Tensor) -> Tensor:
        """The logarithm of each run's loss."""
        alpha, beta, worth, _ = point[:4].exp()
        E, B, ratio = point[4:].exp().view(3, -1)[:, self.text]
        passes = self.tokens / self.distinct
        further = self.distinct * (1 + worth * -torch.expm1((1 - passes.clamp(min=1)) / worth))
        tokens = torch.where(passes > 1, further, self.tokens)
        return (E + B * (ratio * (PARAMETERS / self.n) ** alpha + (TOKENS / tokens) ** beta)).log()


def analysis(given: Given) -> Findings:
    """The law of all runs, with what it leaves over; the runs themselves are among the figures."""
    runs = [
        Run(
            text=Path(run.config.data.sources[0]).stem,
            in_blocks=block_matrix_parameters(run.config.model),
            tokens=run.tokens,
            distinct=run.config.plan.train_tokens,
            loss=loss,
            vocab_size=run.config.model.vocab_size,
            block_size=run.config.model.block_size,
        )
        for run in given.runs
        if (loss := run.values.get(given.measures[0])) is not None
    ]
    found = [asdict(run) for run in runs]
    try:
        law = fit_plan_law(runs)
    except UsageError as too_few:  # the runs are of use all the same, beside others
        return Findings(notes=[str(too_few)], figures={"runs": found})
    return Findings(tables=tables(law, runs), figures={"runs": found, "law": figures(law)})


def figures(law: PlanLaw) -> dict[str, Any]:
    """The fit as JSON."""
    return {**asdict(law), "noise": law.noise}


def tables(law: PlanLaw, runs: Sequence[Run]) -> list[list[tuple[str, ...]]]:
    """The constants, the texts, and each run beside the law."""
    constants = [("ALPHA", law.alpha), ("BETA", law.beta), ("WORTH", law.worth), ("RATIO", law.ratio)]
    return [
        [("constant", "value"), *((name, f"{value:.3g}") for name, value in constants)],
        [
            ("text", "E", "A", "B", "A / B"),
            *((name, f"{E:.3f}", f"{A:.3f}", f"{B:.3f}", f"{A / B:.2f}") for name, (E, A, B) in law.texts.items()),
        ],
        [
            ("text", "parameters of blocks", "tokens", "passes", "loss", "by the law"),
            *(
                (run.text, f"{run.in_blocks:,}", f"{run.tokens:,}", f"{run.tokens / run.distinct:.1f}",
                 f"{run.loss:.4f}", f"{law.loss(run):.4f} ({run.loss / law.loss(run) - 1:+.1%})"
                 if run.tokens >= FEWEST else "too short")
                for run in runs
            ),
        ],
    ]  # fmt: skip
