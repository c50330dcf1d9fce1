"""CPU threads beside other programs: as many as steps are fastest with, where a run's budget is time.

All threads of a step wait for each other, many times. One that has to share its core with another program holds up the
others: beside a program that takes one of two cores, a step of two threads takes 2.6 times as long as one of a single
thread (docs/experiments.md). What a run computes depends on the number of threads in the last digits, so that a run of
so many steps keeps the number it began with.
"""

import os
import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Self

import torch

from primegpt.config import Config
from primegpt.parallel.world import World
from primegpt.training.state import TrainState

SPAN = 2.0  # seconds that tell how many cores are left to a run
STEPS = 4  # that a trial takes at least, the first of which does not count, ...
SECONDS = 0.4  # ... and how long
GAIN = 0.85  # of the time of a step before, which it may take at most with another number of threads
APART = 30.0  # times as long as a trial took, after one in vain
DEAREST = 0.05  # of a budget, which a trial may take as steps are now
NEARLY = 0.3  # of a core may be missing in a whole one, since something always runs


class CoreTime(NamedTuple):
    """Seconds up to now: of a clock, of this process on cores, and in which cores that it may use were idle."""

    clock: float
    used: float
    idle: float

    @classmethod
    def now(cls) -> Self | None:
        """None where the system does not tell."""
        with suppress(OSError, ValueError, IndexError, AttributeError):  # other systems than Linux
            mine, idle = {f"cpu{core}" for core in os.sched_getaffinity(0)}, 0
            with open("/proc/stat", encoding="ascii") as file:
                for name, *ticks in map(str.split, file):
                    if name in mine:
                        idle += int(ticks[3]) + int(ticks[4])  # with nothing to do, or nothing until a disk answers
                        mine.remove(name)
            if idle and not mine:  # some containers number their cores anew, or tell nothing but zeros
                return cls(time.perf_counter(), time.process_time(), idle / os.sysconf("SC_CLK_TCK"))
        return None

    def since(self, before: Self) -> tuple[float, float]:
        """Cores that this process has had on average since then, and that were idle."""
        seconds = max(1e-9, self.clock - before.clock)
        return (self.used - before.used) / seconds, (self.idle - before.idle) / seconds


class Threads:
    """The threads that steps are made with. Others are tried when cores are taken, or given back."""

    def __init__(self, most: int, budget: float, say: Callable[[str], None]) -> None:
        self.count = self.most = most
        self.budget, self.say, self.told = budget, say, set[int]()
        self.earlier: tuple[int, float] | None = None
        """While others are tried: the number until then, and the median seconds of a step with it."""
        self.not_before = 0.0
        self.begin()

    def begin(self) -> None:
        """Measure anew."""
        self.began, self.steps = CoreTime.now(), list[float]()

    def after_step(self, state: TrainState, seconds: float) -> bool:
        """A step has taken so many seconds: try another number of threads, or judge a trial, if it is time to.

        True where another number is kept; that is an event.
        """
        if not self.began:
            return False
        self.steps.append(seconds)
        now, least = time.perf_counter(), SECONDS if self.earlier else SPAN
        if len(self.steps) < STEPS or now - self.began.clock < least:
            return False
        took, kept = statistics.median(self.steps[1:]), False
        if self.earlier:
            kept = self.judge(state, took, *self.earlier)
        elif now >= self.not_before and STEPS * took <= DEAREST * self.budget:
            wanted = self.wanted()
            self.earlier = (self.count, took) if wanted != self.count else None
            self.use(wanted)
        self.begin()
        return kept

    def wanted(self) -> int:
        """As many threads as there are cores left beside other programs."""
        now = CoreTime.now()
        if not now or not self.began:
            return self.count
        used, idle = now.since(self.began)
        # Where no core is idle, each thread has the same share of them, ours and those of others.
        others = self.count * ((self.most - idle) / max(used, 0.1) - 1)
        left = used + idle if idle > NEARLY else self.most - others
        return min(self.most, max(1, int(left + NEARLY)))

    def judge(self, state: TrainState, took: float, earlier: int, earlier_took: float) -> bool:
        """Keep the present number if it is clearly the better one."""
        self.earlier = None
        if took > GAIN * earlier_took:
            self.not_before = time.perf_counter() + APART * sum(self.steps)
            self.use(earlier)
            return False
        state.events.append({"step": state.step, "threads": self.count})
        if self.count not in self.told:
            self.told.add(self.count)
            threads = f"{self.count} thread{'s' * (self.count != 1)}"
            why = "other programs have left" if self.count > earlier else "others wait for other programs"
            self.say(
                f"step {state.step:,}: {threads} from here on, {why}: "
                f"a step takes {1000 * took:,.0f} ms, not {1000 * earlier_took:,.0f}"
            )
        return True

    def use(self, count: int) -> None:
        if count != self.count:
            self.count = count
            torch.set_num_threads(count)


def may_change(config: Config, world: World) -> bool:
    """Whether the threads of a run of `config` were left to us, and whether it can have others while it runs."""
    train, plan = config.train, config.plan
    ours = "threads" in plan.chosen and train.threads == plan.threads > 1  # not edited since
    return ours and train.device == "cpu" and world.size == 1 and not train.compile  # whose code is for so many threads


@contextmanager
def threads_put_back() -> Generator[None]:
    """Leave this process with as many threads as it has now, whatever a run tries."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
