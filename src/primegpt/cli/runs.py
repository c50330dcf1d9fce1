"""Commands on a run that there is: `info`, `runs`, `report`, `evaluate`, `import`, `export`, `push`. And `doctor`."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from primegpt.cli.shared import (
    Checkpoint,
    Json,
    Overwrite,
    Reading,
    Rewards,
    RunPath,
    given_settings,
    show,
    show_json,
    show_rows,
    show_table,
)
from primegpt.errors import UsageError
from primegpt.terminal import to_stderr


def info(
    target: Path | None = None,
    *,
    gpus: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    gpu: str | None = None,
    as_json: Json = False,
) -> None:
    """Parameters, FLOPs, memory and expected time of a run or a recipe; of a run that was trained, what came of it.

    Of a text, what `train` would plan for it, budget by budget.

    Parameters
    ----------
    target
        A run folder, a recipe (a CONFIG.toml, or a name as char-10m) or a text; the latest run when not given.
    gpus
        Forecast memory and time on so many GPUs, from stated rates.
    gpu
        Their kind, h100 when not given: a100, h100, h200, b200, l40s, 4090.
    """
    from primegpt import api

    if gpu and gpus is None:
        raise UsageError("--gpu says of what kind --gpus are", "give their number: --gpus 1")
    if target and target.is_file() and target.suffix != ".toml":
        plans = api.outlook(target, gpus, gpu or "h100")
        where = f"{gpus} {gpu or 'h100'}" if gpus else "this machine"
        show_json([plan.as_json() for plan in plans]) if as_json else show(api.outlook_table(target, plans, where))
        return
    if gpus is not None:
        planned = api.forecast(target, gpus, gpu or "h100")
        show_json([asdict(way) for way in planned]) if as_json else show(api.forecast_table(planned))
        return
    facts = api.info(target)
    if as_json:
        show_json(facts)
        return
    show_rows(api.describe(facts), 22)


def runs(
    folder: Path | None = None,
    *,
    as_json: Annotated[Json, Parameter(help="Print JSON, which has all figures.")] = False,
) -> None:
    """List the runs there are, the newest first: what other commands take when no run is named.

    The loss is in nats per token, of the best checkpoint on all the validation text once a run has finished; before, of
    its best evaluation.

    Parameters
    ----------
    folder
        Where they lie; runs/ when not given.
    """
    from primegpt.jobs import listing

    found = listing.runs(folder)
    if as_json:
        show_json(found)
    elif not found:
        to_stderr(f"no run in {folder or 'runs'}: make one with `primegpt train SOURCE`")
    else:
        show_table(listing.runs_table(found))
        for run in found:
            for remark in run["remarks"]:
                to_stderr(f"primegpt: {remark if run['folder'] in remark else run['folder'] + ': ' + remark}")


def report(*runs: Path, out: Path | None = None) -> None:
    """Write report.html: curves, samples over time, text, plan and settings of a run, or of several side by side.

    Parameters
    ----------
    runs
        Run folders; the latest run when none is given.
    out
        The file to write; report.html in the run's folder, or beside the first of several runs, when not given.
    """
    from primegpt import api

    show(api.report(*runs, out=out))


def doctor(*, as_json: Json = False) -> int:
    """Tell what this machine can do, and whether a training step works on it."""
    from primegpt.doctor import examine

    findings = examine()
    if as_json:
        show_json([{"name": f.name, "value": f.value, "ok": f.ok} for f in findings])
    else:
        marks = {None: " ", True: "✓", False: "✗"}
        show_rows([(f"{marks[f.ok]} {f.name}", f.value) for f in findings], 18)
    return 1 if any(f.ok is False for f in findings) else 0


@dataclass(frozen=True)
class Measures:
    """What is measured, and how much of it."""

    text: str | None = None
    """Loss, perplexity and bits per byte on this text, every target once: a source as for training, read with the run's
    own template and fields unless --data.* says otherwise."""
    hellaswag: str | None = None
    """Answer the questions of this HellaSwag .jsonl file, or of `hellaswag` once it is fetched."""
    adherence: bool = False
    """Whether answers keep to their prompts, of validation records or of --prompts; and what it takes from a prompt."""
    memorization: bool = False
    """How much of what it writes is copied from its training text."""
    harness: str | None = None
    """Tasks of lm-evaluation-harness, or YAML files of your own, with commas between."""
    prompts: str | None = None
    """Write an answer to each prompt of these records: for --reward (what it is worth), --adherence or --kl-from."""
    reward: Rewards = ()
    kl_from: str | None = None
    """How far it is from this run, such as the one that it began with: KL divergence of what it writes to --prompts."""
    limit: int | None = None
    """At most so many questions, prompts or harness documents."""
    stride: int | None = None
    """Let windows of text overlap: a new one every so many tokens."""
    batch_size: int | None = None
    """Windows computed at once; changes nothing but the time."""


def evaluate(
    run: RunPath = None,
    *,
    measures: Annotated[Measures | None, Parameter(name="*")] = None,
    checkpoint: Checkpoint = "best",
    as_json: Json = False,
    settings: Annotated[Reading | None, Parameter(name="*")] = None,
) -> None:
    """Measure a run; with no option, its loss on its own validation text."""
    from primegpt import api

    asked = asdict(measures or Measures())
    tasks = [task.strip() for task in (asked.pop("harness") or "").split(",") if task.strip()]
    found = api.evaluate(run, harness=tasks, checkpoint=checkpoint, settings=given_settings(settings), **asked)
    if as_json:
        show_json(found)
    else:
        show(f"{found['run']}, step {found['step']:,}")
        for table in api.describe_evaluation(found):
            show()
            show_table(table)


def import_model(
    source: str, *, out: Path | None = None, tokenizer: Path | None = None, overwrite: Overwrite = False
) -> None:
    """Make a run of a GPT-2, Llama, Mistral, Qwen or NanoChat model as Transformers saves it, or of a GGUF file.

    Parameters
    ----------
    source
        A folder with config.json and model.safetensors, a GGUF file, or an id on the Hugging Face hub such as `gpt2`.
    out
        The run folder; runs/NAME-N when not given.
    tokenizer
        Use the tokenizer in this folder (a run's tokenizer/, for example) or file (tokenizer.json, tokenizer.model,
        tekken.json, *.tiktoken, *.gguf) in place of the model's own.
    """
    from primegpt import api

    path = api.import_model(source, out, overwrite=overwrite, tokenizer=tokenizer)
    show(f"next       primegpt generate {path}")


def trust(run: Path) -> None:
    """Let code in a run from elsewhere run, with your rights: its extension.py, its rewards. Read it before.

    Parameters
    ----------
    run
        The run folder.
    """
    from hashlib import sha256

    from primegpt.inference.run import load_config
    from primegpt.jobs.own_rewards import files_of
    from primegpt.run.extensions import extension_in, trust
    from primegpt.run.folder import RunFolder

    folder = RunFolder.open(run)
    config = load_config(folder)
    hashes = {path: sha256(path.read_bytes()).hexdigest() for _, path, _ in files_of(folder, config)}
    if config.model.extension:
        hashes[folder.extension_path] = extension_in(folder, config)[1]
    if not hashes:
        raise UsageError(f"{folder.path} has no extension", "nothing of it runs when it is opened")
    for path, found in hashes.items():
        trust(found, path)
        show(f"{path} may run from now on (SHA-256 {found[:16]}…)")


def export(
    run: RunPath = None,
    *,
    to: Literal["hf", "gguf"] = "hf",
    out: Path | None = None,
    dtype: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] | None = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Write a run for Transformers (a folder) or for llama.cpp (a GGUF file).

    Parameters
    ----------
    to
        hf for Transformers, gguf for llama.cpp.
    out
        Where to write; RUN-hf or RUN.gguf in this folder when not given.
    dtype
        How a GGUF file stores matrices; f16 when not given.
    """
    from primegpt import api

    show(api.export(run, out, to=to, dtype=dtype, checkpoint=checkpoint))


def push(run: Path, repo: str, /, *, private: bool = False, checkpoint: Checkpoint = "best") -> None:
    """Upload a run to the Hugging Face hub as Transformers opens it, with a model card.

    The card says data, tokens, loss, plan and command; a README.md that is there is kept. Log in first with
    `hf auth login`, or set HF_TOKEN.

    Parameters
    ----------
    run
        A run folder.
    repo
        Where to: OWNER/NAME, made if it is not there.
    private
        Let nobody else see it.
    """
    from primegpt import api

    show(api.push(run, repo, private=private, checkpoint=checkpoint))
