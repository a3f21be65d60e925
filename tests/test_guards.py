"""Errors name states and settings that do not belong together, and numbers that are not finite are found."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env, tabular_evaluator

import tz

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])
TABLES = draw_tables(3)
TABULAR, EVALUATOR = tabular_env(TABLES), tabular_evaluator(TABLES)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


@pytest.fixture(scope="module")
def config():
    return tz.TrainConfig(
        mcts=tz.MCTS(4),
        optimizer=optax.sgd(1e-2),
        replay=tz.EpisodeReplayBuffer(20),
        num_games=4,
        train_batch_size=8,
        moves_per_epoch=4,
        train_steps_per_epoch=1,
        testers=(tz.TwoPlayerTester(num_games=4, max_moves=9),),
    )


@pytest.fixture(scope="module")
def state(config, env):
    network = tz.MLP(env.observation.shape, env.num_actions, width=8, key=jax.random.key(0))
    return tz.init_loop(config, env, network, key=jax.random.key(1), mesh=MESH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replay": tz.EpisodeReplayBuffer(46)}, r"in the buffer \(capacity of replay\): found 20, expected 46"),
        ({"replay": tz.EpisodeReplayBuffer(8)}, r"found 20, expected 8"),
        ({"mcts": tz.MCTS(32)}, r"nodes of a tree \(max_nodes of mcts\): found 9, expected 65"),
        ({"mcts": tz.MCTS(4, max_actions=5)}, r"a node keeps \(max_actions of mcts\): found 9, expected 5"),
        ({"num_games": 8}, r"games \(num_games\): found 4, expected 8"),
        ({"average_decay": 0.9}, r"average of the weights \(average_decay\): found False, expected True"),
        ({"testers": ()}, "number of testers: found 1, expected 0"),
        ({"testers": (tz.ApproxEloTester(3, 4, 2),)}, r"state of the ApproxEloTester: "),
        ({"optimizer": optax.adam(1e-2)}, r"state of the optimizer: .* has nothing, expected"),
    ],
)
def test_a_state_of_other_settings_is_refused_and_says_what_to_do(config, env, state, change, message):
    with pytest.raises(ValueError, match=f"train_loop: .*{message}.*tz.init_loop.*tz.fork"):
        tz.train_loop(dataclasses.replace(config, **change), env, state, num_epochs=1, mesh=MESH)


def test_all_mismatches_are_named_at_once(config, env, state):
    changed = dataclasses.replace(config, testers=(), replay=tz.EpisodeReplayBuffer(46))
    with pytest.raises(ValueError, match="found 20, expected 46.*found 1, expected 0"):
        tz.train_loop(changed, env, state, num_epochs=1, mesh=MESH)


def test_a_state_of_another_game_is_refused(config, state):
    other = tz.from_pgx("connect_four")
    with pytest.raises(ValueError, match="positions of connect_four: .*observations of connect_four: "):
        tz.train_loop(config, other, state, num_epochs=1, mesh=MESH)


@eqx.filter_jit
def searched(mcts):
    start = tz.init_search(mcts, *TABULAR.init(jax.random.key(0)))
    return tz.search(mcts, TABULAR, EVALUATOR, start, key=jax.random.key(0))


@pytest.mark.parametrize("other", [tz.MCTS(32), tz.MCTS(4, max_actions=2), tz.MCTS(4, persist_tree=False)])
def test_a_tree_of_other_settings_is_refused_everywhere(other):
    mcts, key = tz.MCTS(4), jax.random.key(0)
    state, game = searched(mcts), tz.init_collect(mcts, TABULAR, key=key)
    if other.persist_tree:
        with pytest.raises(ValueError, match="found a tree of 9 nodes"):
            tz.advance(other, state, jnp.int32(0), *TABULAR.init(key))
    for call in (
        lambda: tz.search(other, TABULAR, EVALUATOR, state, key=key),
        lambda: tz.start_search(other, EVALUATOR, state, key=key),
        lambda: tz.search_step(other, TABULAR, EVALUATOR, state, key=key),
        lambda: tz.action_weights(other, state),
        lambda: tz.root_value(other, state),
        lambda: tz.choose_action(other, state, key=key),
        lambda: tz.collect(other, TABULAR, EVALUATOR, game, num_moves=1),
    ):
        with pytest.raises(ValueError, match="found a tree of 9 nodes that keep 4 actions each, expected"):
            call()


def test_a_search_of_another_root_policy_is_refused():
    state, gumbel = searched(tz.MCTS(4, root=tz.PlainRoot())), tz.MCTS(4, root=tz.Gumbel())
    with pytest.raises(ValueError, match=r"left the notes .* expected .* \(Gumbel\); call tz.start_search"):
        tz.action_weights(gumbel, state)
    with pytest.raises(ValueError, match="call tz.start_search"):
        tz.search_step(gumbel, TABULAR, EVALUATOR, state, key=jax.random.key(0))


def test_the_best_move_of_a_noisy_search_can_be_read_without_noise():
    mcts = tz.MCTS(4, root=tz.Dirichlet())
    state, quiet = searched(mcts), tz.without_exploration(mcts)
    best = np.flatnonzero(state.root.visits == state.root.visits.max())
    assert tz.choose_action(quiet, state, key=jax.random.key(0)) in best
    np.testing.assert_array_equal(tz.action_weights(quiet, state), tz.action_weights(mcts, state))


def test_the_size_of_a_tree_follows_the_settings_that_it_is_derived_from():
    mcts = tz.MCTS(16)
    assert mcts.num_nodes == 33
    assert dataclasses.replace(mcts, num_simulations=800).num_nodes == 1601
    assert dataclasses.replace(mcts, persist_tree=False).num_nodes == 17
    assert dataclasses.replace(tz.MCTS(16, 40), num_simulations=20).num_nodes == 40
    state = tz.init_search(dataclasses.replace(mcts, num_simulations=8), *TABULAR.init(jax.random.key(0)))
    assert state.tree.max_nodes == 17


def test_a_fast_search_takes_the_trees_of_the_full_one(config):
    """The reference shows it: `dataclasses.replace(mcts, num_simulations=8)`, with trees of derived size."""
    mcts = tz.MCTS(12)
    fast = dataclasses.replace(mcts, num_simulations=2)
    assert dataclasses.replace(config, mcts=mcts, fast_mcts=fast).fast_mcts.num_simulations == 2
    game = tz.init_collect(mcts, TABULAR, key=jax.random.key(0))
    play = functools.partial(tz.collect, mcts, TABULAR, EVALUATOR, game, num_moves=4, fast_mcts=fast)
    after, record = jax.eval_shape(lambda is_fast: play(is_fast=is_fast), jnp.ones(4, bool))
    assert after.search.tree.visits.shape == (25, 4) and record.value.shape == (4,)
    with pytest.raises(ValueError, match="fast_mcts: found solve=True, expected False"):
        dataclasses.replace(config, mcts=mcts, fast_mcts=dataclasses.replace(fast, solve=True))


def test_a_ring_of_another_capacity_is_refused():
    game = tz.init_collect(tz.MCTS(4), TABULAR, key=jax.random.key(0))
    steps = jax.eval_shape(lambda: tz.collect(tz.MCTS(4), TABULAR, EVALUATOR, game, num_moves=3)[1])
    rows = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), steps)
    ring, larger = tz.EpisodeReplayBuffer(20).init(steps), tz.EpisodeReplayBuffer(46)
    message = "found a ring of 20 rows a game, expected capacity=46.*resize.*tz.fork"
    with pytest.raises(ValueError, match=message):
        larger.add(ring, rows, discount=1.0)
    with pytest.raises(ValueError, match=message):
        larger.sample(jax.tree.map(lambda x: x[None], ring), 4, key=jax.random.key(0))
    assert larger.add(larger.resize(ring), rows, discount=1.0).size == 3


@pytest.mark.parametrize("root", [tz.mcts.ForcedPlayouts(), tz.Gumbel()])
def test_a_live_state_without_a_legal_action_stops_the_run(config, env, root):
    """The first root finds a finite value there, and the second one NaN."""

    def step(state, action):
        state, metadata = env.step(state, action)
        num_marks = env.observe(state).sum()
        mask = metadata.action_mask & ((num_marks < 2) | metadata.terminated)
        return state, dataclasses.replace(metadata, action_mask=mask)

    stuck = dataclasses.replace(env, step=step)
    settings = dataclasses.replace(config, mcts=tz.MCTS(4, root=root), testers=())
    network = tz.MLP(env.observation.shape, env.num_actions, width=8, key=jax.random.key(0))
    start = tz.init_loop(settings, env, network, key=jax.random.key(1), mesh=MESH)  # it would find `stuck`
    message = (
        "tic_tac_toe: found no legal action in a game that is not over, at self-play move 2 of epoch 0 .*tz.check_env"
    )
    with pytest.raises(FloatingPointError, match=message):
        tz.train_loop(settings, stuck, start, num_epochs=1, sinks=[], progress=False, mesh=MESH)


class Spoiled(eqx.Module):
    """Returns the given logits and value for boards with marks on them, and zeros for the empty board."""

    logit: jax.Array
    value: jax.Array

    def __call__(self, observation):
        has_marks = observation.any()
        return jnp.full(9, jnp.where(has_marks, self.logit, 0.0)), jnp.where(has_marks, self.value, 0.0)


@pytest.mark.parametrize(
    ("logit", "value", "cause"),
    [
        (np.nan, 0.0, "an output of the network below the root, at self-play move 0"),
        (np.inf, 0.0, "an output of the network below the root, at self-play move 0"),
        (-np.inf, 0.0, None),
    ],
)
def test_logits_are_checked_as_values_are(config, env, logit, value, cause):
    settings = dataclasses.replace(config, testers=())
    network = Spoiled(jnp.float32(logit), jnp.float32(value))
    start = tz.init_loop(settings, env, network, key=jax.random.key(1), mesh=MESH)
    train = functools.partial(tz.train_loop, settings, env, num_epochs=1, sinks=[], progress=False, mesh=MESH)
    if cause is None:  # an action that is never chosen
        assert train(start).epoch == 1
        return
    with pytest.raises(FloatingPointError, match=cause):
        train(start)


def test_the_output_that_is_not_finite_at_the_root_is_named(config, env):
    """The network is replaced by one whose outputs are spoiled on the boards that the games have reached by then."""
    settings = dataclasses.replace(config, testers=(), warmup_moves=4)
    for logit, value, cause in [
        (np.nan, 0.0, "logits"),
        (-np.inf, np.nan, "value"),
        (np.nan, np.nan, "logits and value"),
    ]:
        network = Spoiled(jnp.float32(0), jnp.float32(0))
        start = tz.init_loop(settings, env, network, key=jax.random.key(1), mesh=MESH)

        def spoil(state, logit=logit, value=value):
            network = Spoiled(jnp.float32(logit), jnp.float32(value))
            return eqx.tree_at(lambda state: state.train.network, state, network)

        with pytest.raises(FloatingPointError, match=f"not finite in the network's {cause}, at self-play move 0"):
            tz.train_loop(settings, env, start, num_epochs=1, sinks=[], progress=False, mesh=MESH, before_epoch=spoil)


def test_what_is_settled_in_the_ring_survives_a_chunk_of_nan():
    game = tz.init_collect(tz.MCTS(4), TABULAR, key=jax.random.key(0))
    steps = jax.eval_shape(lambda: tz.collect(tz.MCTS(4), TABULAR, EVALUATOR, game, num_moves=3)[1])
    buffer = tz.EpisodeReplayBuffer(12, td_lambda=0.8, search_value_fraction=0.25)
    add = jax.jit(lambda ring, rows: buffer.add(ring, rows, discount=1.0))
    rows = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), steps)
    good = dataclasses.replace(rows, terminated=jnp.array([False, True, False]), truncated=jnp.zeros(3, bool))
    nan = jnp.full(3, jnp.nan)
    bad = dataclasses.replace(good, value=nan, action_value=nan, rewards=jnp.full(steps.rewards.shape, jnp.nan))
    ring = add(buffer.init(steps), good)
    settled = np.asarray(ring.value.offset[:2])
    assert np.isfinite(settled).all() and ring.num_known == 2
    ring = add(ring, bad)
    np.testing.assert_array_equal(ring.value.offset[:2], settled)
    assert np.isnan(ring.value.offset[2]), "the step that was open continues with the NaN"
    ring = add(add(ring, good), good)
    np.testing.assert_array_equal(ring.value.offset[:2], settled)
    assert np.isfinite(ring.value.offset[6:8]).all()
