"""Training from beginning to end: configure, prepare, plan, fit, judge; and the same again on resume."""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from primegpt.api.bases import Base, forgetting
from primegpt.api.configuring import configure, run_name, with_minutes
from primegpt.api.interop import write_peft_adapter
from primegpt.api.runs import Run, Say, load, load_config, silent, to_stderr
from primegpt.api.trainers import trainer_for
from primegpt.config import Config, Layer, TrainConfig, resolve, write_toml
from primegpt.data.audit import audit_corpus
from primegpt.data.corpus import Corpus
from primegpt.data.feed import fixed_batches, for_ranks
from primegpt.data.prepare import prepare, reopen
from primegpt.data.sources import source_bytes
from primegpt.errors import ConfigError, DataError, MismatchError, RunFolderError
from primegpt.evaluation.perplexity import LossResult, evaluate_loss
from primegpt.model.size import parameter_count
from primegpt.model.vocabulary import grown
from primegpt.run.atomic import write_json_atomic, write_text_atomic
from primegpt.run.checkpoint import load_newest
from primegpt.run.folder import RunFolder, WatchedRun, next_run_path
from primegpt.tokenizers import store
from primegpt.tokenizers.base import Tokenizer
from primegpt.training import plan as planning
from primegpt.training.assemble import assemble
from primegpt.training.distributed import join
from primegpt.training.loss_plot import plot_losses
from primegpt.training.precision import Precision
from primegpt.training.progress import NoDisplay, display
from primegpt.training.recipe import DEFAULT_MINUTES
from primegpt.training.tensorboard import mirrored, require_tensorboard
from primegpt.training.trainer import Observer, Trainer
from primegpt.training.world import World

AUDITED_TOKENS = 2_000_000  # tell as much about a text as all of it


def train(
    *sources: str | Path | Config,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float | None = None,
) -> Run:
    """Train a GPT on `sources` (texts, or one configuration) and return the run, its best checkpoint loaded.

    `settings` holds what a command line would, `{"train": {"max_steps": 500}}`, and wins over a configuration file.
    `minutes` is the wall-clock budget of the whole call (3 when no budget is given). Raises UsageError for a wrong
    request, before anything is written.
    """
    started = time.monotonic() if started is None else started
    flags = Layer(with_minutes(settings or {}, minutes))
    config = configure([str(s) if isinstance(s, Path) else s for s in sources], flags)
    path = Path(out) if out else next_run_path(run_name(config))
    return begin(path, config, overwrite=overwrite, observer=observer, say=say, started=started)


def begin(
    path: Path,
    config: Config,
    *,
    base: Base | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float,
) -> Run:
    """Make the run that `config` describes at `path`, from scratch or from `base`, and train it to the end.

    `config.model.vocab_size` is that of the tokenizer, which a `base` brings along.
    """
    with join(config) as world, ExitStack() as stack:
        say = say if world.rank == 0 else silent
        path = Path(world.tell(str(path)))
        world.refuse_differences(settings_of(config) | {"torch": torch.__version__})
        with world.together():
            if world.rank == 0:
                RunFolder(path).refuse_unless_free(overwrite)
            if config.train.tensorboard:
                require_tensorboard()
            require_text(config)
            for_ranks(config, world.size)
        config = planning.prepare_device(config, world)
        corpus = world.leaders_first(
            lambda: prepare(
                config.data,
                config.tokenizer,
                tokenizer=base.tokenizer if base else None,
                context=config.sequence_length,
                report=say,
            )
        )
        with world.together():
            config = fill_vocabulary(config, corpus.tokenizer)
            # A trained model need not learn a language from the text, so no text is too small for its size.
            parameters = None if base else parameter_count(config.model)
            audit = audit_corpus(corpus, parameters, audited_tokens(config)) if world.rank == 0 else None
            for warning in audit.warnings if audit else ():
                say(f"{'warning':<10} {warning}")
        world.refuse_differences(fingerprints(corpus))
        config = planning.make_plan(config, corpus, elapsed=time.monotonic() - started, world=world)
        folder: RunFolder = WatchedRun(path)
        with world.together():
            if audit:  # rank 0's, who alone writes
                folder = RunFolder.create(path, overwrite)
                stack.enter_context(folder.lock())
                if base:
                    base.copy_to(folder.base_dir)
                store.save(corpus.tokenizer, folder.tokenizer_dir)
                write_json_atomic(folder.data_path, corpus.record() | {"audit": audit.as_json()})
                write_text_atomic(folder.config_path, write_toml(config))
                stack.enter_context(mirrored(folder, config.train.tensorboard))
        return _fit(folder, config, corpus, world, observer=observer, say=say)


