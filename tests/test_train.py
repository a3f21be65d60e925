"""The loss against its formula, the step against optax by hand, and batch norm through training and search."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tz

SHAPE, NUM_ACTIONS = (4, 4, 2), 6


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    mask = rng.random((32, NUM_ACTIONS)) < 0.6
    mask[:, 0] = True
    policy = np.where(mask, rng.random(mask.shape), 0)
    policy /= policy.sum(1, keepdims=True)
    arrays = rng.normal(size=(32, *SHAPE)), mask, policy, rng.choice([-1.0, 0.0, 1.0], 32)
    observation, mask, policy, value = (jnp.asarray(x, bool if x.dtype == bool else jnp.float32) for x in arrays)
    return jax.vmap(tz.Sample)(observation, mask, policy, value, jnp.ones(32), jnp.ones(32))


@pytest.fixture(scope="module")
def network():
    return tz.MLP(SHAPE, NUM_ACTIONS, key=jax.random.key(0))


def test_the_loss_is_the_formula(network, batch):
    sample = jax.tree.map(lambda x: x[0], batch)
    logits, value = network(sample.observation)
    loss, metrics = tz.az_loss(network, (logits, value), sample, l2_reg_lambda=0.01)
    legal = np.flatnonzero(sample.action_mask)
    weights = np.exp(np.asarray(logits, np.float64)[legal])
    cross_entropy = -(np.asarray(sample.policy)[legal] * np.log(weights / weights.sum())).sum()
    squares = sum((np.asarray(w, np.float64) ** 2).sum() for w in jax.tree.leaves(eqx.filter(network, eqx.is_array)))
    np.testing.assert_allclose(metrics["policy_loss"], cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(metrics["value_loss"], (value - sample.value) ** 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["l2_loss"], 0.01 * squares, rtol=1e-5)
    np.testing.assert_allclose(loss, cross_entropy + (value - sample.value) ** 2 + 0.01 * squares, rtol=1e-5)


def test_illegal_actions_get_no_gradient_and_do_no_harm(network, batch):
    sample = jax.tree.map(lambda x: x[0], batch)

    def loss(logits):
        return tz.az_loss(network, (logits, jnp.float32(0)), sample)[0]

    logits = jnp.arange(6.0)
    gradient = jax.grad(loss)(logits)
    assert (gradient[~sample.action_mask] == 0).all() and (gradient[sample.action_mask] != 0).any()
    wild = jnp.where(sample.action_mask, logits, 1e30)
    np.testing.assert_allclose(loss(wild), loss(logits), rtol=1e-6)
    assert jnp.isfinite(jax.grad(loss)(wild)).all()


@pytest.mark.slow
def test_a_step_is_a_gradient_step_of_the_mean_loss(network, batch):
    optimizer = optax.sgd(0.1)
    state = tz.init_train(optimizer, network)
    after, metrics = eqx.filter_jit(tz.train_step)(optimizer, tz.az_loss, state, batch)

    def mean_loss(network):
        samples = [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(32)]
        return sum(tz.az_loss(network, network(sample.observation), sample)[0] for sample in samples) / 32

    loss, gradient = eqx.filter_jit(eqx.filter_value_and_grad(mean_loss))(network)
    expected = jax.tree.map(
        lambda w, g: w - 0.1 * g, eqx.filter(network, eqx.is_array), eqx.filter(gradient, eqx.is_array)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), eqx.filter(after.network, eqx.is_array), expected
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    parts = metrics["policy_loss"] + metrics["value_loss"] + metrics["l2_loss"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
    assert after.step == 1


def test_the_loss_is_the_sum_of_its_parts_and_its_floors_are_those_of_the_targets(network, batch):
    """With policies without weight, as after fast searches, and with samples of unequal weight."""
    weight, policy_weight = jnp.linspace(0.5, 2, 32), (jnp.arange(32) % 3 > 0).astype(jnp.float32)
    batch = eqx.tree_at(lambda batch: (batch.weight, batch.policy_weight), batch, (weight, policy_weight))
    optimizer = optax.sgd(0.0)
    state = tz.init_train(optimizer, network)
    _, metrics = eqx.filter_jit(tz.train_step)(optimizer, tz.az_loss, state, batch)
    parts = metrics["policy_loss"] + metrics["value_loss"] + metrics["l2_loss"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
    w, policy, value = (np.asarray(x, np.float64) for x in (weight, batch.policy, batch.value))
    entropy = -np.sum(np.where(policy > 0, policy * np.log(np.where(policy > 0, policy, 1)), 0), 1)
    floor = np.average(np.asarray(policy_weight) * entropy, weights=w)
    np.testing.assert_allclose(metrics["policy_loss_floor"], floor, rtol=1e-5)
    best = np.average(value, weights=w)
    np.testing.assert_allclose(metrics["value_loss_floor"], np.average((value - best) ** 2, weights=w), rtol=1e-5)
    knowing = jnp.log(batch.policy + 1e-30), jnp.full(32, best)
    losses, least = jax.vmap(tz.az_loss, (None, 0, 0))(network, knowing, batch)
    for name in ("policy_loss", "value_loss"):
        np.testing.assert_allclose(np.average(least[name], weights=w), metrics[f"{name}_floor"], rtol=1e-4)


class Weak(eqx.Module):
    """A network of two weakly typed parameters, such as `jnp.asarray` makes from Python numbers."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, observation):
        return self.weight * jnp.arange(float(NUM_ACTIONS)), self.bias * jnp.mean(observation)


