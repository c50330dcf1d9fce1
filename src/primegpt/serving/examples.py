"""Prompts to begin with: what a run's own validation text asks, or how its documents begin."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from primegpt.data.batching.examples import question, with_prompt
from primegpt.data.preparing.shards import Shards
from primegpt.errors import PrimegptError
from primegpt.inference.run import Run
from primegpt.run.contents import data_record
from primegpt.terminal import silent
from primegpt.tokenizers.base import Tokenizer

MOST = 4
LONGEST = 60  # characters of a document, to its last whole word
HEAD = 64  # tokens that certainly hold them

Example = dict[str, str | None]


def examples(run: Run) -> list[Example]:
    """At most `MOST` prompts: {"text", "genre", "emotion"} each. Those of the configuration where it has some.

    Of a run whose prepared text is gone, or was never here, there are none.
    """
    told = [{"text": text, "genre": None, "emotion": None} for text in run.config.train.sample_prompts]
    if told:
        return told[:MOST]
    try:
        record = data_record(run.folder, silent, None, needed=()) or {}
        shards = Shards.open(Path(record["folder"], "val"), run.tokenizer.fingerprint)
        found = _asked(shards, run.tokenizer) if run.template else _openings(shards, run.tokenizer)
        return list(islice(_distinct(found), MOST))
    except (PrimegptError, OSError, KeyError, TypeError, ValueError, IndexError):
        return []  # a kindness, that no damage in a cache may turn into a fault


def _asked(shards: Shards, tokenizer: Tokenizer) -> Iterator[Example]:
    """What records ask for, with the labels that stand before it."""
    labels = {
        tokenizer.token_id(name): (kind, name.strip("<>").removeprefix(f"{kind}_"))
        for kind in ("genre", "emotion")
        for name in tokenizer.special_kinds.get(kind, ())
    }
    for record in islice(with_prompt(shards, tokenizer), 4 * MOST):
        ids = question(shards, record)
        found = dict(labels[id] for id in ids if id in labels)
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if text and len(text) <= 4 * LONGEST:
            yield {"text": text, "genre": found.get("genre"), "emotion": found.get("emotion")}


def _openings(shards: Shards, tokenizer: Tokenizer) -> Iterator[Example]:
    """How documents begin, or where there are few of them, lines spread over the text."""
    starts = [int(start) for start in shards.document_starts[:MOST]]
    if len(starts) < MOST:
        starts += [len(shards) * place // MOST for place in range(1, MOST)]
    for start in starts:
        head = tokenizer.decode(shards.slice(start, min(start + 2 * HEAD, len(shards))), skip_special_tokens=True)
        if start not in shards.document_starts:
            head = head.partition("\n")[2] or head.partition(" ")[2]
        line = next((line.strip() for line in head.split("\n") if len(line.strip()) > 3), "")
        short = line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]
        if short and "\ufffd" not in short:
            yield {"text": short, "genre": None, "emotion": None}


def _distinct(found: Iterable[Example]) -> Iterator[Example]:
    seen = set()
    for example in found:
        if example["text"] not in seen:
            seen.add(example["text"])
            yield example
