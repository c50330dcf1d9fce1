"""What a run or a recipe amounts to, before any of it is built; and what came of a run."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from primegpt.config import Config, read_toml, recipe_path, resolve
from primegpt.model.memory import inference_memory, process_memory
from primegpt.model.size import flops_per_token, human_bytes, human_count, human_seconds, parameter_breakdown
from primegpt.planning.forecast import Forecast, forecasts
from primegpt.planning.plan import prepare_device
from primegpt.planning.timing import forecast_step
from primegpt.report.history import History
from primegpt.run.folder import latest_run
from primegpt.terminal import to_stderr


def info(target: str | Path | None = None) -> dict[str, Any]:
    """What a run or a configuration file amounts to: parameters, FLOPs, memory, time; and what came of a run.

    Time is that of the plan for a run; for a recipe it is a forecast from a few layers of it, measured on this machine.
    """
    path, config, run = described(target)
    vocabulary = config.model.vocab_size
    config = prepare_device(config)
    train, tokens_per_step = config.train, config.tokens_per_step
    flops = flops_per_token(config.model, config.sequence_length)
    steps = train.max_steps or (train.tokens and -(-train.tokens // tokens_per_step))
    seconds = config.plan.step_seconds or forecast_step(config.with_built_in_parts())
    expected = config.plan.expected_seconds or (60 * train.minutes if train.minutes else (steps or 0) * seconds)
    parameters = parameter_breakdown(config.model)
    return {
        "source": str(path),
        "preset": config.model.preset,
        "extension": config.own,
        "vocab_size": vocabulary,
        "parameters": parameters.total,
        "parameters_without_embeddings": parameters.non_embedding,
        "flops_per_token": flops,
        "tokens_per_step": tokens_per_step,
        "steps": steps,
        "training_tokens": config.plan.train_tokens or None,
        "training_memory_bytes": process_memory(config),
        "generation_memory_bytes": inference_memory(config).total,
        "device": train.device,
        "precision": train.precision,
        "step_seconds": seconds,
        "expected_seconds": expected or None,
        "measured": bool(config.plan.step_seconds),
        "run": run and run.summary(),
    }


def described(target: str | Path | None) -> tuple[Path, Config, History | None]:
    """Where a run (the latest one when None) or a configuration file lies, what it says, with a vocabulary; the run."""
    path = (recipe_path(target) or Path(target)) if target else latest_run()
    run = History.read(path) if path.is_dir() or not path.exists() else None
    config = run.config if run else resolve(read_toml(path))
    for edit in run.edits if run else ():
        to_stderr(edit)
    return path, config.with_values(model={"vocab_size": assumed_vocabulary(config)}), run


def forecast(target: str | Path | None, gpus: int, kind: str) -> list[Forecast]:
    """What a run or a configuration file would need on `gpus` GPUs of a kind (h100), by how they share it.

    Nothing is measured. Raises ConfigError for a kind that is not known, or a step that cannot be dealt out.
    """
    return forecasts(described(target)[1], gpus, kind)


def forecast_table(ways: Sequence[Forecast]) -> str:
    """`forecast` in words, a line for each way, and a warning where none fits."""
    lines = [f"{'':<8} {'checkpointing':<14} {'memory a GPU':>12} {'step':>10} {'in all':>12}"]
    for way in ways:
        total = human_seconds(way.total_seconds) if way.total_seconds is not None else "no budget"
        lines.append(
            f"{way.parallel:<8} {'activations' if way.activation_checkpointing else 'none':<14} "
            f"{human_bytes(way.memory):>12} {1000 * way.step_seconds:>7,.0f} ms {total:>12}"
            + ("" if way.fits else "   does not fit")
        )
    if not any(way.fits for way in ways):
        lines.append("warning: none of these fits; a smaller train.batch_size, or more GPUs with fsdp, needs less")
    lines.append("a forecast from stated rates (docs/scaling.md); nothing was measured")
    return "\n".join(lines)


def assumed_vocabulary(config: Config) -> int:
    """Ids of the tokenizer that `config` describes; of characters, about as many as English has."""
    tokenizer = config.tokenizer
    own = sum(map(len, tokenizer.special_tokens.values()))
    learnt = tokenizer.learnt_vocab_size or tokenizer.facts.assumed + own
    return config.model.vocab_size or learnt


def describe(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """`info` in words, a row a fact."""
    steps, expected = facts["steps"], facts["expected_seconds"]
    rows = [
        (facts["source"], f"{facts['preset']}, vocabulary {facts['vocab_size']:,}"),
        ("parameters", f"{facts['parameters']:,} ({facts['parameters_without_embeddings']:,} outside embeddings)"),
        ("training FLOPs", f"{human_count(facts['flops_per_token'])} a token"),
        ("step", f"{facts['tokens_per_step']:,} tokens, {1000 * facts['step_seconds']:,.0f} ms"),
        ("memory for training", human_bytes(facts["training_memory_bytes"])),
        ("memory for generating", human_bytes(facts["generation_memory_bytes"])),
    ]
    if facts["extension"]:
        own = ", ".join(f"{key} = {name!r}" for key, name in facts["extension"].items())
        rows.append(("of an extension", f"{own}; FLOPs and memory are counted as of built-in parts"))
    if steps and not (facts["run"] and facts["run"]["seconds"]):
        total = steps * facts["tokens_per_step"]
        rows.append(("steps", f"{steps:,}, {human_count(total)} tokens, {total / facts['parameters']:.1f} a parameter"))
    if facts["training_tokens"]:
        share = facts["training_tokens"] / facts["parameters"]
        rows.append(("training text", f"{human_count(facts['training_tokens'])} tokens, {share:.1f} a parameter"))
    if run := facts["run"]:
        rows += _what_came_of_it(run, expected)
    elif expected:
        how = "as planned" if facts["measured"] else "a forecast from a few layers"
        machine = f"{facts['device']}, {facts['precision']}"
        rows.append(("expected time", f"{human_seconds(expected)} on this machine ({machine}), {how}"))
    return rows


def _what_came_of_it(run: Mapping[str, Any], expected: float | None) -> list[tuple[str, str]]:
    """The fate of a run in words, a row a fact that is known."""
    written = datetime.fromtimestamp(run["written"]).strftime("%Y-%m-%d %H:%M")
    rows = [("state", run["status"]), ("last written", written)]
    if run["seconds"] is not None:
        planned = f" (planned: {human_seconds(expected)})" if expected else ""
        done = f"{run['steps']:,} steps, {human_count(run['tokens'] or 0)} tokens"
        rows.append(("done", f"{done} in {human_seconds(run['seconds'])}{planned}"))
    unit = run["loss_unit"]
    if run["best_loss"] is not None:
        rows.append(("best evaluation", f"{run['best_loss']:.4f} {unit}, step {run['best_step']:,}"))
    if run["final_loss"] is not None:
        per_byte = run["final_bits_per_byte"]
        shown = f", {per_byte:.4f} bits per byte" if per_byte is not None else ""
        rows.append(("result", f"{run['final_loss']:.4f} {unit}{shown}, on all the validation text"))
    rows += [("", f"{name} {value:.4f}") for name, value in run["final_figures"].items()]
    return rows + [("warning", remark) for remark in run["remarks"]]
