"""What a text is worth, and the plan that it suffices for, where nothing is asked for but minutes."""

import time
from collections.abc import Callable
from dataclasses import replace

from primegpt.config import Config
from primegpt.data.audit import AuditReport, audit_corpus
from primegpt.data.preparing.corpus import Corpus
from primegpt.errors import quoted
from primegpt.inference.run import remarks_on
from primegpt.jobs.bases import Base
from primegpt.model.size import block_matrix_parameters, parameter_count
from primegpt.parallel.world import World
from primegpt.planning import passes
from primegpt.planning.plan import make_plan
from primegpt.planning.recipe import DEFAULT_MINUTES, NETWORKS, TextFacts
from primegpt.terminal import Say

AUDITED_TOKENS = 2_000_000  # tell as much about a text as all of it

Chosen = Callable[[TextFacts], Config]
"""The zero-config recipe for a text."""


def lasting_plan(
    config: Config, corpus: Corpus, chosen: Chosen, audit: AuditReport | None, started: float, world: World
) -> Config:
    """The plan of a time budget where nothing else is asked for.

    The text suffices for its network, by the `audit` of rank 0, and many passes come with what keeps it from learning
    that by heart.
    """
    distinct = world.max(audit.distinct_tokens if audit else 0.0)
    facts = TextFacts(config.model.vocab_size, distinct)
    fitting = with_network_for(facts, config, chosen)
    elapsed = time.monotonic() - started
    plan = make_plan(fitting, corpus, elapsed=elapsed, most_passes=passes.MOST, world=world)
    minutes = config.train.minutes or DEFAULT_MINUTES
    larger = [network for network in NETWORKS if network.in_blocks > block_matrix_parameters(plan.model)]
    would = "make too few steps" if any(map(facts.suffices_for, larger)) else "memorise" if larger else None
    why = passes.why(plan, corpus, minutes, larger_would=would)
    return passes.guarded(plan, corpus).with_values(plan={"why": why})


def with_network_for(facts: TextFacts, config: Config, chosen: Chosen) -> Config:
    """`config` with the network that is the best for the text as it is in its own tokens.

    Records were cut to fit a context already, which stays.
    """
    fitting = chosen(facts)
    model, train = {"n_layer", "n_embd", "n_head"}, {"learning_rate", "head_learning_rate"}
    if config.data.template == "text":
        model, train = model | {"block_size"}, train | {"batch_size"}
    values = {"model": fitting.model.model_dump(include=model), "train": fitting.train.model_dump(include=train)}
    return config.with_values(**values)


def audited(corpus: Corpus, config: Config, base: Base | None) -> AuditReport:
    """What the text is worth. Raises DataError for pairs that say nothing."""
    # A trained model need not learn a language from the text, so no text is too small for its size.
    parameters = None if base else parameter_count(config.model)
    seconds = 60 * (config.train.minutes or DEFAULT_MINUTES)
    tokens = int(min(AUDITED_TOKENS, 0.01 * seconds * 1e6))  # at about a million a second, 1% of the budget
    audit = audit_corpus(corpus, parameters, tokens, context=config.sequence_length, dropped=config.data.duplicates)
    if audit.pairs:
        audit.pairs.refuse_what_says_nothing()
    return audit


def said_of(audit: AuditReport, config: Config, corpus: Corpus, say: Say) -> AuditReport:
    """`audit` for the model as it is planned; a warning is said of each thing that is wrong with the text, or with the
    prompts of samples.
    """
    if audit.n_parameters is not None:
        few = bool(config.plan.why) and passes.of(config, corpus) <= passes.FEW
        parameters, guarded = parameter_count(config.model), few or config.train.average > 0
        audit = replace(audit, n_parameters=parameters, guarded=guarded)
    for warning in audit.warnings:
        say(f"{'warning':<10} {warning}")
    for prompt in config.train.sample_prompts:
        for remark in remarks_on(prompt, corpus.tokenizer, config.model.block_size):
            say(f"{'warning':<10} train.sample_prompts, {quoted(prompt)}: {remark}")
    return audit
