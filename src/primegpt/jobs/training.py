"""Training from beginning to end: configure, prepare, plan, fit, judge; and the same again on resume."""

import time
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch

from primegpt.config import (
    BUDGETS,
    Config,
    Layer,
    Settings,
    TrainConfig,
    merge,
    read_saved,
    refuse_all_but,
    resolve,
    write_toml,
)
from primegpt.data.audit import AuditReport
from primegpt.data.batching.feed import for_ranks
from primegpt.data.preparing.corpus import Corpus
from primegpt.data.preparing.prepare import prepare, reopen
from primegpt.errors import ConfigError, MismatchError, RunFolderError
from primegpt.extend import loaded, told
from primegpt.inference.run import Run
from primegpt.jobs.bases import Base, reread_targets
from primegpt.jobs.configuring import (
    configure,
    fill_vocabulary,
    is_chosen,
    require_pairs,
    require_text,
    run_name,
    settings_of,
    with_extension,
    with_minutes,
    written_recipe,
)
from primegpt.jobs.judging import Chosen, audited, lasting_plan, said_of
from primegpt.jobs.reference import beside_reference
from primegpt.jobs.trainers import finish, trainer_for
from primegpt.parallel.distributed import join
from primegpt.parallel.world import World
from primegpt.planning.compiling import compiled_if_possible
from primegpt.planning.course import steps_for_counted_budget, steps_in
from primegpt.planning.plan import (
    as_on_rank_0,
    differences,
    make_plan,
    prepare_device,
    refuse_threads,
    refuse_what_cannot_fit,
)
from primegpt.planning.timing import correct
from primegpt.report.pictures import load_in_background
from primegpt.report.tracking import require_trackers, tracked
from primegpt.run.atomic import write_bytes_atomic, write_json_atomic, write_text_atomic
from primegpt.run.checkpoint import Checkpoint, fingerprint_of
from primegpt.run.contents import Changes, changes_since, data_record, require_plan, said_changes
from primegpt.run.extensions import has_changed, open_extension
from primegpt.run.folder import RunFolder, WatchedRun, new_identity, next_run_path
from primegpt.run.sessions import add_session
from primegpt.terminal import Say, silent, to_stderr
from primegpt.tokenizers import store
from primegpt.training.display import Observer, display
from primegpt.training.progress import plan_table
from primegpt.training.threads import threads_put_back
from primegpt.training.trainer import Trainer
from primegpt.training.trial import try_parts


def train(
    *sources: str | Path | Config,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    settings: Settings | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    quiet: bool = False,
    started: float | None = None,
) -> Run:
    """Train a GPT on `sources` (texts, or one configuration) and return the run, its best checkpoint loaded.

    `settings` holds what a command line would, `{"train": {"max_steps": 500}}`, and wins over a configuration file.
    `minutes` is the wall-clock budget of the whole call (3 when no budget is given). Progress, warnings and results go
    to `say` a line at a time, or nowhere if `quiet`; an `observer` takes the place of the display of progress. Raises
    UsageError for a wrong request, before anything is written.
    """
    started = time.monotonic() if started is None else started
    flags = Layer(with_minutes(settings or {}, minutes))
    named = [str(source) if isinstance(source, Path) else source for source in sources]
    require_pairs(merge(written_recipe(named) or {}, flags), is_finetuned=False)
    config = configure(named, flags)
    refuse_rewards(config)
    if config.lora.rank or config.data.base_text:
        key = "lora.rank" if config.lora.rank else "data.base_text"
        raise ConfigError(f"{key} is of a model that is trained further", "`primegpt finetune BASE SOURCE` has one")
    path = Path(out) if out else next_run_path(run_name(config))
    say = silent if quiet else say
    chosen = partial(configure, named, flags) if is_chosen(named, flags) else None
    return begin(path, config, chosen=chosen, overwrite=overwrite, observer=observer, say=say, started=started)


def refuse_rewards(config: Config) -> None:
    """Raise ConfigError for a configuration of what learns from rewards."""
    if config.reinforce.on:
        raise ConfigError("reinforce.reward is for a model that answers", "`primegpt reinforce RUN PROMPTS` has one")


