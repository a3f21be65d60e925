"""Searches through a model: the real game is played, and a model that is a copy of the game changes nothing."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz
from tz.matches import replay_values
from tz.mcts import Model, ModelEvaluator
from tz.runs import phases

pytestmark = pytest.mark.slow

TABLES, OTHER = draw_tables(7, end_rate=0.05), draw_tables(6, end_rate=0.05)
ENV, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)
MCTS = tz.MCTS(num_simulations=6, max_nodes=14)


def copy_of(env):
    """Returns a model that is the game itself, with states of another type."""

    def step(state, action):
        row, metadata = env.step(state["row"], action)
        return {"row": row, "steps": state["steps"] + 1}, metadata

    return Model(lambda row, metadata: ({"row": row, "steps": jnp.int32(0)}, metadata), step, name="copy")


COPY = ModelEvaluator(copy_of(ENV), lambda state, metadata, key: EVALUATOR(state["row"], metadata, key))

# A wrong model: every real position is taken for the start of another game.
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
    """With kept trees, whose new roots are the model's states of the real positions."""
    (games, record), (expected_games, expected) = play(COPY), play(EVALUATOR)
    jax.tree.map(np.testing.assert_array_equal, record, expected)
    np.testing.assert_array_equal(games.env_state, expected_games.env_state)
    np.testing.assert_array_equal(games.search.tree.visits, expected_games.search.tree.visits)
    assert (np.asarray(games.search.tree.state["steps"][:, 0]) == 0).all(), "a root is made anew after each move"
    assert (games.search.tree.size > 1).any() and record.terminated.any()


def test_a_state_made_outside_of_jit_can_be_donated():
    game = tz.init_collect(MCTS, ENV, key=jax.random.key(0))
    step = jax.jit(lambda game: dataclasses.replace(game, step=game.step + 1), donate_argnums=0)
    assert step(game).step == 1 and game.metadata.rewards.is_deleted()


@pytest.mark.parametrize("max_actions", [None, 2])
def test_the_real_game_is_played_whatever_the_model_believes(max_actions):
    """With kept trees, in which the model may have allowed moves that the game forbids."""
    games, record = play(WRONG, dataclasses.replace(MCTS, max_actions=max_actions), num_moves=30)
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


@pytest.mark.once
def test_each_player_of_a_match_has_its_own_model():
    """A player whose model is a copy of the game plays like one without a model; a wrong model plays the real game."""
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


def learned(discounts=True, seed=0):
    """Returns a model whose rewards and discounts are functions of its states, and its evaluator. Players alternate."""
    weights = jax.random.normal(jax.random.key(seed), (4 + 3, 5, 5))

    def shown(hidden, player, rewards):
        discount = jax.nn.sigmoid(weights[4, 0] @ hidden) if discounts else None
        return tz.StepMetadata(rewards, jnp.ones(4, bool), jnp.bool_(False), player, discount)

    def root(row, metadata):
        hidden = jnp.tanh(weights[5, 0] + row.astype(jnp.float32))
        return (hidden, metadata.cur_player_id), shown(hidden, metadata.cur_player_id, jnp.zeros(2, jnp.float32))

    def step(state, action):
        hidden = jnp.tanh(weights[action] @ state[0])
        reward = (weights[4, 1] @ hidden) * jnp.where(jnp.arange(2) == state[1], 1.0, -1.0)
        return (hidden, 1 - state[1]), shown(hidden, 1 - state[1], reward)

    model = Model(root, step, name="learned")
    return ModelEvaluator(model, lambda state, metadata, key: (weights[6, :4] @ state[0], jnp.tanh(weights[6, 4, 0])))


