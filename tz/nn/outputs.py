"""Calling a network, and reading its output: logits and a value, and whatever else its loss asks for."""

import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree


def policy_and_value(output: Any) -> tuple[Float[Array, " A"], Float[Array, ""]]:
    """Returns the logits and the value of a network's output.

    **Arguments:** `output`, a tuple whose first two entries they are, or anything with the two under the names `logits`
    and `value`: a dict, or an object with these attributes.

    **Raises:** `ValueError` for any other output.
    """
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
