"""The facts of a run as rows for a table: model, text, tokenizer, plan, settings. A row without a name goes on."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from primegpt.config import Config
from primegpt.model.memory import inference_memory, process_memory
from primegpt.model.size import (
    flops_per_token,
    human_bytes,
    human_count,
    human_seconds,
    lora_parameter_count,
    parameter_breakdown,
)
from primegpt.report.history import History, near, number

Rows = list[tuple[str, str]]


def model_rows(run: History) -> Rows:
    config, model = run.config, run.config.model
    count = parameter_breakdown(model)
    flops = flops_per_token(model, config.sequence_length)
    seen, peak = run.last("tokens") or 0, max((value or 0.0 for _, value in run.points("memory_mb")), default=0.0)
    parts = {"attention": count.attention, "MLPs": count.mlp, "embeddings": count.embedding, "head": count.head}
    rows = [
        ("preset", model.preset),
        ("shape", f"{model.n_layer} layers, {model.n_embd} wide, {model.n_head} heads of {model.head_size}"),
        ("context", f"{model.block_size:,} tokens"),
        ("parameters", f"{count.total:,}"),
        ("outside embeddings", f"{count.non_embedding:,}"),
        *((f"in {name}", f"{size:,}") for name, size in parts.items() if size),
    ]
    if config.lora.rank:
        trained = lora_parameter_count(config)
        rows.append(("trained by LoRA", f"{trained:,} ({trained / count.total:.2%}), rank {config.lora.rank}"))
    so_far = f", {human_count(flops * seen)} so far" if seen else ""
    rows.append(("FLOPs of training", f"{human_count(flops)} a token{so_far}"))
    if (mfu := run.median("mfu")) is not None:
        rows.append(("model FLOPs utilisation", f"{mfu:.1%} of the matrix-product rate measured here"))
    rows.append(("memory for training", human_bytes(process_memory(config))))
    if peak:
        rows.append(("peak memory of the process", human_bytes(1e6 * peak)))
    rows.append(("memory for generating", human_bytes(inference_memory(config).total)))
    return rows


def text_rows(run: History) -> Rows:
    data = run.data
    rows = list(run.audit.rows()) if run.audit else []
    train, held_out = number(data.get("train_bytes")), number(data.get("val_bytes"))
    if train is not None and held_out is not None:
        rows.insert(0, ("split", f"{human_bytes(train)} to train on, {human_bytes(held_out)} held out"))
    sources = [("sources", ", ".join(map(near, run.config.data.sources)))] if run.config.data.sources else []
    prints = [
        (f"fingerprint, {part}", str(data.get(f"{key}_fingerprint"))[:16])
        for part, key in (("training", "train"), ("validation", "val"))
        if data.get(f"{key}_fingerprint")
    ]
    return sources + rows + prints


def tokenizer_rows(run: History) -> Rows:
    tokenizer = run.tokenizer
    if tokenizer is None:
        return []
    rows = [("kind", tokenizer.kind), ("ids", f"{tokenizer.vocab_size:,}")]
    size, tokens = number(run.data.get("train_bytes")), run.config.plan.train_tokens
    if size and tokens:
        rows.append(("bytes per token", f"{size / tokens:.2f}"))
    rows += [(f"special, {kind}", " ".join(tokens)) for kind, tokens in tokenizer.special_kinds.items() if tokens]
    return [*rows, ("fingerprint", tokenizer.fingerprint[:16])]


def plan_rows(run: History) -> Rows:
    train, plan, stopping = run.config.train, run.config.plan, run.early_stopping
    rows = []
    if run.data:
        windows = f"{train.batch_size} windows of {run.config.sequence_length:,} tokens"
        if train.gradient_accumulation_steps > 1:
            windows += f", {train.gradient_accumulation_steps} times"
        rows.append(("step", windows))
        head = f", the head's {train.head_learning_rate:g}" if train.head_learning_rate else ""
        rows.append(
            ("optimizer", f"{train.optimizer}, {train.schedule}, peak learning rate {train.learning_rate:g}{head}")
        )
    if plan.device:
        threads = f", {plan.threads} thread{'s' * (plan.threads != 1)}" if plan.device == "cpu" else ""
        rows.append(("machine", f"{plan.device}{threads}, {train.precision}, {train.attention} attention"))
        rows += [("" if i else "measured", note) for i, note in enumerate(plan.notes)]
        rows += [("" if i else "warned of", note) for i, note in enumerate(plan.warnings)]
        rows.append(("expected", f"{human_seconds(plan.expected_seconds)}, {plan.expected_memory_mb:,.0f} MB"))
        rows.append(("took", human_seconds(run.last("seconds") or 0)))
    if train.patience:
        rows.append(
            ("early stopping", f"after {train.patience} evaluations without a better one; waited {stopping.waited}")
        )
    if run.checkpoints:
        pointed = {run.folder.pointed("best"): "best", run.folder.pointed("last"): "last"}
        named = [f"{step:,} ({pointed[step]})" if step in pointed else f"{step:,}" for step in run.checkpoints]
        rows.append(("checkpoints", ", ".join(named)))
    if skipped := run.state.get("skipped_updates"):
        rows.append(("updates skipped", f"{skipped:,}, whose fp16 gradients overflowed"))
    return rows


def session_rows(run: History) -> Rows:
    """When, by which command, with which versions and on what machine it was trained; what repeats is told once."""
    rows: Rows = []
    if run.sessions:
        first = run.sessions[0]
        rows.append(("begun", _date(first["started"])))
        rows += [("command" * (not n), session["command"]) for n, session in enumerate(run.sessions)]
        versions = (f"primegpt {s['primegpt']}, torch {s['torch']}, Python {s['python']}" for s in run.sessions)
        rows += [("versions" * (not n), version) for n, version in enumerate(dict.fromkeys(versions))]
        machines = dict.fromkeys(session["machine"] for session in run.sessions)
        rows += [("processor" * (not n), machine) for n, machine in enumerate(machines)]
    if written := run.folder.last_written():
        rows.append(("last written", _date(datetime.fromtimestamp(written).astimezone().isoformat())))
    return [*rows, ("folder", near(run.folder.path))]


def _date(moment: str) -> str:
    """2026-11-30T12:31:05+01:00 → 30 November 2026, 12:31."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{at.day} {at:%B %Y, %H:%M}"


