"""What stands around the loop of a run: the trainer with all that it is given, and the verdict after the last step.

The trainer gets its batches, the fixed sets that it is evaluated on, and what its samples continue. The verdict is that
of the best checkpoint on all the validation text, and what fine-tuning has forgotten.
"""

from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from primegpt.config import Config
from primegpt.data.batching.batches import IGNORED, Batch
from primegpt.data.batching.examples import question, with_prompt
from primegpt.data.batching.feed import fixed_batches, training_batches
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.shards import Shards
from primegpt.data.shown import introduction, without_control
from primegpt.data.template import template_for
from primegpt.errors import PrimegptError
from primegpt.evaluation.perplexity import LossResult, evaluate_loss, means
from primegpt.inference.decoder import Decoder
from primegpt.inference.run import Run, load
from primegpt.jobs.interop import write_peft_adapter
from primegpt.jobs.text_loss import loss_of_text, own_corpus, reading_of
from primegpt.model.gpt import GPT
from primegpt.model.size import flops_per_token
from primegpt.parallel.world import World
from primegpt.planning.plan import conditions
from primegpt.report.pictures import plot_losses
from primegpt.run.checkpoint import read_evaluation
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, silent, to_stderr, to_stdout
from primegpt.tokenizers.base import Tokenizer
from primegpt.training.assemble import as_written
from primegpt.training.display import Observer
from primegpt.training.early import part_of
from primegpt.training.objective import objective_for
from primegpt.training.preference import ACCURACY, has_reference
from primegpt.training.progress import Speed
from primegpt.training.state import TrainState
from primegpt.training.step import Precision
from primegpt.training.trainer import EvaluationSet, Trainer

LONGEST_PROMPT = 80  # characters of validation text that a sample goes on from


def trainer_for(
    folder: RunFolder, config: Config, corpus: Corpus, model: GPT, observer: Observer, world: World
) -> Trainer:
    """The trainer of the run in `folder`, at its beginning."""
    train = config.train
    assert corpus.train.reference is not None or not has_reference(train), "it comes before the first step"
    decoder = Decoder(model, corpus.tokenizer)
    prompts, template = sample_prompts(config, corpus), template_for(config.data, corpus.tokenizer)

    def sample(_: GPT) -> str:
        with as_written(train):
            completions = decoder.generate(prompts, config.generate)
        asked = [p if isinstance(p, str) else without_control(corpus.tokenizer, p) for p in prompts]
        shown = [introduction(template is not None, prompt) for prompt in asked]
        return "\n\n".join(prompt + samples[0].text for prompt, samples in zip(shown, completions, strict=True))

    return Trainer(
        config,
        model,
        training_batches(config, corpus, world.rank, world.size),
        train_set=evaluation_set(corpus.train, corpus.tokenizer, config),
        val_set=evaluation_set(corpus.val, corpus.tokenizer, config),
        folder=folder,
        precision=Precision(train.precision, train.device),
        observer=observer,
        objective=objective_for(config),
        sample=sample,
        fingerprints=fingerprints(config, corpus),
        data=corpus.record(),
        conditions=conditions(config, world),
        speed=Speed(flops_per_token(config.model, config.sequence_length), config.plan.peak_flops * world.size),
        world=world,
    )


def fingerprints(config: Config, corpus: Corpus) -> dict[str, str]:
    """What a checkpoint belongs to: the tokenizer, the text, and the model that it is compared with, if any is."""
    reference = {"reference": config.plan.base} if has_reference(config.train) else {}
    return {"tokenizer": corpus.tokenizer.fingerprint, "data": corpus.train.fingerprint} | reference


def evaluation_set(shards: Shards, tokenizer: Tokenizer, config: Config) -> EvaluationSet:
    """About `data.val_tokens` targets of a split, evenly spread over it, in memory."""

    def text_bytes(batches: Iterable[Batch]) -> int:
        asked = (batch.targets[batch.targets != IGNORED] for batch in batches)
        return sum(len(tokenizer.decode_bytes(ids.tolist(), skip_special_tokens=True)) for ids in asked)

    batches = list(fixed_batches(config, shards, config.data.val_tokens))
    some = part_of(batches)
    return EvaluationSet(batches, text_bytes(batches), EvaluationSet(some, text_bytes(some)))


def sample_prompts(config: Config, corpus: Corpus) -> list[str | list[int]]:
    """What the samples continue: the prompts of the configuration, else beginnings of validation text."""
    tokenizer, own = corpus.tokenizer, config.train.sample_prompts
    if template := template_for(config.data, tokenizer):
        return [template.prompt_ids(tokenizer, prompt) for prompt in own] or [
            question(corpus.val, record) for record in islice(with_prompt(corpus.val, tokenizer), 2)
        ]
    if own:
        return list(own)
    if corpus.n_documents < corpus.train.n_documents + corpus.val.n_documents:  # validation begins within a document
        head = tokenizer.decode(corpus.val.slice(1, min(200, len(corpus.val))), skip_special_tokens=True)
        return [opening(head.partition("\n")[2] or head.partition(" ")[2] or head)]
    starts = [*map(int, corpus.val.document_starts[:3]), len(corpus.val)]
    heads = [corpus.val.slice(s + 1, min(s + 65, end)) for s, end in pairwise(starts)][:2]
    texts = [tokenizer.decode(head, skip_special_tokens=True) for head in heads]
    return [opening(text) for text in texts if text.strip()] or [""]


