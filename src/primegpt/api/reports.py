"""The report of a run, or of several side by side, as one web page."""

from pathlib import Path

from primegpt.errors import UsageError
from primegpt.run.folder import latest_run
from primegpt.training.history import History
from primegpt.training.report import report as compose


def report(*runs: str | Path, out: str | Path | None = None) -> Path:
    """Write what is known of `runs` (the latest when none is given) into one HTML file, and return its path.

    It goes to `out`, else into the folder of the run, or for several runs into the folder that the first lies in.
    Runs are only read: one that is training, was stopped or was imported is told as it stands. Raises RunFolderError
    for a folder that is no run.
    """
    paths = [Path(run) for run in runs] or [latest_run()]
    if out is not None and Path(out).is_dir():
        raise UsageError(f"--out {out} is a folder", f"name a file, such as {Path(out) / 'report.html'}")
    page = compose([History.read(path) for path in paths])
    first = paths[0]
    beside = first.parent if first.name not in ("", "..") else first.resolve().parent
    return page.write(Path(out) if out else (first if len(paths) == 1 else beside) / "report.html")