def begin(
    path: Path,
    config: Config,
    *,
    base: Base | None = None,
    chosen: Chosen | None = None,
    overwrite: bool = False,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float,
) -> Run:
    """Make the run that `config` describes at `path`, from scratch or from `base`, and train it to the end.

    `config.model.vocab_size` is that of the tokenizer, which a `base` brings along. `chosen` gives it with another
    network, where nothing was asked for but minutes.
    """
    with join(config) as world, ExitStack() as stack:
        say = say if world.rank == 0 else silent
        path = Path(world.tell(str(path)))
        with world.together():
            config = with_extension(config, say)
        world.refuse_differences(settings_of(config) | {"torch": torch.__version__})
        with world.together():
            if world.rank == 0:
                RunFolder(path).refuse_unless_free(overwrite)
            require_machine(config, world)
            require_text(config)
            refuse_threads(config.train)
        # Of this run, whatever a saved configuration says of its own.
        config = config.with_values(plan={"chosen": [] if config.train.threads else ["threads"]})
        config = prepare_device(config, world)
        with world.together():
            refuse_what_cannot_fit(config, world)  # before hours of tokenizing
            try_parts(config)
        known, context = base.tokenizer if base else None, config.sequence_length
        corpus = world.leaders_first(
            lambda: prepare(config.data, config.tokenizer, tokenizer=known, context=context, say=say)
        )
        with world.together():
            config = fill_vocabulary(config, corpus.tokenizer)
            audit = audited(corpus, config, base) if world.rank == 0 else None
        world.refuse_differences(fingerprints(corpus))
        with told():
            if chosen:
                config = lasting_plan(config, corpus, chosen, audit, started, world)
            else:
                elapsed, rereading = time.monotonic() - started, reread_targets(base, config) if base else 0
                config = make_plan(config, corpus, elapsed=elapsed, rereading=rereading, world=world)
        with world.together():
            if audit:
                audit = said_of(audit, config, corpus, say)
        config = config.with_values(plan={"run": world.tell(new_identity()), "base": ""})
        folder: RunFolder = WatchedRun(path)
        with world.together():
            if audit:  # rank 0's, who alone writes
                folder = RunFolder.create(path, overwrite)
                stack.enter_context(folder.lock())
                config = write_run(folder, config, corpus, audit, base)
                stack.enter_context(tracked(folder, config, say))
        config = as_on_rank_0(config, world)
        return _fit(folder, config, corpus, world, observer=observer, say=say)


def require_machine(config: Config, world: World) -> None:
    """Refuse what is not installed, and a batch that the ranks cannot share."""
    require_trackers(config)
    for_ranks(config, world.size)


def write_run(folder: RunFolder, config: Config, corpus: Corpus, audit: AuditReport, base: Base | None) -> Config:
    """Write what a run has before its first step; its configuration, which names what lies in base/."""
    if base:
        base.copy_to(folder.base_dir)
        copied = fingerprint_of(RunFolder(folder.base_dir).checkpoint_path())
        config = config.with_values(plan={"base": copied})
    if config.model.extension:
        write_bytes_atomic(folder.extension_path, loaded(config.model.extension).source)
    store.save(corpus.tokenizer, folder.tokenizer_dir)
    write_json_atomic(folder.data_path, corpus.record() | {"audit": audit.as_json()})
    write_text_atomic(folder.config_path, write_toml(config))
    return config


def resume(
    path: str | Path,
    *,
    settings: Settings | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    quiet: bool = False,
) -> Run:
    """Continue the run at `path` from its newest good checkpoint; a finished run is returned as it is.

    A budget in `settings` ({"train": {"max_steps": 2000}}, tokens or epochs in all, minutes from now) extends the run:
    a finished one begins its schedule anew, of another what is left of the schedule is stretched.

    The losses and weights that follow are those of a run that never stopped, bit for bit, on the same machine; what
    differs from the conditions and settings of the session before is said. Raises ConfigError for an edited setting
    that cannot change: the network, the tokenizer, the text, the optimizer.
    """
    budgets = (f"train.{name}" for name in BUDGETS)
    refuse_all_but(budgets, settings or {}, "a run goes on as it was configured: give no setting but a budget")
    folder, say = RunFolder.open(Path(path)), silent if quiet else say
    with join(read_saved(folder.config_path)) as world, ExitStack() as stack:
        say = say if world.rank == 0 else silent
        budget = resolve(settings or {}).train
        with world.together():
            if world.rank == 0:
                stack.enter_context(folder.lock())
            else:
                folder = WatchedRun(folder.path)
        with world.together():
            checkpoint, config, changes = taken_up(folder, world, say)
            tokenizer, record = store.load(folder.tokenizer_dir), data_record(folder, say, checkpoint)
            assert record is not None, "it was trained, as its plan says"
            tokenizer.check_fingerprint(record["tokenizer_fingerprint"], f"the data of {folder.path}")
        world.refuse_differences(settings_of(config) | {"torch": torch.__version__, "path": str(path)})
        config = prepare_device(config, world)
        finished = checkpoint and checkpoint.step >= (config.train.max_steps or 0) and not settings
        if not finished:
            config = compiled_if_possible(config, world, say)
        context = config.sequence_length
        corpus = world.leaders_first(lambda: reopen(record, config.data, tokenizer, context=context, say=say))
        world.refuse_differences(fingerprints(corpus))
        if world.rank == 0:
            write_json_atomic(folder.data_path, record)  # as it was, unless it had to be made good
            stack.enter_context(tracked(folder, config, say))
        if "train.max_steps" in changes and not any(getattr(budget, name) for name in BUDGETS):
            budget = TrainConfig(max_steps=config.train.max_steps)
        return _fit(folder, config, corpus, world, observer=observer, say=say, checkpoint=checkpoint, budget=budget)


