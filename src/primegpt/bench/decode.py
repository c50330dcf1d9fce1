"""Writing text from the same weights: ours, Transformers, llama.cpp, by number format and number of streams.

Writing one token reads all weights once, for any number of streams. So beside the rates stands what share they are of
the limit that reading memory sets: streams × (measured bytes per second) / (bytes of weights per token).
"""

import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from primegpt import api
from primegpt.api.interop import Target
from primegpt.bench.compare import Absent, Comparison, Measure, Runs, compare_measures, seconds
from primegpt.bench.memory import read_bandwidth
from primegpt.bench.processes import PRIMEGPT, PYTHON, asked_threads, missing, output_of
from primegpt.bench.random_run import save_random_run
from primegpt.bench.writers import GGUF_TYPES, Writer, llama_writer, our_writer, transformers_writer
from primegpt.errors import UsageError, nearest
from primegpt.model.gpt import GPT
from primegpt.model.size import human_count

Say = Callable[[str], None]

BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}  # of one weight; llama.cpp's q8_0 takes 34 bytes for 32 weights
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


def silent(line: str) -> None:
    pass


def bench_decode(
    run: str | Path | None = None,
    *,
    prompt: int = 32,
    tokens: int = 128,
    streams: Sequence[int] = (1, 16),
    precisions: Sequence[str] = ("fp32", "bf16", "int8"),
    sizes: Mapping[str, int] | None = None,
    turns: int = 3,
    threads: int | None = None,
    compiled: bool = False,
    cold: bool = False,
    buffer_megabytes: int = 512,
    say: Say = silent,
) -> list[Comparison]:
    """Prefill and decoding rates of `streams` prompts of `prompt` ids, continued by `tokens`, for each number format.

    Without a `run` it is GPT-2's 124M with random weights, or a model of other `sizes`. `compiled` adds ours with
    compiled steps, which then comes first, as what the others are compared with. `cold` adds the time from the
    start of a process to the end of 200 tokens. Raises UsageError for a request that does not fit the model.
    """
    import torch

    for precision in precisions:
        if precision not in BYTES:
            raise UsageError(f"--precisions: {precision!r} is no number format", nearest(precision, BYTES))
    if min(prompt, *streams) < 1 or tokens < 2:
        raise UsageError("at least one id in a prompt, two tokens and one stream are needed")
    threads = asked_threads(threads)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            say("making a run with random weights")
            run = save_random_run(Path(folder) / "run", sizes)
        opened = api.load(run, device="cpu", say=say)
        context = opened.model.config.block_size
        if prompt + tokens > context:
            raise UsageError(f"{prompt} + {tokens} tokens do not fit the model's context of {context}", "ask for fewer")
        exports = Exports(Path(run), Path(folder))
        bandwidth = read_bandwidth(buffer_megabytes)
        weights = weights_per_token(opened.model)
        title = f"{human_count(weights)} weights, {prompt} + {tokens} tokens, {threads} threads"
        say(f"{title}; memory is read at {bandwidth / 1e9:.1f} GB/s")
        found = []
        for precision in precisions:
            with ExitStack() as held:  # models of one format at a time
                makers = contestants(opened, exports, precision, threads, prompt + tokens, compiled)
                writers = {name: m if isinstance(m, str) else m() for name, m in makers.items()}
                if isinstance(reason := writers.get(COMPILED), str):
                    say(f"{precision}: {reason}")
                    del writers[COMPILED]
                held.callback(writers.clear)
                for count in streams:
                    prompts = random_prompts(opened.tokenizer.vocab_size, count, prompt)
                    named = f"{precision}, {count} stream{'s' * (count > 1)}: {title}"
                    prefill, decode = measure(writers, prompts, tokens, named, turns, say)
                    limit = count * bandwidth / (BYTES[precision] * weights)
                    found += [prefill, decode.with_limits(dict.fromkeys(writers, limit))]
            if cold:
                found.append(bench_cold(Path(run), opened, exports, precision, threads, turns, say, compiled))
        return found


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
        return path if path.exists() else api.export(self.run, path, to=cast(Target, to), dtype=dtype, say=silent)


