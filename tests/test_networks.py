"""The networks: norms, dtypes and errors."""

import io
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tz.nn.networks import MLP, AZResNet

SHAPE, NUM_ACTIONS = (5, 4, 3), 7
NORMS = ("none", "layer", "batch")


def make(norm="layer", shape=SHAPE, num_blocks=1, seed=0):
    """Returns a small network whose residual branches are not zero, and its state."""
    network, state = eqx.nn.make_with_state(AZResNet)(
        shape, NUM_ACTIONS, num_blocks=num_blocks, num_channels=8, norm=norm, key=jax.random.key(seed)
    )
    noise = np.random.default_rng(seed)
    params, rest = eqx.partition(network, eqx.is_inexact_array)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * noise.normal(size=leaf.shape).astype(np.float32), params)
    return eqx.combine(params, rest), state


def observe(batch, shape=SHAPE, seed=1):
    return jax.random.normal(jax.random.key(seed), (batch, *shape))


@eqx.filter_jit
def train(network, observations, state):
    return jax.vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name="batch")(observations, state)


def infer(network):
    return eqx.filter_jit(eqx.nn.inference_mode(network))


def copy(state):
    """Copies a state, since Equinox forbids its second use."""
    return jax.tree.map(lambda leaf: leaf, state)


@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="the order of dimensions matters on a CPU only")
def test_every_convolution_of_a_scanned_train_step_is_in_the_fast_order():
    network, _ = make("layer")
    params, static = eqx.partition(network, eqx.is_array)

    def loss(params, observations):
        logits, value = jax.vmap(eqx.combine(params, static))(observations)
        return jnp.mean(jax.nn.logsumexp(logits, -1) + value**2)

    def step(params, observations):
        gradient = jax.grad(loss)(params, observations)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), None

    text = jax.jit(lambda *carry_and_xs: lax.scan(step, *carry_and_xs)[0]).lower(
        params, observe(8).reshape(2, 4, *SHAPE)
    )
    text = text.compile().as_text()
    orders = re.findall(r" convolution\(.*dim_labels=(\S+?)[,\s]", text + "\n")
    # Three convolutions, their gradients by the kernels, and those by the inputs, except the first, which is data.
    assert len(orders) == 3 + 3 + 2
    assert set(orders) == {"b01f_01io->b01f"}


@pytest.mark.parametrize("norm", NORMS)
def test_shapes_ranges_and_number_of_parameters(norm):
    network, state = eqx.nn.make_with_state(AZResNet)(
        (8, 8, 2), 65, num_blocks=3, num_channels=16, norm=norm, key=jax.random.key(0)
    )
    (logits, value), _ = infer(network)(observe(1, (8, 8, 2))[0] * 100, state)
    assert logits.shape == (65,) and value.shape == () and logits.dtype == value.dtype == jnp.float32
    assert -1 <= value <= 1 and logits.min() < 0  # logits, not probabilities
    convolutions = 9 * 2 * 16 + 3 * 2 * 9 * 16 * 16 + 16 * (2 + 1)
    channels = 16 + 3 * 2 * 16 + 2 + 1
    heads = (2 * 64 + 1) * 65 + (64 + 1) * 16 + 16 + 1
    expected = convolutions + channels * (1 if norm == "none" else 2) + heads
    assert sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_inexact_array))) == expected


@pytest.mark.parametrize("norm", NORMS)
def test_new_residual_branches_are_zero(norm):
    key, x = jax.random.key(0), observe(1)[0]
    deep, state = eqx.nn.make_with_state(AZResNet)(SHAPE, NUM_ACTIONS, num_blocks=3, norm=norm, key=key)
    shallow = eqx.tree_at(lambda network: network.blocks, deep, ())
    for ours, other in zip(infer(deep)(x, state)[0], infer(shallow)(x, state)[0], strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6, atol=1e-7)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(eqx.filter((deep, state), eqx.is_array)))


