"""Segments taken apart: attention, and its gradients, as with the mask that hides all others."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primegpt.model import apart as module
from primegpt.model.apart import apart
from primegpt.model.kernels import View, attention, triangle


@given(st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=4), min_size=1, max_size=3), st.booleans())
def test_attention_and_gradients_are_those_of_the_mask(runs: list[list[int]], explicit: bool) -> None:
    """Rows of segments of any lengths, grouped queries, against the mask; double precision."""
    T = max(map(sum, runs))
    rows = [[*run[:-1], run[-1] + T - sum(run)] for run in runs]
    segments = torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in rows])
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(len(rows), heads, T, 8, generator=generator, dtype=torch.double) for heads in (4, 2, 2, 4)]
    kernel = "explicit" if explicit else "sdpa"
    mask = triangle(T, segments.device) & (segments[:, :, None] == segments[:, None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WORTH", 1e9)
        parts = apart(segments)
    assert parts is not None
    results = []
    for view in (View(None, mask[:, None], causal=False), View(None, None, causal=True, apart=parts)):
        q, k, v = (x.clone().requires_grad_() for x in draw[:3])
        y = attention(q, k, v, view, kernel)
        results.append((y, *torch.autograd.grad(y, (q, k, v), draw[3])))
    for masked, taken in zip(*results, strict=True):
        torch.testing.assert_close(taken, masked)


def test_rows_are_taken_apart_only_where_it_saves_most_of_the_scores() -> None:
    """Ten segments of 20, filled up, have a fourth of the scores of a row of 200; one of 150 has more than half."""
    assert apart(torch.arange(10).repeat_interleave(20)[None]) is not None
    assert apart((torch.arange(200) > 150).long()[None]) is None
