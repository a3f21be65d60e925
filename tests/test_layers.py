"""The convolution against plain NumPy, its derivatives against those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tz.nn.layers import conv3x3


def normal(shape, seed=1):
    return jax.random.normal(jax.random.key(seed), shape)


def numpy_conv3x3(x, weight):
    height, width, _ = x.shape
    out = np.zeros((height, width, weight.shape[-1]))
    for row in range(height):
        for column in range(width):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if 0 <= r < height and 0 <= c < width:
                        out[row, column] += x[r, c] @ weight[i, j]
    return out


def native_conv3x3(x, weight):
    """The convolution of JAX, with JAX's own gradients."""
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], weight, (1, 1), "SAME", dimension_numbers=dimensions)[0]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 5, 2, 3), (2, 3, 1, 4), (6, 7, 3, 2)])
def test_conv_agrees_with_numpy(shape):
    height, width, num_in, num_out = shape
    x = np.random.default_rng(0).normal(size=(height, width, num_in)).astype(np.float32)
    weight = np.random.default_rng(1).normal(size=(3, 3, num_in, num_out)).astype(np.float32)
    np.testing.assert_allclose(conv3x3(jnp.array(x), jnp.array(weight)), numpy_conv3x3(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("batch_weight", [False, True])
def test_conv_gradients_agree_with_jax(per_sample, batch_weight):
    x, target = normal((3, 4, 5, 2)), normal((3, 4, 5, 6), seed=2)
    weight = normal((3 if batch_weight else 1, 3, 3, 2, 6), seed=3)
    weight = weight if batch_weight else weight[0]
    axes = (0, 0 if batch_weight else None, 0)

    def gradients(conv):
        def loss(x, weight, target):
            return jnp.sum(jnp.sin(conv(x, weight)) * target)

        if per_sample:
            return jax.vmap(jax.grad(loss, (0, 1)), axes)(x, weight, target)
        return jax.grad(lambda *arguments: jnp.sum(jax.vmap(loss, axes)(*arguments)), (0, 1))(x, weight, target)

    for ours, native in zip(gradients(conv3x3), gradients(native_conv3x3), strict=True):
        np.testing.assert_allclose(ours, native, rtol=1e-4, atol=1e-5)


def test_conv_forward_mode_and_second_derivative_agree_with_jax():
    x, weight = normal((1, 4, 3, 2))[0], normal((1, 3, 3, 2, 3), seed=2)[0]
    tangents = (jnp.cos(x), jnp.sin(weight))
    for ours, native in zip(
        jax.jvp(conv3x3, (x, weight), tangents), jax.jvp(native_conv3x3, (x, weight), tangents), strict=True
    ):
        np.testing.assert_allclose(ours, native, rtol=1e-4, atol=1e-5)
    second = [
        jax.grad(lambda w: jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, w))))(x) ** 2))(weight)  # noqa: B023
        for conv in (conv3x3, native_conv3x3)
    ]
    np.testing.assert_allclose(*second, rtol=1e-3, atol=1e-4)