@pytest.mark.parametrize("norm", NORMS)
def test_vmap_equals_loop(norm):
    network, state = make(norm)
    network, observations = infer(network), observe(6)
    batched, _ = jax.vmap(network, in_axes=(0, None), out_axes=(0, None))(observations, state)
    for index, observation in enumerate(observations):
        single, _ = network(observation, state)
        for ours, other in zip(single, batched, strict=True):
            np.testing.assert_allclose(ours, other[index], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_state_is_passed_through_by_the_other_norms(norm):
    network, state = make(norm)
    observation = observe(1)[0]
    with_state, returned = network(observation, state)
    assert returned is state
    for ours, other in zip(with_state, network(observation), strict=True):
        np.testing.assert_array_equal(ours, other)


@pytest.mark.parametrize("make_network", [make, lambda: (MLP(SHAPE, NUM_ACTIONS, key=jax.random.key(0)), None)])
def test_networks_without_statistics_are_arrays_only(make_network):
    network, _ = make_network()
    assert all(eqx.is_array(leaf) for leaf in jax.tree.leaves(network))  # as plain jit, scan and shard_map need


@pytest.mark.usefixtures("standard_promotion")
def test_layer_norm_normalises_one_sample_over_board_and_channels():
    network, _ = make("layer")
    norm = network.stem.norm
    x = 3 * observe(1, (5, 4, 8))[0] + 2
    expected = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * norm.weight + norm.bias
    np.testing.assert_allclose(norm(x, None)[0], expected, rtol=1e-4, atol=1e-4)


def test_layer_norm_of_a_constant_board_is_finite():
    norm = make("layer")[0].stem.norm
    for scale in (0.0, 1e4):
        out, gradient = jax.value_and_grad(lambda x: norm(x, None)[0].sum())(jnp.full((5, 4, 8), scale))
        assert jnp.isfinite(out) and jnp.isfinite(gradient).all()


@pytest.mark.usefixtures("standard_promotion")
def test_batch_norm_trains_on_batch_statistics_and_keeps_running_ones():
    network, state = make("batch", num_blocks=0)
    norm = network.stem.norm
    batches = [3 * observe(16, (5, 4, 8), seed=seed) + seed for seed in range(3)]
    for x in batches:
        out, state = train(norm, x, state)
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        expected = (x - mean) / np.sqrt(variance + 1e-5) * norm.weight + norm.bias
        np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    count, running_mean, running_variance = copy(state).get(norm.index)
    assert count == 3
    np.testing.assert_allclose(running_mean, np.mean([x.mean((0, 1, 2)) for x in batches], 0), rtol=1e-4)
    np.testing.assert_allclose(running_variance, np.mean([x.var((0, 1, 2)) for x in batches], 0), rtol=1e-4)


def test_batch_norm_after_many_steps_is_an_exponential_average():
    network, state = make("batch", num_blocks=0)
    norm = network.stem.norm
    old = (jnp.float32(5000), 2 * jnp.ones(8), 3 * jnp.ones(8))
    x = observe(16, (5, 4, 8))
    _, state = train(norm, x, state.set(norm.index, old))
    count, mean, variance = state.get(norm.index)
    assert count == 5001
    np.testing.assert_allclose(mean, 0.99 * 2 + 0.01 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.99 * 3 + 0.01 * x.var((0, 1, 2)), rtol=1e-5)


def test_batch_norm_infers_as_it_trained_from_the_first_batch():
    network, state = make("batch")
    observations = observe(32)
    trained, state = train(network, observations, state)
    inferred, after = jax.vmap(infer(network), (0, None), (0, None))(observations, state)
    for ours, other in zip(trained, inferred, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-3, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, state, after)  # inference changes no statistics


def test_batch_norm_is_the_same_after_reload():
    network, state = make("batch")
    for seed in range(3):
        _, state = train(network, observe(8, seed=seed), state)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, (network, state))
    file.seek(0)
    loaded, loaded_state = eqx.tree_deserialise_leaves(file, make("batch", seed=9))
    x = observe(1, seed=5)[0]
    before, _ = infer(network)(x, state)
    after, _ = infer(loaded)(x, loaded_state)
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.usefixtures("standard_promotion")
def test_batch_norm_gradient_flows_through_the_statistics():
    network, state = make("batch", num_blocks=0)
    norm, x, direction = network.stem.norm, observe(8, (5, 4, 8)), observe(8, (5, 4, 8), seed=2)

    def plain(x):
        return jnp.sum(jnp.sin((x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * norm.weight) * direction)

    def ours(x):
        out, _ = train(norm, x, state)
        return jnp.sum(jnp.sin(out - norm.bias) * direction)

    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(plain)(x), rtol=1e-3, atol=1e-4)


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_parameters_make_a_bfloat16_network(norm):
    network, state = make(norm)
    network = eqx.nn.inference_mode(network)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, network)
    observations = observe(4)
    full, half = (jax.vmap(eqx.filter_jit(n), (0, None), (0, None)) for n in (network, half))
    full_outputs, half_outputs = full(observations, state)[0], half(observations, state)[0]
    for full_output, half_output in zip(full_outputs, half_outputs, strict=True):
        assert half_output.dtype == jnp.float32
        np.testing.assert_allclose(full_output, half_output, atol=0.1)
    jaxpr = jax.make_jaxpr(half)(observations, state).jaxpr
    products = [e for e in equations(jaxpr) if e.primitive.name in ("dot_general", "conv_general_dilated")]
    assert len(products) == 3 + 4  # 3x3 convolutions; two 1x1 convolutions and two linear layers (the value: a sum)
    assert {var.aval.dtype for e in products for var in e.invars} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("make_network", [make, lambda: (MLP(SHAPE, NUM_ACTIONS, key=jax.random.key(0)), None)])
