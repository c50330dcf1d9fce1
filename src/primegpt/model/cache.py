"""Keys and values of the tokens already seen, allocated once, so that decoding computes each token once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from primegpt.config import ModelConfig

Seen = tuple[Tensor, Tensor]  # keys and values of a layer, (B, K, S, D) each
Past = Seen | Callable[[Tensor, Tensor], Seen]
"""Of what came before in a layer: room in a cache, or what gives all that is seen, for new keys and values."""


def remember(past: Past, k: Tensor, v: Tensor, slots: tuple[Tensor, Tensor] | None) -> Seen:
    """Write new keys and values (B, K, T, D) into `past`, at `slots` of `KVCache.slots(T)`."""
    if callable(past):
        return past(k, v)
    for store, new in zip(past, (k, v), strict=True):
        if slots is None:
            store[:, :, -new.size(2) :] = new
        else:
            rows, positions = slots
            store[rows, :, positions] = new.transpose(1, 2).to(store.dtype)
    return past


class KVCache:
    """Room for `max_length` tokens in each of `batch_size` rows; row b holds `lengths[b]` of them.

    `lengths` names the rows in use, which are the first ones: fewer after `select`, one more after `join`. Rows may
    differ in length. A batch of unequal prompts is prefilled padded on the right; setting `lengths` to the
    true ones afterwards makes the padding invisible, because a slot is read only by queries at or after it, and by
    then its row has written it anew.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.n_layer, batch_size, config.kv_heads, max_length, config.head_size)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * batch_size
        self.max_length = max_length

    @property
    def uniform(self) -> bool:
        """Whether all rows are equally long, so that slices serve instead of index tensors."""
        return self.lengths.count(self.lengths[0]) == len(self.lengths)

    def positions(self, T: int, device: torch.device | str) -> Tensor:
        """Where the next T tokens of each row stand, (B or 1, T)."""
        starts = torch.tensor(self.lengths[:1] if self.uniform else self.lengths, device=device)
        return starts.unsqueeze(1) + torch.arange(T, device=device)

    def mask(self, T: int, device: torch.device | str) -> Tensor | None:
        """What the next T tokens may see, (B or 1, 1, T, S): the slots up to their own. None: all of them."""
        if T == 1 and self.uniform:
            return None
        slots = torch.arange(max(self.lengths) + T, device=device)
        return (slots <= self.positions(T, device).unsqueeze(-1)).unsqueeze(1)

    def slots(self, T: int) -> tuple[Tensor, Tensor] | None:
        """Where the next T tokens are written: (rows, positions), or None for the end of every row."""
        if self.uniform:
            return None
        rows = torch.arange(len(self.lengths), device=self.k.device).unsqueeze(1)
        return rows, self.positions(T, self.k.device)

    def layers(self, T: int) -> list[Past]:
        """Keys and values (B, K, S, D) of each layer: views of all slots so far and of those for the next T tokens."""
        used, end = len(self.lengths), max(self.lengths) + T
        assert end <= self.max_length, f"the cache holds {self.max_length} tokens, {end} are asked for"
        return list(zip(self.k[:, :used, :, :end], self.v[:, :used, :, :end], strict=True))

    def advance(self, T: int) -> None:
        """Count the T tokens that a forward pass has just written."""
        self.lengths = [length + T for length in self.lengths]

    def join(self) -> None:
        """Take one more row into use, empty, after the others."""
        assert len(self.lengths) < self.k.size(1), f"all {self.k.size(1)} rows are in use"
        self.lengths.append(0)

    def select(self, rows: Sequence[int]) -> None:
        """Keep only `rows`, in this order (finished texts leave, a beam is copied). Rows that stay are not touched."""
        used, end = len(rows), max(self.lengths, default=0)
        moved = [(to, row) for to, row in enumerate(rows) if to != row]
        if used > self.k.size(1):
            index = torch.tensor(list(rows), dtype=torch.long, device=self.k.device)
            self.k, self.v = self.k[:, index], self.v[:, index]
        elif moved:
            to, source = torch.tensor(moved, device=self.k.device).T
            for store in (self.k, self.v):
                store[:, to, :, :end] = store[:, source, :, :end]
        self.lengths = [self.lengths[row] for row in rows]

    def clear(self) -> None:
        """Forget every token; the room stays allocated."""
        self.lengths = [0] * len(self.lengths)
