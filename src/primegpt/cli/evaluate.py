"""`primegpt evaluate`."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def evaluate(
    run: Path | None = None,
    *,
    text: str | None = None,
    hellaswag: str | None = None,
    adherence: bool = False,
    memorization: bool = False,
    harness: str | None = None,
    limit: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
    checkpoint: str = "best",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Measure a run; with no option, its loss on its own validation text.

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    text
        Loss, perplexity and bits per byte on this text (a source as for training), every target once.
    hellaswag
        Answer the questions of this HellaSwag .jsonl file, or of `hellaswag` once it is fetched.
    adherence
        Whether its songs keep to their prompts, and what it takes from a prompt.
    memorization
        How much of what it writes is copied from its training text.
    harness
        Tasks of lm-evaluation-harness, or YAML files of your own, with commas between.
    limit
        At most so many questions, prompts or harness documents.
    stride
        Let windows of text overlap: a new one every so many tokens.
    batch_size
        Windows computed at once; changes nothing but the time.
    checkpoint
        best, last, or a step.
    as_json
        Print JSON.
    """
    from primegpt import api
    from primegpt.errors import UsageError

    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves nothing to measure", "give a number from 1")
    if batch_size is not None and batch_size < 1:
        raise UsageError(f"--batch-size {batch_size} computes nothing", "give a number from 1")
    report = api.evaluate(
        run,
        text=text,
        hellaswag=hellaswag,
        adherence=adherence,
        memorization=memorization,
        harness=[task.strip() for task in (harness or "").split(",") if task.strip()],
        limit=limit,
        stride=stride,
        batch_size=batch_size,
        checkpoint=checkpoint,
    )
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for name, value in api.describe_evaluation(report):
        print(f"{name:<22} {value}")
