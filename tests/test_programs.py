"""Programs that run once: compiled quickly, with the results of other programs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tz._programs import RunOnce, _options


def test_it_is_traced_once_for_its_shapes_and_its_result_and_agrees_with_the_optimised_program():
    @chex.assert_max_traces(n=1)
    def function(x, power):
        return jnp.sum(jnp.sin(x) ** power), x.shape

    once, x = RunOnce(function), jnp.arange(8.0)
    assert once.shapes(x, 2)[0].shape == ()
    found, shape = once(x, 2)
    assert shape == (8,)
    np.testing.assert_allclose(found, once._compiled(x, 2)[0], rtol=1e-6)


def test_it_is_a_whole_program():
    with pytest.raises(ValueError, match="compiler_options"):
        jax.jit(RunOnce(lambda x: x + 1))(1)


def test_options_that_xla_does_not_know_are_left_out():
    assert _options(1)["xla_backend_optimization_level"] == 1