@pytest.mark.parametrize("alternate", [True, False])
def test_discounts_of_a_model_stay_with_their_edges(alternate):
    """The `q` of a move is the mean of its returns, added up from each node to the root; also in a kept subtree.

    If the model expects another player to move, the subtree is not kept, since its values have the wrong perspective.
    """
    tables = draw_tables(7, end_rate=0.0, alternate=alternate)
    env, evaluator = tabular_env(tables), learned()
    mcts = tz.MCTS(12, 40, root=tz.PlainRoot(), discount=0.9)
    model = evaluator.model

    @jax.jit
    def searched(key):
        position = env.init(key)
        first = tz.search(mcts, model, evaluator, tz.init_search(mcts, *position, model=model), key=key)
        action = jnp.argmax(first.root.visits).astype(jnp.int32)
        second = tz.advance(mcts, first, action, *env.step(position[0], action), model=model)
        third = tz.search(mcts, model, evaluator, second, key=key)
        return first, second, third, [tz.mcts.root_returns(s.tree, mcts.discount) for s in (first, third)]

    assert ((tables.player[tables.next_state[0]] == tables.player[0]) != alternate).all()
    first, second, third, (returns, later_returns) = searched(jax.random.key(0))
    assert (second.tree.size > 1) == alternate and not second.root.visits[~second.metadata.action_mask].any()
    for state, (count, mean, _) in ((first, returns), (third, later_returns)):
        np.testing.assert_array_equal(count, state.root.visits)
        np.testing.assert_allclose(mean[count > 0], state.root.q[count > 0], rtol=1e-4, atol=1e-5)
        discount = jax.vmap(learned_discount)(state.tree.state[0][1 : state.tree.size])
        np.testing.assert_allclose(state.tree.discount[1 : state.tree.size], discount, rtol=1e-5)


def learned_discount(hidden):
    return jax.nn.sigmoid(jax.random.normal(jax.random.key(0), (7, 5, 5))[4, 0] @ hidden)


class Learned(eqx.Module):
    """A network that is its own model; the states show which weights made them."""

    weight: jax.Array

    def __call__(self, observation):
        outputs = self.weight @ observation
        return outputs[:4], jnp.tanh(outputs[4])

    def root(self, row, metadata):
        return (row, self.weight[0, 0]), metadata

    def step(self, state, action):
        row, metadata = ENV.step(state[0], action)
        return (row, self.weight[0, 0]), metadata

    def predict(self, state, metadata, key):
        return self(ENV.observe(state[0]))


def with_its_model(evaluator):
    network = evaluator.network
    return ModelEvaluator(Model(network.root, network.step, name="its own"), network.predict)


def config(**changes):
    settings = {
        "mcts": tz.MCTS(2, 6),
        "optimizer": optax.sgd(0.1),
        "replay": tz.EpisodeReplayBuffer(40),
        "num_games": 2,
        "train_batch_size": 4,
        "moves_per_epoch": 9,
        "train_steps_per_epoch": 1,
        "evaluator": with_its_model,
        "testers": (tz.TwoPlayerTester(2, opening_moves=0, max_moves=9),),
    }
    return tz.TrainConfig(**(settings | changes))


def network():
    return Learned(jax.random.normal(jax.random.key(0), (5, 48), jnp.float32))


