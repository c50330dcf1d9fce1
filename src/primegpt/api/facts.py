"""What a run or a recipe amounts to, before any of it is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primegpt.api.runs import load_config
from primegpt.config import Config, read_toml, resolve
from primegpt.model.memory import inference_memory, training_memory
from primegpt.model.size import flops_per_token, human_bytes, human_count, human_seconds, parameter_breakdown
from primegpt.run.folder import RunFolder, latest_run
from primegpt.training import plan as planning
from primegpt.training.forecast import Forecast, forecasts
from primegpt.training.probe import step_seconds


def info(target: str | Path | None = None) -> dict[str, Any]:
    """What a run or a configuration file amounts to: parameters, FLOPs, memory, expected time.

    Time is that of the plan for a run; for a recipe it is a forecast from a few layers of it, measured on this machine.
    """
    path, config = described(target)
    vocabulary = config.model.vocab_size
    config = planning.prepare_device(config)
    train, tokens_per_step = config.train, config.tokens_per_step
    flops = flops_per_token(config.model, config.sequence_length)
    steps = train.max_steps or (train.tokens and -(-train.tokens // tokens_per_step))
    seconds = config.plan.step_seconds or step_seconds(config)
    expected = config.plan.expected_seconds or (60 * train.minutes if train.minutes else (steps or 0) * seconds)
    parameters = parameter_breakdown(config.model)
    return {
        "source": str(path),
        "preset": config.model.preset,
        "vocab_size": vocabulary,
        "parameters": parameters.total,
        "parameters_without_embeddings": parameters.non_embedding,
        "flops_per_token": flops,
        "tokens_per_step": tokens_per_step,
        "steps": steps,
        "training_tokens": config.plan.train_tokens or None,
        "training_memory_bytes": training_memory(config).total,
        "generation_memory_bytes": inference_memory(config).total,
        "device": train.device,
        "precision": train.precision,
        "step_seconds": seconds,
        "expected_seconds": expected or None,
        "measured": bool(config.plan.step_seconds),
    }


def described(target: str | Path | None) -> tuple[Path, Config]:
    """Where a run (the latest one when None) or a configuration file lies, and what it says; with a vocabulary."""
    path = Path(target) if target else latest_run()
    is_run = path.is_dir() or not path.exists()
    config = load_config(RunFolder.open(path)) if is_run else resolve(read_toml(path))
    return path, config.with_values(model={"vocab_size": assumed_vocabulary(config)})


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
    learnt = tokenizer.learnt_vocab_size or {"char": 96, "gpt2": 50_257}[tokenizer.kind] + own
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
    if steps:
        total = steps * facts["tokens_per_step"]
        rows.append(("steps", f"{steps:,}, {human_count(total)} tokens, {total / facts['parameters']:.1f} a parameter"))
    if facts["training_tokens"]:
        share = facts["training_tokens"] / facts["parameters"]
        rows.append(("training text", f"{human_count(facts['training_tokens'])} tokens, {share:.1f} a parameter"))
    if expected:
        how = "as planned" if facts["measured"] else "a forecast from a few layers"
        machine = f"{facts['device']}, {facts['precision']}"
        rows.append(("expected time", f"{human_seconds(expected)} on this machine ({machine}), {how}"))
    return rows
