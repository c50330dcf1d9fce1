"""Learning from rewards, from beginning to end: configure, read the prompts, plan, fit, tell; and again on resume."""

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from primegpt.config import (
    BUDGETS,
    Config,
    Layer,
    Settings,
    TrainConfig,
    read_saved,
    refuse_all_but,
    resolve,
    write_toml,
)
from primegpt.data.reading.sources import is_read_once
from primegpt.errors import DataError, quoted
from primegpt.evaluation.rewards import Reward
from primegpt.extend import loaded, told
from primegpt.inference.run import Run, load
from primegpt.jobs.bases import Base, open_base, refuse_itself, require_base_text, reread_targets
from primegpt.jobs.configuring import with_extension, with_minutes
from primegpt.jobs.interop import write_peft_adapter
from primegpt.jobs.own_rewards import keep, kept, reward_of
from primegpt.jobs.prompts import Prompted, read_prompts
from primegpt.jobs.reinforce_session import Session, Task, records_of
from primegpt.jobs.reinforce_settings import configure, refuse_what_is_idle
from primegpt.jobs.trainers import forgetting, left_out
from primegpt.jobs.training import go_on, say_rows, taken_up
from primegpt.model.gpt import GPT
from primegpt.parallel.distributed import join
from primegpt.parallel.world import ALONE
from primegpt.planning.plan import prepare_device, refuse_threads
from primegpt.planning.rollout_plan import plan_rows, refuse_what_cannot_fit
from primegpt.report.pictures import load_in_background, plot_losses
from primegpt.report.tracking import require_trackers, tracked
from primegpt.run import atomic
from primegpt.run.checkpoint import Checkpoint, fingerprint_of
from primegpt.run.folder import RunFolder, new_identity, next_run_path
from primegpt.run.sessions import add_session
from primegpt.terminal import Say, silent, to_stderr, to_stdout
from primegpt.tokenizers import store
from primegpt.training.display import Observer, display
from primegpt.training.state import TrainState


def reinforce(
    base: str | Path,
    *prompts: str | Path | Config,
    reward: Sequence[str] = (),
    lora: bool = False,
    out: str | Path | None = None,
    overwrite: bool = False,
    minutes: float | None = None,
    checkpoint: str | int = "best",
    settings: Settings | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    quiet: bool = False,
    started: float | None = None,
) -> Run:
    """Let the model of `base` write to `prompts`, and make likelier what `reward` puts above the rest, as a new run.

    `prompts` are records as the base was tuned on, whose answers are not needed, or one configuration. `reward` has
    names, with weights or without, or FILE.py:function. Held-out prompts tell how far it has come: the best checkpoint
    is that of the highest reward. Other arguments are as in `finetune`.
    """
    started, say = time.monotonic() if started is None else started, silent if quiet else say
    flags = Layer(with_minutes(settings or {}, minutes))
    opened = open_base(base, checkpoint, say)
    config = configure(opened, [str(p) if isinstance(p, Path) else p for p in prompts], flags, reward=reward, lora=lora)
    require_base_text(opened, config)
    path = Path(out) if out else next_run_path(f"{Path(base).name}-rewarded")
    refuse_itself(base, path)
    return begin(path, config, opened, overwrite=overwrite, observer=observer, say=say, started=started)


def begin(
    path: Path,
    config: Config,
    base: Base,
    *,
    overwrite: bool = False,
    observer: Observer | None = None,
    say: Say = to_stderr,
    started: float,
) -> Run:
    """Make the run that `config` describes at `path` from `base`, and train it to the end.

    Prompts and rewards are tried before anything is written.
    """
    with join(config), nothing_but_a_run(path), ExitStack() as stack:
        config = with_extension(config, say)
        RunFolder(path).refuse_unless_free(overwrite)
        refuse_threads(config.train)
        require_trackers(config)
        config = prepare_device(config)
        task, records = asked(path, config, base, say)
        refuse_what_cannot_fit(config, task.longest)
        folder = RunFolder.create(path, overwrite)
        stack.enter_context(folder.lock())
        config, opened = write_base(folder, config, base)
        atomic.write_bytes_atomic(folder.prompts_path, records)
        keep(folder, task.reward, say)
        session = Session(folder, config, opened, task)
        del opened  # of which a session keeps what it needs
        session.plan(time.monotonic() - started, reread_targets(base, config))
        atomic.write_json_atomic(folder.data_path, task.facts())
        atomic.write_text_atomic(folder.config_path, write_toml(session.config))  # last: until then it is no run
        stack.enter_context(tracked(folder, config, say))
        say_rows(plan_rows(session.config, *task.sizes), say)
        return fit(session, observer=observer, say=say)


@contextmanager
def nothing_but_a_run(path: Path) -> Generator[None]:
    """Leave nothing at `path` of what came to no run; if something was there, only that."""
    new = not path.exists()
    try:
        yield
    except BaseException:
        if new and path.exists() and not RunFolder(path).config_path.exists():
            atomic.remove(path)
        elif not new and (path / "base").exists() and not RunFolder(path).config_path.exists():
            RunFolder.create(path, overwrite=True)
        raise


