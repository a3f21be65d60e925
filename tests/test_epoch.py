"""The epoch as a pure function: the numbers of the loop, many seeds and settings in one program, and bad input."""

import dataclasses
import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import tz

pytestmark = [pytest.mark.once, pytest.mark.slow]

MESH = tz.data_mesh(jax.devices()[:1])
SEEDS = jnp.arange(4)


@pytest.fixture(scope="module")
def env():
    return tz.from_pgx("tic_tac_toe")


GIVEN = {"rate": 1e-2, "c": 1.25, "noise": 0.25, "td_lambda": 0.8, "fast": 0.5, "decay": 0.9}


def settings(**given) -> tz.TrainConfig:
    """Returns settings of tic-tac-toe in small shapes with every feature of an epoch. The arguments may be traced."""
    given = GIVEN | given
    mcts = tz.MCTS(4, 8, selector=tz.PUCT(given["c"]), root=tz.Dirichlet(epsilon=given["noise"]))
    return tz.TrainConfig(
        mcts=mcts,
        optimizer=optax.adam(given["rate"]),
        replay=tz.EpisodeReplayBuffer(24, given["td_lambda"]),
        num_games=4,
        train_batch_size=8,
        warmup_moves=8,
        moves_per_epoch=8,
        train_steps_per_epoch=3,
        fast_mcts=dataclasses.replace(mcts, num_simulations=2),
        fast_fraction=given["fast"],
        replay_window=lambda moves: jnp.maximum(5, moves // 2),
        average_decay=given["decay"],
        augment=tz.random_dihedral,
        loss=functools.partial(tz.az_loss, l2_reg_lambda=1e-3),
    )


@pytest.fixture(scope="module")
def config():
    return settings()


def start(config, env, seed):
    network_key, key = jax.random.split(jax.random.key(seed))
    network = tz.MLP(env.observation.shape, env.num_actions, width=8, key=network_key)
    return tz.learn.init_epoch(config, env, network, key=key)


@eqx.filter_jit
def warm_up(config, env, state):
    return tz.learn.self_play_phase(config, env, state, num_moves=config.warmup_moves)[0]


@eqx.filter_jit
def epoch_with(given, env, state):
    """Runs an epoch whose settings are arguments of the compiled program, so that all tests share it."""
    return tz.learn.epoch(settings(**given), env, state)


def compiled_epoch(env, state, given=GIVEN):
    return epoch_with({name: jnp.float32(x) for name, x in given.items()}, env, state)


@eqx.filter_jit
def start_many(config, env, seeds):
    return eqx.filter_vmap(lambda seed: warm_up(config, env, start(config, env, seed)))(seeds)


def arrays(tree):
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
                        eqx.filter(tree, eqx.is_array))  # fmt: skip


def assert_same(one, other, **tolerance):
    chex.assert_trees_all_close(arrays(one), arrays(other), **tolerance)


def test_it_has_the_numbers_of_the_loop(config, env):
    network_key, key = jax.random.split(jax.random.key(3))
    network, rows = tz.MLP(env.observation.shape, env.num_actions, width=8, key=network_key), []
    looped = tz.init_loop(config, env, network, key=key, mesh=MESH)
    looped = tz.train_loop(config, env, looped, num_epochs=3, sinks=[rows.append], progress=False, mesh=MESH)
    state = warm_up(config, env, start(config, env, 3))
    for row in rows:
        state, metrics = compiled_epoch(env, state)
        assert set(metrics) - set(row) == {"bad_positions", "simulations", "skipped_steps"}
        assert int(metrics["bad_positions"]) == int(metrics["skipped_steps"]) == 0
        for name in set(metrics) & set(row):
            np.testing.assert_allclose(float(metrics[name]), row[name], rtol=1e-5, atol=1e-6, err_msg=name)
    chex.assert_trees_all_equal(state.games.search.tree.state, looped.games.search.tree.state)
    assert_same(state, looped, rtol=1e-4, atol=1e-5)


