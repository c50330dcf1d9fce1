"""How far a run has gone from another, such as the one that it began with, where it answers the prompts of a file."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from primegpt.config import GenerateConfig
from primegpt.errors import MismatchError
from primegpt.evaluation.divergence import Drawn, divergence
from primegpt.inference.run import Run, load
from primegpt.jobs.prompts import Prompted, refuse_too_long, written_to
from primegpt.terminal import Say, to_stderr


def run_beside(run: Run, path: str | Path, prompts: Sequence[Prompted], say: Say = to_stderr) -> Run:
    """The run at `path`, its best checkpoint, to be compared with `run` where that answers `prompts`.

    Raises MismatchError unless it has the vocabulary of `run`, and DataError for a prompt that fills what it sees.
    """
    other = load(path, device=run.model.device.type, say=say)
    if other.tokenizer.fingerprint != run.tokenizer.fingerprint:
        refuse_tokenizers(run, other)
    refuse_too_long(prompts, other.config.model.block_size, str(other.folder.path))
    return other


def refuse_tokenizers(run: Run, other: Run) -> NoReturn:
    """Raise MismatchError for two runs whose tokenizers differ: by what fine-tuning adds to one, or altogether."""
    shorter, longer = sorted((run.tokenizer, other.tokenizer), key=lambda each: each.vocab_size)
    shared = range(shorter.vocab_size)
    added = [name for name, id in longer.special_tokens.items() if id not in shared]
    same = longer.kind == shorter.kind and longer.decode_bytes(shared) == shorter.decode_bytes(shared)
    if same and len(added) == longer.vocab_size - shorter.vocab_size > 0:
        names = " and ".join(str(each.folder.path) for each in (other, run))
        what = f"the tokenizers of {names} differ by special tokens that fine-tuning added ({', '.join(added)})"
        raise MismatchError(what, "name a run that has learnt them too, such as the first that was tuned with them")
    what = f"{other.folder.path} and {run.folder.path} have different tokenizers"
    raise MismatchError(what, "name the run that it began with, or one of its descent: token by token they compare")


def measure_divergence(run: Run, other: Run, prompts: Sequence[Prompted], say: Say = to_stderr) -> dict[str, Any]:
    """KL(run || other) of one text to each prompt, drawn from the run's own distribution: temperature 1, no rules."""
    longest = run.settings().max_new_tokens
    settings = GenerateConfig(max_new_tokens=longest, temperature=1.0, top_k=0, temperature_decay=1.0)
    say(f"drawing {len(prompts):,} texts of at most {longest} tokens")
    written = [samples[0] for samples in written_to(run, prompts, settings)]
    drawn = [Drawn(each.prompt_ids, each.ids, each.finish_reason == "stop") for each in written]
    found = divergence(run.model, other.model, drawn, run.generator().banned)
    return {"from": str(other.folder.path), "prompts": len(prompts), **asdict(found)}
