"""How often a text is passed over in the time there is, and what is done where that is often.

Measured in docs/experiments.md, "Many passes over a small text": a network learns until it knows the text by heart,
which shows in the validation loss. The average of its weights is at its best just before, at any learning rate, so that
nothing but the end has to be found; and the more the weights decay, the later it comes.
"""

from primegpt.config import Config
from primegpt.data.batching.feed import training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.model.size import human_bytes, human_count, human_seconds, parameter_count

FEW = 4.0  # passes up to which a text is as good as new (Muennighoff et al. 2023, arXiv:2305.16264)
AVERAGE = 0.1
PATIENCE = 3  # evaluations, of about ten
MOST = 30.0  # passes that are planned for: twice as many as without more decay, and still a little better
FORGETTING = 45.0  # a plan of P passes has weights that forget, by their decay alone, in 45 / P passes ...
MOST_DECAY = 2.0  # ... unless that were more than was tried


def of(plan: Config, corpus: Corpus) -> float:
    """How often `plan` passes over the training text."""
    return training_batches(plan, corpus).epoch(plan.train.max_steps or 0)


def guarded(plan: Config, corpus: Corpus) -> Config:
    """`plan` with what many passes ask for, where it makes so many and nothing else was asked for."""
    if of(plan, corpus) <= FEW:
        return plan
    values = {"average": AVERAGE, "patience": PATIENCE, "weight_decay": decay(plan, corpus)}
    asked = plan.train.model_fields_set
    return plan.with_values(train={name: value for name, value in values.items() if name not in asked})


def decay(plan: Config, corpus: Corpus) -> float:
    """The weight decay for as many passes as `plan` makes, no less than it has.

    A rate r and a decay d forget what a step has learnt in 1 / (r d) steps. What serves is a number of passes (Wang &
    Aitchison 2024, arXiv:2405.13698), fewer where there are more to come.
    """
    train = plan.train
    rate = train.muon_learning_rate if train.optimizer == "muon" else train.learning_rate
    wanted = of(plan, corpus) ** 2 / (FORGETTING * rate * (train.max_steps or 1))
    return max(train.weight_decay, min(MOST_DECAY, float(f"{wanted:.2g}")))


def why(plan: Config, corpus: Corpus, minutes: float, *, larger_would: str | None) -> str:
    """In one line, why the plan is what it is, and no larger network; None where none is larger."""
    size, passes = human_bytes(corpus.train_bytes + corpus.val_bytes), of(plan, corpus)
    budget = f"{minutes:g} minute{'s' if minutes != 1 else ''}"
    told = f"{size} in {budget}: {human_count(parameter_count(plan.model))} parameters, {passes:.2g} passes; "
    told += f"a larger network would {larger_would}" if larger_would else "the largest network that is planned"
    if passes > 0.9 * MOST and (seconds := plan.plan.expected_seconds) < 0.9 * 60 * minutes:
        more = "and so would more passes" if larger_would == "memorise" else "more passes would memorise"
        told += f", {more}: it takes {human_seconds(seconds)}; to use the rest, add text"
    return told