def test_a_sample_of_weight_two_counts_as_two_and_one_of_weight_zero_as_none(network, batch):
    optimizer = optax.sgd(0.1)
    state, step = tz.init_train(optimizer, network), eqx.filter_jit(tz.train_step)
    weights = jnp.asarray(np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [8, 16, 8])), jnp.float32)
    rows = np.repeat(np.arange(32), np.asarray(weights, int))
    weighted = step(optimizer, tz.az_loss, state, eqx.tree_at(lambda batch: batch.weight, batch, 3 * weights))
    repeated = step(optimizer, tz.az_loss, state, jax.tree.map(lambda x: x[rows], batch))
    chex.assert_trees_all_close(
        *(eqx.filter(after, eqx.is_array) for after in (weighted, repeated)), rtol=1e-4, atol=1e-6
    )


def test_steps_have_stable_types_so_that_nothing_is_compiled_twice(batch):
    optimizer, network = optax.adam(1e-3), Weak(jnp.asarray(0.5), jnp.asarray(1.0))
    assert network.weight.weak_type
    state = tz.init_train(optimizer, network)
    traces = []

    @eqx.filter_jit
    def step(state):
        traces.append(1)
        return tz.train_step(optimizer, tz.az_loss, state, batch)[0]

    assert step(step(step(state))).step == 3
    assert len(traces) == 1


def test_training_fits_a_batch(network, batch):
    optimizer = optax.adam(1e-2)
    state = tz.init_train(optimizer, network)
    step = eqx.filter_jit(tz.train_step)
    state, first = step(optimizer, tz.az_loss, state, batch)
    for _ in range(150):
        state, last = step(optimizer, tz.az_loss, state, batch)
    assert last["value_loss"] < 0.1 * first["value_loss"]
    entropy = jnp.mean(jax.scipy.special.entr(batch.policy).sum(1))  # the lower bound of the cross-entropy
    assert last["policy_loss"] - entropy < 0.2 * (first["policy_loss"] - entropy)


@pytest.mark.slow
def test_the_average_of_a_batch_norm_network_has_the_average_of_its_statistics(batch):
    options = {"num_blocks": 1, "num_channels": 4, "norm": "batch", "key": jax.random.key(0)}
    network, norm_state = eqx.nn.make_with_state(tz.AZResNet)(SHAPE, NUM_ACTIONS, **options)
    state = tz.init_train(optax.adam(1e-1), network, norm_state, average=True)
    step, expected = eqx.filter_jit(tz.train_step), state.norm_state
    for index in range(3):
        state, _ = step(optax.adam(1e-1), tz.az_loss, state, batch, average_decay=0.5)
        decay = min(0.5, (1 + index) / (10 + index))
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new if eqx.is_inexact_array(new) else new,
            expected,
            state.norm_state,
        )
    assert not np.allclose(jax.tree.leaves(state.norm_state)[0], jax.tree.leaves(expected)[0])
    chex.assert_trees_all_close(state.average_norm_state, expected, rtol=1e-5)
    chex.assert_trees_all_equal(state.playing_norm_state, state.average_norm_state)
    chex.assert_trees_all_equal(*(eqx.filter(x, eqx.is_array) for x in (state.playing, state.average)))


@pytest.mark.slow
def test_batch_norm_trains_on_batch_statistics_and_searches_on_running_ones(batch):
    def build(key):
        return eqx.nn.make_with_state(tz.AZResNet)(
            SHAPE, NUM_ACTIONS, num_blocks=1, num_channels=4, norm="batch", key=key
        )

    optimizer = optax.adam(1e-3)
    state = tz.init_train(optimizer, *build(jax.random.key(0)))
    step = eqx.filter_jit(tz.train_step)
    before = jax.tree.leaves(state.norm_state)
    for _ in range(5):
        state, _ = step(optimizer, tz.az_loss, state, batch)
    assert any(not np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(state.norm_state), strict=True))

    observe = lambda observation: observation
    evaluator = tz.NetworkEvaluator(state.network, observe, state.norm_state)
    alone = evaluator.predict(batch.observation[0])
    in_batch = jax.vmap(evaluator.predict)(batch.observation)
    np.testing.assert_allclose(alone[0], in_batch[0][0], atol=1e-5)  # a search does not depend on its batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss, parts: loss, "found a loss that returned an array of shape .*, expected a pair"),
        (lambda loss, parts: (loss, [loss]), "found a loss that returned a tuple, expected a pair"),
        (lambda loss, parts: (loss[None], parts), r"found a loss of shape \(1,\) for a sample, expected a scalar"),
        (lambda loss, parts: (loss, {"aux": jnp.zeros(3)}), r"found a metric 'aux' of shape \(3,\)"),
        (lambda loss, parts: (loss, {"loss": 2 * loss}), 'found a loss with a metric "loss", expected another name'),
    ],
)
def test_a_loss_that_returns_something_else_is_refused(network, batch, change, message):
    """A loss of shape [1] would become the sum over the batch, and a metric of that name would be the objective."""
    optimizer = optax.sgd(0.1)
    loss = lambda *inputs: change(*tz.az_loss(*inputs))
    with pytest.raises(ValueError, match=message):
        tz.train_step(optimizer, loss, tz.init_train(optimizer, network), batch)
