"""The contestants of `bench decode`: the same weights in ours, Transformers and llama.cpp, writing greedily.

A `Writer` continues prompts (lists of ids, of equal length) by so many tokens, greedily, and never stops earlier.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from primegpt.inference.run import Run


@dataclass(frozen=True)
class Written:
    """`ids` after each prompt; seconds to the first of every prompt (the prefill), and of all others."""

    ids: list[list[int]]
    prefill: float
    decoding: float


Writer = Callable[[Sequence[list[int]], int], Written]

# The file type of llama.cpp that stands beside each of our number formats.
GGUF_TYPES = {"fp32": "f32", "bf16": "f16", "int8": "q8_0", "int4": "q4_0"}


def written(ids: list[list[int]], start: float, stamps: Sequence[float], tokens: int) -> Written:
    """What was written between `start` and the `stamps`, one of which was taken after each token of all prompts."""
    counts = {len(stamps), *map(len, ids)}
    assert counts == {tokens}, f"{counts} tokens were written, not {tokens}: the times would mean nothing"
    return Written(ids, stamps[0] - start, stamps[-1] - stamps[0])


def our_writer(run: "Run", precision: str, compiled: bool = False) -> Writer | str:
    """Ours, through the loop of `primegpt generate`; or why it cannot be `compiled`."""
    reasons: list[str] = []
    decoder = run.generator(precision, compiled=compiled, say=reasons.append)
    if reasons:
        return reasons[0]
    decoder.stop_ids = frozenset()

    def write(prompts: Sequence[list[int]], tokens: int) -> Written:
        settings = run.settings(temperature=0.0, max_new_tokens=tokens, repetition_penalty=1.0)
        rows = [decoder.row(prompt, settings) for prompt in prompts]
        start = time.perf_counter()
        stamps = [time.perf_counter() for _ in decoder.decode_loop(rows, settings)]
        return written([row.added for row in rows], start, stamps, tokens)

    return write


def transformers_writer(folder: Path, precision: str, device: str = "cpu") -> Writer:
    """Transformers' own `generate`, as it comes, with its cache."""
    import torch
    from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().to(device)
    model.generation_config.eos_token_id = model.config.eos_token_id = None

    class Clock(StoppingCriteria):
        """Is asked after each token whether to stop; notes the time and says no."""

        def __init__(self) -> None:
            self.stamps: list[float] = []

        def __call__(self, input_ids: Any, scores: Any, **_: object) -> Any:
            if device != "cpu":  # there a token is asked for, and not yet there
                getattr(torch, device).synchronize()
            self.stamps.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=device)

    def write(prompts: Sequence[list[int]], tokens: int) -> Written:
        ids, clock = torch.tensor(prompts, device=device), Clock()
        start = time.perf_counter()
        with torch.inference_mode():
            texts = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        return written(texts[:, ids.size(1) :].tolist(), start, clock.stamps, tokens)

    return write


def llama_writer(path: Path, threads: int, context: int) -> Writer:
    """llama.cpp through the C interface that llama-cpp-python gives; its Python class holds one text only.

    All else is left at llama.cpp's defaults. `context` is the room of one text, in tokens.
    """
    import llama_cpp as llama
    import numpy as np

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
    assert model, f"llama.cpp cannot load {path}"
    vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    @cache  # freed with the process: these are the contestants of one benchmark
    def room(texts: int) -> tuple[Any, Any]:
        """A context, and a batch of tokens for it, with room for so many texts."""
        params = llama.llama_context_default_params()
        params.n_seq_max, params.n_ctx, params.n_batch = texts, texts * context, texts * context
        params.n_threads = params.n_threads_batch = threads
        return llama.llama_init_from_model(model, params), llama.llama_batch_init(texts * context, 0, 1)

    def next_ids(state: Any, batch: Any, windows: Sequence[Sequence[int]], position: int) -> list[int]:
        """The likeliest ids after `windows`, the new tokens of each text, which begin at `position`."""
        batch.n_tokens, ends = 0, []
        for text, window in enumerate(windows):
            for offset, id in enumerate(window):
                n = batch.n_tokens
                batch.token[n], batch.pos[n], batch.n_seq_id[n] = id, position + offset, 1
                batch.seq_id[n][0], batch.logits[n] = text, offset == len(window) - 1
                batch.n_tokens += 1
            ends.append(batch.n_tokens - 1)
        failed = llama.llama_decode(state, batch)
        assert not failed, f"llama_decode returned {failed}"
        rows = (llama.llama_get_logits_ith(state, end) for end in ends)
        return [int(np.ctypeslib.as_array(row, (vocab_size,)).argmax()) for row in rows]

    def write(prompts: Sequence[list[int]], tokens: int) -> Written:
        state, batch = room(len(prompts))
        llama.llama_memory_clear(llama.llama_get_memory(state), False)
        start = time.perf_counter()
        steps = [next_ids(state, batch, prompts, 0)]
        stamps = [time.perf_counter()]
        while len(steps) < tokens:
            position = len(prompts[0]) + len(steps) - 1
            steps.append(next_ids(state, batch, [[id] for id in steps[-1]], position))
            stamps.append(time.perf_counter())
        return written([list(ids) for ids in zip(*steps, strict=True)], start, stamps, tokens)

    return write