def asked(path: Path, config: Config, base: Base, say: Say) -> tuple[Task, bytes]:
    """What the run at `path` is to learn from, and the records that it is to keep, of sources that are read once.

    Raises as prompts and reward do, before anything is written there: an old run is replaced by none that cannot be.
    """
    if pipe := next(filter(is_read_once, config.data.sources), None):
        raise DataError(f"prompts from {quoted(pipe)}, a pipe, cannot be read again", "save them to a file")
    no_model = cast(GPT, None)  # weights have no part in how prompts are laid out
    opened = Run(RunFolder(path), base.config, no_model, base.tokenizer, 0)
    prompts = read_prompts(opened, config.data, say=say)
    reward, records = tried(config, prompts), records_of(prompts)
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "prompts.jsonl"
        kept.write_bytes(records)
        return Task.of(kept, opened, config, reward, say, [each.place for each in prompts]), records


def tried(config: Config, prompts: Sequence[Prompted]) -> Reward:
    """The reward, which has judged an empty answer to the first prompt. Raises as it does.

    Every record has to have the fields that it reads.
    """
    reward = reward_of(config)
    reward.check(each.document for each in prompts)
    reward([""], [""], [prompts[0].record], [prompts[0].place])
    return reward


def write_base(folder: RunFolder, config: Config, base: Base) -> tuple[Config, Run]:
    """Write what a run has before its first step, but for its configuration, which is returned; the base, opened."""
    base.copy_to(folder.base_dir)
    if config.model.extension:
        atomic.write_bytes_atomic(folder.extension_path, loaded(config.model.extension).source)
    store.save(base.tokenizer, folder.tokenizer_dir)
    opened = load(folder.base_dir, device=config.train.device, say=silent)
    copied = fingerprint_of(RunFolder(folder.base_dir).checkpoint_path())
    return config.with_values(plan={"run": new_identity(), "base": copied}), opened


def resume(
    path: str | Path,
    *,
    settings: Settings | None = None,
    observer: Observer | None = None,
    say: Say = to_stderr,
    quiet: bool = False,
) -> Run:
    """Continue a run that learns from rewards, as `jobs.training.resume` does any other: bit for bit."""
    budgets = (f"train.{name}" for name in BUDGETS)
    refuse_all_but(budgets, settings or {}, "a run goes on as it was configured: give no setting but a budget")
    folder, say = RunFolder.open(Path(path)), silent if quiet else say
    with join(read_saved(folder.config_path)), ExitStack() as stack:
        asked_for = resolve(settings or {})
        refuse_what_is_idle(asked_for)
        budget = asked_for.train
        stack.enter_context(folder.lock())
        checkpoint, config, changes = taken_up(folder, ALONE, say)
        config = prepare_device(config)
        base = load(folder.base(config.plan.base).path, device=config.train.device, say=silent)
        reward = reward_of(config, kept(folder, config, say))
        task = Task.of(folder.prompts_path, base, config, reward, silent)
        stack.enter_context(tracked(folder, config, say))
        if "train.max_steps" in changes and not any(getattr(budget, name) for name in BUDGETS):
            budget = TrainConfig(max_steps=config.train.max_steps)
        session = Session(folder, config, base, task, resumed=checkpoint is not None)
        del base  # of which a session keeps what it needs
        return fit(session, observer=observer, say=say, checkpoint=checkpoint, budget=budget)


def fit(
    session: Session,
    *,
    observer: Observer | None,
    say: Say,
    checkpoint: Checkpoint | None = None,
    budget: TrainConfig | None = None,
) -> Run:
    """Train to the end of the plan, and tell what came of it."""
    with ExitStack() as stack:
        trainer = session.trainer(observer or stack.enter_context(display(say)))
        if checkpoint:
            go_on(trainer, checkpoint, budget, say)
            say_rows(plan_rows(session.config, *session.task.sizes, trainer.state), say)
            say(f"continuing at step {checkpoint.step} of {trainer.state.max_steps}")
        add_session(session.folder, str(trainer.conditions["torch"]))
        load_in_background()
        with told(running=True):
            trainer.fit()
    return finish(session.folder, session.config, trainer.state, say)


def finish(folder: RunFolder, config: Config, state: TrainState, say: Say) -> Run:
    """Tell how far the best checkpoint has come, and write what others read of the run."""
    run = load(folder.path, say=say)
    run.folder = folder  # whose followers get the result too
    for line in left_out(state, config, folder.path):
        say(f"{'warning':<10} {line}")
    tell = to_stdout if say is to_stderr else say
    rows = [row for row in folder.read_metrics() if "val/reward" in row]
    best = next((row for row in rows if row["step"] == run.step), rows[-1])
    folder.truncate_metrics(lambda row: "final/val/loss" not in row)
    figures = {f"final/val/{name}": best[f"val/{name}"] for name in ("loss", "reward")}
    folder.append_metrics({"step": state.step, "final/step": run.step, **figures})
    plot_losses(folder.read_metrics(), folder.loss_png, folder.path.name)
    tell(f"{'result':<10} reward {best['val/reward']:.4f} on validation prompts, {rows[0]['val/reward']:.4f} before")
    tell(f"{'':<10} the best checkpoint, step {run.step:,}")
    tell(f"{'run':<10} {folder.path}")
    if config.lora.rank:
        write_peft_adapter(folder, config, say)
    if losses := forgetting(run, say):
        tell(f"{'base text':<10} {losses['before']:.4f} nats per {run.unit} before, {losses['after']:.4f} after")
        row = {"base/loss_before": losses["before"], "base/loss_after": losses["after"]}
        folder.append_metrics({"step": state.step} | row)
    folder.seal()
    return run
