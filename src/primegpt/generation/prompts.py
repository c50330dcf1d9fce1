"""Prompts that the song template was trained on: control ids around an instruction, up to where the song begins."""

from primegpt.errors import UsageError, nearest
from primegpt.tokenizers.base import Tokenizer


def instruction_prompt(
    tokenizer: Tokenizer, instruction: str, genre: str | None = None, emotion: str | None = None
) -> list[int]:
    """The ids of `<prompt> <genre> <emotion> instruction`, a new line, `<song>`, a new line.

    A genre or emotion may be given with or without its brackets and prefix: rock, genre_rock, <genre_rock>. Control
    ids are put in by name; the instruction's text never becomes one. Raises UsageError when the tokenizer lacks them.
    """
    if not {"<prompt>", "<song>"} <= tokenizer.special_tokens.keys():
        raise UsageError(
            "this run's tokenizer has no control ids, so a genre or an emotion means nothing to its model",
            "use a run that was trained on instructions",
        )
    given = {"genre": genre, "emotion": emotion}
    labels = [label_id(tokenizer, kind, name) for kind, name in given.items() if name is not None]
    text = tokenizer.encode(f" {instruction}\n" if labels else f"{instruction}\n")
    return [
        tokenizer.token_id("<prompt>"),
        *labels,
        *text,
        tokenizer.token_id("<song>"),
        *tokenizer.encode("\n"),
    ]


def label_id(tokenizer: Tokenizer, kind: str, given: str) -> int:
    """The id of the genre or emotion `given`, by any spelling. Raises UsageError, naming what there is."""
    names = {name.strip("<>").removeprefix(f"{kind}_"): name for name in tokenizer.special_kinds.get(kind, ())}
    short = given.strip("<>").removeprefix(f"{kind}_")
    if short not in names:
        raise UsageError(f"{kind} {given!r} is not known to this run's tokenizer", nearest(short, names))
    return tokenizer.token_id(names[short])