def events_in_words(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The events of the plan, a line each; how often the pace or the threads changed is counted, not listed."""
    paces = [event for event in events if _is_pace(event)]
    threads = [event for event in events if "threads" in event]
    often = [event for group in (paces, threads) if len(group) > 1 for event in group]
    told = [event_in_words(event) for event in events if event not in often]
    if len(paces) > 1:
        first, last = paces[0], paces[-1]
        told.append(
            f"The pace was not as planned, {len(paces)} times between steps {first['step']:,} and {last['step']:,}; "
            f"in the end {last['max_steps']:,} steps in all fitted the time there was."
        )
    if len(threads) > 1:
        told.append(
            f"Other programs came and went: the number of threads changed {len(threads)} times between steps "
            f"{threads[0]['step']:,} and {threads[-1]['step']:,}; it was {threads[-1]['threads']} in the end."
        )
    return told


def _is_pace(event: Mapping[str, Any]) -> bool:
    return bool(event.get("step")) and "max_steps" in event and "training_seconds" not in event


def event_in_words(event: Mapping[str, Any]) -> str:
    """An event of the plan, in words."""
    step = event.get("step", 0)
    if "batch_size" in event:
        return (
            f"Step {step:,}: out of memory; from there on {event['batch_size']} windows in a micro-batch, "
            f"{event.get('gradient_accumulation_steps')} micro-batches in a step."
        )
    if "training_seconds" in event:
        time = f", in {human_seconds(event['training_seconds'])} of training" if event["training_seconds"] else ""
        return f"Step {step:,}: extended to {event['max_steps']:,} steps in all{time}."
    if "max_steps" in event and not step:
        return f"Step 0: {event['max_steps']:,} steps were planned."
    if "threads" in event:
        threads = f"{event['threads']} thread{'s' * (event['threads'] != 1)}"
        return f"Step {step:,}: other programs came or went; steps have {threads} from there on."
    if _is_pace(event):
        return f"Step {step:,}: the pace was not as planned; {event['max_steps']:,} steps in all fit the time there is."
    return f"Step {step:,}: " + ", ".join(f"{key} {value}" for key, value in event.items() if key != "step")


def settings_rows(config: Config) -> Rows:
    """Every setting that has a value, by its name on the command line."""
    sections = config.model_dump(mode="json", exclude_none=True, exclude={"plan"})
    extension = [("extension", str(sections.pop("extension")))] if "extension" in sections else []
    return extension + [
        (f"{section}.{key}", _shown(value)) for section, values in sections.items() for key, value in values.items()
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_shown(inner)}" for key, inner in value.items()) or "none"
    return str(value)
