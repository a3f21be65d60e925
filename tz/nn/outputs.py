"""Functions that call a network and read its output, which has logits, a value and anything else its loss needs."""

import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tz.nn.value_heads import CategoricalPrediction, CategoricalValue


def policy_and_value(output: Any) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Returns the logits and the value from the output of a network.

    **Arguments:**

    - `output`: a tuple or list that begins with logits and value, or a dict or object that has them under the names
        `logits` and `value`.

    **Returns:** the logits, and the value as a scalar, which is the mean of a [`tz.nn.CategoricalPrediction`][].

    **Raises:** `ValueError` for any other output.
    """
    logits, value = _first_two(output)
    return logits, value.mean() if isinstance(value, CategoricalPrediction) else value


def value_loss(output: Any, target: Float[Array, ""]) -> Float[Array, ""]:
    """Computes the loss of a network's value for one sample, as its value head defines it.

    **Arguments:**

    - `output`: the output of the network, as in [`tz.nn.policy_and_value`][].
    - `target`: the return that the value should predict, from the perspective of the player to move.

    **Returns:** the squared error of a scalar value, or the cross-entropy of a [`tz.nn.CategoricalPrediction`][].

    **Raises:** `ValueError` for an output without logits and a value.
    """
    value = _first_two(output)[1]
    if isinstance(value, CategoricalPrediction):
        return value.loss(target)
    return jnp.square(value.astype(jnp.float32) - target)


def categorical_head(output: Any) -> CategoricalValue | None:
    """Returns the categorical value head in the output of a network, or None if its value is not categorical."""
    try:
        value = _first_two(output)[1]
    except ValueError:
        return None
    return value.head if isinstance(value, CategoricalPrediction) else None


def _first_two(output: Any) -> tuple[Any, Any]:
    """Returns the logits and the value of an output unchanged."""
    if isinstance(output, Mapping):
        if "logits" in output and "value" in output:
            return output["logits"], output["value"]
        found = f"a dict of {sorted(map(str, output))}"
    elif hasattr(output, "logits") and hasattr(output, "value"):
        return output.logits, output.value
    elif isinstance(output, tuple | list) and len(output) >= 2:
        return output[0], output[1]
    else:
        found = f"a {type(output).__name__}"
    raise ValueError(
        f"network: found an output that is {found}, expected (logits, value, ...), or one with the names `logits` and "
        "`value`; return these two first, or under these names."
    )


def cast_parameters(network: PyTree, dtype: jax.typing.DTypeLike) -> PyTree:
    """Casts the floating-point parameters of a network."""
    return jax.tree.map(lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x, network)


def takes_key(network: PyTree) -> bool:
    """Returns whether a network takes `key=`, as one with dropout does."""
    try:
        parameters = inspect.signature(network).parameters
    except (TypeError, ValueError):  # some callables have no signature
        return False
    return "key" in parameters


def apply(
    network: PyTree, observation: PyTree, norm_state: eqx.nn.State | None = None, *, key: PRNGKeyArray | None
) -> tuple[Any, eqx.nn.State | None]:
    """Calls a network on one observation, with a state and a key if it takes them.

    **Returns:** the output, and the next state or None.
    """
    keys = {"key": key} if takes_key(network) else {}
    if norm_state is None:
        return network(observation, **keys), None
    return network(observation, norm_state, **keys)