def taken_up(folder: RunFolder, world: World, say: Say) -> tuple[Checkpoint | None, Config, Changes]:
    """What to go on from, with which settings, and what of these is new. Damage and changes are said."""
    say_rows((("damaged", damage) for damage in (folder.damages() if world.rank == 0 else ())), say)
    # A rank that keeps a part of every tensor reads one at a time: all of them may be more than fits.
    checkpoint = newest_of(folder, lazily=world.sharded, say=say)
    config = read_saved(folder.config_path)
    changes = changes_since(folder, checkpoint, config) if checkpoint else {}
    require_plan(folder, config)
    if open_extension(folder, config) and has_changed(config):
        what = f"{config.extension} is not what it was: the run goes on with its own copy, {folder.extension_path}"
        say(f"{'extension':<10} {what}; for what you have changed, start another run")
    say_rows((("changed", change) for change in said_changes(changes)), say)
    require_machine(config, world)
    return checkpoint, config, changes


def newest_of(folder: RunFolder, *, lazily: bool, say: Say) -> Checkpoint | None:
    """The checkpoint to go on from; None where training had not come to one. Raises RunFolderError if it was none."""
    if not (read_saved(folder.config_path).plan.device or folder.data_path.exists()):
        raise RunFolderError(f"{folder.path} was imported, not trained: there is nothing to resume")
    checkpoint = folder.load_newest(say, lazily=lazily)
    if not checkpoint:
        folder.truncate_metrics(lambda row: False)  # of checkpoints that are gone
    return checkpoint


@threads_put_back()
def _fit(
    folder: RunFolder,
    config: Config,
    corpus: Corpus,
    world: World,
    *,
    observer: Observer | None,
    say: Say,
    checkpoint: Checkpoint | None = None,
    budget: TrainConfig | None = None,
) -> Run:
    """Train in `folder` to the end of the plan, then judge the best checkpoint on the whole validation text.

    Of several ranks only the first judges and returns; the others end here, with SystemExit(0).
    """
    if not checkpoint:
        say_rows(plan_table(config, corpus), say)
    world.run = str(folder.path)
    model = beside_reference(folder, config, corpus, world, checkpoint, say)
    with ExitStack() as stack:
        watcher = observer if observer and world.rank == 0 else stack.enter_context(display(say))
        trainer = trainer_for(folder, config, corpus, model, watcher, world)
        world.refuse_differences({"the newest checkpoint": checkpoint.step if checkpoint else None})
        if checkpoint:
            go_on(trainer, checkpoint, budget, say)
            say_rows(plan_table(config, corpus, trainer.state, trainer.batches), say)
            say(f"continuing at step {checkpoint.step} of {trainer.state.max_steps}")
        if world.rank == 0:
            add_session(folder, torch.__version__)
        if world.rank == 0:
            load_in_background()
        with told(running=True):
            trainer.fit()
    whole = config.train.batch_size == trainer.batches.batch_size  # no micro-batch was too large for the memory
    as_planned = torch.get_num_threads() == config.train.threads
    if world.size == 1 and whole and as_planned and (seconds := trainer.pace.usual_step):
        correct(config, seconds)
    world.leave()
    if world.rank:
        raise SystemExit(0)
    return finish(folder, config, corpus, trainer.state, say)


def go_on(trainer: Trainer, checkpoint: Checkpoint, budget: TrainConfig | None, say: Say) -> None:
    """Put the trainer where the run was. Raises MismatchError where the checkpoint is of another text or tokenizer."""
    for difference in differences(checkpoint.state["conditions"], trainer.conditions):
        say(f"not bit for bit the same as before: {difference}")
    for name, value in trainer.fingerprints.items():
        if (saved := checkpoint.state["fingerprints"][name]) != value:
            raise MismatchError(f"{trainer.folder.path} was trained with {name} {saved}, found {value}")
    trainer.restore(checkpoint)
    checkpoint.tensors.clear()  # they were copied, are as large as the run's, and others still hold the checkpoint
    if budget:
        extend(trainer, budget, say)


def extend(trainer: Trainer, budget: TrainConfig, say: Say) -> None:
    """Give a run more to do: steps, tokens or epochs in all, or minutes from now; without a budget nothing happens."""
    state, plan = trainer.state, trainer.config.plan
    train, before = trainer.config.train, state.max_steps
    if budget.minutes:
        seconds = max(1.0, 60 * budget.minutes - plan.closing_seconds)
        state.extend(train, state.step + steps_in(trainer.config, seconds), seconds)
    elif steps := steps_for_counted_budget(budget, trainer.batches):
        if steps <= state.step:
            raise ConfigError(
                f"{trainer.folder.path} is at step {state.step} already, and the budget ends at step {steps}",
                "budgets other than minutes are counted from the first step: give a larger one",
            )
        state.extend(train, steps)
    else:
        return
    trainer.timetable.follow_plan(state, before)
    say(f"extended to step {trainer.state.max_steps}")


def say_rows(rows: Iterable[tuple[str, str]], say: Say) -> None:
    """Say rows of a name and a value, one a line."""
    for name, value in rows:
        say(f"{name:<10} {value}")


def fingerprints(corpus: Corpus) -> dict[str, str]:
    """What identifies the text and the tokenizer."""
    shards = {"the training text": corpus.train.fingerprint, "the validation text": corpus.val.fingerprint}
    return {**shards, "the tokenizer": corpus.tokenizer.fingerprint}
