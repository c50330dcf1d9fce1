"""`primegpt --install-completion`: the shell completes commands, flags and their values."""

from typing import Literal

from cyclopts.completion.detect import ShellDetectionError

from primegpt.errors import DiskError, UsageError


def install_completion(shell: Literal["bash", "zsh", "fish", "powershell"] | None = None) -> None:
    """Let the shell complete commands, flags and their values.

    Writes a script to where the shell looks for one, and a line into its start-up file that reads it.

    Parameters
    ----------
    shell
        Which one; the one that this is called from when it is not said.
    """
    from primegpt.cli.commands import app

    try:
        path = app.install_completion(shell=shell)
    except ShellDetectionError:
        what, remedy = "which shell this is cannot be told", "name bash, zsh, fish or powershell"
        raise UsageError(what, f"{remedy}, as in --install-completion bash") from None
    except ValueError as error:  # of a shell that this version of Cyclopts has no script for
        raise UsageError(str(error), "name another: bash, zsh, fish or powershell") from None
    except OSError as error:
        raise DiskError(f"{error.filename}: {error.strerror}", "make it writable") from error
    print(f"{path}\nopen a new shell: it completes what begins with primegpt")
