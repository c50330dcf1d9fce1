"""What a function makes of all runs of an experiment, beyond comparing arms: a fit, a forecast, plots.

A file names it, `analysis = "mine.py:name"`. It is given a `Given` and returns `Findings`. Where arms have
`after = true` it is called twice: when all others have ended, to say what it expects of these, which is written down
before they are trained; and at the end, with what it had expected.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primegpt.config import Config, read_saved
from primegpt.errors import UsageError, quoted
from primegpt.experiments.file import Experiment
from primegpt.experiments.functions import load_function
from primegpt.experiments.outcomes import value_of
from primegpt.experiments.place import Place
from primegpt.experiments.stages import Job, Outcome, Work
from primegpt.model.size import flops_per_token, parameter_count
from primegpt.report.pictures import Plot
from primegpt.run.atomic import canonical_json, write_json_atomic

NOTE = "forecast.json"


@dataclass(frozen=True)
class Trained:
    """The last run of one arm with one seed."""

    arm: str
    seed: int
    after: bool
    """Whether it is trained when the others have ended."""
    config: Config
    budget: Mapping[str, float]
    """As the file has it: {"flops": 1e12}."""
    steps: int
    values: Mapping[str, float | None]
    """By measure; empty before it is trained."""

    @property
    def parameters(self) -> int:
        return parameter_count(self.config.model)

    @property
    def tokens(self) -> int:
        """That it has learnt from."""
        return self.steps * self.config.tokens_per_step

    @property
    def flops(self) -> float:
        return float(self.tokens * flops_per_token(self.config.model, self.config.sequence_length))


@dataclass(frozen=True)
class Given:
    """What an analysis is about."""

    runs: tuple[Trained, ...]
    measures: tuple[str, ...]
    forecast: Any = None
    """What it said in `Findings.forecast` before the arms that come after were trained; None while it is to say so."""
    came_first: bool = True
    """Whether that was written down before they began: not so where the others were changed afterwards."""


@dataclass(frozen=True)
class Findings:
    """What an analysis has found, for the page and for results.json."""

    notes: Sequence[str] = ()
    """Sentences; they stand first."""
    tables: Sequence[Sequence[Sequence[str]]] = ()
    """The first row of each is its header."""
    plots: Sequence[Plot] = ()
    figures: Any = None
    """JSON."""
    forecast: Any = None
    """JSON: what it expects of the arms that come after."""


def foresee(asked: Experiment, work: Work, place: Place, planned: Callable[[Job], Config]) -> None:
    """Write down what the analysis expects of the arms that come after, unless that is done, and of the same runs."""
    ahead = [outcome for outcome in work.outcomes if outcome.after]
    basis = _basis(asked, work, place)
    if not ahead or (_noted(place) or {}).get("basis") == basis:
        return
    runs = [*_ended(work, place, after=False), *(_trained(each, place, planned(each.run), {}) for each in ahead)]
    found = _analysed(asked, Given(tuple(runs), asked.measures))
    first = not any(place.path(outcome.run).exists() for outcome in ahead)
    write_json_atomic(place.folder / NOTE, {"basis": basis, "came_first": first, "forecast": found.forecast})


def analyse(asked: Experiment, work: Work, place: Place) -> tuple[Findings, dict[str, Any]]:
    """What the analysis makes of all runs, and that as results.json has it."""
    noted = _noted(place) or {"came_first": True, "forecast": None}
    told = {key: noted[key] for key in ("forecast", "came_first")} if any(arm.after for arm in asked.arms) else {}
    runs = (*_ended(work, place, after=False), *_ended(work, place, after=True))
    found = _analysed(asked, Given(runs, asked.measures, **told))
    return found, {"figures": found.figures, **told}


def _analysed(asked: Experiment, given: Given) -> Findings:
    """Raises UsageError for what the function raises, and where it returns something else."""
    assert asked.analysis is not None
    found = load_function(asked.analysis)(given)
    if not isinstance(found, Findings):
        remedy = "return a primegpt.experiments.analysis.Findings"
        raise UsageError(f"{asked.analysis} returned {quoted(found)}", remedy)
    try:
        json.dumps([found.figures, found.forecast], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{asked.analysis}: its figures are no JSON: {error}", "numbers, texts, lists, dicts"
        ) from None
    return found


def _ended(work: Work, place: Place, *, after: bool) -> list[Trained]:
    return [
        _trained(
            outcome,
            place,
            read_saved(place.path(outcome.run) / "config.toml"),
            {measure: value_of(outcome, measure, place) for measure in outcome.measures},
        )
        for outcome in work.outcomes
        if outcome.after is after
        and (place.path(outcome.run) / "config.toml").exists()  # it may build on what diverged
    ]


def _trained(outcome: Outcome, place: Place, config: Config, values: Mapping[str, float | None]) -> Trained:
    steps = (place.result(outcome.run) or {}).get("step") or config.train.max_steps
    assert steps, "a budget has become steps"
    budget = outcome.run.said["budget"]
    return Trained(outcome.arm, outcome.seed, outcome.after, config, budget, steps, values)


def _basis(asked: Experiment, work: Work, place: Place) -> str:
    """What a forecast is made from, and of: with other runs it is another one."""
    runs = [(outcome.run.key, outcome.after) for outcome in work.outcomes]
    values = [
        value_of(outcome, measure, place)
        for outcome in work.outcomes
        for measure in asked.measures
        if not outcome.after
    ]
    return hashlib.sha256(canonical_json([runs, values])).hexdigest()


def _noted(place: Place) -> dict[str, Any] | None:
    path = place.folder / NOTE
    return json.loads(path.read_bytes()) if path.exists() else None
