"""What a run will do within its budget, and how long all of it takes: arithmetic on times that were measured."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from primegpt.config import MAX_STEPS, Config, TrainConfig
from primegpt.data.batching.batches import Batches
from primegpt.data.batching.feed import fixed_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.device import bf16_speedup
from primegpt.errors import ConfigError
from primegpt.model.size import human_seconds
from primegpt.planning.timing import StepTime
from primegpt.training.early import early_seconds, early_steps
from primegpt.training.objective import objective_for
from primegpt.training.pace import EVALUATION_SECONDS, EVALUATIONS, intervals
from primegpt.training.state import INTERVALS

EVALUATION_SHARE = 0.025  # of the budget, for evaluations on the fixed sets
SLACK = 0.03  # of the training time, for checkpoints, the log and the display
CLOSING_SECONDS = 0.8  # the plot, the files of the run
FEW_STEPS = 50  # that hardly teach a network anything
REREAD_SHARE = 0.05  # of a time budget, for the loss on the text that a base model has learnt


class Course(NamedTuple):
    """What a run will do, and how long that takes in seconds."""

    steps: int
    early: Sequence[int]  # those after which it is evaluated early
    val_tokens: int
    reread_targets: int
    training_seconds: float  # 0 where the budget is not of time
    closing_seconds: float
    expected_seconds: float
    costs: Mapping[str, float]  # of what is done between steps, each time
    most_steps: int | None = None  # however fast the machine turns out to be
    spare_seconds: float = 0.0  # that training may take beyond what is planned, should the machine be slower


def course_for(
    config: Config,
    corpus: Corpus,
    batches: Batches,
    times: StepTime,
    *,
    left: float,
    rereading: int,
    most_passes: float,
    ranks: int,
) -> Course:
    """What is done within the budget of `config`, of which `left` seconds are left if it is one of time.

    Then no more steps than make `most_passes` over the text.
    """
    counted = steps_for_counted_budget(config.train, batches)
    course = plotted(config, corpus, times, counted, left, rereading, ranks)
    if not left or (passes := batches.epoch(course.steps)) <= most_passes:
        return course
    enough = course.closing_seconds + course.training_seconds * most_passes / passes
    shorter = plotted(config, corpus, times, counted, enough, rereading, ranks)
    spare = course.training_seconds - shorter.training_seconds
    return shorter._replace(most_steps=shorter.steps, spare_seconds=spare)


def plotted(
    config: Config, corpus: Corpus, times: StepTime, counted: int | None, left: float, rereading: int, ranks: int
) -> Course:
    """The steps that were asked for (`counted`), or as many as fit into the seconds `left`; and all that belongs to
    them: evaluations, samples, and what is read at the end.
    """
    train = config.train
    budget = left or (counted or 1) * times.step
    given: dict[str, int | None] = {name: getattr(train, name) for name in INTERVALS}
    per_target = times.position * positions_per_target(config, corpus.val)
    val_tokens = config.data.val_tokens or affordable_targets(config, budget, per_target / ranks, timed=bool(left))
    val_tokens = min(val_tokens, corpus.val_targets)
    costs = {
        "eval_interval": 2 * val_tokens * per_target / ranks,
        "sample_interval": times.token * config.generate.max_new_tokens,
    }
    early = early_seconds(config, val_tokens, per_target / ranks)
    in_fp32 = times.position * (bf16_speedup() if rereading and train.precision == "bf16" else 1.0)
    if left and not config.data.base_text:
        rereading = min(rereading, max(1, int(REREAD_SHARE * left / 2 / in_fp32)))
    # As `jobs.trainers.evaluated` has it: what an evaluation has found is not asked for again.
    told = val_tokens >= corpus.val_targets and objective_for(config).is_likelihood
    judged = 0 if told else corpus.val_targets
    closing = CLOSING_SECONDS + judged * per_target + 2 * rereading * in_fp32
    if counted:
        often = intervals(given, counted)
        training = counted * times.step + sum(cost * (counted / often[name] + 1) for name, cost in costs.items())
        at = early_steps(train, min(often["eval_interval"], counted), training / early)
        expected = training + early * sum(map(bool, at)) + closing
        return Course(counted, at, val_tokens, rereading, 0.0, closing, expected, costs)
    training = max(1.0, left - closing)
    roughly = min(MAX_STEPS, affordable_steps(training, times.step, given, costs))
    often = intervals(given, roughly, training, costs)
    at = early_steps(train, min(often["eval_interval"], roughly), training / early)
    steps = min(MAX_STEPS, affordable_steps(training - early * sum(map(bool, at)), times.step, given, costs))
    return Course(steps, at, val_tokens, rereading, training, closing, training + closing, costs)


def doubts(train: TrainConfig, course: Course, minutes: float | None) -> Iterator[str]:
    """What speaks against a plan, each with its remedy; where steps were asked for, they are taken to be meant."""
    if minutes and course.closing_seconds > 60 * minutes / 2:
        yield (
            f"what is read at the end, validation text above all, takes about {human_seconds(course.closing_seconds)} "
            f"of {human_seconds(60 * minutes)}: lower --data.val_fraction, or give more --minutes"
        )
    if course.steps < FEW_STEPS and course.most_steps:
        yield (
            f"{course.steps:,} steps are as many passes over the text as are of use, too few to learn much: add text, "
            "or take smaller steps (--train.batch_size)"
        )
    elif course.steps < FEW_STEPS and not train.max_steps:
        what = "what fits the time" if minutes else "all that was asked for"
        more = "--minutes" if minutes else "--epochs or --tokens"
        yield (
            f"{course.steps:,} step{'s are' if course.steps != 1 else ' is'} {what}, too few to learn much: give more "
            f"{more}, or "
            "take smaller steps (--train.batch_size, --train.gradient_accumulation_steps) or a smaller model "
            "(--model.n_embd)"
        )


def steps_for_counted_budget(train: TrainConfig, batches: Batches) -> int | None:
    """The steps of a budget in steps, tokens or epochs; None when none of these is given."""
    steps, budget = train.max_steps, "max_steps"
    if train.tokens:
        steps, budget = math.ceil(train.tokens / batches.tokens_per_step), "tokens"
    elif train.epochs:
        steps, budget = math.ceil(train.epochs / batches.epoch(1)), "epochs"
    if (steps or 0) > MAX_STEPS:
        asked = f"train.{budget} = {getattr(train, budget):,}"
        raise ConfigError(f"{asked} are {steps:,} steps, and a run may have {MAX_STEPS:,}", "give less")
    return steps


def positions_per_target(config: Config, shards: Shards) -> float:
    """Tokens of fixed batches, padding included, for each that is asked for: 1 in a text, more in records."""
    seen = list(islice(fixed_batches(config, shards, 8 * config.tokens_per_step), 8))
    return sum(batch.ids.numel() for batch in seen) / max(1, sum(batch.supervised for batch in seen))


def affordable_targets(config: Config, budget: float, seconds_per_target: float, *, timed: bool) -> int:
    """Validation targets that keep all evaluations (train and validation set each time) within their share."""
    steps_apart = config.train.eval_interval
    evaluations = min(EVALUATIONS, budget // EVALUATION_SECONDS) if timed and not steps_apart else EVALUATIONS
    affordable = EVALUATION_SHARE * budget / (2 * (evaluations + 1)) / seconds_per_target
    batch = config.train.batch_size * config.sequence_length
    return batch * max(1, round(affordable / batch))


def affordable_steps(seconds: float, step: float, given: Mapping[str, int | None], costs: Mapping[str, float]) -> int:
    """Steps of `step` seconds that fit into `seconds`, with what is done between them: each of `costs` every so many
    steps as `given`, or as often as the plan will have it."""
    often = intervals({}, 10**6, seconds, costs)
    counts = {name: 10**6 / often[name] for name in costs if not given[name]}
    between = sum(costs[name] * (1 + counts.get(name, 0.0)) for name in costs)
    each = step + sum(cost / interval for name, cost in costs.items() if (interval := given[name]))
    return max(1, int((seconds * (1 - SLACK) - between) / each))


def steps_in(config: Config, seconds: float) -> int:
    """Steps of a run with a plan that fit into `seconds` more, with as much between them as it was planned for."""
    train, plan = config.train, config.plan
    steps, planned = train.max_steps or 1, plan.expected_seconds - plan.closing_seconds
    given = {
        name: None if name in plan.chosen else getattr(train, name) for name in ("eval_interval", "sample_interval")
    }
    times = sum(steps / getattr(train, name) + 1 for name in given if getattr(train, name))
    between = planned * (1 - (SLACK if plan.training_seconds else 0.0)) - steps * plan.step_seconds
    costs = dict.fromkeys(given, max(0.0, between) / max(1.0, times))  # one as much as the other: only the sum is known
    return affordable_steps(seconds, plan.step_seconds, given, costs)
