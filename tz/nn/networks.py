"""Networks: each maps one observation to logits and a value, from the perspective of the player to move."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_ints, shown
from tz.nn.layers import NORMS, ConvNorm, Linear
from tz.nn.value_heads import CategoricalPrediction, TanhValue, ValueHead, check_value_head

Value = Float[Array, ""] | CategoricalPrediction
Prediction = tuple[Float[Array, " A"], Value] | tuple[Float[Array, " A"], Value, Array]


def _check(observation: Any, shape: tuple[int, ...]) -> None:
    if not hasattr(observation, "shape"):
        raise ValueError(
            f"network: found an observation that is a {type(observation).__name__}, expected one array of shape "
            f"{shape}; join its parts in env.observe, or write a network that takes them."
        )
    if observation.shape != shape:
        if observation.shape[1:] == shape:
            fix = "a network takes one observation; for a batch, call jax.vmap(network)(observations)"
        else:
            fix = "pass the output of env.observe, or build the network with env.observation.shape"
        raise ValueError(f"network: found an observation of shape {observation.shape}, expected {shape}; {fix}.")


def _check_at_least(least: int, **sizes: int) -> None:
    check_ints("network", **sizes)
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"network: found {name}={size}, expected at least {least}; raise it.")


def _checked_shape(where: str, shape: Any) -> tuple[int, ...]:
    """Returns a shape as a tuple of ints; raises `ValueError` for an observation, or anything else, in place of it."""
    if not isinstance(shape, tuple | list) or not all(isinstance(size, int | np.integer) for size in shape):
        raise ValueError(
            f"{where}: found observation_shape={shown(shape)}, expected a tuple of ints; write env.observation.shape. "
            "Observations of several arrays need a network of your own."
        )
    return tuple(map(int, shape))


class AZResNet(eqx.Module):
    """AlphaZero's residual network: a stem, `num_blocks` blocks of two 3x3 convolutions, a policy and a value head.

    It takes one observation; `jax.vmap` makes the batch. It casts the observation to the dtype of its parameters,
    computes in that dtype and returns float32, so casting the parameters to bfloat16 makes a bfloat16 network. Every
    residual branch is zero before training (through its last scale, or its last kernel if there is no norm), so that
    deep networks train.

    With `norm="batch"` it keeps running statistics in a state. Make it with
    `network, state = eqx.nn.make_with_state(AZResNet)(..., norm="batch", key=key)`. In training, call it under
    `jax.vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name="batch")`, which uses the statistics of the
    batch and updates `state`. For search, use `eqx.nn.inference_mode(network)`, with or without `vmap`.

    The architecture is from Silver et al., *Mastering the game of Go without human knowledge*, 2017, and is also used
    in *A general reinforcement learning algorithm that masters chess, shogi, and Go through self-play*, 2018.
    """

    stem: ConvNorm
    blocks: tuple[tuple[ConvNorm, ConvNorm], ...]
    policy_conv: ConvNorm
    policy_linear: Linear
    value_conv: ConvNorm
    value_hidden: Linear
    value_linear: Linear
    value_head: ValueHead
    planes_conv: ConvNorm | None
    observation_shape: tuple[int, int, int] = eqx.field(static=True)
    norm: str = eqx.field(static=True)

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: int,
        num_blocks: int = 2,
        num_channels: int = 32,
        norm: str = "none",
        *,
        num_policy_channels: int = 2,
        num_value_channels: int = 1,
        num_planes: int = 0,
        value_head: ValueHead = TanhValue(),
        key: PRNGKeyArray,
    ) -> None:
        """**Arguments:**

        - `observation_shape`: `(H, W, C)` with channels last, usually `env.observation.shape`.
        - `num_actions`: `A`, the number of logits, usually `env.num_actions`.
        - `num_blocks`: the number of residual blocks; with 0, only the stem and the heads are left.
        - `num_channels`: the number of channels of the stem and the blocks, and of hidden units of the value head.
        - `norm`: the layer after each convolution: "none" (a bias), "layer" (over board and channels) or "batch". With
            two blocks, "none" played as well as the others and is the fastest, so it is the default; see
            `experiments/results/normalisation_cpu.md`.
        - `num_policy_channels`, `num_value_channels`: the number of output channels of the 1x1 convolution of each
            head. The defaults are from the paper.
        - `num_planes`: the number of channels of a third output, `[H, W, num_planes]`, for an additional target, such
            as who owns each point of the board in the end; see [`tz.learn.ownership_loss`][]. By default, 0, there is
            no third output.
        - `value_head`: makes the value from the last layer: [`tz.nn.TanhValue`][] for returns from -1 to 1,
            [`tz.nn.LinearValue`][], or [`tz.nn.CategoricalValue`][] for returns of any size.
        - `key`: decides the initial parameters.

        **Raises:** `ValueError` if a size is too small, the observation does not have three axes, the norm is unknown,
        or `value_head` is not a value head.
        """
        observation_shape = _checked_shape("AZResNet", observation_shape)
        if len(observation_shape) != 3:
            raise ValueError(
                f"AZResNet: found observation_shape={observation_shape}, expected (H, W, C); add an axis for "
                "the channels in env.observe, or use tz.MLP, which takes any shape."
            )
        if norm not in NORMS:
            raise ValueError(f"AZResNet: found norm={norm!r}, expected one of {', '.join(map(repr, NORMS))}; use one.")
        _check_at_least(0, num_blocks=num_blocks, num_planes=num_planes)
        _check_at_least(1, num_channels=num_channels, num_actions=num_actions)
        _check_at_least(1, num_policy_channels=num_policy_channels, num_value_channels=num_value_channels)
        check_value_head("AZResNet", value_head)
        height, width, num_features = observation_shape
        self.observation_shape = (height, width, num_features)
        self.norm = norm
        keys = (jax.random.fold_in(key, index) for index in itertools.count())
        self.stem = ConvNorm(3, num_features, num_channels, norm, key=next(keys))
        self.policy_conv = ConvNorm(1, num_channels, num_policy_channels, norm, key=next(keys))
        self.policy_linear = Linear(num_policy_channels * height * width, num_actions, key=next(keys))
        self.value_conv = ConvNorm(1, num_channels, num_value_channels, norm, key=next(keys))
        self.value_hidden = Linear(num_value_channels * height * width, num_channels, key=next(keys))
        self.value_linear = Linear(num_channels, value_head.num_outputs, key=next(keys))
        self.value_head = value_head
        self.blocks = tuple(
            (
                ConvNorm(3, num_channels, num_channels, norm, key=next(keys)),
                ConvNorm(3, num_channels, num_channels, norm, scale=0.0, key=next(keys)),
            )
            for _ in range(num_blocks)
        )
        self.planes_conv = ConvNorm(1, num_channels, num_planes, "none", key=next(keys)) if num_planes else None

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, except for `key`, that make a network of the same architecture."""
        return {
            "observation_shape": self.observation_shape,
            "num_actions": self.policy_linear.bias.size,
            "num_blocks": len(self.blocks),
            "num_channels": self.value_linear.weight.shape[1],
            "norm": self.norm,
            "num_policy_channels": self.policy_conv.weight.shape[-1],
            "num_value_channels": self.value_conv.weight.shape[-1],
            "num_planes": 0 if self.planes_conv is None else self.planes_conv.weight.shape[-1],
            "value_head": self.value_head,
        }

    def __call__(
        self, observation: PyTree[Shaped[Array, "..."]], state: eqx.nn.State | None = None
    ) -> Prediction | tuple[Prediction, eqx.nn.State]:
        """Evaluates one observation.

        **Arguments:**

        - `observation`: `[H, W, C]`, of any dtype.
        - `state`: the running statistics of batch norm; other norms return it unchanged.

        **Returns:** `(logits, value)`. The logits are `[A]`, float32 and not masked. The value is from the perspective
        of the player to move: a float32 scalar, by default in (-1, 1), or a [`tz.nn.CategoricalPrediction`][]. With
        `num_planes`, the output is `(logits, value, planes)`, where `planes` is float32, `[H, W, num_planes]` and not
        bounded. If called with a state, it returns the pair of the output and the new state.

        **Raises:** `ValueError` if the observation has another shape than the network was built for, or, with batch
        norm, if there is no state, or no axis named "batch" in training.
        """
        _check(observation, self.observation_shape)
        x, new_state = self.stem(observation.astype(self.stem.weight.dtype), state)
        x = jax.nn.relu(x)
        for first, second in self.blocks:
            branch, new_state = first(x, new_state)
            branch, new_state = second(jax.nn.relu(branch), new_state)
            x = jax.nn.relu(x + branch)
        policy, new_state = self.policy_conv(x, new_state)
        logits = self.policy_linear(jax.nn.relu(policy).ravel()).astype(jnp.float32)
        value, new_state = self.value_conv(x, new_state)
        value = jax.nn.relu(self.value_hidden(jax.nn.relu(value).ravel()))
        value = self.value_head(self.value_linear(value).astype(jnp.float32))
        output: Prediction = (logits, value)
        if self.planes_conv is not None:
            output = (logits, value, self.planes_conv(x, None)[0].astype(jnp.float32))
        return output if new_state is None else (output, new_state)


