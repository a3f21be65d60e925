"""Every optimiser of optax, in the step that the training loop compiles, with donated buffers."""

import functools
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import tz
from tz._programs import Leaves
from tz.learn.targets import Affine
from tz.runs.phases import compiled_step

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])
SGD = optax.sgd(0.1)
PARTS = {  # parts of optimisers, besides all names that begin with scale_by_
    "differentially_private_aggregate",
    "hutchinson_estimator_diag_hessian",
    "normalize",
    "reduce_on_plateau",
    "schedule_free_eval_params",
    "split_real_and_imaginary",
}
ARGUMENTS = {
    "adadelta": {"learning_rate": 1.0},
    "dpsgd": {"learning_rate": 0.1, "l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0},
    "mechanize": {"base_optimizer": SGD, "s_init": 0.1},
    "noisy_sgd": {"learning_rate": 0.1, "key": 0},
    "sam": {"optimizer": SGD, "adv_optimizer": optax.chain(optax.contrib.normalize(), optax.sgd(0.01))},
    "schedule_free": {"base_optimizer": SGD, "learning_rate": 0.1},
    "schedule_free_sgd": {"learning_rate": 0.1},
}
WRAPPED = {
    "MultiSteps": lambda: optax.MultiSteps(SGD, 2).gradient_transformation(),
    "apply_if_finite": lambda: optax.apply_if_finite(SGD, 3),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(optax.exponential_decay(0.1, 2, 0.9)),
    "lookahead": lambda: optax.lookahead(SGD, 2, 0.5),
    "reduce_on_plateau": lambda: optax.chain(SGD, optax.contrib.reduce_on_plateau(patience=1)),
    "sam, opaque": lambda: optax.contrib.sam(**ARGUMENTS["sam"], opaque_mode=True),
    "split_real_and_imaginary": lambda: optax.contrib.split_real_and_imaginary(SGD),
}
CANNOT = {
    "dpsgd": ("it asks for the gradient of each sample, and a step has that of their mean", r"shape \(2,\)"),
    "lookahead": (
        "it asks for a pair of networks, optax.LookaheadParams, in the place of one",
        "update that raised .* 'fast'",
    ),
}


def exported() -> dict:
    """Returns all optimisers of the installed optax."""
    own = {name: getattr(make, "func", make) for name, make in vars(optax).items()}
    own = {name: getattr(optax, name) for name, make in own.items() if inspect.isfunction(make)}
    names = [name for name, make in own.items() if getattr(make, "func", make).__module__ == "optax._src.alias"]
    contributed = dict(inspect.getmembers(optax.contrib, inspect.isfunction))
    names += [name for name in contributed if name not in PARTS and not name.startswith("scale_by_")]
    made = {}
    for name in names:
        make = (own | contributed)[name]
        needed = [p.name for p in inspect.signature(make).parameters.values() if p.default is p.empty]
        made[name] = functools.partial(make, **ARGUMENTS.get(name, dict.fromkeys(needed, 0.01)))
    return made | WRAPPED


class Small(eqx.Module):
    """A network of a matrix and a vector, since some optimisers treat them differently."""

    weight: jax.Array
    bias: jax.Array

    def __call__(self, observation):
        return self.weight @ observation + self.bias, self.bias[0]


class OneBatch(tz.EpisodeReplayBuffer):
    """Replaces the samples of a buffer by one batch, to keep the compiled step small."""

    def sample_parts(self, state, num_samples, *, keys, window=None):
        row = tz.Sample(jnp.ones(2), jnp.ones(3, bool), jnp.ones(3) / 3, jnp.float32(1), jnp.float32(1), jnp.float32(1))
        return jax.tree.map(lambda x: jnp.stack([x] * num_samples), row)


def squares(network, output, sample):
    logits, value = output
    return jnp.sum((logits - sample.policy) ** 2) + (value - sample.value) ** 2, {}


@pytest.fixture(scope="module")
def replay():
    one = jnp.zeros(1)
    policy, value = jnp.ones((1, 3)), Affine(one, one)
    ring = tz.learn.ReplayState(jnp.ones((1, 2)), policy > 0, policy, value, one, *4 * [jnp.int32(1)])
    return jax.tree.map(lambda x: x[None], ring)


def take_steps(optimizer, replay, num_moves=3):
    config = tz.TrainConfig(tz.MCTS(2), optimizer, OneBatch(1), 1, 2, 1, 1, loss=squares)
    state = tz.init_train(optimizer, Small(jnp.linspace(-1, 1, 6).reshape(3, 2), jnp.zeros(3)))
    inputs = Leaves((config, replay, jax.random.key(0), None, MESH))
    losses, finite = [], []
    for _ in range(num_moves):
        after, metrics, is_finite = compiled_step(inputs, Leaves(state))
        state = after.tree()
        losses.append(float(metrics["loss"]))
        finite.append(bool(is_finite))
    return state, losses, finite


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", exported())
def test_three_steps(name, replay):
    optimizer = exported()[name]()
    if name in CANNOT:
        with pytest.raises(ValueError, match=CANNOT[name][1]):
            take_steps(optimizer, replay)
        return
    state, losses, finite = take_steps(optimizer, replay)
    assert all(finite) and state.step == 3 and losses[2] < losses[0]


def test_an_optimiser_is_told_the_loss_of_the_batch_and_can_ask_for_it_elsewhere(replay):
    def update(updates, state, params, *, value, grad, value_fn, obj_fn, grad_fn):
        def by_hand(weight, bias):
            return jnp.sum((weight.sum(1) + bias - 1 / 3) ** 2) + (bias[0] - 1) ** 2

        elsewhere = jax.tree.map(lambda x: x + 1, params)
        here, there = (by_hand(x.weight, x.bias) for x in (params, elsewhere))
        slope, _ = jax.grad(by_hand, (0, 1))(params.weight, params.bias)
        found = value, value_fn(elsewhere), obj_fn(elsewhere), updates.weight, grad.weight, grad_fn(params, 0).weight
        expected = here, there, there, slope, slope, slope
        return updates, tuple(jnp.abs(a - b).max() for a, b in zip(found, expected, strict=True))

    probe = optax.GradientTransformationExtraArgs(lambda params: 6 * (jnp.float32(1),), update)
    state, *_ = take_steps(probe, replay, num_moves=1)
    np.testing.assert_allclose(jax.device_get(state.opt_state), 0, atol=1e-5)


def test_infinity_that_an_optimiser_begins_with_is_no_fault_and_one_that_comes_up_is(replay):
    def update(updates, state, params=None):
        best, other = state
        return updates, (best, 2 * other)

    def start(other):
        return lambda params: (jnp.float32(jnp.inf), jnp.float32(other))

    for other, expected in (1.0, [True, True, True]), (1e38, [True, False, False]):
        *_, finite = take_steps(optax.GradientTransformation(start(other), update), replay)
        assert finite == expected
