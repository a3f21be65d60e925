"""The search against mctx: the same visits, considered actions, values and policies, simulation for simulation."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import mctx
import numpy as np
import pytest
from tabular import NUM_ACTIONS, Tables, draw_tables, stack_tables, tabular_env, tabular_evaluator

import tz
from tz.mcts.gumbel_root import GumbelNotes, halving_schedule

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]

NUM_GAMES, NUM_SIMULATIONS, DISCOUNT = 16, 50, 0.97
MIN = jnp.finfo(jnp.float32).min
GAMES = {
    "who moves is drawn": {},
    "alternating, long": {"alternate": True, "end_rate": 0.0},
    "early ends": {"end_rate": 0.6},
    "one player": {"num_players": 1},
    "few legal": {"legal_rate": 0.3},
}


class InjectedGumbel(tz.Gumbel):
    """Gumbel's root with given noise."""

    gumbel: jax.Array = eqx.field(kw_only=True)

    def start(self, node, num_simulations, *, key):
        logits, notes = super().start(node, num_simulations, key=key)
        return logits, GumbelNotes(self.gumbel, notes.visits, notes.schedule)


def tz_searched(selector, root, env, evaluator, env_state, metadata, num_simulations=NUM_SIMULATIONS):
    mcts = tz.MCTS(num_simulations, selector=selector, root=root, discount=DISCOUNT, persist_tree=False)
    state = tz.search(mcts, env, evaluator, tz.init_search(mcts, env_state, metadata), key=jax.random.key(1))
    return state, tz.action_weights(mcts, state), tz.choose_action(mcts, state, key=jax.random.key(2))


def mctx_tables(policy, tables: Tables, root_logits, key, flip=None, num_simulations=NUM_SIMULATIONS):
    """Runs a policy of mctx on a batch of tabular games. `flip`, if given, is the sign of every next value."""
    index = jnp.arange(NUM_GAMES)

    def recurrent(params, key, action, row):
        over = tables.terminated[index, row]
        after = jnp.where(over, row, tables.next_state[index, row, action])
        mover = tables.player[index, row]
        sign = jnp.where(tables.player[index, after] == mover, 1.0, -1.0) if flip is None else flip
        output = mctx.RecurrentFnOutput(
            reward=jnp.where(over, 0.0, tables.rewards[index, row, action, mover]),
            discount=jnp.where(tables.terminated[index, after], 0.0, DISCOUNT * sign),
            prior_logits=jnp.where(tables.legal[index, after], tables.logits[index, after], MIN),
            value=tables.values[index, after],
        )
        return output, after

    root = mctx.RootFnOutput(
        prior_logits=root_logits, value=tables.values[:, 0], embedding=jnp.zeros(NUM_GAMES, jnp.int32)
    )
    return policy((), key, root, recurrent, num_simulations, invalid_actions=~tables.legal[:, 0])


def games(name: str, seed: int) -> Tables:
    return stack_tables([draw_tables(1000 * seed + index, **GAMES[name]) for index in range(NUM_GAMES)])


@eqx.filter_jit
def both_muzero(tables: Tables, key, flip=None):
    def one(tables, key):
        env = tabular_env(tables)
        start = env.init(key)
        return tz_searched(tz.mcts.MuZeroPUCT(), tz.Dirichlet(), env, tabular_evaluator(tables), *start)

    state, weights, _ = jax.vmap(one)(tables, jax.random.split(key, NUM_GAMES))
    policy = functools.partial(mctx.muzero_policy, dirichlet_fraction=0.0)
    noisy = jnp.maximum(state.tree.logits[:, 0], MIN)  # the same noise
    return state, weights, mctx_tables(policy, tables, noisy, key, flip)


@eqx.filter_jit
def both_gumbel(tables: Tables, key, max_considered: int, num_simulations: int):
    gumbel = jax.random.gumbel(jax.random.split(key)[1], (NUM_GAMES, NUM_ACTIONS))  # as mctx draws it

    def one(tables, gumbel):
        env, root = tabular_env(tables), InjectedGumbel(max_considered, gumbel=gumbel)
        start = env.init(key)
        evaluator = tabular_evaluator(tables)
        return tz_searched(tz.ImprovedPolicy(), root, env, evaluator, *start, num_simulations=num_simulations)

    searched = jax.vmap(one)(tables, gumbel)
    policy = functools.partial(mctx.gumbel_muzero_policy, max_num_considered_actions=max_considered)
    logits = jnp.where(tables.legal[:, 0], tables.logits[:, 0], MIN)
    return searched, mctx_tables(policy, tables, logits, key, num_simulations=num_simulations)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GAMES)
