"""The endpoints, against the package's own generation."""

import pytest

PROMPT = {"prompt": "abc", "seed": 3}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"top_p": 0.8, "top_k": 0, "min_p": 0.01}])
def test_a_completion_is_what_the_run_writes(served, settings) -> None:
    expected = served.run.generate("abc", seed=3, num_samples=2, **settings)
    status, answer = served.ask("/v1/completions", PROMPT | settings | {"n": 2})
    assert status == 200
    assert [choice["text"] for choice in answer["choices"]] == expected
