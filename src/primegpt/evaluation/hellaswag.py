"""HellaSwag: which of four endings does the model find likeliest? Completion style, chance 25%.

Zellers et al. 2019, arXiv:1905.07830. An ending is scored as the text " " + ending after the context, as in the
original release of GPT-2's figures by completion. Four ways to choose, of which published figures use different ones:

    acc         the largest sum of log-probabilities
    acc_norm    the same divided by the ending's characters (what lm-evaluation-harness calls acc_norm)
    acc_bytes   ... by its bytes in UTF-8
    acc_tokens  ... by its tokens (build-nanogpt's acc_norm)

Characters and bytes are those of the ending without the space before it. Of equal scores the first one is chosen.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from primegpt.errors import DataError, quoted
from primegpt.evaluation.scoring import Item, Score, exceeds, score_completions
from primegpt.model.gpt import GPT
from primegpt.tokenizers.base import Tokenizer

METRICS = ("acc", "acc_norm", "acc_bytes", "acc_tokens")
ENDINGS = 4
CHANCE = 1 / ENDINGS


@dataclass(frozen=True)
class Question:
    """A context, its four endings, and which of them (from 0) is the true one."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class HellaSwagResult:
    """How often each metric chose the true ending."""

    choices: list[dict[str, int]]
    """The ending that each metric chose, an entry a question."""
    labels: list[int]
    cut: int
    """Questions whose context did not fit and lost its beginning."""

    @property
    def items(self) -> int:
        return len(self.labels)

    def accuracy(self, metric: str) -> float:
        """Share of questions answered right by `metric`, one of METRICS."""
        hits = sum(choice[metric] == label for choice, label in zip(self.choices, self.labels, strict=True))
        return hits / self.items

    def standard_error(self, metric: str) -> float:
        """Of the accuracy, as a mean of independent questions; nan for a single one."""
        p, n = self.accuracy(metric), self.items
        return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else math.nan


def read_questions(path: str | Path, limit: int | None = None) -> list[Question]:
    """The questions of a HellaSwag .jsonl file (keys ctx, endings, label), at most `limit` from its beginning.

    Raises DataError, naming the line, for anything else.
    """
    questions: list[Question] = []
    for number, line in _lines(Path(path)):
        if limit is not None and len(questions) >= limit:
            break
        questions.append(_question(line, f"{path}, line {number}"))
    if not questions:
        raise DataError(f"{path} holds no question", "give a HellaSwag .jsonl file")
    return questions


def evaluate_hellaswag(
    model: GPT,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HellaSwagResult:
    """Answer `questions`, each context computed once for its four endings. `progress` gets items done and in all."""
    items = [encode_question(tokenizer, question) for question in questions]
    scores = score_completions(model, items, progress=progress)
    choices = [choose(question.endings, each) for question, each in zip(questions, scores, strict=True)]
    cut = sum(exceeds(item, model.config.block_size) for item in items)
    return HellaSwagResult(choices, [question.label for question in questions], cut)


def encode_question(tokenizer: Tokenizer, question: Question) -> Item:
    """The ids of the context, and of each ending with the space before it."""
    context = tokenizer.encode(question.context) or [tokenizer.eot_id]
    return context, [tokenizer.encode_within(" " + ending) for ending in question.endings]


def choose(endings: Sequence[str], scores: Sequence[Score]) -> dict[str, int]:
    """The ending that each metric prefers."""
    units = {
        "acc": [1] * len(endings),
        "acc_norm": [len(ending) for ending in endings],
        "acc_bytes": [len(ending.encode()) for ending in endings],
        "acc_tokens": [score.tokens for score in scores],
    }
    best = {}
    for metric, sizes in units.items():
        normed = [score.logprob / max(1, size) for score, size in zip(scores, sizes, strict=True)]
        best[metric] = normed.index(max(normed))
    return best


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason})", "give a HellaSwag .jsonl file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}", "check the path") from error


def _question(line: str, place: str) -> Question:
    try:
        return _parsed(json.loads(line))
    except (ValueError, RecursionError) as error:
        reason = "it is not JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else error
        raise DataError(
            f"{place} is no HellaSwag question: {reason}",
            'a line is {"ctx": text, "endings": [four texts], "label": 0 to 3}',
        ) from None


def _parsed(entry: object) -> Question:
    """Raises ValueError for a question that would count, but not with chance at a quarter."""
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    if missing := [key for key in ("ctx", "endings", "label") if key not in entry]:
        raise ValueError(f"{missing[0]!r} is missing")
    context, endings, label = entry["ctx"], entry["endings"], entry["label"]
    if not isinstance(context, str):
        raise ValueError("its ctx is no text")
    if not isinstance(endings, list) or len(endings) != ENDINGS:
        count = f"{len(endings)} endings" if isinstance(endings, list) else "no list of endings"
        raise ValueError(f"it has {count}")
    if not all(isinstance(ending, str) and ending.strip() for ending in endings):
        raise ValueError("an ending is empty, or no text")
    if label not in (choices := [*range(ENDINGS), *map(str, range(ENDINGS))]) or isinstance(label, bool | float):
        raise ValueError(f"label = {quoted(label)} is none of its endings")
    return Question(context, tuple(endings), choices.index(label) % ENDINGS)  # the hub has labels as text