def test_muzero_puct_gives_the_visits_of_muzero_policy(name, seed):
    state, weights, other = both_muzero(games(name, seed), jax.random.key(seed))
    summary = other.search_tree.summary()
    np.testing.assert_array_equal(state.tree.visits[:, 0], summary.visit_counts)
    np.testing.assert_allclose(weights, other.action_weights, atol=1e-6)
    visited = np.asarray(summary.visit_counts) > 0
    np.testing.assert_allclose(np.asarray(state.tree.q[:, 0])[visited], summary.qvalues[visited], atol=1e-4)
    np.testing.assert_allclose(jax.vmap(lambda s: s.root.value)(state), summary.value, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", GAMES)
def test_gumbel_gives_the_search_of_gumbel_muzero_policy(name, seed):
    tables = games(name, seed)
    for max_considered, num_simulations in ((16, NUM_SIMULATIONS), (3, 7)):
        (state, weights, action), other = both_gumbel(tables, jax.random.key(seed), max_considered, num_simulations)
        summary = other.search_tree.summary()
        np.testing.assert_array_equal(state.tree.visits[:, 0], summary.visit_counts)
        np.testing.assert_array_equal(action, other.action)
        # A mean summed in another order differs by 1e-6, and the bonus multiplies this by up to 10 / range of q.
        np.testing.assert_allclose(weights, other.action_weights, atol=1e-4)
        completed = jax.vmap(lambda s: tz.mcts.CompletedQ()(s.root))(state)
        transform = jax.vmap(mctx.qtransform_completed_by_mix_value, in_axes=(0, None))
        np.testing.assert_allclose(completed, transform(other.search_tree, 0), atol=1e-3)


@pytest.mark.parametrize("num_simulations", [1, 2, 16, 50, 200])
@pytest.mark.parametrize("num_considered", [1, 2, 3, 5, 16])
def test_the_schedule_of_sequential_halving(num_considered, num_simulations):
    expected = mctx._src.seq_halving.get_sequence_of_considered_visits(num_considered, num_simulations)
    np.testing.assert_array_equal(halving_schedule(num_considered, num_simulations), expected)


def test_a_constant_alternating_discount_is_right_only_where_players_alternate():
    """tz differs from mctx on purpose: the sign depends on the player who moves, and is not a constant -1."""
    for name, equal in (("alternating, long", True), ("who moves is drawn", False)):
        state, _, other = both_muzero(games(name, 0), jax.random.key(0), flip=-1.0)
        same = (state.tree.visits[:, 0] == other.search_tree.summary().visit_counts).all(axis=1)
        assert same.all() == equal


@pytest.mark.once
@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello"])
def test_agrees_on_games_of_pgx(name):
    env = tz.from_pgx(name)
    size = int(np.prod(env.observation.shape))
    keys = jax.random.split(jax.random.key(0), NUM_GAMES)
    matrix = jax.random.normal(keys[0], (size, env.num_actions + 1)) / np.sqrt(size)

    def evaluator(state, metadata, key):
        out = env.observe(state).astype(jnp.float32).ravel() @ matrix
        return 4 * out[:-1], jnp.tanh(2 * out[-1])

    def masked(logits, metadata):
        return jnp.where(metadata.action_mask, logits, MIN)

    def recurrent(params, key, action, state):
        mover = state.current_player
        state, metadata = jax.vmap(env.step)(state, action)
        logits, value = jax.vmap(evaluator, (0, 0, None))(state, metadata, key)
        reward = metadata.rewards[jnp.arange(NUM_GAMES), mover]
        discount = jnp.where(metadata.terminated, 0.0, -DISCOUNT)
        output = mctx.RecurrentFnOutput(
            reward=reward, discount=discount, prior_logits=jax.vmap(masked)(logits, metadata), value=value
        )
        return output, state

    @jax.jit
    def both(keys, key):
        states, metadata = jax.vmap(lambda key: tz.random_opening(env, 3, key=key))(keys)
        gumbel = jax.random.gumbel(jax.random.split(key)[1], metadata.action_mask.shape)
        muzero = jax.vmap(lambda s, m: tz_searched(tz.mcts.MuZeroPUCT(), tz.PlainRoot(), env, evaluator, s, m))
        sequential = jax.vmap(
            lambda s, m, g: tz_searched(tz.ImprovedPolicy(), InjectedGumbel(gumbel=g), env, evaluator, s, m)
        )
        logits, value = jax.vmap(evaluator, (0, 0, None))(states, metadata, key)
        root = mctx.RootFnOutput(prior_logits=jax.vmap(masked)(logits, metadata), value=value, embedding=states)
        options = {"invalid_actions": ~metadata.action_mask}
        others = (
            mctx.muzero_policy((), key, root, recurrent, NUM_SIMULATIONS, dirichlet_fraction=0.0, **options),
            mctx.gumbel_muzero_policy((), key, root, recurrent, NUM_SIMULATIONS, **options),
        )
        return (muzero(states, metadata), sequential(states, metadata, gumbel)), others

    for (state, weights, _), other in zip(*both(keys, jax.random.key(3)), strict=True):
        np.testing.assert_array_equal(state.tree.visits[:, 0], other.search_tree.summary().visit_counts)
        np.testing.assert_allclose(weights, other.action_weights, atol=1e-4)


NUM_FEATURES = 5


def draw_recurrent(seed: int):
    """Draws random weights of a learned model: dynamics, rewards, discounts in (0, 1), logits and values."""
    weights = jax.random.normal(jax.random.key(seed), (NUM_ACTIONS + 2 + NUM_ACTIONS, NUM_FEATURES, NUM_FEATURES))
    return weights[:NUM_ACTIONS], weights[NUM_ACTIONS:, 0]


def predicted(weights, hidden):
    """Returns logits, value, and the reward and discount of the move that led to a hidden state."""
    outputs = weights[1] @ hidden
    return outputs[2:], jnp.tanh(outputs[0]), outputs[1], jax.nn.sigmoid(outputs[0] + outputs[2])


def as_recurrent_fn(alternate: bool):
    """Returns a recurrent_fn for mctx, whose discounts are negative if the players alternate."""

    def recurrent(weights, key, action, hidden):
        after = jax.vmap(lambda action, hidden: jnp.tanh(weights[0][action] @ hidden))(action, hidden)
        logits, value, reward, discount = jax.vmap(predicted, (None, 0))(weights, after)
        sign = -1.0 if alternate else 1.0
        output = mctx.RecurrentFnOutput(reward=reward, discount=sign * discount, prior_logits=logits, value=value)
        return output, after

    return recurrent


def as_model(weights, alternate: bool):
    """Returns the same recurrent_fn as a model, whose state is a hidden state, the player to move and predictions."""
    recurrent = as_recurrent_fn(alternate)

    def root(weights, position, metadata):
        hidden, player = position
        return (hidden, player, *predicted(weights, hidden)[:2]), dataclasses.replace(metadata, discount=jnp.float32(1))

    def step(weights, state, action):
        hidden, player, *_ = state
        output, after = jax.tree.map(lambda x: x[0], recurrent(weights, None, action[None], hidden[None]))
        rewards = output.reward * jnp.where(jnp.arange(1 + alternate) == player, 1.0, -1.0)
        player = 1 - player if alternate else player
        legal, over = jnp.ones(NUM_ACTIONS, bool), jnp.bool_(False)
        metadata = tz.StepMetadata(rewards, legal, over, player, discount=jnp.abs(output.discount))
        return (after, player, output.prior_logits, output.value), metadata

    model = tz.mcts.Model(eqx.Partial(root, weights), eqx.Partial(step, weights))
    return model, lambda state, metadata, key: state[2:]


@pytest.mark.parametrize("alternate", [False, True])
@pytest.mark.parametrize("policy", ["muzero", "gumbel"])
def test_a_learned_model_is_searched_as_mctx_does(policy, alternate):
    """The model gives the rewards and discounts of each move. At the root, actions may be illegal in the real game."""
    weights = draw_recurrent(7)
    key = jax.random.key(3)
    hidden = jax.random.normal(key, (NUM_GAMES, NUM_FEATURES))
    legal = jax.random.bernoulli(key, 0.6, (NUM_GAMES, NUM_ACTIONS)).at[:, 1].set(True)

    @jax.jit
    def both(weights, hidden, legal):
        gumbel = jax.random.gumbel(jax.random.split(key)[1], (NUM_GAMES, NUM_ACTIONS))  # as mctx draws it
        model, evaluator = as_model(weights, alternate)

        def one(hidden, legal, gumbel):
            metadata = tz.StepMetadata(jnp.zeros(1 + alternate), legal, jnp.bool_(False), jnp.int32(0))
            settings = {"discount": 1.0, "persist_tree": False}
            if policy == "muzero":
                mcts = tz.MCTS(NUM_SIMULATIONS, selector=tz.mcts.MuZeroPUCT(), root=tz.PlainRoot(), **settings)
            else:
                root = InjectedGumbel(16, gumbel=gumbel)
                mcts = tz.MCTS(NUM_SIMULATIONS, selector=tz.ImprovedPolicy(), root=root, **settings)
            state = tz.init_search(mcts, (hidden, jnp.int32(0)), metadata, model=model)
            state = tz.search(mcts, model, evaluator, state, key=key)
            return state, tz.action_weights(mcts, state)

        logits, value, *_ = jax.vmap(predicted, (None, 0))(weights, hidden)
        start = mctx.RootFnOutput(prior_logits=jnp.where(legal, logits, MIN), value=value, embedding=hidden)
        options = {"dirichlet_fraction": 0.0} if policy == "muzero" else {}
        search = mctx.muzero_policy if policy == "muzero" else mctx.gumbel_muzero_policy
        recurrent = as_recurrent_fn(alternate)
        other = search(weights, key, start, recurrent, NUM_SIMULATIONS, invalid_actions=~legal, **options)
        return jax.vmap(one)(hidden, legal, gumbel), other

    (state, weights, *_), other = both(weights, hidden, legal)
    summary = other.search_tree.summary()
    np.testing.assert_array_equal(state.tree.visits[:, 0], summary.visit_counts)
    visited = np.asarray(summary.visit_counts) > 0
    np.testing.assert_allclose(np.asarray(state.tree.q[:, 0])[visited], summary.qvalues[visited], atol=1e-4)
    np.testing.assert_allclose(weights, other.action_weights, atol=1e-4)
    used = np.arange(state.tree.discount.shape[1]) < np.asarray(state.tree.size)[:, None]
    discounts = np.asarray(state.tree.discount)[used]
    assert ((discounts > 0) & (discounts <= 1)).all() and len(np.unique(discounts)) > NUM_GAMES
