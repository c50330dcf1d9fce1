"""The commands as an application: their names, and what is said of a wrong command line."""

import re
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError
from pydantic import ValidationError

from primegpt import __version__
from primegpt.config import explain
from primegpt.errors import UsageError

app = App(
    name="primegpt",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    help="Train your own GPT from scratch on your own text.",
)
app.command("primegpt.cli.train:demo", name="demo")
app.command("primegpt.cli.train:train", name="train")
app.command("primegpt.cli.train:finetune", name="finetune")
app.command("primegpt.cli.reinforce:reinforce", name="reinforce")
app.command("primegpt.cli.generate:generate", name="generate")
app.command("primegpt.cli.generate:chat", name="chat")
app.command("primegpt.cli.generate:serve", name="serve")
app.command("primegpt.cli.generate:play", name="play")
app.command("primegpt.cli.runs:evaluate", name="evaluate")
app.command("primegpt.cli.runs:import_model", name="import")
app.command("primegpt.cli.runs:export", name="export")
app.command("primegpt.cli.runs:push", name="push")
app.command("primegpt.cli.data:app", name="data")
app.command("primegpt.cli.tokenizer:app", name="tokenizer")
app.command("primegpt.cli.runs:trust", name="trust")
app.command("primegpt.cli.runs:info", name="info")
app.command("primegpt.cli.runs:runs", name="runs")
app.command("primegpt.cli.runs:report", name="report")
app.command("primegpt.cli.runs:doctor", name="doctor")
app.command("primegpt.cli.experiment:app", name="experiment")
app.command("primegpt.cli.bench:app", name="bench")


def execute(arguments: Sequence[str], started: float) -> int:
    """Run one command line. Raises UsageError, in one line, for one that cannot be understood."""
    if "-" in arguments and "--" not in arguments:  # standard input, which cyclopts would take for an option
        arguments = [*(word for word in arguments if word != "-"), "--", "-"]
    try:
        command, bound, ignored = app.parse_args(arguments, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise usage_error(error, arguments) from None
    if "started" in ignored:
        bound.arguments["started"] = started
    result = command(*bound.args, **bound.kwargs)
    return result if isinstance(result, int) else 0


def usage_error(error: CycloptsError, arguments: Sequence[str]) -> UsageError:
    """Cyclopts' complaint about `arguments` as one line; a value that pydantic refuses is named by its key."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValidationError):
            return explain(cause)
        cause = cause.__cause__ or cause.__context__
    text = re.sub(r"\S{100,}", lambda long: long[0][:60] + "…", " ".join(str(error).split()).rstrip("."))
    name = arguments[0] if arguments[0] in app else "COMMAND"
    remedy = f"see `primegpt {name} --help`"
    if isinstance(error, UnknownOptionError):
        remedy += "; a text that begins with - comes last, after --"
    return UsageError(text[0].lower() + text[1:], remedy)