def opening(text: str) -> str:
    """The first line of `text` that is not blank, with its line end; a long one, or one that is cut, as far as a word
    ends within `LONGEST_PROMPT`. Scripts without spaces are cut between two characters.
    """
    line, end, _ = text.lstrip().partition("\n")
    if end and len(line) <= LONGEST_PROMPT:
        return line + end
    words = line[: LONGEST_PROMPT + 1].rpartition(" ")[0].rstrip()
    return words or line[:LONGEST_PROMPT].rstrip("\ufffd")


def finish(folder: RunFolder, config: Config, corpus: Corpus, state: TrainState, say: Say) -> Run:
    """Judge a run whose last step is done, write what others read of it, and seal it."""
    run = load(folder.path, say=say)
    run.folder = folder  # whose followers get the result too
    for line in left_out(state, config, folder.path):
        say(f"{'warning':<10} {line}")
    tell = to_stdout if say is to_stderr else say
    judge(run, corpus, state.step, tell)
    if config.lora.rank:
        write_peft_adapter(folder, config, say)
    if (config.plan.base or folder.base_dir.exists()) and (losses := forgetting(run, say)):
        tell(f"{'base text':<10} {losses['before']:.4f} nats per {run.unit} before, {losses['after']:.4f} after")
        row = {"base/loss_before": losses["before"], "base/loss_after": losses["after"]}
        folder.append_metrics({"step": state.step} | row)
    folder.seal()
    return run


def left_out(state: TrainState, config: Config, path: Path) -> Iterator[str]:
    """What a run that has ended did not do of its plan, where the time that was planned for it did not suffice."""
    planned = config.train.max_steps or 0
    as_planned = config.plan.training_seconds and not state.is_extended and not state.early_stopping.should_stop
    if as_planned and 2 * state.step < planned:
        yield (
            f"only {state.step:,} of the {planned:,} steps that were planned fitted the time, since the machine was "
            f"slower than measured: `primegpt train --resume {path} --minutes M` goes on"
        )


def evaluated(run: Run, corpus: Corpus) -> LossResult | None:
    """What training has found of the run's checkpoint, if it asked it for all the validation text."""
    asked_for_all = (run.config.data.val_tokens or 0) >= corpus.val_targets
    if not (asked_for_all and objective_for(run.config).is_likelihood):
        return None
    line = read_evaluation(run.folder.checkpoint_path(run.step), silent)
    return LossResult(line["val/loss"] * corpus.val_targets, corpus.val_targets, corpus.val_bytes) if line else None


def evaluate_all(run: Run, corpus: Corpus) -> LossResult:
    """The same, found out now."""
    train = run.config.train
    return evaluate_loss(
        run.model.to(train.device),
        fixed_batches(run.config, corpus.val),
        objective=objective_for(run.config),
        text_bytes=corpus.val_bytes,
        device=train.device,
        autocast=Precision(train.precision, train.device).autocast,
    )


def judge(run: Run, corpus: Corpus, last_step: int, say: Say) -> LossResult:
    """Every validation target once, under the best checkpoint: the figure to quote. Logged, plotted, said."""
    result = evaluated(run, corpus) or evaluate_all(run, corpus)
    line = {"step": last_step, "final/step": run.step, "final/val/loss": result.loss}
    objective, told = objective_for(run.config), f"{result.loss:.4f}"
    line |= {f"final/val/{name}": value for name, value in means(result.figures).items()}
    if objective.is_likelihood:
        line |= {"final/val/perplexity": result.perplexity, "final/val/bits_per_byte": result.bits_per_byte}
        told += f" nats per {run.unit}, {result.bits_per_byte:.4f} bits per byte"
    elif objective.unit == "pair":
        ahead = f"the chosen answer ahead in {line[f'final/val/{ACCURACY}']:.1%} of the pairs"
        told += f" ({run.config.train.objective}), {ahead}"
    run.folder.truncate_metrics(lambda row: "final/val/loss" not in row)
    run.folder.append_metrics(line)
    unit = objective.unit or run.unit
    counted = f"nats per {unit}" if objective.is_likelihood else f"{run.config.train.objective}, per {unit}"
    plot_losses(run.folder.read_metrics(), run.folder.loss_png, run.folder.path.name, counted)
    say(f"{'result':<10} {told}")
    say(f"{'':<10} the best checkpoint, step {run.step:,}, on all {result.targets:,} validation {unit}s")
    if (fixed := run.config.data.val_tokens or result.targets) < result.targets and not objective.unit:
        say(f"{'':<10} (the evaluations above read a fixed part of them, about {fixed:,})")
    say(f"{'run':<10} {run.folder.path}")
    return result


def forgetting(run: Run, say: Say = to_stderr) -> dict[str, Any] | None:
    """The loss on the base model's text before and after fine-tuning, in nats per token; None if there is no text.

    The text is `data.base_text`, or what the base run held out for its own validation.
    """
    source = run.config.data.base_text
    try:
        base = load(run.folder.base(run.config.plan.base).path, say=silent)
        if source:
            read = reading_of(base.config, source, tokenizer=base.tokenizer)
            before, after = (loss_of_text(each, read, say=say)["loss"] for each in (base, run))
        elif base.config.plan.device or base.folder.data_path.exists():  # it was trained, not imported
            source = "the base run's validation text"
            before, after = (_loss_on_own_text(each, base, run.config.plan.reread_targets) for each in (base, run))
        else:
            return None
    except PrimegptError as error:  # the text is gone: a pity, but nothing that the new model needs
        say(f"{'base text':<10} not read again: {error}")
        return None
    return {"source": source, "before": before, "after": after}


def _loss_on_own_text(run: Run, base: Run, max_targets: int) -> float:
    corpus = own_corpus(base, silent)
    batches = fixed_batches(base.config, corpus.val, max_targets)
    device = run.model.device.type
    return evaluate_loss(run.model, batches, text_bytes=corpus.val_bytes, device=device).loss
