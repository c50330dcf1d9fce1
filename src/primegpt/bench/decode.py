"""Writing text from the same weights: ours, Transformers, llama.cpp, by number format and number of streams.

Writing one token reads all weights once, for any number of streams. So beside the rates stands what share they are of
the limit that reading memory sets: streams × (measured bytes per second) / (bytes of weights per token).
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

from primegpt.bench.compare import (
    NO_TIME,
    PRIMEGPT,
    PYTHON,
    UNBOUNDED,
    Absent,
    Allowance,
    Comparison,
    Measure,
    Runs,
    asked_threads,
    compare_measures,
    missing,
    output_of,
    seconds,
)
from primegpt.bench.random_run import save_random_run
from primegpt.bench.writers import GGUF_TYPES, Writer, llama_writer, our_writer, transformers_writer
from primegpt.errors import UsageError, nearest
from primegpt.inference.run import Run, load
from primegpt.jobs.interop import Target, export
from primegpt.model.gpt import GPT
from primegpt.model.size import human_count
from primegpt.terminal import Say, silent

# Of one weight; int4 has 4 more for 32 weights. llama.cpp's q8_0 takes 34 bytes for 32 weights, q4_0 takes 18.
BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.625}
OURS, COMPILED, TRANSFORMERS, LLAMA = "primegpt", "primegpt compiled", "Transformers", "llama.cpp"
COLD_TOKENS = 200
COLD_PROMPT = "The river"
COLD_SCRIPT = """
import json, sys
from pathlib import Path
from primegpt.bench import writers
maker, path, arguments, prompt, tokens = json.loads(sys.argv[1])
getattr(writers, maker)(Path(path), *arguments)([prompt], tokens)
"""


def bench_decode(
    run: str | Path | None = None,
    *,
    prompt: int = 32,
    tokens: int = 128,
    streams: Sequence[int] = (1, 16),
    precisions: Sequence[str] = ("fp32", "bf16", "int8", "int4"),
    sizes: Mapping[str, int] | None = None,
    turns: int = 3,
    threads: int | None = None,
    compiled: bool = False,
    cold: bool = False,
    alone: bool = False,
    device: str = "cpu",
    buffer_megabytes: int = 512,
    say: Say = silent,
    allowance: Allowance = UNBOUNDED,
) -> list[Comparison]:
    """Prefill and decoding rates of `streams` prompts of `prompt` ids, continued by `tokens`, for each number format.

    Without a `run` it is GPT-2's 124M with random weights, or a model of other `sizes`. `compiled` adds ours with
    compiled steps, which then comes first, as what the others are compared with. `cold` adds the time from the
    start of a process to the end of 200 tokens. `alone` leaves the others out. Raises UsageError for a request that
    does not fit the model.
    """
    import torch

    if run and sizes:
        raise UsageError("--shape is for random weights, and a run is given", "leave one of them out")
    refuse_senseless(prompt, tokens, streams, precisions)
    threads = asked_threads(threads)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(run) if run else random_run(Path(folder) / "run", sizes, say)
        opened, exports = load(path, device=device, say=say), Exports(path, Path(folder))
        context = opened.model.config.block_size
        if prompt + tokens > context:
            raise UsageError(f"{prompt} + {tokens} tokens do not fit the model's context of {context}", "ask for fewer")
        bandwidth, weights = read_bandwidth(buffer_megabytes, device=device), weights_per_token(opened.model)
        where = f"{threads} threads" if device == "cpu" else device
        title = f"{human_count(weights)} weights, {prompt} + {tokens} tokens, {where}"
        say(f"{title}; memory is read at {bandwidth / 1e9:.1f} GB/s")
        found: list[Comparison] = []
        allowed = replace(allowance, after_turn=lambda now: allowance.after_turn([*found, *now]))
        for precision in precisions:
            makers = contestants(opened, exports, precision, threads, prompt + tokens, compiled, alone)
            with made_ready(makers, precision, say, allowance) as writers:
                for count in streams:
                    prompts = random_prompts(opened.tokenizer.vocab_size, count, prompt)
                    named = f"{precision}, {count} stream{'s' * (count > 1)}: {title}"
                    prefill, decode = measure(writers, prompts, tokens, named, turns, say, allowed)
                    limit = count * bandwidth / (BYTES[precision] * weights)
                    found += [prefill, decode.with_limits(dict.fromkeys(writers, limit))]
            if cold:
                found.append(bench_cold(path, opened, exports, precision, threads, turns, say, compiled, alone))
        return found


def refuse_senseless(prompt: int, tokens: int, streams: Sequence[int], precisions: Sequence[str]) -> None:
    if wrong := [each for each in precisions if each not in BYTES]:
        raise UsageError(f"--precisions: {wrong[0]!r} is no number format", nearest(wrong[0], BYTES))
    if min(prompt, *streams) < 1 or tokens < 2:
        raise UsageError("at least one id in a prompt, two tokens and one stream are needed")


def random_run(path: Path, sizes: Mapping[str, int] | None, say: Say) -> Path:
    say("making a run with random weights")
    return save_random_run(path, sizes)


@contextmanager
def made_ready(
    makers: Mapping[str, Callable[[], Writer | str] | str], precision: str, say: Say, allowance: Allowance = UNBOUNDED
) -> Generator[dict[str, Writer | str], None, None]:
    """The contestants of one format; afterwards their models are gone, and there is memory for the next format's."""
    writers: dict[str, Writer | str] = {}
    for name, maker in makers.items():
        writers[name] = maker if isinstance(maker, str) else NO_TIME if allowance.is_over else maker()
    if isinstance(reason := writers.get(COMPILED), str):
        say(f"{precision}: {reason}")
        del writers[COMPILED]
    yield writers
    writers.clear()


