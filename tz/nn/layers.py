"""The layers of [`tz.AZResNet`][]: a channels-last convolution that is fast forwards and backwards, and three norms."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

_EPSILON = 1e-5
_MOMENTUM = 0.99
_BLOCK = 2**16
NORMS = ("none", "layer", "batch")


def widened(x: Array) -> Array:
    """Casts an array to float32, unless its dtype is at least as wide."""
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


@jax.jit
def _block(key: PRNGKeyArray, index: Int[Array, ""]) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, index), (_BLOCK,), jnp.float32, minval=-1, maxval=1)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], bound: float) -> Array:
    """Draws uniformly from -bound to bound, in blocks of one size, since each new size would take 0.3 s to compile."""
    size = math.prod(shape)
    blocks = [_block(key, index) for index in range(math.ceil(size / _BLOCK))]
    return (bound * jnp.concatenate(blocks)[:size]).reshape(shape)


def _convolve(inputs: Array, weight: Array, *order: str) -> Array:
    dimensions = (order[0], order[1], order[2])
    return lax.conv_general_dilated(inputs, weight, (1, 1), "SAME", dimension_numbers=dimensions)


@jax.custom_jvp
def conv3x3(x: Float[Array, "H W C"], weight: Float[Array, "3 3 C D"]) -> Float[Array, "H W D"]:
    """Convolves one channels-last image with a 3x3 kernel, padded with zeros so that its size stays the same.

    The derivative is written out because of XLA. On a CPU, a convolution is fast if its dimensions have the order
    `NHWC, HWIO -> NHWC`. XLA brings other orders into this one, but not inside a loop, and the gradients that JAX
    derives for a convolution have other orders. On 512 boards of 8x8x32, they ran 14 times (for `x`) and 57 times (for
    `weight`) slower inside a `lax.scan` than outside. With this derivative they run equally fast in both.

    **Arguments:**

    - `x`: `[H, W, C]`, the image.
    - `weight`: `[3, 3, C, D]`, the kernel.

    **Returns:** the convolved image, `[H, W, D]`.
    """
    return _convolve(x[None], weight, "NHWC", "HWIO", "NHWC")[0]


@conv3x3.defjvp
def _conv3x3_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, weight), (x_dot, weight_dot) = primals, tangents
    y = conv3x3(x, weight)
    # The backward pass runs the transposes of these two convolutions. Each is the convolution above, with dimensions
    # permuted so that its transpose has the fast order. Under `vmap` the batch becomes part of N.
    from_x = _convolve(x_dot[None], weight.swapaxes(2, 3), "NHWC", "HWOI", "NHWC")[0]
    x, weight_dot = x.transpose(2, 0, 1)[..., None], weight_dot.transpose(2, 0, 1, 3)
    from_weight = _convolve(x, weight_dot, "CHWN", "IHWO", "HWNC")[:, :, 0]
    return y, from_x + from_weight


class _Bias(eqx.Module):
    """Adds a bias to each channel, without any normalisation."""

    bias: Float[Array, " C"]

    def __call__(self, x: Array, state: eqx.nn.State | None) -> tuple[Array, eqx.nn.State | None]:
        return x + self.bias[None, None], state


class _LayerNorm(eqx.Module):
    """Normalises one sample over the board and all channels, then scales and shifts each channel."""

    weight: Float[Array, " C"]
    bias: Float[Array, " C"]

    def __call__(self, x: Array, state: eqx.nn.State | None) -> tuple[Array, eqx.nn.State | None]:
        mean, square = _moments(x, (0, 1, 2))
        return _normalise(x, mean, jnp.maximum(square - mean**2, 0), self.weight, self.bias), state


class _BatchNorm(eqx.Module):
    """Normalises each channel over the board and the `vmap` axis "batch", or at inference by running statistics.

    It replaces `eqx.nn.BatchNorm`, which is channels-first. With `mode="batch"`, the variance of that layer at
    inference is also wrong for the first few hundred steps: 99 too large after one step, as it starts from 1 and is
    then divided by `1 - momentum**count`. Here the running statistics are the plain average of the first 100 batches,
    and an exponential average from then on.
    """

    weight: Float[Array, " C"]
    bias: Float[Array, " C"]
    index: eqx.nn.StateIndex
    inference: bool

    def __call__(self, x: Array, state: eqx.nn.State | None) -> tuple[Array, eqx.nn.State | None]:
        if state is None:
            raise ValueError(
                "AZResNet: found a call without a state, expected one, as norm='batch' keeps running statistics in it; "
                "build it with network, state = eqx.nn.make_with_state(AZResNet)(...) and call network(observation, "
                "state)."
            )
        count, *running = state.get(self.index)
        if self.inference:
            mean, variance = running
        else:
            try:
                mean, square = lax.pmean(_moments(x, (0, 1)), "batch")
            except NameError as error:
                raise ValueError(
                    "AZResNet: found no axis named 'batch', expected one, as batch norm in training averages over it; "
                    "call jax.vmap(network, in_axes=(0, None), out_axes=(0, None), axis_name='batch')(observations, "
                    "state), or use eqx.nn.inference_mode(network)."
                ) from error
            variance = jnp.maximum(square - mean**2, 0)  # rounding may make it negative
            rate = jnp.maximum(1 / (count + 1), 1 - _MOMENTUM)
            mixed = [
                old + rate * (lax.stop_gradient(new).astype(old.dtype) - old)
                for old, new in zip(running, (mean, variance), strict=True)
            ]
            state = state.set(self.index, (count + 1, *mixed))
        return _normalise(x, mean, variance, self.weight, self.bias), state


def _moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns the mean and the mean square, at least in float32. XLA can compute both in one pass over `x`."""
    x = widened(x)
    return jnp.mean(x, axes), jnp.mean(x**2, axes)