def contestants(
    run: api.Run, exports: Exports, precision: str, threads: int, context: int, compiled: bool
) -> dict[str, Callable[[], Writer | str] | str]:
    """How each contestant is made ready, or why it is absent."""
    made: dict[str, Callable[[], Writer | str] | str] = {}
    if compiled:
        made[COMPILED] = lambda: our_writer(run, precision, compiled=True)
    made[OURS] = lambda: our_writer(run, precision)
    path = transformers_path(exports, precision)
    made[TRANSFORMERS] = path if isinstance(path, str) else lambda: transformers_writer(path, precision)
    file = llama_path(exports, precision)
    made[llama_name(precision)] = file if isinstance(file, str) else lambda: llama_writer(file, threads, context)
    return made


def transformers_path(exports: Exports, precision: str) -> Path | str:
    if precision == "int8":
        return "has no int8 for CPUs of its own"
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
) -> list[Comparison]:
    """Prefill and decoding of `prompts` by every writer, after a turn each that is not counted."""
    count, length = len(prompts), len(prompts[0])

    def rates(write: Writer) -> Runs:
        write(prompts, tokens)  # what is compiled, or allocated, on first use

        def turn() -> tuple[float, float]:
            done = write(prompts, tokens)
            return count * length / done.prefill, count * (tokens - 1) / done.decoding

        return turn

    runs = {name: writer if isinstance(writer, str) else rates(writer) for name, writer in writers.items()}
    measures = [Measure(f"Prefill, {title}", "tok/s prefill"), Measure(f"Decoding, {title}", "tok/s decoded")]
    return compare_measures(measures, runs, turns=turns, say=say)


def bench_cold(
    path: Path,
    run: api.Run,
    exports: Exports,
    precision: str,
    threads: int,
    turns: int,
    say: Say,
    compiled: bool = False,
) -> Comparison:
    """Seconds from the start of a process to the end of 200 tokens, or of as many as the context takes.

    Ours is the command `primegpt generate`, with all that it imports, loads, verifies and compiles; `compiled` adds
    `--compile`: with nothing compiled before, and with what torch keeps on the disk of another start.
    """
    ids = run.tokenizer.encode(COLD_PROMPT)
    tokens = min(COLD_TOKENS, run.model.config.block_size - len(ids))
    flags = ["--max-new-tokens", str(tokens), "--temperature", "0", "--precision", precision, "--json"]

    def ours(*more: str, compilations: Path | None = None) -> tuple[float]:
        command = [*PRIMEGPT, "generate", str(path), COLD_PROMPT, *flags, *more]
        variables = {} if compilations is None else {"TORCHINDUCTOR_CACHE_DIR": str(compilations)}
        start = time.perf_counter()
        written = json.loads(output_of(command, threads=threads, variables=variables))
        elapsed = time.perf_counter() - start
        if len(written["ids"]) < tokens:
            raise Absent(f"the text ended after {len(written['ids'])} tokens")
        return (elapsed,)

    def first() -> tuple[float]:
        with tempfile.TemporaryDirectory() as empty:
            return ours("--compile", compilations=Path(empty))

    def again() -> tuple[float]:
        with tempfile.TemporaryDirectory() as kept:
            ours("--compile", compilations=Path(kept))
            return ours("--compile", compilations=Path(kept))

    def script(maker: str, file: Path | str, *arguments: object) -> Runs | str:
        given = json.dumps([maker, str(file), arguments, ids, tokens])
        command = [PYTHON, "-c", COLD_SCRIPT, given]
        return file if isinstance(file, str) else lambda: (seconds(lambda: output_of(command, threads=threads)),)

    runs: dict[str, Runs | str] = {
        f"{OURS} generate": ours,
        **({f"{COMPILED}, first time": first, f"{COMPILED}, again": again} if compiled else {}),
        TRANSFORMERS: script("transformers_writer", transformers_path(exports, precision), precision),
        llama_name(precision): script("llama_writer", llama_path(exports, precision), threads, len(ids) + tokens),
    }
    task = f"Cold start to {tokens} tokens, {precision}, {threads} threads"
    return compare_measures([Measure(task, "s", less_is_better=True)], runs, turns=turns, say=say)[0]