class MLP(eqx.Module):
    """A multilayer perceptron with a policy and a value output. It flattens observations, which may have any shape.

    Like [`tz.AZResNet`][] it takes one observation, computes in the dtype of its parameters and returns float32.
    """

    hidden: tuple[Linear, ...]
    policy_linear: Linear
    value_linear: Linear
    value_head: ValueHead
    observation_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        num_actions: int,
        width: int = 64,
        depth: int = 2,
        *,
        value_head: ValueHead = TanhValue(),
        key: PRNGKeyArray,
    ) -> None:
        """**Arguments:**

        - `observation_shape`: any shape, usually `env.observation.shape`.
        - `num_actions`: `A`, the number of logits, usually `env.num_actions`.
        - `width`: the number of units of each hidden layer.
        - `depth`: the number of hidden layers.
        - `value_head`: makes the value from the last layer, as in [`tz.AZResNet`][].
        - `key`: decides the initial parameters.

        **Raises:** `ValueError` if a size is too small, or `value_head` is not a value head.
        """
        _check_at_least(0, depth=depth)
        _check_at_least(1, width=width, num_actions=num_actions)
        check_value_head("MLP", value_head)
        self.observation_shape = _checked_shape("MLP", observation_shape)
        sizes = [math.prod(self.observation_shape)] + depth * [width]
        *keys, policy_key, value_key = (jax.random.fold_in(key, index) for index in range(depth + 2))
        self.hidden = tuple(Linear(*pair, key=k) for pair, k in zip(itertools.pairwise(sizes), keys, strict=True))
        self.policy_linear = Linear(sizes[-1], num_actions, key=policy_key)
        self.value_linear = Linear(sizes[-1], value_head.num_outputs, key=value_key)
        self.value_head = value_head

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments, except for `key`, that make a network of the same architecture."""
        return {
            "observation_shape": self.observation_shape,
            "num_actions": self.policy_linear.bias.size,
            "width": self.policy_linear.weight.shape[1],
            "depth": len(self.hidden),
            "value_head": self.value_head,
        }

    def __call__(self, observation: PyTree[Shaped[Array, "..."]]) -> Prediction:
        """Evaluates one observation.

        **Arguments:**

        - `observation`: an array of the shape that the network was built for, of any dtype.

        **Returns:** `(logits, value)`. The logits are `[A]`, float32 and not masked. The value is from the perspective
        of the player to move: a float32 scalar, by default in (-1, 1), or a [`tz.nn.CategoricalPrediction`][].

        **Raises:** `ValueError` if the observation has another shape.
        """
        _check(observation, self.observation_shape)
        x = observation.ravel().astype(self.policy_linear.weight.dtype)
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        logits, value = self.policy_linear(x), self.value_linear(x)
        return logits.astype(jnp.float32), self.value_head(value.astype(jnp.float32))
