"""How long commands take before they do anything: beside Python itself, and what any program of the kind imports."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from primegpt.bench.compare import Comparison, Measure, Runs, compare_measures
from primegpt.bench.processes import PRIMEGPT, PYTHON, milliseconds_of, milliseconds_to_output, missing
from primegpt.bench.random_run import save_random_run

TINY = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 64, "vocab_size": 512}


def bench_startup(*, turns: int = 5, say: Callable[[str], None] = lambda line: None) -> list[Comparison]:
    """Milliseconds of `primegpt --help`, of `import primegpt`, and of `primegpt generate` to its first text."""
    with tempfile.TemporaryDirectory() as folder:
        run = save_random_run(Path(folder) / "run", TINY)
        help_page = {"primegpt --help": whole([*PRIMEGPT, "--help"]), "python -c pass": statement("pass")}
        package = {
            "import primegpt": statement("import primegpt"),
            "import torch": statement("import torch"),
            "import transformers": missing("transformers") or statement("import transformers"),
        }
        command = [*PRIMEGPT, "generate", str(run), "--max-new-tokens", "8"]
        text = {
            "primegpt generate, to its first text": lambda: (milliseconds_to_output(command),),
            "import torch": statement("import torch"),
            "import torch, AutoModelForCausalLM": missing("transformers")
            or statement("import torch; from transformers import AutoModelForCausalLM"),
        }
        tasks = {"The help page": help_page, "Importing the package": package, "A tiny model's first text": text}
        return [
            compare_measures([Measure(task, "ms", less_is_better=True)], runs, turns=turns, say=say)[0]
            for task, runs in tasks.items()
        ]


def whole(command: list[str]) -> Runs:
    return lambda: (milliseconds_of(command),)


def statement(code: str) -> Runs:
    return whole([PYTHON, "-c", code])
