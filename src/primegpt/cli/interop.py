"""`primegpt import` and `primegpt export`."""

from pathlib import Path
from typing import Literal


def import_model(
    source: str, *, out: Path | None = None, tokenizer: Path | None = None, overwrite: bool = False
) -> None:
    """Make a run of a GPT-2, Qwen3 or Llama model as Transformers saves it.

    Parameters
    ----------
    source
        A folder with config.json and model.safetensors, or an id on the Hugging Face hub such as `gpt2`.
    out
        The run folder; runs/NAME-N when not given.
    tokenizer
        Use the tokenizer in this folder (a run's tokenizer/, for example) in place of the model's own.
    overwrite
        Replace the run that is there.
    """
    from primegpt import api

    path = api.import_model(source, out, overwrite=overwrite, tokenizer=tokenizer)
    print(f"next       primegpt generate {path}")


def export(
    run: Path | None = None,
    *,
    to: Literal["hf", "gguf"] = "hf",
    out: Path | None = None,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
    checkpoint: str = "best",
) -> None:
    """Write a run for Transformers (a folder) or for llama.cpp (a GGUF file).

    Parameters
    ----------
    run
        A run folder; the latest in runs/ when not given.
    to
        hf for Transformers, gguf for llama.cpp.
    out
        Where to write; RUN-hf or RUN.gguf in this folder when not given.
    dtype
        How a GGUF file stores matrices; f16 when not given.
    checkpoint
        best, last, or a step.
    """
    from primegpt import api

    print(api.export(run, out, to=to, dtype=dtype, checkpoint=checkpoint))
