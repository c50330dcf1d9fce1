"""The commands as an application: their names, and what is said of a wrong command line."""

import re
from collections.abc import Iterable, Sequence

from cyclopts import App, Argument, CycloptsError, Parameter, UnknownOptionError
from pydantic import ValidationError

from primegpt import __version__
from primegpt.cli.help import Sections
from primegpt.config import explain
from primegpt.errors import UsageError

app = App(
    name="primegpt",
    version=__version__,
    default_parameter=Parameter(negative=()),
    result_action="return_value",
    help="Train your own GPT from scratch on your own text.",
    help_formatter=Sections(),
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
app.command("primegpt.cli.completion:install_completion", name="--install-completion")


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


# What others call our settings, as far as no likeness of letters leads from one to the other.
SYNONYMS = {
    "lr": "learning-rate",
    **dict.fromkeys(("bs", "batch"), "batch-size"),
    **dict.fromkeys(("ctx", "context", "context-length", "ctx-len", "max-length"), "block-size"),
    **dict.fromkeys(("seq-len", "seq-length"), "sequence-length"),
    **dict.fromkeys(("steps", "iters", "max-iters", "iterations"), "max-steps"),
    **dict.fromkeys(("layers", "num-layers", "depth"), "n-layer"),
    **dict.fromkeys(("heads", "num-heads"), "n-head"),
    **dict.fromkeys(("dim", "hidden", "hidden-size", "d-model", "width"), "n-embd"),
    **dict.fromkeys(("wd", "decay"), "weight-decay"),
    **dict.fromkeys(("warmup", "warmup-iters"), "warmup-steps"),
    **dict.fromkeys(("grad-accum", "accumulation"), "gradient-accumulation-steps"),
    **dict.fromkeys(("num-epochs", "num-train-epochs"), "epochs"),
    **dict.fromkeys(("temp", "t"), "temperature"),
    **dict.fromkeys(("max-tokens", "length", "n-tokens"), "max-new-tokens"),
    **dict.fromkeys(("n", "samples"), "num-samples"),
    **dict.fromkeys(("output", "output-dir", "out-dir", "o"), "out"),
    **dict.fromkeys(("vocab",), "vocab-size"),
    **dict.fromkeys(("dtype", "amp"), "precision"),
    **dict.fromkeys(("tensorboard", "wandb", "trackio", "mlflow", "report-to", "log-to"), "track"),
}


def meant_by(flag: str, known: Iterable[Argument] | None) -> str:
    """The flag of those `known` that somebody means who writes `flag`: its name elsewhere, or without the section."""
    name = flag.lstrip("-").rpartition(".")[2].replace("_", "-").lower()
    wanted = SYNONYMS.get(name, name)
    flags = [argument.names[0] for argument in known or () if argument.names]
    found = [flag for flag in flags if flag.removeprefix("--").rpartition(".")[2] == wanted]
    return min(found, key=lambda flag: not flag.startswith("--tokenizer"), default="")  # which the model's size follows


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
        flag = (error.token.keyword or error.token.value).partition("=")[0]
        if meant := meant_by(flag, error.argument_collection):
            text = f"unknown option: {flag[:60]}. Did you mean {meant}?"
        remedy += "; a text that begins with - comes last, after --"
    return UsageError(text[0].lower() + text[1:], remedy)
