"""Evaluators: their results, the perspective of the values, and the precision."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import draw_tables, tabular_env

import tz


def play_out(env, actions):
    state = env.init(jax.random.key(1))
    for action in actions:
        state = env.step(state[0], jnp.int32(action))
    return state


@pytest.fixture(scope="module")
def tic_tac_toe():
    return tz.from_pgx("tic_tac_toe")


def test_rollouts_of_a_forced_game_are_exact(tic_tac_toe):
    """X O X / O X O / O X _: the last cell completes a diagonal for the player to move."""
    env_state, metadata = play_out(tic_tac_toe, [0, 1, 2, 3, 4, 5, 7, 6])
    evaluator = tz.RolloutEvaluator(tic_tac_toe, num_rollouts=3)
    logits, value = evaluator(env_state, metadata, jax.random.key(0))
    assert value == 1.0 and (logits == 0).all()


def test_rollouts_value_a_position_for_the_player_to_move(tic_tac_toe):
    """X has two in a row and moves, or O has to move against it: the sign follows the player to move."""
    evaluator = tz.RolloutEvaluator(tic_tac_toe, num_rollouts=256)
    ahead = evaluator(*play_out(tic_tac_toe, [0, 8, 1, 7]), jax.random.key(0))[1]  # both have two, X to move
    behind = evaluator(*play_out(tic_tac_toe, [0, 3, 1, 5, 4]), jax.random.key(0))[1]  # X threatens twice, O to move
    assert ahead > 0.1
    assert behind < -0.3


def test_rollouts_agree_with_the_exact_expectation_and_with_vmap():
    """Compares with the expected return of random play in a tabular game, from a sweep that begins in the last row."""
    tables = draw_tables(3)
    env = tabular_env(tables)
    plain = jax.tree.map(np.asarray, tables)
    discount, exact = 0.9, np.zeros((len(plain.player), 2))
    for row in reversed(range(len(plain.player))):
        if not plain.terminated[row]:
            after = plain.rewards[row] + discount * exact[plain.next_state[row]]
            exact[row] = after[plain.legal[row]].mean(0)
    rows = np.flatnonzero(~plain.terminated)[:8]
    evaluator = tz.RolloutEvaluator(env, num_rollouts=4000, discount=discount)

    def value(row, key):
        metadata = tz.StepMetadata(jnp.zeros(2), tables.legal[row], tables.terminated[row], tables.player[row])
        return evaluator(row, metadata, key)[1]

    keys = jax.random.split(jax.random.key(0), len(rows))
    together = jax.jit(jax.vmap(value))(jnp.asarray(rows, jnp.int32), keys)
    np.testing.assert_allclose(together, exact[rows, plain.player[rows]], atol=0.12)
    alone = jax.jit(value)(jnp.int32(rows[2]), keys[2])
    np.testing.assert_allclose(together[2], alone, rtol=1e-5)


def test_uniform_evaluator_knows_nothing(tic_tac_toe):
    logits, value = tz.uniform_evaluator(*tic_tac_toe.init(jax.random.key(0)), jax.random.key(0))
    assert logits.shape == (9,) and (logits == 0).all() and value == 0


def test_a_network_evaluator_runs_the_network_it_carries_in_the_dtype_asked_for(tic_tac_toe):
    network = tz.MLP(tic_tac_toe.observation.shape, 9, key=jax.random.key(0))
    position = tic_tac_toe.step(tic_tac_toe.init(jax.random.key(0))[0], 4)
    expected = network(tic_tac_toe.observe(position[0]))
    exact = tz.NetworkEvaluator(network, tic_tac_toe.observe)
    half = tz.NetworkEvaluator(network, tic_tac_toe.observe, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(exact(*position, jax.random.key(0))[0], expected[0])
    logits, value = half(*position, jax.random.key(0))
    assert logits.dtype == value.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected[0], atol=0.03)
    assert not np.array_equal(logits, expected[0])
    assert {x.dtype for x in jax.tree.leaves(eqx.filter(half.network, eqx.is_inexact_array))} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))} == {jnp.dtype("float32")}


def test_new_weights_need_no_new_compilation(tic_tac_toe):
    traces = []

    @eqx.filter_jit
    def evaluate(evaluator, position):
        traces.append(1)
        return evaluator(*position, jax.random.key(0))

    position = tic_tac_toe.step(tic_tac_toe.init(jax.random.key(0))[0], 4)
    networks = [tz.MLP(tic_tac_toe.observation.shape, 9, key=jax.random.key(seed)) for seed in range(2)]
    values = [evaluate(tz.NetworkEvaluator(n, tic_tac_toe.observe), position)[1] for n in networks]
    assert len(traces) == 1 and values[0] != values[1]


@pytest.mark.parametrize("options", [{"num_rollouts": 0}, {"max_moves": 0}])
def test_rollouts_without_games_or_moves_are_refused(tic_tac_toe, options):
    with pytest.raises(ValueError, match="found num_rollouts=.* and max_moves=.*, expected at least 1"):
        tz.RolloutEvaluator(tic_tac_toe, **options)
