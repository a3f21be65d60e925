"""Self-play against a replay of its own moves: rewards, sides, ends and starts."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz

pytestmark = pytest.mark.slow

TABLES = draw_tables(5, end_rate=0.15)
ENV, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)
MCTS = tz.MCTS(num_simulations=8, max_nodes=20)


@eqx.filter_jit
def start(keys):
    return jax.vmap(lambda key: tz.init_collect(MCTS, ENV, key=key))(keys)


@eqx.filter_jit
def play(games, num_moves, max_episode_moves=None):
    def one(game):
        return tz.collect(MCTS, ENV, EVALUATOR, game, num_moves=num_moves, max_episode_moves=max_episode_moves)

    return jax.vmap(one)(games)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 6)


@pytest.mark.parametrize("max_episode_moves", [None, 3])
def test_the_record_is_what_was_played(keys, max_episode_moves):
    _, record = jax.device_get(play(start(keys), 40, max_episode_moves))
    tables = jax.tree.map(np.asarray, TABLES)
    num_ends = np.zeros(2, int)
    for game in range(len(keys)):
        row, length = 0, 0
        for t in range(40):
            action = record.action[game, t]
            assert record.observation[game, t].argmax() == row, "the row after an end starts a new game"
            assert record.player[game, t] == tables.player[row]
            np.testing.assert_array_equal(record.action_mask[game, t], tables.legal[row])
            assert tables.legal[row, action]
            np.testing.assert_allclose(record.policy[game, t].sum(), 1, rtol=1e-6)
            assert (record.policy[game, t][~tables.legal[row]] == 0).all()
            np.testing.assert_array_equal(record.rewards[game, t], tables.rewards[row, action])  # the last one too
            row, length = tables.next_state[row, action], length + 1
            terminated = tables.terminated[row]
            truncated = not terminated and length == max_episode_moves
            assert (record.terminated[game, t], record.truncated[game, t]) == (terminated, truncated)
            num_ends += terminated, truncated
            if terminated or truncated:
                row, length = 0, 0
    assert num_ends[0] > 5
    assert (num_ends[1] > 5) == (max_episode_moves is not None)


def test_the_action_value_of_a_last_move_is_its_reward(keys):
    """A terminal position has the value 0; only the reward of the move that led there counts."""
    _, record = jax.device_get(play(start(keys), 40))
    ends = record.terminated
    reward = np.take_along_axis(record.rewards, record.player[..., None], -1)[..., 0]
    np.testing.assert_allclose(record.action_value[ends], reward[ends], rtol=1e-5)


def test_chunks_and_batches_do_not_change_the_games(keys):
    games = start(keys)
    _, whole = play(games, 12)
    halfway, first = play(games, 5)
    _, second = play(halfway, 7)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), first, second)
    jax.tree.map(np.testing.assert_array_equal, whole, joined)
    _, part = play(start(keys[2:4]), 12)
    jax.tree.map(lambda all_games, two: np.testing.assert_array_equal(all_games[2:4], two), whole, part)


def test_fast_moves_are_those_of_the_fast_search_and_are_no_targets(keys):
    """If all moves are fast, the games equal those of the fast search alone; if some are, visits show which."""
    fast = dataclasses.replace(MCTS, num_simulations=2, root=tz.PlainRoot(), persist_tree=False)
    mcts = dataclasses.replace(MCTS, persist_tree=False)

    @eqx.filter_jit
    def play_with(mcts, is_fast, fast=None):
        options = {"num_moves": 12} | ({} if fast is None else {"fast_mcts": fast, "is_fast": is_fast})
        games = jax.vmap(lambda key: tz.init_collect(mcts, ENV, key=key))(keys)
        return jax.vmap(lambda game: tz.collect(mcts, ENV, EVALUATOR, game, **options)[1])(games)

    is_fast = jnp.arange(12) % 3 > 0
    alone, full = play_with(fast, None), play_with(mcts, None)
    for flags, expected, weight in [(jnp.ones(12, bool), alone, 0), (jnp.zeros(12, bool), full, 1)]:
        found = play_with(mcts, flags, fast)
        assert (found.policy_weight == weight).all() and (expected.policy_weight == 1).all()
        for name in ("action", "policy", "value", "rewards"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    mixed = play_with(mcts, is_fast, fast)
    np.testing.assert_array_equal(mixed.policy_weight, np.broadcast_to(~is_fast, mixed.policy_weight.shape))
    smallest = jnp.where(mixed.policy > 0, mixed.policy, 1).min(-1)
    assert (smallest[:, is_fast] >= 0.49).all(), "two visits are a half each at least"
    assert (smallest[:, ~is_fast] < 0.49).any()


def test_a_fast_search_that_does_not_fit_is_refused(keys):
    game = tz.init_collect(MCTS, ENV, key=keys[0])
    for options, message in [
        (
            {"fast_mcts": dataclasses.replace(MCTS, max_nodes=9), "is_fast": jnp.ones(3, bool)},
            "found max_nodes=9, expected 20",
        ),
        ({"fast_mcts": MCTS}, "found only one of fast_mcts and is_fast"),
    ]:
        with pytest.raises(ValueError, match=message):
            tz.collect(MCTS, ENV, EVALUATOR, game, num_moves=3, **options)


def test_the_temperature_may_depend_on_the_number_of_the_move(keys):
    """The first moves vary; from the third move on, the most visited is played, in every chunk."""
    cool = dataclasses.replace(MCTS, temperature=lambda num_moves: jnp.where(num_moves < 2, 1e6, 0.0))
    games = jax.vmap(lambda key: tz.init_collect(cool, ENV, key=key))(keys)
    play_cool = eqx.filter_jit(jax.vmap(lambda game: tz.collect(cool, ENV, EVALUATOR, game, num_moves=7)))
    steps, best = np.zeros(len(keys), int), {True: [], False: []}
    for _ in range(5):
        games, record = play_cool(games)
        for t in range(7):
            chosen = np.take_along_axis(np.asarray(record.policy[:, t]), np.asarray(record.action[:, t])[:, None], 1)[
                :, 0
            ]
            for game in range(len(keys)):
                best[bool(steps[game] < 2)].append(chosen[game] == record.policy[game, t].max())
                steps[game] = 0 if record.terminated[game, t] else steps[game] + 1
    assert all(best[False]) and len(best[False]) > 50
    assert not all(best[True])


def test_no_tree_leaks_into_the_next_game(keys):
    """After the end of a game, the tree has only the new root; elsewhere it keeps the played subtree."""
    games = start(keys)
    sizes = {True: [], False: []}
    for _ in range(25):
        games, record = play(games, 1)
        ended = np.asarray(record.terminated | record.truncated)[:, 0]
        for game in range(len(keys)):
            tree = jax.tree.map(lambda x, game=game: x[game], games.search.tree)
            sizes[bool(ended[game])].append(int(tree.size))
            if ended[game]:
                assert int(tree.state[0]) == 0 and int(games.episode_moves[game]) == 0
                assert not tree.visits.any() and (tree.children == -1).all()
    assert set(sizes[True]) == {1} and max(sizes[False]) > 1


def test_games_of_a_batch_differ(keys):
    _, record = play(start(keys), 12)
    assert len({tuple(np.asarray(actions)) for actions in record.action}) > 1


def test_no_key_is_used_twice(keys):
    seen = []

    def evaluator(row, metadata, key):
        jax.debug.callback(lambda data: seen.append(tuple(np.asarray(data))), jax.random.key_data(key))
        return TABLES.logits[row], TABLES.values[row]

    play = lambda game: tz.collect(MCTS, ENV, evaluator, game, num_moves=5)
    jax.block_until_ready(jax.jit(jax.vmap(play))(start(keys[:3])))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 3 * 5 * (1 + MCTS.num_simulations)


def test_values_have_the_perspective_of_the_player_to_move():
    """One player always wins at once: its positions have the value +1, the other's -1, in any order of moves."""
    tables = draw_tables(9, end_rate=0.0)
    last = tables.terminated[tables.next_state]
    rewards = jnp.where(last[..., None], jnp.array([1.0, -1.0]), 0.0)
    tables = eqx.tree_at(lambda t: (t.rewards, t.values), tables, (rewards, jnp.where(tables.player == 0, 1.0, -1.0)))
    env, evaluator = tabular_env(tables), tabular_evaluator(tables)
    mcts = tz.MCTS(16)
    game = tz.init_collect(mcts, env, key=jax.random.key(0))
    _, record = jax.jit(lambda game: tz.collect(mcts, env, evaluator, game, num_moves=30))(game)
    np.testing.assert_allclose(record.value, np.where(record.player == 0, 1, -1), atol=1e-5)
    assert 0 < int((record.player == 0).sum()) < 30
    assert (np.diff(record.player) == 0).any(), "some player moves twice in a row"


@pytest.mark.once
def test_a_state_may_hold_keys_and_keys_may_be_of_the_old_kind():
    """A game that carries a key and a Python number in its state, played from `jax.random.PRNGKey`."""

    def init(key):
        row, metadata = ENV.init(key)
        return {"row": row, "key": key, "count": 0}, metadata

    def step(state, action):
        row, metadata = ENV.step(state["row"], action)
        return {"row": row, "key": jax.random.split(state["key"])[0], "count": state["count"] + 1}, metadata

    env = tz.Env(init, step, lambda state: ENV.observe(state["row"]))
    evaluator = lambda state, metadata, key: EVALUATOR(state["row"], metadata, key)

    @jax.jit
    def play(key):
        game = tz.init_collect(MCTS, env, key=key)
        _, record = tz.collect(MCTS, env, evaluator, game, num_moves=6)
        return record, tz.play_match(env, *[tz.Player(MCTS, evaluator)] * 2, num_games=2, max_moves=6, key=key)

    for make in (jax.random.key, jax.random.PRNGKey):
        record, match = play(make(0))
        assert record.action.shape == (6,) and (match.actions[:, 0] >= 0).all()
