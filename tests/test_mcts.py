"""The settings of a search, and what they refuse."""

import pytest

import tz


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_simulations": 0}, "num_simulations must be at least 1, found 0"),
        ({"num_simulations": 4, "max_nodes": 1}, "max_nodes must be at least 2"),
        ({"num_simulations": 4, "temperature": -0.5}, "temperature must be 0 or more"),
        ({"num_simulations": 4, "temperature": float("nan")}, "temperature must be 0 or more"),
        ({"num_simulations": 4, "discount": 1.5}, "discount must be from 0 to 1"),
        ({"num_simulations": 6, "num_leaves": 4}, "divide num_simulations, found num_leaves=4 and num_simulations=6"),
        ({"num_simulations": 4, "num_leaves": 0}, "num_leaves must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tz.MCTS(**options)


def test_a_small_tree_is_announced():
    with pytest.warns(UserWarning, match="32 simulations can add as many nodes, but max_nodes=8 has room for 7"):
        tz.MCTS(32, 8)
