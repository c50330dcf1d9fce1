"""Records and answers as people are shown them."""

from collections.abc import Sequence
from itertools import groupby

from primegpt.tokenizers.base import Tokenizer


def introduction(answered: bool, prompt: str) -> str:
    """What to show before what a model writes to `prompt`: a text goes on where it ends, an answer stands below."""
    if not answered:
        return prompt
    return f"» {prompt.strip()}\n" if prompt.strip() else ""


def without_control(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a record, what stands between two control tokens on lines of its own; labels by their names."""
    control = {tokenizer.token_id(name) for name in tokenizer.special_kinds.get("control", ())}
    runs = groupby(ids, key=control.__contains__)
    texts = [tokenizer.decode(list(run)).strip() for is_control, run in runs if not is_control]
    return "\n".join(filter(None, texts))
