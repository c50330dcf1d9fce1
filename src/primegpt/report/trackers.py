"""Weights & Biases, Trackio, TensorBoard and MLflow as this package uses them; a process that tracks one run with one.

    python -m primegpt.report.trackers wandb runs/my-1 1796065379.2 < runs/my-1/metrics.jsonl

Where a tracker writes, and as whom, is its own matter: WANDB_MODE, MLFLOW_TRACKING_URI, TRACKIO_DIR and the like.
"""

import signal

# What stops the training is often sent to its whole group, and its last lines are still to come. This process ends when
# they do, and ignores the signals from before the imports, which take a while.
if __name__ == "__main__":
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):  # Windows has no SIGHUP
            signal.signal(getattr(signal, name), signal.SIG_IGN)

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from primegpt.config import Config, read_saved
from primegpt.report.tracking import warning
from primegpt.run.files import EARLY
from primegpt.run.folder import RunFolder

PROJECT = "primegpt"  # what the runs of all folders are under, where the environment names nothing else
MOST_PARAMETERS = 100  # that MLflow takes at a time


class Tracker(Protocol):
    """What a tracker has to do. Whatever it raises ends the tracking, not the training."""

    place: str
    """Where it can be looked at."""
    last_step: int
    """Of the lines that it has already; -1 if there are none, or if it is to get all of them anew."""

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        """Take the values of one line, measured `at` so many seconds since 1970."""

    def close(self, finished: bool) -> None:
        """End the session of a run that is `finished`, or was stopped."""


class TensorBoard:
    """Events in the run's folder tensorboard. They cannot be cut to a checkpoint: a session writes all of them anew."""

    last_step = -1

    def __init__(self, folder: RunFolder, config: Config) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.place = f"tensorboard --logdir {folder.path.parent}"
        for events in folder.tensorboard_dir.glob("events.out.tfevents.*"):
            with suppress(OSError):  # Windows keeps a file that is being read; the log tells its reader enough
                events.unlink()
        self.writer = EventFileWriter(str(folder.tensorboard_dir))
        begins = SessionLog(status=SessionLog.START)  # from step 0: who has read old events drops them
        self.writer.add_event(Event(wall_time=time.time(), step=0, session_log=begins))

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()])
        self.writer.add_event(Event(wall_time=at, step=step, summary=summary))
        self.writer.flush()

    def close(self, finished: bool) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases. Offline, what an earlier session has written is not known: each writes a whole copy."""

    def __init__(self, folder: RunFolder, config: Config) -> None:
        import wandb

        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=_identity(folder, config),
            name=folder.path.name,
            resume="allow",
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("step", hidden=True)
        self.run.define_metric("*", step_metric="step")  # its own count of steps would be one of lines
        self.last_step = int(self.run.summary.get("step", -1))
        self.place = f"wandb sync {Path(self.run.dir).parent}" if self.run.offline else self.run.url or "switched off"

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        self.run.log({"step": step, **values})

    def close(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


class Trackio:
    """Trackio, on this machine or a Space. It knows runs by their names."""

    def __init__(self, folder: RunFolder, config: Config) -> None:
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        self.run = trackio.init(
            project,
            name=f"{folder.path.name}-{_identity(folder, config)[:6]}",
            config=config.model_dump(mode="json"),
            resume="allow",
            embed=False,
        )
        last_step = getattr(self.run, "_initial_last_step", None)  # which nothing public tells
        self.last_step = -1 if last_step is None else last_step
        self.place = f"trackio show --project {project}"

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        self.run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self.run.finish()


class MLflow:
    """MLflow, whose runs are found again by a tag. `step` is a metric too: the last one is what it has."""

    def __init__(self, folder: RunFolder, config: Config) -> None:
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.entities import Param

        self.client, uri = MlflowClient(), get_tracking_uri()
        self.place = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {uri}"
        name, tags = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), {PROJECT: _identity(folder, config)}
        known = self.client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self.client.create_experiment(name)
        found = self.client.search_runs([experiment], f"tags.{PROJECT} = '{tags[PROJECT]}'")
        run = found[0] if found else self.client.create_run(experiment, run_name=folder.path.name, tags=tags)
        self.id, self.last_step = run.info.run_id, int(run.data.metrics.get("step", -1))
        if found:
            self.client.update_run(self.id, status="RUNNING")
        settings = [] if found else _flat(config.model_dump(mode="json"))
        for start in range(0, len(settings), MOST_PARAMETERS):
            some = [Param(key, value) for key, value in settings[start : start + MOST_PARAMETERS]]
            self.client.log_batch(self.id, params=some)

    def write(self, step: int, values: Mapping[str, float], at: float) -> None:
        from mlflow.entities import Metric

        names = {re.sub(r"[^\w./ -]", "_", key): value for key, value in values.items()}  # others are refused
        metrics = [Metric(key, value, round(1000 * at), step) for key, value in {"step": step, **names}.items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


TRACKERS: dict[str, Callable[[RunFolder, Config], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def _identity(folder: RunFolder, config: Config) -> str:
    """What a tracker knows the run by; its name, where it began before runs had an identity."""
    return config.plan.run or folder.path.name


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings by their whole names (`train.seed`), as text; those that are unset are left out."""
    flat = list[tuple[str, str]]()
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            flat.append((prefix + key, str(value)))
    return flat


def main(name: str, path: str, began: str) -> None:
    """Track the run at `path` with the tracker `name`, from lines on standard input, until there are no more."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # a library's greetings are none of the training's
    folder, tracker = RunFolder(Path(path)), None
    try:
        tracker = TRACKERS[name](folder, read_saved(folder.config_path))
        print(f"{'tracked':<10} {tracker.place}", file=told, flush=True)
        track(tracker, map(json.loads, sys.stdin), float(began))
    except (Exception, SystemExit) as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        print(warning(name, f"fails: {why}", folder), file=told, flush=True)
        if tracker:
            with suppress(Exception, SystemExit):  # what it has taken so far may be worth sending
                tracker.close(finished=False)


def track(tracker: Tracker, lines: Iterable[Mapping[str, Any]], began: float) -> None:
    """Hand `lines` to a tracker, but for those before its last step, which it has."""
    finished = False
    for line in lines:
        finished = finished or "final/step" in line  # base/* lines may follow it
        if line["step"] >= tracker.last_step:
            tracker.write(line["step"], _numbers(line), began + (line.get("seconds") or 0.0))
    tracker.close(finished)


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a line that a curve can be drawn of; those of early evaluations belong to that of all others."""
    values = {key: value for key, value in line.items() if not key.endswith("step") and isinstance(value, int | float)}
    return {key.removeprefix(EARLY): value for key, value in values.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
