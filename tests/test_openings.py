"""Self-play from given positions, and positions drawn from games."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import draw_tables, tabular_env

import tz

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def openings(env):
    """Returns the positions after one, two and three moves."""
    return jax.vmap(lambda moves: tz.play_moves(env, moves))(jnp.array([[4, -1, -1], [4, 0, -1], [4, 0, 8]]))


def num_stones(position):
    return np.asarray((position[0]._x.board != -1).sum(-1))


def test_a_fraction_of_the_games_begins_in_the_given_positions(env, openings):
    init = eqx.filter_jit(lambda env, keys: jax.vmap(env.init)(keys))
    keys = jax.random.split(jax.random.key(0), 400)
    counts = np.bincount(num_stones(init(tz.games.starts_from(env, openings, 0.6), keys)), minlength=4)
    fractions = np.array([0.4, 0.2, 0.2, 0.2])
    assert len(counts) == 4 and (abs(counts - 400 * fractions) < 4 * np.sqrt(400 * fractions * (1 - fractions))).all()
    assert set(num_stones(init(tz.games.starts_from(env, openings, 1.0), keys))) == {1, 2, 3}
    assert set(num_stones(init(tz.games.starts_from(env, openings, 0.0), keys))) == {0}


def test_other_openings_are_the_same_program(env, openings):
    traced = []

    @eqx.filter_jit
    def init(env, key):
        traced.append(1)
        return env.init(key)

    others = jax.tree.map(lambda x: x[::-1], openings)
    for given in (openings, others):
        init(tz.games.starts_from(env, given, 1.0), jax.random.key(0))
    assert len(traced) == 1


def test_self_play_goes_on_from_the_given_positions(env, openings):
    mcts, given = tz.MCTS(2), tz.games.starts_from(env, jax.tree.map(lambda x: x[2:], openings), 1.0)

    @eqx.filter_jit
    def play(env):
        start = tz.init_collect(mcts, env, key=jax.random.key(0))
        return tz.collect(mcts, env, tz.uniform_evaluator, start, num_moves=24)[1]

    rows = play(given)
    first = np.concatenate([[True], np.asarray(rows.terminated)[:-1]])
    assert first.sum() >= 4
    np.testing.assert_array_equal(rows.observation[first].sum((1, 2, 3)), 3)


def test_positions_of_games_are_those_in_which_a_move_was_made(env):
    starts = jax.vmap(lambda moves: tz.play_moves(env, moves))(jnp.array([[4], [0], [8]]))
    actions = jnp.array([[0, 1, -1], [-1, -1, -1], [0, 1, 2]])
    env_state, metadata = tz.games.played_positions(env, starts, actions, 500, key=jax.random.key(0))
    made = {(8,): 0, (8, 0): 0, (8, 0, 1): 0, (4,): 0, (4, 0): 0}
    for board in np.asarray(env_state._x.board):
        made[tuple(sorted(np.flatnonzero(board != -1), key=[8, 4, 0, 1].index))] += 1
    assert all(abs(count - 100) < 4 * np.sqrt(500 * 0.2 * 0.8) for count in made.values())
    assert not metadata.terminated.any()
    np.testing.assert_array_equal(metadata.action_mask, np.asarray(env_state._x.board) == -1)


def test_a_resigned_game_stays_at_its_last_position(env):
    start = env.init(jax.random.key(0))
    states, metadata = tz.games.follow_moves(env, start, jnp.array([4, 0, -1, -1]))
    at = lambda index: jax.tree.map(lambda x: x[index], (states, metadata))
    for index in (3, 4):
        chex.assert_trees_all_equal(at(index), at(2))
    assert not at(2)[1].terminated and num_stones(at(2)) == 2
    over = tz.games.follow_moves(env, start, jnp.array([0, 3, 1, 4, 2, -1]))[1]
    np.testing.assert_array_equal(jnp.abs(over.rewards).sum(1), [0, 0, 0, 0, 0, 2, 0])


def test_positions_of_a_match_are_openings_for_self_play(env):
    player = tz.random_player()
    match = eqx.filter_jit(tz.play_match)(env, player, player, num_games=8, max_moves=9, key=jax.random.key(0))
    found = tz.games.played_positions(env, match.opening, match.actions, 16, key=jax.random.key(1))
    chex.assert_equal(len(found[1].terminated), 16)
    assert (num_stones(found) >= 4).all()  # the opening's
    env_state, _ = tz.games.starts_from(env, found, 1.0).init(jax.random.key(2))
    assert env_state._x.board.tolist() in found[0]._x.board.tolist()


def test_a_game_that_begins_in_the_middle_begins_without_a_reward():
    """The reward of the move that led to a position does not belong to a game that begins there."""
    tables = draw_tables(2)
    assert (tables.rewards[0, tables.legal[0]] != 0).all()
    env = tabular_env(eqx.tree_at(lambda tables: tables.terminated, tables, jnp.arange(48) > 40))
    openings = jax.tree.map(lambda x: x[None], tz.random_opening(env, 1, key=jax.random.key(0)))
    assert openings[1].rewards.any()
    for game in tz.games.starts_from(env, openings, 1.0), tz.random_starts(env, 2):
        assert not jax.vmap(game.init)(jax.random.split(jax.random.key(0), 4))[1].rewards.any()
    tz.check_env(tz.games.starts_from(env, openings, 1.0), num_games=2, max_moves=48)


def test_games_without_a_move_have_no_positions(env, openings):
    none = jnp.full((3, 2), -1, jnp.int32)
    refused = eqx.EquinoxRuntimeError, ValueError  # the second with JAX 0.7
    with pytest.raises(refused, match="played_positions: found no move in these games"):
        jax.block_until_ready(tz.games.played_positions(env, openings, none, 4, key=jax.random.key(0)))


def test_openings_that_cannot_begin_a_game_are_refused(env, openings):
    one, over = jax.tree.map(lambda x: x[0], openings), tz.play_moves(env, jnp.array([0, 3, 1, 4, 2]))
    none = jax.tree.map(lambda x: x[:0], openings)
    ended = jax.tree.map(lambda *x: jnp.stack(x), one, over)
    other = jax.vmap(tz.from_pgx("connect_four").init)(jax.random.split(jax.random.key(0), 2))
    for given, fraction, message in [
        (openings, 1.5, "found fraction=1.5, expected a number from 0 to 1"),
        (one, 0.5, r"found openings with `terminated` of shape \(\), expected \[N\]"),
        (none, 0.5, r"found openings with `terminated` of shape \(0,\)"),
        (ended, 0.5, "found 1 openings in which the game is over"),
        (other, 0.5, "of another game, expected positions of tic_tac_toe"),
    ]:
        with pytest.raises(ValueError, match=message):
            tz.games.starts_from(env, given, fraction)
