"""The settings of a search, and what they refuse."""

import jax
import jax.numpy as jnp
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


@pytest.mark.parametrize(
    ("completed_q", "is_played"),
    [(tz.mcts.CompletedQ(c_scale=0.5, rescale=False), True), (tz.mcts.CompletedQ(), False)],
)
def test_a_scale_of_q_decides_whether_a_win_is_played_that_the_prior_thinks_nothing_of(completed_q, is_played):
    env = tz.from_pgx("tic_tac_toe")
    state, metadata = tz.play_moves(env, jnp.array([0, 3, 1, 4]))  # 2 wins
    mcts = tz.without_exploration(tz.gumbel_mcts(16, completed_q=completed_q))

    def evaluator(env_state, metadata, key):
        return jnp.zeros(9).at[2].set(-9.0), jnp.float32(0)

    searched = tz.search(mcts, env, evaluator, tz.init_search(mcts, state, metadata), key=jax.random.key(0))
    assert searched.root.q[2] == 1
    assert (tz.choose_action(mcts, searched, key=jax.random.key(0)) == 2) == is_played
