"""The runs there are, what came of each, and the page about some. Without torch, since a list is asked for often."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from primegpt.errors import PrimegptError, RunFolderError, UsageError
from primegpt.model.size import human_count, human_seconds
from primegpt.report.history import History
from primegpt.report.report import report_page
from primegpt.run import atomic
from primegpt.run.folder import RunFolder, latest_run
from primegpt.terminal import Table

TRACES = ("config.toml", "metrics.jsonl", "checkpoints")  # by one of them a folder is known for a run
COLUMNS = ("run", "state", "steps", "loss", "model", "tokenizer", "took", "written")


def runs(folder: str | Path | None = None) -> list[dict[str, Any]]:
    """What is known of every run in `folder`, by default runs/; of `folder` alone if it is a run. The newest first.

    Each is a dict: name, folder, state (running, finished, stopped, killed, imported or damaged), steps, planned_steps,
    tokens, seconds, best_loss, best_step, final_loss, final_bits_per_byte, parameters, tokenizer, vocab_size, written
    (seconds since 1970) and remarks (what could not be read, and why). Raises RunFolderError if `folder` is given and
    is no folder.
    """
    base = Path(folder or "runs")
    if not base.is_dir():
        if folder is None:
            return []
        raise RunFolderError(f"there is no folder {base}", "name one with runs in it, or a run")
    with atomic.io_errors(f"read {base}"):
        inside = sorted(path for path in base.iterdir() if path.is_dir())
        found = [base] if _is_run(base) else [path for path in inside if _is_run(path)]
    return sorted(map(_told, found), key=lambda run: run["written"], reverse=True)


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in TRACES)


def _told(path: Path) -> dict[str, Any]:
    try:
        with atomic.io_errors(f"read {path}"):
            return History.read(path).summary()
    except PrimegptError as error:
        return {
            "name": path.name or path.resolve().name,
            "folder": str(path),
            "state": "damaged",
            "written": RunFolder(path).last_written(),
            "remarks": [error.what],
        }


def runs_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """`runs` in words: `COLUMNS`, and a row for each."""
    return Table(COLUMNS, [*map(_row, found)])


def _row(run: Mapping[str, Any]) -> tuple[str, ...]:
    written = datetime.fromtimestamp(run["written"]).strftime("%Y-%m-%d %H:%M") if run["written"] else ""
    if run["state"] == "damaged":
        return run["name"], "damaged", "", "", "", "", "", written
    loss = run["best_loss"] if run["final_loss"] is None else run["final_loss"]
    planned = f"/{run['planned_steps']:,}" if run["planned_steps"] else ""
    return (
        run["name"],
        run["state"] + ", damaged" * (run["tokenizer"] is None),  # it can no longer be used; the rest are remarks
        f"{run['steps']:,}{planned}" if run["state"] != "imported" else "",
        "" if loss is None else f"{loss:.4f}",
        human_count(run["parameters"]),
        f"{run['tokenizer'] or '?'} {run['vocab_size']:,}",
        "" if run["seconds"] is None else human_seconds(run["seconds"]),
        written,
    )


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Write what is known of `runs` (the latest when none is given) into one HTML file, and return its path.

    It goes to `out`, else into the folder of the run, or for several runs into the folder that the first lies in.
    Runs are only read: one that is training, was stopped or was imported is shown as it is. Raises RunFolderError
    for a folder that is no run.
    """
    paths = [Path(run) for run in runs] or [latest_run()]
    if out is not None and Path(out).is_dir():
        raise UsageError(f"--out {out} is a folder", f"name a file, such as {Path(out) / 'report.html'}")
    page = report_page([History.read(path) for path in paths])
    first = paths[0]
    beside = first.parent if first.name not in ("", "..") else first.resolve().parent
    return page.write(Path(out) if out else (first if len(paths) == 1 else beside) / "report.html")