def read_bandwidth(megabytes: int = 512, repeats: int = 10, device: str = "cpu") -> float:
    """Bytes per second at which torch reads a buffer that no cache holds, on the threads it is set to, or on a GPU.

    The best of `repeats` by each of several reductions, since none is the fastest on every machine. Tighter code may
    read faster still, on a single core above all: a share of this may come out above 100%.
    """
    import torch

    from primegpt.hugepages import use_huge_pages

    ones = torch.ones(megabytes * 2**18, device=device)  # fp32; written, to be really there
    held = torch.nn.Parameter(ones, requires_grad=False)
    if device == "cpu":
        use_huge_pages([held])  # as weights are
    buffer = held.data
    left, right = buffer.chunk(2)
    best = float("inf")
    for _ in range(repeats):
        for read in (buffer.sum, buffer.amax, buffer.norm, lambda: torch.dot(left, right)):
            start = time.perf_counter()
            read()
            if device != "cpu":
                getattr(torch, device).synchronize()
            best = min(best, time.perf_counter() - start)
    return 4 * buffer.numel() / best


def weights_per_token(model: GPT) -> int:
    """Weights that one token reads: all but the position embeddings, of which it reads one row."""
    return sum(p.numel() for name, p in model.named_parameters() if name != "wpe.weight")


def random_prompts(vocab_size: int, count: int, length: int) -> list[list[int]]:
    """Different for each stream, so that no prefill is shared; the same in every turn and for every contestant."""
    drawn = random.Random(0)
    return [[drawn.randrange(vocab_size) for _ in range(length)] for _ in range(count)]


class Exports:
    """The run in the formats of the peers, each written when first asked for."""

    def __init__(self, run: Path, folder: Path) -> None:
        self.run, self.folder = run, folder

    def __call__(self, to: str, dtype: str | None = None) -> Path:
        """Raises UsageError where the other side cannot express the model."""
        path = self.folder / f"model-{dtype or 'f32'}{'.gguf' if to == 'gguf' else '-hf'}"
        return path if path.exists() else export(self.run, path, to=cast(Target, to), dtype=dtype, say=silent)


def contestants(
    run: Run, exports: Exports, precision: str, threads: int, context: int, compiled: bool, alone: bool
) -> dict[str, Callable[[], Writer | str] | str]:
    """How each contestant is made ready, or why it is absent."""
    made: dict[str, Callable[[], Writer | str] | str] = {}
    if compiled:
        made[COMPILED] = lambda: our_writer(run, precision, compiled=True)
    made[OURS] = lambda: our_writer(run, precision)
    if alone:
        return made
    path, device = transformers_path(exports, precision), run.model.device.type
    made[TRANSFORMERS] = path if isinstance(path, str) else lambda: transformers_writer(path, precision, device)
    file = llama_path(exports, precision) if device == "cpu" else "is measured on CPUs alone"
    made[llama_name(precision)] = file if isinstance(file, str) else lambda: llama_writer(file, threads, context)
    return made


