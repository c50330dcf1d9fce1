"""Going on with a run, whatever it learns from."""

from pathlib import Path

from primegpt.config import Settings, read_saved
from primegpt.inference.run import Run
from primegpt.jobs import reinforcing, training
from primegpt.run.folder import RunFolder
from primegpt.terminal import Say, to_stderr
from primegpt.training.display import Observer


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
    rewarded = read_saved(RunFolder.open(Path(path)).config_path).reinforce.on
    go_on = reinforcing.resume if rewarded else training.resume
    return go_on(path, settings=settings, observer=observer, say=say, quiet=quiet)
