"""Independent random streams from one seed: initialisation, data order, dropout, evaluation, sampling.

Nothing random in primegpt has saved state. A stream is named by what it is for and where in the run it stands, so
that resuming needs no generator state, and drawing more from one stream (evaluating twice as often) never shifts
another.
"""

import hashlib


def derive_seed(seed: int, *scope: int | str) -> int:
    """A 63-bit seed for the stream `scope` of the run `seed`, for example `derive_seed(1, "dropout", step, row)`."""
    name = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *scope))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1
