"""Networks that take a key, for example for dropout: a fresh key a sample in training, inference mode elsewhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tabular import draw_tables, tabular_env

import tz
from tz._arrays import data_of

ENV = tabular_env(draw_tables(3, alternate=True))


class Dropping(eqx.Module):
    """A perceptron with dropout and, if it is stateful, a norm."""

    hidden: eqx.nn.Linear
    dropout: eqx.nn.Dropout
    heads: eqx.nn.Linear

    def __init__(self, *, key):
        first, second = jax.random.split(key)
        self.hidden, self.heads = eqx.nn.Linear(48, 16, key=first), eqx.nn.Linear(16, 5, key=second)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, observation, *, key):
        first, _ = jax.random.split(key)  # many networks split their key, even if nothing depends on it
        x = self.heads(self.dropout(jax.nn.relu(self.hidden(observation)), key=first))
        return x[:4], jnp.tanh(x[4])


class Drawing(eqx.Module):
    """A network that draws its value with its key."""

    weight: jax.Array

    def __call__(self, observation, key=None):
        return jnp.zeros(4), self.weight * jax.random.uniform(key)


def batch(number):
    one = jnp.ones(number)
    return jax.vmap(tz.Sample)(
        jnp.ones((number, 48)), jnp.ones((number, 4), bool), jnp.ones((number, 4)), one, one, one
    )


def test_each_sample_of_each_step_has_a_key_of_its_own():
    optimizer, seen = optax.sgd(0.0), []

    def loss(network, output, sample):
        jax.debug.callback(lambda x: seen.append(float(x)), output[1])
        return output[1], {}

    state = tz.init_train(optimizer, Drawing(jnp.float32(1)))
    for seed in (0, 1, 0):
        _, metrics = tz.train_step(optimizer, loss, state, batch(6), key=jax.random.key(seed))
        jax.effects_barrier()
        assert metrics["loss"] == pytest.approx(np.mean(seen[-6:]), rel=1e-5)
    values = [set(seen[i : i + 6]) for i in range(0, len(seen), 6)]
    assert all(len(step) == 6 for step in values), "no two samples of a step have one key"
    assert not values[0] & values[1] and values[0] == values[-1]


def test_a_step_without_a_key_is_refused():
    state = tz.init_train(optax.sgd(0.1), Dropping(key=jax.random.key(0)))
    with pytest.raises(ValueError, match="found no key, expected one, as Dropping takes a key"):
        tz.train_step(optax.sgd(0.1), tz.az_loss, state, batch(2))


def test_a_search_sees_the_network_in_inference_mode():
    network = Dropping(key=jax.random.key(0))
    evaluator = tz.NetworkEvaluator(network, ENV.observe)
    position = ENV.init(None)
    found = [evaluator(*position, jax.random.key(seed)) for seed in range(3)]
    whole = eqx.nn.inference_mode(network)(ENV.observe(position[0]), key=jax.random.key(9))
    for output in [*found, evaluator.predict(ENV.observe(position[0]))]:
        np.testing.assert_array_equal(output[0], whole[0])
        np.testing.assert_array_equal(output[1], whole[1])


CONFIG = tz.TrainConfig(
    mcts=tz.MCTS(2),
    optimizer=optax.adam(1e-2),
    replay=tz.EpisodeReplayBuffer(12),
    num_games=4,
    train_batch_size=8,
    moves_per_epoch=8,
    train_steps_per_epoch=3,
)


def begin(mesh):
    return tz.init_loop(CONFIG, ENV, Dropping(key=jax.random.key(0)), key=jax.random.key(1), mesh=mesh)


def train(state, num_epochs, mesh, checkpoints=None):
    options = {"sinks": (), "progress": False, "mesh": mesh, "checkpoints": checkpoints}
    return tz.train_loop(CONFIG, ENV, state, num_epochs=num_epochs, **options)


def arrays(state):
    return [np.asarray(data_of(x)) for x in jax.tree.leaves(eqx.filter(state, eqx.is_array))]


@pytest.mark.slow
def test_dropout_trains_in_the_loop_on_a_mesh_too_and_is_resumed_bit_for_bit(tmp_path):
    one, two = (tz.data_mesh(jax.devices()[:number]) for number in (1, 2))
    straight = train(begin(one), 2, one)
    train(begin(one), 1, one, tz.Checkpoints(tmp_path))
    checkpoints = tz.Checkpoints(tmp_path, resume=True)
    resumed = train(checkpoints.restore(begin(one)), 1, one, checkpoints)
    for a, b in zip(arrays(straight), arrays(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    spread = train(begin(two), 2, two)
    for a, b in zip(arrays(straight.train), arrays(spread.train), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
