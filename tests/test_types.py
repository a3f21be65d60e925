"""Types do not change from the first step on: in bfloat16, in float64 mode, and with old-style keys."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tz
from tz.runs.checkpoint_format import named
from tz.runs.phases import check_types

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])


def enable_x64():
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64  # before JAX 0.8

    return enable_x64()


class WideSelector(eqx.Module):
    """PUCT whose action has 64 bits in float64 mode."""

    def __call__(self, node):
        return jnp.asarray(tz.PUCT()(node), int)


def nim() -> tz.Env:
    """Take one to three of seven, the last one wins; without dtypes, so that most arrays are of a weak type."""

    def metadata(left, player, rewards):
        return tz.StepMetadata(rewards, jnp.arange(1, 4) <= left, left <= 0, player)

    def init(key):
        state = jnp.asarray(7), jnp.asarray(0)
        return state, metadata(*state, jnp.zeros(2))

    def step(state, action):
        left, player = state
        after = jnp.where(left > 0, left - 1 - action.astype(left.dtype), left)
        won = (left > 0) & (after <= 0)
        rewards = jnp.where(won, jnp.where(jnp.arange(2) == player, 1.0, -1.0), 0.0)
        return (after, 1 - player), metadata(after, 1 - player, rewards)

    return tz.Env(init, step, lambda state: jnp.arange(8)[:, None, None] == state[0], name="nim")


def blank_some(sample, *, key):
    return dataclasses.replace(
        sample, observation=sample.observation & (jax.random.bits(key, dtype=jnp.uint32) % 4 > 0)
    )


ENV = nim()
CONFIG = tz.TrainConfig(
    mcts=tz.MCTS(4, selector=WideSelector()),
    optimizer=optax.adam(1e-2),
    replay=tz.EpisodeReplayBuffer(14, td_lambda=0.8),
    num_games=2,
    train_batch_size=4,
    moves_per_epoch=7,
    train_steps_per_epoch=2,
    testers=(tz.OpponentTester(tz.random_player(), "random", num_games=2, opening_moves=0, max_moves=7),),
    augment=blank_some,
    average_decay=0.9,
)


def start(key):
    network = tz.MLP((8, 1, 1), 3, width=4, depth=1, key=jax.random.key(0))
    return tz.init_loop(CONFIG, ENV, network, key=key, mesh=MESH)


def train(state, num_epochs, checkpoints=None):
    options = {"sinks": (), "progress": False, "mesh": MESH, "checkpoints": checkpoints}
    return tz.train_loop(CONFIG, ENV, state, num_epochs=num_epochs, **options)


def resumed(key, folder):
    """Trains two epochs with a checkpoint between them."""
    train(start(key), 1, tz.Checkpoints(folder))
    checkpoints = tz.Checkpoints(folder, resume=True)
    return train(checkpoints.restore(start(key)), 1, checkpoints)


@pytest.fixture(scope="module")
def started():
    return start(jax.random.key(1))


@pytest.fixture(scope="module")
def two_epochs():
    """Trains two epochs without a stop, in 32 bits, with a typed key."""
    return jax.device_get(named(train(start(jax.random.key(1)), 2)))


def assert_close(found, expected):
    """Asserts that values are equal up to the rounding of sums, which two programs may do differently."""
    assert found.keys() == expected.keys()
    for name, x in jax.device_get(found).items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_old_style_keys_work_wherever_a_key_goes(two_epochs, tmp_path):
    tz.check_env(ENV, key=jax.random.PRNGKey(0), num_games=2, max_moves=8)
    state = named(resumed(jax.random.PRNGKey(1), tmp_path))
    assert_close(state, two_epochs)


def test_float64_mode_learns_the_same_from_the_check_of_a_game_to_a_resumed_run(two_epochs, tmp_path):
    with enable_x64():
        tz.check_env(ENV, num_games=2, max_moves=8)
        state = named(resumed(jax.random.key(1), tmp_path))
        wide = {name for name, x in state.items() if x.dtype.itemsize == 8}
        assert ".games.search.metadata.rewards" in wide
        own = ".games.env_state", ".games.metadata", ".games.search.metadata", ".games.search.tree.state"
        assert all(name.startswith(own) for name in wide), "only the game's own"
        assert_close(state, two_epochs)


def test_a_bfloat16_network_stays_one_and_its_average_is_exact():
    class Small(eqx.Module):
        weight: jax.Array

        def __call__(self, observation):
            return self.weight[:3] * observation, self.weight[3]

    def loss(network, output, sample):
        return jnp.sum(network.weight.astype(jnp.float32)), {}

    one = jnp.ones(2, jnp.float32)
    batch = jax.vmap(tz.Sample)(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((2, 3), bool), jnp.ones((2, 3)), one, one, one)
    optimizer = optax.adam(2.0**-7, mu_dtype=jnp.float32)
    state = tz.init_train(optimizer, Small(jnp.ones(4, jnp.bfloat16)), average=True)
    types, step, expected = jax.tree.map(jax.typeof, state), eqx.filter_jit(tz.train_step), 1.0
    for index in range(30):
        state, _ = step(optimizer, loss, state, batch, average_decay=0.99)
        decay = min(0.99, (1 + index) / (10 + index))
        expected = decay * expected + (1 - decay) * np.asarray(state.network.weight, np.float64)
        assert jax.tree.map(jax.typeof, state) == types
    assert state.network.weight.dtype == state.playing.weight.dtype == jnp.bfloat16
    np.testing.assert_allclose(state.average.weight, expected, rtol=1e-5)
    np.testing.assert_array_equal(state.playing.weight, state.average.weight.astype(jnp.bfloat16))


def test_a_gradient_step_in_bfloat16_changes_weights_in_float32():
    key, (one, policy) = jax.random.key(0), (jnp.ones(8, jnp.float32), jnp.full((8, 3), 1 / 3))
    observations = jax.random.normal(key, (8, 5))
    batch = jax.vmap(tz.Sample)(observations, jnp.ones((8, 3), bool), policy, observations[:, 0], one, one)
    optimizer, network = optax.sgd(0.1), tz.MLP((5,), 3, width=8, key=key)
    state, step = tz.init_train(optimizer, network), eqx.filter_jit(tz.train_step)
    (full, full_metrics), (half, metrics) = (
        step(optimizer, tz.az_loss, state, batch, dtype=dtype) for dtype in (None, jnp.bfloat16)
    )
    assert jax.tree.map(jax.typeof, half) == jax.tree.map(jax.typeof, full) == jax.tree.map(jax.typeof, state)
    assert metrics["l2_loss"] == full_metrics["l2_loss"], "the loss gets the weights as they are"
    assert metrics["policy_loss"] != full_metrics["policy_loss"]
    for name in metrics:
        np.testing.assert_allclose(metrics[name], full_metrics[name], rtol=0.02)
    changes = [jax.tree.map(lambda new, old: new - old, after.network, network) for after in (full, half)]
    for one, other in zip(*map(jax.tree.leaves, changes), strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 * np.abs(one).max())


def unsteady(start, after):
    """Returns an optimiser whose state changes its type."""
    return optax.GradientTransformation(lambda params: start, lambda updates, state, params=None: (updates, after))


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (unsteady(jnp.int32(0), jnp.float32(0)), r"gradient step: found float32\[\] at .opt_state, expected int32\[\]"),
        (unsteady(jnp.zeros(2), jnp.zeros(3)), r"found float32\[3\] at .opt_state, expected float32\[2\] as before"),
        (unsteady((), jnp.zeros(3)), r"found float32\[3\] at .opt_state, expected nothing"),
        (unsteady(jnp.float32(0), jnp.asarray(0.5)), r"found float32\[\] of a weak type"),
    ],
    ids=["dtype", "shape", "tree", "weak"],
)
def test_a_step_that_changes_a_type_is_named_before_it_is_compiled(optimizer, words, started):
    train = tz.init_train(optimizer, tz.MLP((8, 1, 1), 3, width=4, depth=1, key=jax.random.key(0)), average=True)
    state = eqx.tree_at(lambda state: state.train, started, train)
    with pytest.raises(ValueError, match=words):
        check_types(dataclasses.replace(CONFIG, optimizer=optimizer), ENV, state, MESH)


def test_a_buffer_that_changes_a_type_is_named(started):
    class Growing(tz.EpisodeReplayBuffer):
        def add(self, state, trajectory, *, discount):
            after = super().add(state, trajectory, discount=discount)
            return eqx.tree_at(lambda ring: ring.size, after, after.size.astype(jnp.float32))

    with pytest.raises(ValueError, match=r"replay.add: found float32\[2\] at .size, expected int32\[2\]"):
        check_types(dataclasses.replace(CONFIG, replay=Growing(14)), ENV, started, MESH)


def test_nothing_is_divided_by_a_temperature_of_zero():
    mcts = tz.MCTS(2, temperature=0.0)
    state = tz.init_search(mcts, *ENV.step((jnp.asarray(3), jnp.asarray(0)), jnp.int32(0)))
    with jax.debug_nans(True):
        moves = {int(tz.choose_action(mcts, state, key=jax.random.key(seed))) for seed in range(20)}
    assert moves == {0, 1}, "the legal ones, which are equally good before a simulation"


@pytest.mark.parametrize("name", ["tic_tac_toe", "connect_four", "othello"])
def test_games_of_pgx_stay_in_32_bits_in_float64_mode(name):
    env = tz.from_pgx(name)

    def two_positions(key):
        start = env.init(key)
        return start, env.step(start[0], jnp.argmax(start[1].action_mask)), env.observe(start[0])

    with enable_x64():
        found = jax.eval_shape(two_positions, jax.random.key(0))
        assert all(x.dtype.itemsize <= 4 for x in jax.tree.leaves(found[:2]))
        assert jax.tree.map(lambda x: x.dtype, found[0]) == jax.tree.map(lambda x: x.dtype, found[1])
