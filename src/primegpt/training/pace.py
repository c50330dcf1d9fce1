"""A budget of time while it is spent: how long steps take, what is done between them, and how many are yet to come."""

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import ceil
from types import MappingProxyType

from primegpt.config import Config
from primegpt.parallel.world import World
from primegpt.training.state import INTERVALS, TrainState

LOOKS = 20  # how often, at least, a plan is held against the pace: by its steps and by its time
STEPS = 3  # that a look needs: the median of fewer may be that of one slow step
LATELY = 100  # steps that say how long one takes on this machine
OUTLIER = 3.0  # medians, which no step counts for more than

EVALUATIONS = 10
EVALUATION_SECONDS = 3.0  # a time budget has at most one evaluation in so many seconds ...
SAMPLE_SECONDS = 12.0  # ... and one sample
SAMPLES = 4
ASIDE = 0.1  # of a time budget, at most, for evaluations, and for samples; the first and the last ones aside
LOG_LINES = 500

TOLD = 2.0  # by what factor the steps of a plan have to change to be worth a line


def intervals(
    given: Mapping[str, int | None], steps: int, seconds: float = 0.0, costs: Mapping[str, float] = MappingProxyType({})
) -> dict[str, int]:
    """How often to log, evaluate, sample and save in so many `steps`, where it is not `given`; by the names of the
    settings. Of `seconds` of a time budget, if any, evaluations and samples at their `costs` take only their part.
    """

    def often(name: str, most: int, apart: float) -> float:
        return min(most, seconds // max(apart, costs.get(name, 0.0) / ASIDE)) if seconds else most

    evaluations = often("eval_interval", EVALUATIONS, EVALUATION_SECONDS)
    samples = often("sample_interval", SAMPLES, SAMPLE_SECONDS)
    evaluation = given.get("eval_interval") or ceil(steps / max(1, evaluations))
    return {
        "eval_interval": evaluation,
        "sample_interval": given.get("sample_interval") or ceil(steps / max(1, samples)),
        "checkpoint_interval": given.get("checkpoint_interval") or evaluation,
        "log_interval": given.get("log_interval") or max(1, ceil(steps / LOG_LINES)),
    }


class Pace:
    """What a session has measured of its steps since the last look, and of all that was done between them."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.lately: deque[float] = deque(maxlen=LATELY)
        self.between: dict[str, list[float]] = defaultdict(list)
        self.begin()

    def begin(self) -> None:
        """A session begins: what another one has measured may not hold, and the first step is slow by itself."""
        self.steps: list[float] = []
        self.look_again()
        self.warming_up = True

    def look_again(self, soon: bool = False) -> None:
        """Begin to measure steps anew; to look `soon`, after the fewest that tell anything, and by these alone: what
        has halved a plan does not halve it again."""
        self.before = self.step_seconds if self.steps and not soon else None
        self.steps, self.looked, self.soon, self.warming_up = [], time.perf_counter(), soon, False

    @contextmanager
    def step(self) -> Generator[None]:
        """Count the time inside as a step."""
        start = time.perf_counter()
        yield
        self.steps.append(time.perf_counter() - start)
        self.lately.append(self.steps[-1])

    @contextmanager
    def timed(self, what: str) -> Generator[None]:
        """Count the time inside as one `what` between steps."""
        start = time.perf_counter()
        yield
        self.between[what].append(time.perf_counter() - start)

    def is_due(self, steps_left: int, budget: float, seconds_left: float) -> bool:
        """Whether it is time to look: a twentieth of the steps or of the time has gone, or one of them is used up."""
        if steps_left <= 0 or seconds_left <= 0:
            return True
        gone = time.perf_counter() - self.looked >= budget / LOOKS or len(self.steps) >= steps_left / LOOKS
        return len(self.steps) >= STEPS and (gone or self.soon)

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step, where one that was held up counts as a few others do; half of it is what the last
        look has found, since the pace beside other programs varies from second to second."""
        steps = self.steps[1:] if self.warming_up and len(self.steps) > 1 else self.steps
        bound = OUTLIER * statistics.median(steps)
        now = statistics.mean(min(seconds, bound) for seconds in steps)
        return now if self.before is None else (now + self.before) / 2

    @property
    def usual_step(self) -> float | None:
        """Median seconds of the last steps of a session; None where they were too few to tell."""
        return statistics.median(self.lately) if len(self.lately) > STEPS else None

    def seconds_of(self, what: str) -> float:
        """Mean seconds of one `what` so far, 0 where there was none."""
        return statistics.mean(self.between[what]) if self.between[what] else 0.0


class Timetable:
    """When a run logs, evaluates, samples and saves, and what becomes of its plan at the pace that its steps have."""

    def __init__(self, config: Config, pace: Pace, world: World, say: Callable[[str], None]) -> None:
        self.config, self.pace, self.world, self.say = config, pace, world, say
        self.told_steps = 0

    def interval(self, state: TrainState, name: str) -> int | None:
        """The steps between evaluations, samples, checkpoints or lines of the log, by the name of the setting."""
        return state.interval(name, getattr(self.config.train, name))

    def due(self, state: TrainState, name: str) -> bool:
        return state.due(self.interval(state, name))

    def follows_plan(self, state: TrainState, name: str) -> bool:
        """Whether an interval was chosen for a number of steps, and changes with it."""
        return name in self.config.plan.chosen and not state.asked_for(name)

    def check_pace(self, state: TrainState) -> None:
        """Now and then hold a time budget against the pace of the steps since the last time."""
        pace, world = self.pace, self.world
        deadline = state.deadline(self.config.plan.training_seconds)
        if not deadline or not pace.steps or state.early_stopping.should_stop:
            pace.steps.clear()
            return
        left = state.max_steps - state.step
        if not world.max(pace.is_due(left, deadline, deadline - state.seconds)):
            return
        state.seconds = world.max(state.seconds)
        step_seconds = world.max(pace.step_seconds)
        fixed, each = 0.0, step_seconds
        for name in ("eval_interval", "checkpoint_interval", "sample_interval"):
            seconds, interval = world.max(pace.seconds_of(name)), self.interval(state, name)
            if self.follows_plan(state, name) or not interval:
                fixed += seconds * state.still_due(interval)
            else:
                fixed, each = fixed + seconds, each + seconds / interval
        steps = int((deadline - state.seconds - fixed) / max(each, 1e-9))
        if (most := self.config.plan.most_steps) and not state.is_extended:
            steps = min(steps, most - state.step)
        before, events = state.max_steps, len(state.events)
        pace.look_again(soon=not state.meet_deadline(deadline, steps))
        if len(state.events) > events:
            self.follow_plan(state, before, step_seconds)

    def follow_plan(self, state: TrainState, before: int, step_seconds: float | None = None) -> None:
        """What the steps of a new plan ask for: intervals that were chosen for the old one, and a line."""
        plan = self.config.plan
        given = {name: None if self.follows_plan(state, name) else self.interval(state, name) for name in INTERVALS}
        costs = {name: self.world.max(self.pace.seconds_of(name)) for name in INTERVALS}
        seconds = state.deadline(plan.training_seconds) - state.seconds_before
        new = intervals(given, state.max_steps, max(0.0, seconds), costs)
        state.events[-1] |= {name: steps for name, steps in new.items() if self.follows_plan(state, name)}
        told = self.told_steps or before
        if step_seconds and not 1 / TOLD < state.max_steps / told < TOLD:
            self.told_steps = state.max_steps
            planned = f", planned were {1000 * plan.step_seconds:,.0f} ms" if plan.step_seconds else ""
            self.say(
                f"step {state.step:,}: {state.max_steps:,} steps in all fit the time there is, not {told:,}: "
                f"a step takes {1000 * step_seconds:,.0f} ms{planned}"
            )