def transformers_path(exports: Exports, precision: str) -> Path | str:
    if precision in ("int8", "int4"):
        return f"has no {precision} for CPUs of its own"
    return exported_or_absent(exports, "transformers", "hf")


def llama_path(exports: Exports, precision: str) -> Path | str:
    return exported_or_absent(exports, "llama_cpp", "gguf", GGUF_TYPES[precision])


def llama_name(precision: str) -> str:
    return f"{LLAMA} {GGUF_TYPES[precision]}"


def exported_or_absent(exports: Exports, module: str, to: str, dtype: str | None = None) -> Path | str:
    if reason := missing(module):
        return reason
    try:
        return exports(to, dtype)
    except UsageError as error:
        return error.what


def measure(
    writers: Mapping[str, Writer | str],
    prompts: Sequence[list[int]],
    tokens: int,
    title: str,
    turns: int,
    say: Say = silent,
    allowance: Allowance = UNBOUNDED,
) -> list[Comparison]:
    """Prefill and decoding of `prompts` by every writer, whose first turn follows one that is not counted."""
    count, length = len(prompts), len(prompts[0])

    def rates(write: Writer) -> Runs:
        is_warm = False

        def turn() -> tuple[float, float]:
            nonlocal is_warm
            if not is_warm:
                write(prompts, tokens)  # what is compiled, or allocated, on first use
                is_warm = True
            done = write(prompts, tokens)
            return count * length / done.prefill, count * (tokens - 1) / done.decoding

        return turn

    runs = {name: writer if isinstance(writer, str) else rates(writer) for name, writer in writers.items()}
    measures = [Measure(f"Prefill, {title}", "tok/s prefill"), Measure(f"Decoding, {title}", "tok/s decoded")]
    return compare_measures(measures, runs, turns=turns, say=say, allowance=allowance)


def bench_cold(
    path: Path,
    run: Run,
    exports: Exports,
    precision: str,
    threads: int,
    turns: int,
    say: Say,
    compiled: bool = False,
    alone: bool = False,
) -> Comparison:
    """Seconds from the start of a process to the end of 200 tokens, or of as many as the context takes.

    Ours is the command `primegpt generate`, with all that it imports, loads, verifies and compiles; `compiled` adds
    `--compile`: with nothing compiled before, and with what torch keeps on the disk of another start.
    """
    ids = run.tokenizer.encode(COLD_PROMPT)
    tokens = min(COLD_TOKENS, run.model.config.block_size - len(ids))
    flags = ["--max-new-tokens", str(tokens), "--temperature", "0", "--precision", precision, "--json"]

    def ours(*more: str, compilations: str | None = None) -> tuple[float]:
        command = [*PRIMEGPT, "generate", str(path), COLD_PROMPT, *flags, *more]
        variables = {} if compilations is None else {"TORCHINDUCTOR_CACHE_DIR": compilations}
        start = time.perf_counter()
        written = json.loads(output_of(command, threads=threads, variables=variables))
        elapsed = time.perf_counter() - start
        if len(written["ids"]) < tokens:
            raise Absent(f"the text ended after {len(written['ids'])} tokens")
        return (elapsed,)

    def compiling(starts: int) -> Runs:
        """The last of so many starts that share what torch keeps on the disk."""

        def turn() -> tuple[float]:
            with tempfile.TemporaryDirectory() as kept:
                return [ours("--compile", compilations=kept) for _ in range(starts)][-1]

        return turn

    def script(maker: str, file: Path | str, *arguments: object) -> Runs | str:
        command = [PYTHON, "-c", COLD_SCRIPT, json.dumps([maker, str(file), arguments, ids, tokens])]
        return file if isinstance(file, str) else lambda: (seconds(lambda: output_of(command, threads=threads)),)

    runs: dict[str, Runs | str] = {f"{OURS} generate": ours}
    if compiled:
        runs |= {f"{COMPILED}, first time": compiling(1), f"{COMPILED}, again": compiling(2)}
    if not alone:
        runs |= {
            TRANSFORMERS: script("transformers_writer", transformers_path(exports, precision), precision),
            llama_name(precision): script("llama_writer", llama_path(exports, precision), threads, len(ids) + tokens),
        }
    task = f"Cold start to {tokens} tokens, {precision}, {threads} threads"
    return compare_measures([Measure(task, "s", less_is_better=True)], runs, turns=turns, say=say)[0]
