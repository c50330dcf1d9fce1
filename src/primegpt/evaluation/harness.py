"""Our models under lm-evaluation-harness: any of its tasks, scored by its own rules.

It needs the extra `[eval]` (lm-eval). Tasks that it brings along download their data from the hub; a task of one's own
is a YAML file whose data may lie beside it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from primegpt.config import GenerateConfig
from primegpt.errors import PrimegptError, UsageError
from primegpt.evaluation.scoring import encode_pair, score_completions
from primegpt.inference.decoder import Decoder
from primegpt.model.gpt import GPT
from primegpt.tokenizers.base import Tokenizer

try:
    from lm_eval import evaluator
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UsageError("--harness needs lm-evaluation-harness", "pip install 'primegpt[eval]'") from error

MAX_GEN_TOKS = 256  # as the harness's own models, where a task says nothing
ROWS = 32  # texts that are written side by side


class HarnessModel(TemplateLM):
    """A model and its tokenizer as the harness sees them. What follows nothing follows `first`, or end of text."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        progress: Callable[[int, int], None] = lambda done, total: None,
        first: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.codec, self.progress = model, tokenizer, progress
        self.first = tokenizer.eot_id if first is None else first

    @property
    def eot_token_id(self) -> int:
        return self.codec.eot_id

    @property
    def prefix_token_id(self) -> int:
        return self.first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> list[int]:
        return self.codec.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return encode_pair(self.codec, context, continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **_: object
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one. Neighbours share a context."""
        items: list[tuple[list[int], list[list[int]]]] = []
        for _text, context, continuation in requests:
            context = context or [self.first]
            if not items or items[-1][0] != context:
                items.append((context, []))
            items[-1][1].append(continuation)
        scores = score_completions(self.model, items, progress=self.progress)
        return [(score.logprob, score.greedy) for each in scores for score in each]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, each token once, in the harness's windows of one block."""
        items, owners = [], []
        for number, request in enumerate(requests):
            ids, room = self.tok_encode(request.args[0]), self.model.config.block_size
            for window in get_rolling_token_windows(ids, self.first, room, 1):
                context, targets = make_disjoint_window(window)
                items.append((context, [targets]))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (score,) in zip(owners, score_completions(self.model, items, progress=self.progress), strict=True):
            totals[owner] += score.logprob
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of a task's stop strings; greedy unless the task asks for sampling."""
        decoder, texts = Decoder(self.model, self.codec), [""] * len(requests)
        ways: dict[GenerateConfig, list[int]] = {}
        for number, request in enumerate(requests):
            ways.setdefault(settings_of(request.args[1]), []).append(number)
        done = 0
        for settings, numbers in ways.items():
            for start in range(0, len(numbers), ROWS):
                part = numbers[start : start + ROWS]
                prompts = [self.tok_encode(requests[number].args[0]) or [self.first] for number in part]
                for number, (completion,) in zip(part, decoder.generate(prompts, settings), strict=True):
                    texts[number] = before_any(completion.text, requests[number].args[1].get("until") or [])
                done += len(part)
                self.progress(done, len(requests))
        return texts


def settings_of(wanted: dict[str, Any]) -> GenerateConfig:
    """A task's generation_kwargs in our names."""
    length = wanted.get("max_gen_toks") or wanted.get("max_new_tokens") or MAX_GEN_TOKS
    if not wanted.get("do_sample", False):
        return GenerateConfig(temperature=0.0, max_new_tokens=length)
    temperature, top_p = wanted.get("temperature", 1.0), wanted.get("top_p") or 1.0
    return GenerateConfig(temperature=temperature, top_k=wanted.get("top_k") or 0, top_p=top_p, max_new_tokens=length)


def before_any(text: str, stops: str | Sequence[str]) -> str:
    """`text` up to the first stop string in it."""
    for stop in [stops] if isinstance(stops, str) else stops:
        text = text.split(stop)[0] if stop else text
    return text


def evaluate_harness(
    model: GPT,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    first: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[str, float]]:
    """task → metric → value. A task is a name that the harness knows, or a YAML file of one's own. Texts begin after
    the id `first`, or after end of text.

    Raises UsageError for a task that there is not, PrimegptError when the harness fails (no network for its data).
    """
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    if missing := [file for file in files if not file.is_file()]:
        raise UsageError(f"{missing[0]} does not exist", "--harness takes task names or YAML files")
    manager = TaskManager(include_path=sorted({str(file.parent.resolve()) for file in files}) or None)
    names = [_name(task) for task in tasks]
    known = set(manager.all_tasks)
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"lm-evaluation-harness has no task {unknown[0]!r}", "`lm_eval ls tasks` lists them")
    try:
        results = evaluator.simple_evaluate(
            model=HarnessModel(model, tokenizer, progress, first),
            tasks=names,
            task_manager=manager,
            limit=limit,
            bootstrap_iters=1000,
            log_samples=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PrimegptError(f"lm-evaluation-harness failed: {error}", "is its data within reach?") from error
    assert results is not None
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in values.items()
            if isinstance(value, int | float) and metric not in ("sample_len", "sample_count")
        }
        for task, values in results["results"].items()
    }


def _name(task: str) -> str:
    """The name of a task, which a YAML file holds in its line `task:`."""
    if not task.endswith((".yaml", ".yml")):
        return task
    lines = Path(task).read_text(encoding="utf-8").splitlines()
    named = [line.removeprefix("task:").strip().strip("\"'") for line in lines if line.startswith("task:")]
    if not named:
        raise UsageError(f"{task} names no task", "add a line `task: NAME`")
    return named[0]