def _normalise(x: Array, mean: Array, variance: Array, weight: Array, bias: Array) -> Array:
    """Normalises at least in float32, and returns the dtype of `x`."""
    wide = widened(x)
    mean, variance, weight, bias = (array.astype(wide.dtype) for array in (mean, variance, weight, bias))
    scale = lax.rsqrt(variance + _EPSILON) * weight
    return (wide * scale[None, None] + (bias - mean * scale)[None, None]).astype(x.dtype)


class ConvNorm(eqx.Module):
    """Applies a convolution, 3x3 or 1x1, and then a norm. With `scale` 0, its output is zero before training."""

    weight: Float[Array, "size size C D"]
    norm: _Bias | _LayerNorm | _BatchNorm

    def __init__(
        self, size: int, num_in: int, num_out: int, norm: str, scale: float = 1.0, *, key: PRNGKeyArray
    ) -> None:
        weight = _uniform(key, (size, size, num_in, num_out), bound=math.sqrt(6 / (size * size * num_in)))
        self.weight = weight * scale if norm == "none" else weight
        scales, zeros = jnp.full(num_out, scale, jnp.float32), jnp.zeros(num_out, jnp.float32)
        if norm == "none":
            self.norm = _Bias(zeros)
        elif norm == "layer":
            self.norm = _LayerNorm(scales, zeros)
        else:
            statistics = (jnp.float32(0), zeros, jnp.ones(num_out, jnp.float32))
            self.norm = _BatchNorm(scales, zeros, eqx.nn.StateIndex(statistics), inference=False)

    def __call__(self, x: Array, state: eqx.nn.State | None) -> tuple[Array, eqx.nn.State | None]:
        """Maps `[H, W, C]` to `[H, W, D]`, and returns the new running statistics with it."""
        convolved = conv3x3(x, self.weight) if self.weight.shape[0] == 3 else x @ self.weight[0, 0]
        return self.norm(convolved, state)


class Linear(eqx.Module):
    """A dense layer with a bias, from `[C]` to `[D]`."""

    weight: Float[Array, "D C"]
    bias: Float[Array, " D"]

    def __init__(self, num_in: int, num_out: int, *, key: PRNGKeyArray) -> None:
        self.weight = _uniform(key, (num_out, num_in), bound=1 / math.sqrt(num_in))
        self.bias = jnp.zeros(num_out, jnp.float32)

    def __call__(self, x: Float[Array, " C"]) -> Float[Array, " D"]:
        """Applies the layer to one vector."""
        # With one output, XLA would round the matrix product differently for other batch sizes.
        if self.bias.shape == (1,):
            return jnp.sum(self.weight * x[None], axis=-1) + self.bias
        return self.weight @ x + self.bias