def resume(
    path: str | Path,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
) -> Run:
    """Continue the run at `path` from its newest good checkpoint; a finished run is returned as it is.

    A budget in `settings` ({"train": {"max_steps": 2000}}, tokens or epochs in all, minutes from now) extends the run:
    a finished one begins its schedule anew, of another what is left of the schedule is stretched.

    The losses and weights that follow are those of a run that never stopped, bit for bit, on the same machine; what
    differs from the conditions of the first session is said.
    """
    folder = RunFolder.open(Path(path))
    with join(load_config(folder)) as world, ExitStack() as stack:
        say = say if world.rank == 0 else silent
        budget = resolve(settings or {}).train
        with world.together():
            if world.rank == 0:
                stack.enter_context(folder.lock())
            else:
                folder = WatchedRun(folder.path)
        with world.together():
            config = load_config(folder)
            if not folder.data_path.exists():
                raise RunFolderError(f"{folder.path} was imported, not trained: there is nothing to resume")
            if config.train.tensorboard:
                require_tensorboard()
            for_ranks(config, world.size)
            tokenizer = store.load(folder.tokenizer_dir)
            record = json.loads(folder.data_path.read_text(encoding="utf-8"))
            tokenizer.check_fingerprint(record["tokenizer_fingerprint"], f"the data of {folder.path}")
        world.refuse_differences(settings_of(config) | {"torch": torch.__version__, "path": str(path)})
        config = planning.prepare_device(config, world)
        corpus = world.leaders_first(
            lambda: reopen(record, config.data, tokenizer, context=config.sequence_length, report=say)
        )
        world.refuse_differences(fingerprints(corpus))
        stack.enter_context(mirrored(folder, config.train.tensorboard and world.rank == 0))
        return _fit(folder, config, corpus, world, observer=observer, say=say, resuming=True, budget=budget)


def _fit(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    world: World,
    *,
    observer: Observer | None,
    say: Say,
    resuming: bool = False,
    budget: TrainConfig | None = None,
) -> Run:
    """Train in `folder` to the end of the plan, then judge the best checkpoint on the whole validation text.

    Of several ranks only the first judges and returns; the others end here, with SystemExit(0).
    """
    for name, value in planning.table(config, corpus):
        say(f"{name:<10} {value}")
    world.run = str(folder.path)
    model = assemble(config, base_weights(folder, config), world)
    with ExitStack() as stack:
        watcher = (observer or stack.enter_context(display())) if world.rank == 0 else NoDisplay()
        trainer = trainer_for(folder, config, corpus, model, watcher, world)
        with world.together():
            # A rank that keeps a part of every tensor reads one at a time: all of them may be more than fits.
            checkpoint = load_newest(folder.checkpoints_dir, say, lazily=world.sharded) if resuming else None
        world.refuse_differences({"the newest checkpoint": checkpoint.step if checkpoint else None})
        if checkpoint:
            for difference in planning.differences(checkpoint.state["conditions"], trainer.conditions):
                say(f"not bit for bit the same as before: {difference}")
            for name, value in trainer.fingerprints.items():
                if (saved := checkpoint.state["fingerprints"][name]) != value:
                    raise MismatchError(f"{folder.path} was trained with {name} {saved}, found {value}")
            trainer.restore(checkpoint)
            if budget:
                extend(trainer, budget, say)
            say(f"continuing at step {checkpoint.step} of {trainer.state.max_steps}")
        del checkpoint  # its tensors were copied, and are as large as the run's
        trainer.fit()
    world.leave()
    if world.rank:
        raise SystemExit(0)
    run = load(folder.path)
    run.folder = folder  # whose followers are told the result too
    judge(run, corpus, trainer.state.step, print)
    if config.lora.rank:
        write_peft_adapter(folder, config, say)
    if folder.base_dir.exists() and (losses := forgetting(run, say)):
        print(f"{'base text':<10} {losses['before']:.4f} nats per token before, {losses['after']:.4f} after")
        row = {"base/loss_before": losses["before"], "base/loss_after": losses["after"]}
        folder.append_metrics({"step": trainer.state.step} | row)
    return run


