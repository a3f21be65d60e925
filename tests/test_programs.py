"""Programs that run once, compiled quickly, and arguments that are taken apart once."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tz._programs import Leaves, RunOnce, _options


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


def test_leaves_keep_the_tree_and_equal_trees_share_a_program():
    @eqx.filter_jit
    @chex.assert_max_traces(n=2)
    def power(leaves):
        tree = leaves.tree()
        return Leaves(tree | {"x": tree["x"] ** tree["rest"][1]})

    for exponent in 2, 3:
        for number in 1.0, 2.0:
            tree = {"x": jnp.full(3, number), "rest": (None, exponent, jnp.sin), "y": jnp.arange(2)}
            assert eqx.tree_equal(Leaves(tree).tree(), tree)
            assert eqx.tree_equal(power(Leaves(tree)).tree(), tree | {"x": tree["x"] ** exponent})


def test_leaves_of_a_tree_that_cannot_be_hashed_are_refused():
    with pytest.raises(TypeError, match="unhashable"):
        Leaves({"x": jnp.zeros(2), "rest": bytearray(2)})
