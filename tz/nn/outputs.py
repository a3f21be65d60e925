"""Calling a network, and reading its output: logits and a value, and whatever else its loss asks for."""

import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tz.nn.value_heads import CategoricalPrediction, CategoricalValue


def policy_and_value(output: Any) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Returns the logits and the value of a network's output.

    **Arguments:** `output`, a tuple whose first two entries they are, or anything with the two under the names `logits`
    and `value`: a dict, or an object with these attributes.

    **Returns:** the logits, and the value as a scalar: of a [`tz.nn.CategoricalPrediction`][] the mean.

    **Raises:** `ValueError` for any other output.
    """
    logits, value = _first_two(output)
    return logits, value.mean() if isinstance(value, CategoricalPrediction) else value


def value_loss(output: Any, target: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the loss of a network's value, for one sample: the one that belongs to its value head.

    **Arguments:** `output`, as [`tz.nn.policy_and_value`][] takes it; `target`, the return that the value should have
    been, for the player to move.

    **Returns:** the squared error of a scalar value; the cross-entropy of a [`tz.nn.CategoricalPrediction`][].

    **Raises:** `ValueError` for an output without logits and a value.
    """
    value = _first_two(output)[1]
    if isinstance(value, CategoricalPrediction):
        return value.loss(target)
    return jnp.square(value.astype(jnp.float32) - target)


def categorical_head(output: Any) -> CategoricalValue | None:
    """The head of a network whose value is categorical, known from its output; None for any other."""
    try:
        value = _first_two(output)[1]
    except ValueError:
        return None
    return value.head if isinstance(value, CategoricalPrediction) else None


def _first_two(output: Any) -> tuple[Any, Any]:
    """The logits and the value of an output as they are."""
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
        "`value`; return these two first."
    )


def takes_key(network: PyTree) -> bool:
    """Whether a network is called with `key=`, as one with dropout is."""
    try:
        parameters = inspect.signature(network).parameters
    except (TypeError, ValueError):  # it has no signature to be found
        return False
    return "key" in parameters


def apply(
    network: PyTree, observation: PyTree, norm_state: eqx.nn.State | None = None, *, key: PRNGKeyArray | None
) -> tuple[Any, eqx.nn.State | None]:
    """Calls a network on one observation, with a state or a key where it takes them.

    **Returns:** its output, and its next state, or None.
    """
    keys = {"key": key} if takes_key(network) else {}
    if norm_state is None:
        return network(observation, **keys), None
    return network(observation, norm_state, **keys)
