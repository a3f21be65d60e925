"""The arrays of a PyTree by name, and random keys as the numbers that files hold."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def has_shape(x: Any) -> bool:
    """Whether a leaf is an array, or the shape of one."""
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def named_arrays(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns the arrays of a tree, or their shapes, each with its path in the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, has_shape))[0]
    return [(jax.tree_util.keystr(path), x) for path, x in leaves]


def is_key(x: Any) -> bool:
    """Whether an array holds typed random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def data_of(x: Any) -> Any:
    """Returns an array as files hold it: typed keys as their data."""
    return jax.random.key_data(x) if is_key(x) else x


def with_data(x: Any, data: Any) -> Any:
    """Returns the data of a file as an array like `x`: as typed keys where `x` has them."""
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x)) if is_key(x) else data
