"""The contestants of `bench decode`: the same weights in ours, Transformers and llama.cpp, writing greedily.

A `Writer` continues prompts (lists of ids, of equal length) by so many tokens and never stops earlier. It returns the
seconds to the first token of every prompt (the prefill), and those of all that follow (the decoding).
"""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from primegpt.api.runs import Run

Writer = Callable[[Sequence[list[int]], int], tuple[float, float]]

# The file type of llama.cpp that stands beside each of our number formats.
GGUF_TYPES = {"fp32": "f32", "bf16": "f16", "int8": "q8_0"}


def timed(steps: Iterable[object], tokens: int) -> tuple[float, float]:
    """Seconds of the first and of all other `steps`, each of which writes one token a prompt."""
    start = time.perf_counter()
    stamps = [time.perf_counter() for _ in steps]
    return split(start, stamps, tokens)


def split(start: float, stamps: Sequence[float], tokens: int) -> tuple[float, float]:
    assert len(stamps) == tokens, f"{len(stamps)} tokens were written, not {tokens}: the times would mean nothing"
    return stamps[0] - start, stamps[-1] - stamps[0]


def our_writer(run: "Run", precision: str) -> Writer:
    """Ours, through the loop behind `primegpt generate`."""
    generator = run.generator(precision)
    generator.stop_ids = frozenset()

    def write(prompts: Sequence[list[int]], tokens: int) -> tuple[float, float]:
        settings = run.settings(temperature=0.0, max_new_tokens=tokens, repetition_penalty=1.0)
        rows = [generator.row(prompt, settings) for prompt in prompts]
        return timed(generator.decode_loop(rows, settings), tokens)

    return write


def transformers_writer(folder: Path, precision: str) -> Writer:
    """Transformers' own `generate`, as it comes, with its cache."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None

    class Clock(StoppingCriteria):
        """Is asked after each token whether to stop; notes the time and says no."""

        def __init__(self) -> None:
            self.stamps: list[float] = []

        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            self.stamps.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool)

    def write(prompts: Sequence[list[int]], tokens: int) -> tuple[float, float]:
        ids, clock = torch.tensor(prompts), Clock()
        start = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return split(start, clock.stamps, tokens)

    return write


def llama_writer(path: Path, threads: int, context: int) -> Writer:
    """llama.cpp through llama-cpp-python, one prompt at a time."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False)

    def write(prompts: Sequence[list[int]], tokens: int) -> tuple[float, float]:
        assert len(prompts) == 1, "its Python class holds one text"
        llama.reset()  # else the prompt would still be in its cache
        return timed(islice(llama.generate(prompts[0], temp=0.0, repeat_penalty=1.0), tokens), tokens)

    return write