def base_weights(folder: RunFolder, config: Config) -> dict[str, Tensor] | None:
    """What a fine-tuned run starts from, with rows for the ids that it adds; None for a run from scratch."""
    if not folder.base_dir.exists():
        return None
    base = RunFolder.open(folder.base_dir)
    saved = base.load_checkpoint("best", to_stderr, {"model"})
    return grown(saved.tensors["model"], load_config(base).model, config.model)


def extend(trainer: Trainer, budget: TrainConfig, say: Say) -> None:
    """Give a run more to do: steps, tokens or epochs in all, or minutes from now; without a budget nothing happens."""
    state, plan = trainer.state, trainer.config.plan
    if budget.minutes:
        steps = state.step + max(1, int(60 * budget.minutes * (1 - planning.EVALUATION_SHARE) / plan.step_seconds))
        state.extend(steps, 60 * budget.minutes)
    elif steps := planning.steps_for_counted_budget(budget, trainer.batches):
        if steps <= state.step:
            raise ConfigError(
                f"{trainer.folder.path} is at step {state.step} already, and the budget ends at step {steps}",
                "budgets other than minutes are counted from the first step: give a larger one",
            )
        state.extend(steps)
    else:
        return
    say(f"extended to step {trainer.state.max_steps}")


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting by its name, `train.batch_size`, as plain JSON; what was measured left out."""
    sections = config.model_dump(mode="json", exclude={"plan"})
    return {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}


def fingerprints(corpus: Corpus) -> dict[str, str]:
    """What identifies the text and the tokenizer."""
    shards = {"the training text": corpus.train.fingerprint, "the held-out text": corpus.val.fingerprint}
    return {**shards, "the tokenizer": corpus.tokenizer.fingerprint}


def judge(run: Run, corpus: Corpus, last_step: int, say: Say) -> LossResult:
    """Every held-out target once, under the best checkpoint: the figure to quote. Logged, plotted, said."""
    config = run.config
    precision = Precision(config.train.precision, config.train.device)
    result = evaluate_loss(
        run.model.to(config.train.device),
        fixed_batches(config, corpus.val),
        text_bytes=corpus.val_bytes,
        device=config.train.device,
        autocast=precision.autocast,
    )
    line = {
        "step": last_step,
        "final/step": run.step,
        "final/val/loss": result.loss,
        "final/val/perplexity": result.perplexity,
        "final/val/bits_per_byte": result.bits_per_byte,
    }
    run.folder.truncate_metrics(lambda row: "final/val/loss" not in row)
    run.folder.append_metrics(line)
    plot_losses(run.folder.read_metrics(), run.folder.loss_png)
    unit = "character" if run.tokenizer.kind == "char" else "token"
    say(f"{'result':<10} {result.loss:.4f} nats per {unit}, {result.bits_per_byte:.4f} bits per byte")
    say(f"{'':<10} over all the held-out text, each target once; best checkpoint, step {run.step}")
    say(f"{'run':<10} {run.folder.path}")
    return result


def require_text(config: Config) -> None:
    """Refuse a text that cannot fill one window, before anything is written: a token is at least a byte."""
    length = config.sequence_length
    size = source_bytes(config.data.sources, songs=config.data.songs)
    if size is not None and size <= length:
        raise DataError(
            f"{', '.join(config.data.sources)}: {size} bytes are fewer than one context of {length} tokens",
            "add text, or lower --model.block_size",
        )


def audited_tokens(config: Config) -> int:
    """How much of each split the audit before training may look at: at about a million a second, 1% of the budget."""
    seconds = 60 * (config.train.minutes or DEFAULT_MINUTES)
    return int(min(AUDITED_TOKENS, 0.01 * seconds * 1e6))


def fill_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """`model.vocab_size` and the kind from the tokenizer. Raises MismatchError if the configuration says otherwise."""
    if config.model.vocab_size not in (0, tokenizer.vocab_size):
        raise MismatchError(
            f"model.vocab_size = {config.model.vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids",
            "leave model.vocab_size out: it is the tokenizer's",
        )
    return config.with_values(model={"vocab_size": tokenizer.vocab_size}, tokenizer={"kind": tokenizer.kind})
