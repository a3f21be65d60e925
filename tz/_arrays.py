"""The arrays of a PyTree by name, and random keys as the numbers that files hold."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


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


def check_same_types(what: str, before: PyTree, after: PyTree) -> None:
    """Raises `ValueError` if an array has another shape or dtype than before, or comes or goes; all known as traced."""
    old, new = ({name: _type(x) for name, x in named_arrays(tree)} for tree in (before, after))
    for name in old | new:
        found, expected = new.get(name, "nothing"), old.get(name, "nothing")
        if found != expected:
            raise ValueError(
                f"{what}: found {found} at {name}, expected {expected} as before; "
                "give every array a dtype where it is made, such as jnp.zeros(3, jnp.float32), and let what is changed "
                "keep its own (`x.astype(old.dtype)`)."
            )


def _type(x: Array) -> str:
    weak = " of a weak type, as Python's numbers have" if jax.typeof(x).weak_type else ""
    return f"{x.dtype}{list(x.shape)}{weak}"


def strong(tree: PyTree) -> PyTree:
    """The same arrays, and Python's numbers as arrays, without weak types, which a later step would make strong."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)
