"""A conversation that is longer than the model sees: whole turns are left out, from the oldest on."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from primegpt.inference.run import Run


def fitted(run: Run, messages: Sequence[Mapping[str, str]], room: int, **labels: str | None) -> tuple[list[int], int]:
    """What `run`, which converses, is given for `messages` in at most `room` tokens, and how many turns are left out.

    A turn is what the user says and what is answered. What the system says stays, and so does the last turn, even where
    that alone does not fit. Raises UsageError as `Run.conversation` does.
    """
    roles = [message["role"] for message in messages]
    begins = [n for n, role in enumerate(roles) if role == "user" and "user" not in roles[max(0, n - 1) : n]]
    known: dict[int, list[int]] = {}

    def ids(dropped: int) -> list[int]:
        if dropped not in known:
            first = begins[dropped] if dropped else 0
            kept = [message for message in messages[:first] if message["role"] == "system"]
            given = run.conversation([*kept, *messages[first:]], **labels)
            assert not isinstance(given, str), "a run that converses lays its messages out"
            known[dropped] = given
        return known[dropped]

    last = max(0, len(begins) - 1)
    dropped = 0 if len(ids(0)) <= room else bisect_left(range(last), True, lo=1, key=lambda n: len(ids(n)) <= room)
    return ids(min(dropped, last)), min(dropped, last)


def room_for_prompt(block_size: int, max_new_tokens: int) -> int:
    """The tokens that a conversation may have beside an answer, which asks for half of what the model sees at most."""
    return block_size - min(max_new_tokens, block_size // 2)
