"""Helpers that list the arrays of a PyTree by name, compare their types, and convert random keys for files."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def has_shape(x: Any) -> bool:
    """Returns whether a leaf is an array or a `jax.ShapeDtypeStruct`."""
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def named_arrays(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns the arrays (or shapes) of a tree, each with its path in the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(eqx.filter(tree, has_shape))[0]
    return [(jax.tree_util.keystr(path), x) for path, x in leaves]


def is_key(x: Any) -> bool:
    """Returns whether an array holds typed random keys."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def data_of(x: Any) -> Any:
    """Returns an array as files hold it: typed keys become their data, other arrays stay as they are."""
    return jax.random.key_data(x) if is_key(x) else x


def with_data(x: Any, data: Any) -> Any:
    """Converts the data of a file back: returns typed keys if `x` has typed keys, and otherwise the data itself."""
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x)) if is_key(x) else data


def check_same_types(what: str, before: PyTree, after: PyTree) -> None:
    """Raises `ValueError` if an array changes its shape or dtype, or if an array appears or disappears.

    It reads types alone, so it also works on traced arrays. `what` names the operation in the message.
    """
    old, new = ({name: _type(x) for name, x in named_arrays(tree)} for tree in (before, after))
    for name in old | new:
        found, expected = new.get(name, "nothing"), old.get(name, "nothing")
        if found != expected:
            raise ValueError(
                f"{what}: found {found} at {name or 'its only place'}, expected {expected} as before; give every array "
                "a dtype where it is made, such as jnp.zeros(3, jnp.float32), and cast an updated array to its old "
                "dtype with `x.astype(old.dtype)`."
            )


def _type(x: Array) -> str:
    weak = " of a weak type, as Python's numbers have" if jax.typeof(x).weak_type else ""
    return f"{x.dtype}{list(x.shape)}{weak}"


def strong(tree: PyTree) -> PyTree:
    """Converts Python numbers to arrays and weak types to strong ones.

    A later step would make weak types strong, so the types of a state would otherwise change from one step to the next.
    """
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), tree)
