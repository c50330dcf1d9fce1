"""What a run's curves say, in words: whether it is still falling, whether it memorises, and what would help.

Each sentence is about a figure that it names. The bounds are rules of thumb: a fall of 1% over the last quarter is more
than the noise of a fixed validation set, and a gap of 5% is what small models have on text that they do not memorise.
"""

from primegpt.report.history import History

ROSE = 0.01  # of the best loss: from here on it is worth a remark
FALLS = 0.01  # of the loss, over the last quarter of the steps: it has not come to an end
SMALL_GAP, LARGE_GAP = 0.05, 0.15  # between training and validation loss, as shares of the former

Known = list[tuple[int, float]]


def verdict(run: History) -> list[str]:
    """What came of it in a few sentences; none before the second evaluation."""
    if run.rewarded:
        return _of_rewards(_known(run, "val/reward"))
    losses = _known(run, "val/loss")
    if len(losses) < 2:
        return []
    return [_course(run, losses), *_gap(run)]


def _known(run: History, key: str) -> Known:
    return [(int(step), value) for step, value in run.points(key) if value is not None]


def _of_rewards(rewards: Known) -> list[str]:
    if len(rewards) < 2:
        return []
    (_, before), (step, best) = rewards[0], max(rewards, key=lambda found: found[1])
    if best <= before:
        return [f"The reward on validation prompts never rose above the {before:.4f} of the beginning."]
    return [f"The reward on validation prompts rose from {before:.4f} to {best:.4f}, at step {step:,}."]


def _course(run: History, losses: Known) -> str:
    """Where the validation loss has gone, and what to do about it."""
    (best_step, best), (last_step, last) = min(losses, key=lambda found: found[1]), losses[-1]
    if best_step == 0:
        return (
            f"Nothing was learnt: the validation loss never fell below the {best:.4f} of step 0. Try another "
            f"--train.learning_rate, or a validation text that is like the rest."
        )
    if last > best and last - best >= ROSE * abs(best):
        return _risen(run, best_step, best, last_step, last)
    earlier = [(step, loss) for step, loss in losses if step <= 0.75 * last_step]
    since, before = earlier[-1] if earlier else losses[0]
    if before - last > FALLS * abs(before):
        more, fall = "" if run.in_use else ": train longer", f"{before - last:.2g}"
        return f"Still falling{more}. Since step {since:,} the validation loss fell by {fall}, to {last:.4f}."
    return (
        f"Level: since step {since:,} the validation loss has moved by {abs(before - last):.2g} only. Longer training "
        f"alone will bring little; more text or a larger model may."
    )


def _risen(run: History, best_step: int, best: float, last_step: int, last: float) -> str:
    where = f"Best at step {best_step:,} of {last_step:,}"
    rise = f"The validation loss rose from {best:.4f} to {last:.4f}"
    training, used = dict(_known(run, "train/eval_loss")), "Commands use the best checkpoint."
    if best_step not in training or last_step not in training:
        return f"{where}: it got worse from there. {rise}. {used}"
    change, noise = training[last_step] - training[best_step], ROSE * abs(training[best_step])
    if change < -noise:
        return (
            f"{where}: it memorised from there. {rise} while that of the training text went on falling: more text, a "
            f"smaller model or dropout would help. {used}"
        )
    if change > noise:
        return (
            f"{where}: it got worse from there. {rise}, and that of the training text with it: a lower "
            f"--train.learning_rate would help. {used}"
        )
    return (
        f"{where}: it gained nothing from there. {rise} while that of the training text has moved by {abs(change):.2g} "
        f"only: more text, or a lower --train.learning_rate, may help. {used}"
    )


def _gap(run: History) -> list[str]:
    """How far training and validation text are apart at the best evaluation."""
    training, validation = run.at_best("train/eval_loss"), run.at_best("val/loss")
    if training is None or validation is None or not run.is_likelihood or run.early_stopping.best_step == 0:
        return []
    gap = validation - training
    told = f"{abs(gap):.2f} between training and validation text"
    if gap < SMALL_GAP * training:
        return [f"{told}: no overfitting."]
    if gap < LARGE_GAP * training:
        return [f"{told}: it knows its training text a little better, as any model does."]
    return [f"{told}: much of what it learnt is its training text itself. More text, or a smaller model, would help."]