def init_loop(config):
    mesh = tz.data_mesh(jax.devices()[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the results of this game are not within (-1, 1)
        return tz.init_loop(config, ENV, network(), key=jax.random.key(1), mesh=mesh)


def test_a_run_plans_with_the_newest_weights_and_compiles_once():
    weights, traces = [], []

    def before(state):
        weights.append(float(state.train.network.weight[0, 0]))
        traces.append(phases.compiled_play._cached._cache_size())
        return state

    settings, options = config(), {"sinks": (), "progress": False, "mesh": tz.data_mesh(jax.devices()[:1])}
    state = tz.train_loop(settings, ENV, init_loop(settings), num_epochs=3, before_epoch=before, **options)
    assert len(set(weights)) == 3, "there was training"
    np.testing.assert_allclose(state.games.search.tree.state[1], weights[-1], rtol=1e-6)
    assert traces[1] == traces[2] == phases.compiled_play._cached._cache_size()


def test_an_evaluator_of_new_functions_at_each_call_is_refused():
    def closing(evaluator):
        network = evaluator.network
        return ModelEvaluator(Model(lambda *x: network.root(*x), network.step), network.predict)

    with pytest.raises(
        ValueError, match="found that `evaluator` returns new functions at each call, .* in modules and"
    ):
        init_loop(config(evaluator=closing))


ROOT, STEP = copy_of(ENV).root, copy_of(ENV).step
FITTING = COPY.evaluator


def changed(function, change):
    """Returns the function with a changed result."""
    return lambda *inputs: change(*function(*inputs))


@pytest.mark.parametrize(
    ("root", "step", "message"),
    [
        (lambda row, metadata: row, STEP, r"copy: found .* returned by `root`, expected a pair \(state, tz.StepMetada"),
        (ROOT, lambda state, action: (state, 1), r"copy: found \['dict', 'int'\] returned by `step`, expected a pair"),
        (
            changed(ROOT, lambda s, m: (s, dataclasses.replace(m, action_mask=jnp.ones(5, bool)))),
            STEP,
            r"copy: found an action mask of shape \(5,\) from `root`, expected \(4,\) as in the game",
        ),
        (
            ROOT,
            changed(STEP, lambda s, m: (s, dataclasses.replace(m, action_mask=jnp.ones(5, bool)))),
            r"copy: found `metadata.action_mask` to be \[5\] after `step`, expected \[4\] as at the root",
        ),
        (
            ROOT,
            changed(STEP, lambda s, m: (s, dataclasses.replace(m, discount=jnp.float32(1)))),
            r"found `metadata.discount` to be \[\] after `step`, expected nothing",
        ),
        (
            changed(ROOT, lambda s, m: (s, dataclasses.replace(m, discount=jnp.float32(1)))),
            STEP,
            r"found `metadata.discount` to be missing after `step`, expected \[\]",
        ),
        (
            ROOT,
            changed(STEP, lambda s, m: (s | {"row": s["row"][None]}, m)),
            r"found `state\['row'\]` to be int32\[1\] after `step`, expected int32\[\]",
        ),
        (
            ROOT,
            changed(STEP, lambda s, m: (s | {"row": s["row"].astype(jnp.int8)}, m)),
            r"found `state\['row'\]` to be int8\[\] after `step`, expected int32\[\]",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_named_before_it_is_compiled(root, step, message):
    evaluator = ModelEvaluator(Model(root, step, name="copy"), FITTING)
    with pytest.raises(ValueError, match=message):
        tz.play_match(ENV, tz.Player(MCTS, evaluator), tz.random_player(), num_games=2, key=jax.random.key(0))

    def play(key):
        game = tz.init_collect(MCTS, ENV, key=key, model=evaluator.model)
        return tz.collect(MCTS, ENV, evaluator, game, num_moves=1)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(play, jax.random.key(0))


def test_what_does_not_belong_together_is_refused():
    key, start = jax.random.key(0), ENV.init(jax.random.key(0))
    game = tz.init_collect(MCTS, ENV, key=key)
    with pytest.raises(ValueError, match="collect: found a state whose searches .*, as in copy; start"):
        tz.collect(MCTS, ENV, COPY, game, num_moves=1)
    with pytest.raises(ValueError, match="collect: found a state whose searches .* as in tabular; start"):
        tz.collect(MCTS, ENV, EVALUATOR, tz.init_collect(MCTS, ENV, key=key, model=COPY.model), num_moves=1)
    with pytest.raises(ValueError, match="search: found a ModelEvaluator for states of copy in a search that steps"):
        tz.search(MCTS, ENV, COPY, tz.init_search(MCTS, *start), key=key)
    with pytest.raises(ValueError, match=r"MCTS: found solve=True and a model with a discount"):
        tz.init_search(dataclasses.replace(MCTS, solve=True), *start, model=learned().model)
    other = tz.Env(lambda key: ((), start[1]), lambda state, action: ((), start[1]), lambda s: s, name="nothing")
    broken = tz.Player(MCTS, ModelEvaluator(Model(lambda state, m: ROOT(state["x"], m), STEP, name="copy"), FITTING))
    with pytest.raises(ValueError, match="copy: found a model that raised .* on a first position of nothing"):
        tz.play_match(other, broken, tz.random_player(), num_games=2, key=key)


def test_a_game_with_a_discount_of_its_own_is_refused():
    def discounting(state, metadata):
        return state, dataclasses.replace(metadata, discount=jnp.float32(0.5))

    env = tz.Env(changed(ENV.init, discounting), changed(ENV.step, discounting), ENV.observe, name="discounting")
    for call in (lambda: tz.init_collect(MCTS, env, key=jax.random.key(0)), lambda: tz.check_env(env)):
        with pytest.raises(ValueError, match="discounting: found a `discount` in the metadata of a game, expected"):
            call()


def test_a_position_of_the_game_is_not_the_root_of_a_models_tree():
    began = tz.init_search(MCTS, *ENV.init(jax.random.key(0)), model=COPY.model)
    with pytest.raises(ValueError, match=r"advance: found a position of .*if the search stepped through a model, pass"):
        tz.advance(MCTS, began, jnp.int32(0), *ENV.init(jax.random.key(0)))
