"""The training loop: batches → logits → loss → gradients → update, and everything needed to stop and go on exactly.

The state of a run is the model, the optimizers, the scaler and one `TrainState`; batches and every random number are
functions of (seed, step). A run that was killed and resumed therefore computes the same numbers as one that was not.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from primegpt.config import Config
from primegpt.data.batching.batches import Batch, Batches
from primegpt.data.batching.feed import smaller_micro_batch
from primegpt.errors import DiskError, NonFiniteError, OutOfMemory, PrimegptError, is_out_of_memory
from primegpt.evaluation.perplexity import EvaluationSet, Figures, LossResult, add_figures, evaluate_loss
from primegpt.model.gpt import GPT
from primegpt.parallel.world import ALONE, World, local, release
from primegpt.run.checkpoint import Checkpoint, commit_evaluation, read_evaluation, step_name
from primegpt.run.folder import RunFolder
from primegpt.run.saving import last_good
from primegpt.signals import Interrupted, Interrupts
from primegpt.terminal import printable
from primegpt.training.assemble import as_written
from primegpt.training.average import Average
from primegpt.training.checkpoints import Checkpoints
from primegpt.training.display import Observer
from primegpt.training.early import early_line
from primegpt.training.objective import CROSS_ENTROPY, Objective
from primegpt.training.optimizers import Optimizers
from primegpt.training.pace import Pace, Timetable
from primegpt.training.progress import Speed, evaluation_line, is_finite, memory_mb, remarks_at_the_end, train_line
from primegpt.training.saved import Tensors, divided, put_back, tensors_of, weights_of
from primegpt.training.state import EarlyStopping, TrainState
from primegpt.training.step import Precision, compute_gradients, sum_over_ranks, update
from primegpt.training.threads import Threads, may_change

RANK_GRACE = 25.0  # seconds from SIGTERM to a hard end; torchrun takes 30


class Trainer:
    """One run in progress. `fit()` trains to the end; `restore()` first puts it where a checkpoint left off."""

    def __init__(
        self,
        config: Config,
        model: GPT,
        batches: Batches,
        *,
        train_set: EvaluationSet,
        val_set: EvaluationSet,
        folder: RunFolder,
        precision: Precision,
        observer: Observer,
        objective: Objective = CROSS_ENTROPY,
        sample: Callable[[GPT], str] = lambda model: "",
        fingerprints: dict[str, str] | None = None,
        data: dict[str, Any] | None = None,
        conditions: dict[str, Any] | None = None,
        speed: Speed | None = None,
        world: World = ALONE,
    ) -> None:
        self.config, self.model, self.batches, self.objective = config, model, batches, objective
        self.train_set, self.val_set, self.sample_text = train_set, val_set, sample
        self.folder, self.precision, self.observer, self.world = folder, precision, observer, world
        self.fingerprints, self.data, self.conditions = fingerprints or {}, data or {}, conditions or {}
        self.optimizers = Optimizers(model, config.train, precision.dtype)
        self.average = Average(model, config.train.average)
        self.speed = speed or Speed(0.0, 0.0)
        assert config.train.max_steps, "the plan resolves max_steps"
        early_stopping = EarlyStopping(config.train.patience)
        self.state = TrainState(max_steps=config.train.max_steps, early_stopping=early_stopping)
        self.interrupts = Interrupts(grace=None if world.size == 1 else RANK_GRACE)
        self.grad_norm = 0.0
        self.restored_from: Path | None = None
        self.pace = Pace()
        self.timetable = Timetable(config, self.pace, world, observer.on_message)
        self.checkpoints = Checkpoints(
            folder, world, keep=config.train.keep_checkpoints, behind=config.train.async_checkpoint
        )

    # ---- The loop ----------------------------------------------------------------------------------------------------

    def fit(self) -> TrainState:
        """Train from the present step to the end. Raises Interrupted (after saving), NonFiniteError and DiskError."""
        self.session_start = time.monotonic() - self.state.seconds
        self.pace.begin()
        budget, threads = self.state.deadline(self.config.plan.training_seconds), None
        if budget and may_change(self.config, self.world):
            threads = Threads(self.config.plan.threads, budget, self.observer.on_message)
        self.model.train()
        with self.interrupts:
            try:
                if self.restored_from:
                    self.finish_interrupted_step(self.restored_from)
                else:
                    self.after_step()
                if not self.state.step:
                    self.state.seconds_before = self.world.max(time.monotonic() - self.session_start)
                while not self.state.finished:
                    with self.pace.step():
                        self.step()
                    if threads and threads.after_step(self.state, self.pace.lately[-1]):
                        self.pace.look_again(soon=True)
                    self.after_step()
                for remark in remarks_at_the_end(self.state, rewarded=self.config.reinforce.on):
                    self.observer.on_message(remark)
                self.checkpoints.finish()
                self.poll()  # a signal that came after the last step
            except Interrupted as stop:
                self.leave(stop)
            except DiskError as error:
                with suppress(PrimegptError):
                    self.checkpoints.finish()
                raise DiskError(f"{error.what}; {last_good(self.folder.checkpoints_dir)}", error.remedy) from error
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                what = f"out of memory at step {self.state.step}; {last_good(self.folder.checkpoints_dir)}"
                raise OutOfMemory(what, "train a smaller model, or with a smaller train.batch_size") from None
        return self.state

    def step(self) -> None:
        """One optimizer step: gradients of the whole batch, then clip, then update."""
        state, train = self.state, self.config.train
        self.poll()
        started = time.monotonic()
        self.optimizers.set_learning_rate(state.learning_rate_factor(train, self.config.model.extension))
        micro_batches = self.batches.micro_batches(state.step)
        loss, count, figures = self.gradients(micro_batches)
        if not math.isfinite(loss):
            self.stop_at_non_finite("loss")
        clip = train.grad_clip
        self.grad_norm = update(self.model, self.optimizers, self.precision, clip) if count else 0.0
        if not math.isfinite(self.grad_norm):
            if not self.precision.scaler.is_enabled():
                self.stop_at_non_finite("gradient")
            state.skipped_updates += 1
        if self.objective.is_likelihood:
            tokens = count
        else:  # the loss counts something else
            tokens = int(self.world.sum(sum(batch.supervised for batch in micro_batches)))
        state.step += 1
        self.average.update(state.step)
        state.tokens += tokens
        state.loss_sum += loss
        state.loss_tokens += count
        add_figures(state.figures, figures)
        self.speed.add(tokens, time.monotonic() - started)

    def after_step(self) -> None:
        """Log, save, evaluate, sample: whatever is due at this step, in this order."""
        self.log()
        if self.due("eval_interval"):
            with self.pace.timed("eval_interval"):
                self.save()
                self.evaluate()
        else:
            if self.state.step and self.due("checkpoint_interval"):
                with self.pace.timed("checkpoint_interval"):
                    self.save()
            if self.early_is_due():
                with self.pace.timed("early_evaluations"):
                    self.evaluate_early()
        if self.due("sample_interval"):
            with self.pace.timed("sample_interval"):
                self.sample()

    def due(self, name: str) -> bool:
        """Whether it is time for an evaluation, sample, checkpoint or line of the log, by the name of its interval."""
        return self.timetable.due(self.state, name)

    def early_is_due(self) -> bool:
        """Whether it is time for an early evaluation, where no other one is."""
        return self.state.step in (self.config.train.early_evaluations or ()) and not self.due("eval_interval")

    def gradients(self, micro_batches: Sequence[Batch]) -> tuple[float, int, Figures]:
        """`compute_gradients` for the present step, with half the micro-batch as often as memory runs out."""
        step, seed = self.state.step, self.config.train.seed
        polled = self.poll_in_step, self.world, self.objective
        while not (done := compute_gradients(self.model, micro_batches, self.precision, seed, step, *polled)):
            self.take_smaller_micro_batches()
            micro_batches = self.batches.micro_batches(step)
        return done

    def take_smaller_micro_batches(self) -> None:
        """From here on the same steps in smaller pieces; an event."""
        state = self.state
        if self.batches.batch_size == 1:
            raise OutOfMemory(
                f"out of memory at step {state.step}, where a micro-batch is one row already; "
                f"{last_good(self.folder.checkpoints_dir)}",
                "set --train.activation_checkpointing or a shorter --train.sequence_length, or train a smaller model",
            )
        self.batches = self.batches.with_batch_size(smaller_micro_batch(self.batches.batch_size))
        size, accumulation = self.batches.batch_size, self.batches.gradient_accumulation_steps
        state.events.append({"step": state.step, "batch_size": size, "gradient_accumulation_steps": accumulation})
        self.observer.on_message(f"out of memory at step {state.step}: micro-batch {size}, accumulation {accumulation}")

    # ---- What is due -------------------------------------------------------------------------------------------------

    def log(self) -> None:
        """Every `log_interval` steps a line of metrics.jsonl: the mean loss since the last one."""
        state, line = self.state, None
        state.seconds = time.monotonic() - self.session_start
        self.timetable.check_pace(state)
        if state.step and self.due("log_interval") and state.loss_tokens:
            state.seconds = self.world.max(state.seconds)
            line = train_line(
                state,
                lr=self.optimizers.members[0].param_groups[0]["lr"],
                grad_norm=self.grad_norm,
                speed=self.speed,
                memory_mb=memory_mb(self.precision.device),
            )
            self.folder.append_metrics(line)
            state.loss_sum, state.loss_tokens, state.figures = 0.0, 0, {}
            self.speed.reset()
        self.observer.on_step(state, line)

    def save(self) -> None:
        """A checkpoint of the present step. An update that ruined the weights is not saved."""
        if self.world.sharded:
            release(self.model)  # an evaluation or a sample leaves them gathered
        tensors = tensors_of(self.model, self.average, self.optimizers, self.batches.source)
        self.require_finite(tensors)
        self.checkpoints.save(self.state.step, tensors, self.record())

    def require_finite(self, tensors: Tensors) -> None:
        # One value that is not finite shows in the sum, which takes a thirteenth of the time of asking each of them.
        finite = all(local(tensor).sum().isfinite() for named in tensors.values() for tensor in named.values())
        if self.world.max(not finite):
            self.stop_at_non_finite("weights")

    def record(self) -> dict[str, Any]:
        """What state.json of a checkpoint holds."""
        return {
            "train": self.state.as_json(),
            "scaler": self.precision.scaler.state_dict(),
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "fingerprints": self.fingerprints,
            "data": self.data,
            "conditions": self.conditions,
        }

    def evaluate(self) -> None:
        """Loss on the fixed sets; committed beside the checkpoint just saved, then counted for early stopping."""
        line = self.evaluated(self.train_set, self.val_set)
        self.checkpoints.finish()
        if not is_finite(line):
            self.folder.discard(self.state.step)
            self.stop_at_non_finite("loss on the fixed sets")
        if self.world.rank == 0:
            commit_evaluation(self.folder.checkpoint_path(self.state.step), line)
        self.take_in(line)

    def evaluate_early(self) -> None:
        """Loss on a part of the fixed sets, for looks at it alone; and the weights, where milestones are kept."""
        if (
            self.config.train.keep_checkpoints == "milestones"
        ):  # first, since evaluating leaves sharded weights gathered
            weights = weights_of(self.model, self.average)
            self.require_finite(weights)
            self.checkpoints.keep_weights(self.state.step, weights, self.record())
        line = self.evaluated(self.train_set.part or self.train_set, self.val_set.part or self.val_set)
        if not is_finite(line):
            self.stop_at_non_finite("loss on the fixed sets")
        self.folder.append_metrics(early_line(line))
        self.observer.on_evaluation(self.state, early_line(line), best=False)

    def evaluated(self, train_set: EvaluationSet, val_set: EvaluationSet) -> dict[str, Any]:
        """The line of an evaluation on these sets."""
        train, val = self.loss_on(train_set), self.loss_on(val_set)
        return evaluation_line(self.state, train=train, val=val, is_likelihood=self.objective.is_likelihood)

    def take_in(self, line: dict[str, Any]) -> None:
        """Count a committed evaluation: early stopping, the best pointer, metrics.jsonl."""
        best = self.state.early_stopping.update(line["step"], line["val/loss"])
        if best:
            self.folder.point("best", line["step"])
        self.folder.append_metrics(line)
        self.observer.on_evaluation(self.state, line, best)

    def loss_on(self, fixed: EvaluationSet) -> LossResult:
        with as_written(self.config.train), self.average.in_use():
            mine = evaluate_loss(
                self.model,
                self.world.share(fixed.batches),
                objective=self.objective,
                device=self.precision.device,
                autocast=self.precision.autocast,
                poll=self.poll,
            )
        total, count = self.world.sum(mine.total), int(self.world.sum(mine.targets))
        return LossResult(total, count, fixed.text_bytes, sum_over_ranks(mine.figures, self.world))

    def sample(self) -> None:
        """Texts that the model writes at this step, kept in samples/; a signal stops it at any token."""
        text = ""
        if self.world.rank == 0 or self.world.in_step:
            with self.average.in_use(), self.model.register_forward_pre_hook(lambda *_: self.poll_in_step()):
                text = self.sample_text(self.model)
        with self.world.together():
            if text and self.world.rank == 0:
                self.folder.write_sample(self.state.step, printable(text) + "\n")  # a file to look at
                self.observer.on_sample(self.state, text)

    # ---- Stopping and going on ---------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Raise Interrupted, on all ranks, if a signal has come to one. All of them have to be here."""
        if number := int(self.world.max(self.interrupts.received or 0)):
            raise Interrupted(number)

    def poll_in_step(self) -> None:
        """The same inside of a step, as far as ranks are side by side there."""
        if self.world.in_step:
            self.poll()

    def leave(self, stop: Interrupted) -> None:
        """Save the last completed step, its partial successor discarded, and pass the interruption on."""
        self.optimizers.zero_grad()
        self.checkpoints.finish()
        if self.checkpoints.saved_step != self.state.step:  # an interrupted evaluation was preceded by a save
            self.save()
            self.checkpoints.finish()
        resume = f"continue with: primegpt train --resume {self.folder.path}"
        raise Interrupted(stop.number, f"stopped at step {self.state.step}, saved", resume)

    def stop_at_non_finite(self, what: str) -> None:
        self.checkpoints.finish()
        own = ", ".join(f"{key} = {name!r}" for key, name in self.config.own.items())
        raise NonFiniteError(
            f"the {what} became NaN or infinite at step {self.state.step}; {last_good(self.folder.checkpoints_dir)}",
            "lower train.learning_rate, or look for a fault in the data"
            + (f" or in {self.config.extension} ({own})" if own else ""),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`: its state, the evaluation that belongs to it, and no later line of metrics."""
        self.state = TrainState.saved(checkpoint.state["train"])
        self.state.take_edits(checkpoint.state["config"]["train"], self.config.train)
        best = self.state.early_stopping.best_step
        if best is not None and (self.folder.checkpoints_dir / step_name(best)).exists():  # not one that is now undone
            self.folder.point("best", best)
        put_back(checkpoint.tensors, self.model, self.average, self.optimizers, self.batches.source)
        if checkpoint.state["scaler"]:
            self.precision.scaler.load_state_dict(checkpoint.state["scaler"])
        self.batches = divided(self.batches, self.state.events)
        self.folder.truncate_metrics(self._precedes)
        self.folder.undo_after(checkpoint.step)
        self.restored_from = checkpoint.path  # its tensors are as large as ours
        self.checkpoints.saved_step = checkpoint.step
        self.folder.point("last", checkpoint.step)  # a newer one was damaged, or the kill came just before this

    def _precedes(self, line: dict[str, Any]) -> bool:
        """Whether a line of metrics was written before the checkpoint was: an evaluation comes after its own."""
        return line["step"] < self.state.step or (line["step"] == self.state.step and "lr" in line)

    def finish_interrupted_step(self, checkpoint: Path) -> None:
        """What was due at the checkpoint's step and may not have happened: its evaluation and its samples."""
        if committed := read_evaluation(checkpoint, self.observer.on_message):
            self.take_in(committed)
        elif self.due("eval_interval"):
            with self.pace.timed("eval_interval"):
                self.evaluate()
        elif self.early_is_due():
            with self.pace.timed("early_evaluations"):
                self.evaluate_early()
        missing = not self.folder.sample_path(self.state.step).exists()
        if self.due("sample_interval") and self.world.max(missing):
            with self.pace.timed("sample_interval"):
                self.sample()
