"""`primegpt generate`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from primegpt.errors import DataError, UsageError


def generate(
    run: Path | None = None,
    prompt: str | None = None,
    *,
    prompts: Path | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    num_samples: int = 1,
    beams: int | None = None,
    length_penalty: float | None = None,
    stop: tuple[str, ...] = (),
    genre: str | None = None,
    emotion: str | None = None,
    precision: str | None = None,
    compile: bool | None = None,
    checkpoint: str = "best",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Continue a prompt with a trained model; the text goes to standard output as it is written.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    prompt
        The text to continue, or `-` to read it from standard input; an empty one starts a new document.
    prompts
        A text file with one prompt a line; they are written side by side.
    max_new_tokens
        Tokens to add.
    temperature
        Divides the logits; 0 always takes the likeliest token.
    top_k
        Sample among the k likeliest tokens only; 0 for all.
    top_p
        Sample among the fewest tokens whose probabilities reach p.
    min_p
        Sample among tokens with at least this share of the likeliest one's probability.
    repetition_penalty
        Above 1, what already stands in the text becomes less likely.
    seed
        Seed of sampling.
    num_samples
        How many different continuations of each prompt.
    beams
        Look for the likeliest text by beam search with so many beams; nothing is drawn then.
    length_penalty
        Of beam search: above 0 favours long texts, below 0 short ones.
    stop
        End before this text; may be given several times.
    genre
        For a model trained on instructions: the prompt asks for a song of this genre.
    emotion
        Likewise, of this emotion.
    precision
        Number format of the weights: auto, fp32, bf16 or int8.
    compile
        Compile the step of one token: starts some seconds later, writes faster. On CPUs; needs a C++ compiler.
    checkpoint
        best, last, or a step.
    as_json
        Print one JSON object a text: prompt, text, token ids, log-probabilities, finish reason.
    """
    from primegpt import api

    run, prompt = run_and_prompt(run, prompt)
    texts = given_prompts(prompt, prompts)
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "num_beams": beams,
        "length_penalty": length_penalty,
        "stop_strings": stop or None,
        "precision": precision,
        "compile": compile,
    }
    if num_samples < 1:
        raise UsageError(f"--num-samples {num_samples}: ask for at least one")
    opened = api.load(run, checkpoint=checkpoint)
    asked = [opened.prompt(text, genre, emotion) for text in texts]
    for text in texts:
        for remark in opened.remarks(text):
            print(f"primegpt: {remark}", file=sys.stderr)
    if len(asked) == num_samples == 1 and not as_json:
        pieces = opened.stream(asked[0], **settings)  # refuses bad settings before anything is printed
        print(texts[0], end="", flush=True)
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return
    found = opened.complete_all(asked, num_samples=num_samples, logprobs=as_json, **settings)
    completions = [(text, c) for text, samples in zip(texts, found, strict=True) for c in samples]
    for number, (text, completion) in enumerate(completions, 1):
        if as_json:
            print(json.dumps(api.completion_facts(text, completion), ensure_ascii=False))
        else:
            print(f"── {number} " + "─" * 60, file=sys.stderr)
            print(text + completion.text)


def run_and_prompt(run: Path | None, prompt: str | None) -> tuple[Path | None, str | None]:
    """`primegpt generate "a prompt"` means the latest run: one word that is no folder is the prompt."""
    if run is not None and prompt is None and not run.exists() and not looks_like_path(str(run)):
        return None, str(run)
    return run, prompt


def looks_like_path(text: str) -> bool:
    return "/" in text and " " not in text


def given_prompts(prompt: str | None, file: Path | None) -> list[str]:
    """The prompts of the command line, of standard input (`-`) or of a file. Raises UsageError or DataError."""
    if file is None:
        return [sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt or ""]
    if prompt:
        raise UsageError("a prompt and --prompts are both given", "give one of them")
    try:
        lines = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise DataError(f"--prompts {file}: {reason}", "name a text file with one prompt a line") from error
    if not (found := [line for line in lines.splitlines() if line.strip()]):
        raise DataError(f"--prompts {file}: no prompt in it", "write one a line")
    return found
