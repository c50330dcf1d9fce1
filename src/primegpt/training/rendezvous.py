"""How ranks find each other, and find out which of them is lost: through the store that torchrun gives them."""

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from primegpt.errors import RankError

JOINING = timedelta(minutes=10)
LAST_WORDS = 3.0  # seconds in which the ranks that are left find each other


def meet(store: "dist.Store", rank: int, size: int) -> str:
    """A name for this start of all ranks, the same on each. Raises RankError for ranks that do not come.

    torchrun starts ranks again with the store that they had, which remembers addresses of the dead. So each rank knocks
    with a word that nobody has used before, and only rank 0 of the same start answers that.
    """
    word = uuid4().hex
    if rank:
        store.set(f"knock/{rank}", word)
        name = store.get(f"answer/{word}").decode()
        store.set(f"{name}/here/{rank}", "")
        return name
    until, missing = time.monotonic() + JOINING.total_seconds(), list(range(1, size))
    while missing:
        for other in missing:
            if store.check([f"knock/{other}"]):
                store.set(f"answer/{store.get(f'knock/{other}').decode()}", word)
        missing = [other for other in missing if not store.check([f"{word}/here/{other}"])]
        if missing and time.monotonic() > until:
            raise RankError(f"ranks {', '.join(map(str, missing))} did not come", "is each machine's torchrun started?")
        time.sleep(0.02)
    return word


def is_failure_of_group(error: BaseException) -> bool:
    """Whether an error came from the connection between ranks; gloo only says so in words."""
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def missing(store: "dist.Store", rank: int, size: int) -> tuple[list[int], int]:
    """The ranks that give no sign of life, and the first that does. All that are left call this."""
    store.set(f"leaving/{rank}", "")
    until = time.monotonic() + LAST_WORDS
    lost = list(range(size))
    try:
        while lost and time.monotonic() < until:
            lost = [other for other in lost if not store.check([f"leaving/{other}"])]
            time.sleep(0.05)
    except RuntimeError:  # the store was on the machine that is gone
        return [], rank
    return lost, min(set(range(size)) - set(lost), default=rank)
