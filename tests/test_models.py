"""Searches that step through a model: the real game goes on beside them, and a copy of the game plays as the game."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz
from tz.matches import replay_values
from tz.mcts import Model, ModelEvaluator

TABLES, OTHER = draw_tables(7, end_rate=0.05), draw_tables(6, end_rate=0.05)
ENV, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)
MCTS = tz.MCTS(num_simulations=6, max_nodes=14)


def copy_of(env):
    """The game itself, whose states are of another type."""

    def step(state, action):
        row, metadata = env.step(state["row"], action)
        return {"row": row, "steps": state["steps"] + 1}, metadata

    return Model(lambda row, metadata: ({"row": row, "steps": jnp.int32(0)}, metadata), step, name="copy")


COPY = ModelEvaluator(copy_of(ENV), lambda state, metadata, key: EVALUATOR(state["row"], metadata, key))

# Another game in the place of the real one, which it believes to be at its beginning.
WRONG = ModelEvaluator(
    Model(lambda row, metadata: tabular_env(OTHER).init(jax.random.key(0)), tabular_env(OTHER).step, name="wrong"),
    tabular_evaluator(OTHER),
)


def play(evaluator, mcts=MCTS, num_moves=11):
    model = evaluator.model if isinstance(evaluator, ModelEvaluator) else None

    @jax.jit
    def games(keys):
        def one(key):
            game = tz.init_collect(mcts, ENV, key=key, model=model)
            return tz.collect(mcts, ENV, evaluator, game, num_moves=num_moves)

        return jax.vmap(one)(keys)

    return jax.device_get(games(jax.random.split(jax.random.key(0), 4)))


def test_through_a_copy_of_the_game_the_same_games_are_played():
    """With kept trees, whose new roots are the model's of the real positions."""
    (games, record), (expected_games, expected) = play(COPY), play(EVALUATOR)
    jax.tree.map(np.testing.assert_array_equal, record, expected)
    np.testing.assert_array_equal(games.env_state, expected_games.env_state)
    np.testing.assert_array_equal(games.search.tree.visits, expected_games.search.tree.visits)
    assert (np.asarray(games.search.tree.state["steps"][:, 0]) == 0).all(), "a root is made anew after each move"
    assert (games.search.tree.size > 1).any() and record.terminated.any()


def test_the_real_game_is_played_whatever_the_model_believes():
    games, record = play(WRONG, num_moves=30)
    assert record.terminated.any()
    for game in range(4):
        row = 0
        for t in range(30):
            action = int(record.action[game, t])
            assert record.observation[game, t].argmax() == row and record.player[game, t] == TABLES.player[row]
            np.testing.assert_array_equal(record.action_mask[game, t], TABLES.legal[row])
            assert TABLES.legal[row, action], "what only the model allows is not played"
            np.testing.assert_array_equal(record.rewards[game, t], TABLES.rewards[row, action])
            row = int(TABLES.next_state[row, action])
            assert record.terminated[game, t] == TABLES.terminated[row]
            row = 0 if TABLES.terminated[row] else row
        assert games.env_state[game] == row and (games.search.tree.state[game, 0] == 0).all()


def test_each_player_of_a_match_has_its_own_model():
    """A player with a copy of the game plays as one without; one with a wrong model meets one of the real game."""
    plain, copy, wrong = (tz.Player(MCTS, evaluator) for evaluator in (EVALUATOR, COPY, WRONG))
    options = {"num_games": 4, "opening_moves": 1, "max_moves": 12, "key": jax.random.key(1)}
    matches = [tz.play_match(ENV, first, wrong, **options) for first in (plain, copy)]
    jax.tree.map(np.testing.assert_array_equal, matches[0], matches[1])
    row = np.asarray(tz.replay_game(ENV, matches[0], 0))
    actions = np.asarray(matches[0].actions[0])[: len(row) - 1]
    assert TABLES.legal[row[:-1], actions].all()
    values = [replay_values(ENV, matches[0], 0, player, key=jax.random.key(2)) for player in (plain, copy)]
    np.testing.assert_array_equal(values[0], values[1])


class Biased(eqx.Module):
    """A model that adds a bias to all rewards."""

    bias: jax.Array

    def root(self, row, metadata):
        return (row, self.bias), metadata

    def step(self, state, action):
        row, metadata = ENV.step(state[0], action)
        return (row, self.bias), dataclasses.replace(metadata, rewards=metadata.rewards + self.bias)


def row_evaluator(state, metadata, key):
    return EVALUATOR(state[0], metadata, key)


def test_new_parameters_of_a_model_are_used_at_once_and_compile_nothing():
    traces = []

    @eqx.filter_jit
    def go_on(bias, game):
        traces.append(None)
        biased = Biased(bias)
        evaluator = ModelEvaluator(Model(biased.root, biased.step), row_evaluator)
        return tz.collect(MCTS, ENV, evaluator, game, num_moves=1)

    def fresh_value(bias, game):
        biased = Biased(bias)
        key = jax.random.split(jax.random.fold_in(game.key, game.step), 3)[0]
        state = tz.init_search(MCTS, game.env_state, game.metadata, model=Model(biased.root, biased.step))
        return tz.root_value(MCTS, tz.search(MCTS, Model(biased.root, biased.step), row_evaluator, state, key=key))

    first, second = (jnp.array([x, -x], jnp.float32) for x in (0.0, 3.0))
    model = Model(Biased(first).root, Biased(first).step)
    game = go_on(first, tz.init_collect(MCTS, ENV, key=jax.random.key(0), model=model))[0]
    assert game.search.tree.size > 1, "there is a subtree of the first parameters"
    after, record = go_on(second, game)
    assert len(traces) == 1
    np.testing.assert_allclose(record.value[0], jax.jit(fresh_value)(second, game), rtol=1e-5)
    np.testing.assert_array_equal(after.search.tree.state[1], np.broadcast_to(second, (14, 2)))