@pytest.mark.parametrize("dtype", [bool, jnp.int8, jnp.float16])
def test_observations_of_any_dtype(make_network, dtype):
    network, _ = make_network()
    observation = (observe(1)[0] > 0).astype(dtype)
    for ours, other in zip(network(observation), network(observation.astype(jnp.float32)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, other)


def test_mlp_agrees_with_numpy():
    network = MLP((3, 2), NUM_ACTIONS, width=5, depth=2, key=jax.random.key(0))
    x = observe(1, (3, 2))[0]
    hidden = np.asarray(x).ravel()
    for layer in network.hidden:
        hidden = np.maximum(layer.weight @ hidden + layer.bias, 0)
    logits, value = network(x)
    policy, head = network.policy_linear, network.value_linear
    np.testing.assert_allclose(logits, policy.weight @ hidden + policy.bias, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, np.tanh(head.weight @ hidden + head.bias)[0], rtol=1e-5, atol=1e-6)
    assert [layer.weight.shape for layer in network.hidden] == [(5, 6), (5, 5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_shape": (8, 8)}, r"observation_shape=\(8, 8\), expected \(H, W, C\)"),
        ({"num_blocks": -1}, "num_blocks=-1, expected at least 0"),
        ({"num_channels": 0}, "num_channels=0, expected at least 1"),
        ({"num_actions": 0}, "num_actions=0, expected at least 1"),
        ({"norm": "group"}, "norm='group', expected one of 'none', 'layer', 'batch'"),
    ],
)
def test_errors_at_construction(changes, message):
    with pytest.raises(ValueError, match=message):
        AZResNet(**{"observation_shape": SHAPE, "num_actions": NUM_ACTIONS, **changes}, key=jax.random.key(0))


@pytest.mark.parametrize("changes", [{"width": 0}, {"depth": -1}, {"num_actions": 0}])
def test_errors_at_construction_of_an_mlp(changes):
    with pytest.raises(ValueError, match="expected at least"):
        MLP(**{"observation_shape": SHAPE, "num_actions": NUM_ACTIONS, **changes}, key=jax.random.key(0))


@pytest.mark.parametrize("make_network", [make, lambda: (MLP(SHAPE, NUM_ACTIONS, key=jax.random.key(0)), None)])
def test_errors_of_a_wrong_observation(make_network):
    network, _ = make_network()
    with pytest.raises(ValueError, match=r"found .* \(6, 5, 4, 3\), expected \(5, 4, 3\); .* jax.vmap"):
        network(observe(6))
    with pytest.raises(ValueError, match=r"found .* \(5, 4, 2\), expected \(5, 4, 3\); .*env.observation.shape"):
        jax.vmap(network)(observe(6, (5, 4, 2)))


@pytest.mark.slow
def test_errors_of_batch_norm():
    network, state = make("batch")
    with pytest.raises(ValueError, match="make_with_state"):
        jax.vmap(network)(observe(4))
    with pytest.raises(ValueError, match="axis_name='batch'"):
        jax.vmap(network, (0, None), (0, None))(observe(4), state)
