"""What the live table shows."""

import pytest

from primegpt.experiments.board import Board


@pytest.mark.parametrize(("value", "shown"), [(3.4999, "3.500"), (4.0, "4.000"), (0.05, "0.05000"), (1234.4, "1234")])
def test_figures_have_as_many_digits_in_every_cell(value, shown):
    board = Board(None, None, lambda outcome: value)
    assert board.cell(None) == shown