# Four seeds side by side: two with the given settings, two with other ones.
SWEPT = {
    "rate": [1e-3, 1e-1],
    "c": [0.5, 4.0],
    "noise": [0.0, 0.9],
    "td_lambda": [0.0, 1.0],
    "fast": [0.0, 1.0],
    "decay": [0.0, 0.99],
}
EACH = {name: jnp.array([GIVEN[name], GIVEN[name], *values], jnp.float32) for name, values in SWEPT.items()}


@pytest.fixture(scope="module")
def side_by_side(config, env):
    """The four in one program: the states after the warm-up and after two epochs, and the last metrics."""
    before = states = start_many(config, env, SEEDS)
    step = eqx.filter_jit(eqx.filter_vmap(lambda given, state: tz.learn.epoch(settings(**given), env, state)))
    for _ in range(2):
        states, metrics = step(EACH, states)
    return before, states, metrics


def of_seed(tree, seed):
    return jax.tree.map(lambda x: x[seed] if eqx.is_array(x) else x, tree)


def test_seeds_and_hyper_parameters_in_one_program_are_those_one_by_one(config, env, side_by_side):
    before, after, metrics = side_by_side
    for seed in range(4):
        state = warm_up(config, env, start(config, env, seed))
        assert_same(of_seed(before, seed), state, rtol=1e-5, atol=1e-6)
        for _ in range(2):
            state, expected = compiled_epoch(env, state, of_seed(EACH, seed))
        chex.assert_trees_all_equal(of_seed(after, seed).games.search.tree.state, state.games.search.tree.state)
        assert_same(of_seed(after, seed), state, rtol=1e-4, atol=1e-5)
        assert_same(of_seed(metrics, seed), expected, rtol=1e-4, atol=1e-5)
    assert len({float(x) for x in metrics["loss"]}) == 4, "they differ"


def test_each_hyper_parameter_is_used(env, config):
    """Each one alone changes the state after an epoch, also where it is an argument of the compiled program."""
    state = warm_up(config, env, start(config, env, 0))
    for name, values in SWEPT.items():
        one, other = (jax.tree.leaves(arrays(compiled_epoch(env, state, GIVEN | {name: x})[0])) for x in values)
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True)), name


def test_seeds_are_spread_over_devices(env, side_by_side):
    before, after, _ = side_by_side
    mesh = tz.data_mesh(jax.devices()[:2])
    states, static = eqx.partition(before, eqx.is_array)

    @jax.jit
    def step(states):
        def local(env, given_and_states):
            def epoch(given, state):
                return eqx.filter(tz.learn.epoch(settings(**given), env, eqx.combine(state, static))[0], eqx.is_array)

            return jax.vmap(epoch)(*given_and_states)

        return tz.over_games(mesh, local, env, (EACH, states))

    states = jax.device_put(states, NamedSharding(mesh, PartitionSpec("data")))
    for _ in range(2):
        states = step(states)
        assert states.games.step.sharding.num_devices == 2
    assert_same(states, after, rtol=1e-4, atol=1e-5)


def test_before_the_first_end_of_an_episode_nothing_is_learned(config, env):
    state = start(config, env, 0)  # without the warm-up, and with moves that end no game
    short = dataclasses.replace(config, moves_per_epoch=2, fast_mcts=None)
    after, metrics = eqx.filter_jit(tz.learn.epoch)(short, env, state)
    assert_same(after.train, state.train)
    assert int(after.epoch) == 1 and int(metrics["skipped_steps"]) == 3 and np.isnan(metrics["loss"])


def test_a_window_that_cannot_be_traced_is_named(config, env):
    concrete = dataclasses.replace(config, replay_window=lambda moves: max(5, moves // 2))
    with pytest.raises(ValueError, match=r"epoch: found a replay_window that cannot be traced.*jnp.maximum"):
        eqx.filter_eval_shape(tz.learn.epoch, concrete, env, start(config, env, 0))
