"""`primegpt generate`."""

import sys
from pathlib import Path


def generate(
    run: Path | None = None,
    prompt: str = "",
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    num_samples: int = 1,
    checkpoint: str = "best",
) -> None:
    """Continue a prompt with a trained model; the text goes to standard output as it is written.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    prompt
        The text to continue; an empty one starts a new document.
    max_new_tokens
        Tokens to add.
    temperature
        Divides the logits; 0 always takes the likeliest token.
    top_k
        Sample among the k likeliest tokens only.
    top_p
        Sample among the fewest tokens whose probabilities reach p.
    seed
        Seed of sampling.
    num_samples
        How many different continuations.
    checkpoint
        best, last, or a step.
    """
    from primegpt import api

    run, prompt = run_and_prompt(run, prompt)
    opened = api.load(run, checkpoint=int(checkpoint) if checkpoint.isdigit() else checkpoint)
    settings = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    if num_samples == 1:
        print(prompt, end="", flush=True)
        for piece in opened.stream(prompt, **settings):
            print(piece, end="", flush=True)
        print()
        return
    for number, completion in enumerate(opened.complete(prompt, num_samples=num_samples, **settings), 1):
        print(f"── {number} " + "─" * 60, file=sys.stderr)
        print(prompt + completion.text)


def run_and_prompt(run: Path | None, prompt: str) -> tuple[Path | None, str]:
    """`primegpt generate "a prompt"` means the latest run: one word that is no folder is the prompt."""
    if run is not None and not prompt and not run.exists() and not looks_like_path(str(run)):
        return None, str(run)
    return run, prompt


def looks_like_path(text: str) -> bool:
    return "/" in text and " " not in text
