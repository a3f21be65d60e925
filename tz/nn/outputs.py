"""What a network returns: logits and a value first, and whatever else its loss asks for."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, Float


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
