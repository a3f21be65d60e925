"""Returns of any size: what self-play counts, value heads, and puzzles for one whose best result is known exactly."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz

MESH = tz.data_mesh(jax.devices()[:1])


@pytest.mark.parametrize("num_players", [1, 2])
def test_the_return_of_an_episode_is_the_sum_of_its_rewards_also_over_several_collections(num_players):
    tables = draw_tables(5, num_players=num_players)
    env, mcts = tabular_env(tables), tz.MCTS(2)
    collect = jax.jit(
        lambda state: tz.collect(mcts, env, tabular_evaluator(tables), state, num_moves=7, max_episode_moves=4)
    )
    state, total, seen = tz.init_collect(mcts, env, key=jax.random.key(0)), np.zeros(num_players), 0
    for _ in range(4):
        before = state
        state, moves = collect(before)
        so_far = tz.learn.self_play.returns_so_far(before, moves)
        for step, reward in enumerate(np.asarray(moves.rewards)):
            total = total + reward
            np.testing.assert_allclose(so_far[step], total[0], rtol=1e-5)
            if moves.terminated[step] or moves.truncated[step]:
                total, seen = np.zeros(num_players), seen + 1
        np.testing.assert_allclose(state.episode_return, total, rtol=1e-5)
    assert seen > 5
