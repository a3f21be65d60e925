"""Checks what the parts of a search return: root policies, selectors, backups, final moves and evaluators.

A result of another shape could run without an error and be wrong. All checks run while the search is traced.
"""

from typing import Any

import jax.numpy as jnp

from tz._arguments import shown
from tz.mcts.root_policies import RootResult


def check_action(where: str, found: Any) -> Any:
    """Returns the action that a selector or a root policy chose.

    **Raises:** `ValueError` unless it is a single whole number.
    """
    if not _is_number(found) or not jnp.issubdtype(jnp.result_type(found), jnp.integer):
        raise ValueError(
            f"{where}: found {_described(found)}, expected a single action, an int32 scalar; return the index of one "
            "action, for example jnp.argmax(scores)."
        )
    return found


def check_returns(where: str, found: Any, names: tuple[str, str]) -> tuple[Any, Any]:
    """Returns the two results of a function.

    **Raises:** `ValueError` unless there are two.
    """
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ValueError(
            f"{where}: found {_described(found)}, expected a pair, ({names[0]}, {names[1]}); return both of them."
        )
    return found[0], found[1]


def check_backup(where: str, found: Any) -> tuple[Any, Any]:
    """Returns the new `q` and the value that a backup made.

    **Raises:** `ValueError` unless they are two scalars.
    """
    pair = check_returns(where, found, ("new q", "value"))
    if not all(map(_is_number, pair)):
        raise ValueError(
            f"{where}: found {_described(pair[0])} and {_described(pair[1])}, expected two scalars, the new q of the "
            "edge `action` and the value of the node; index the arrays of the node by `action`."
        )
    return pair


def check_row(where: str, found: Any, num_actions: int) -> Any:
    """Returns an array over the actions of a node.

    **Raises:** `ValueError` if it has another shape.
    """
    if not hasattr(found, "shape") or found.shape != (num_actions,):
        raise ValueError(
            f"{where}: found {_described(found)}, expected an array of shape ({num_actions},), a number for each "
            "action that the root keeps; keep the shape of the arrays of the node."
        )
    return found


def check_result(where: str, found: Any, num_actions: int) -> RootResult:
    """Returns what a root policy read from the root.

    **Raises:** `ValueError` unless it is a `RootResult` of arrays of the right shapes.
    """
    if not isinstance(found, RootResult):
        raise ValueError(
            f"{where}: found {_described(found)}, expected a tz.mcts.RootResult; return RootResult(policy, value, "
            "log_weights)."
        )
    check_row(f"{where}, policy", found.policy, num_actions)
    check_row(f"{where}, log_weights", found.log_weights, num_actions)
    if not _is_number(found.value):
        raise ValueError(f"{where}, value: found {_described(found.value)}, expected a scalar; sum over the actions.")
    return found


def _is_number(x: Any) -> bool:
    return not isinstance(x, bool) and (isinstance(x, int | float) or hasattr(x, "dtype")) and jnp.ndim(x) == 0


def _described(x: Any) -> str:
    is_array = hasattr(x, "dtype") and hasattr(x, "shape")
    return f"an array of {x.dtype} of shape {tuple(x.shape)}" if is_array else shown(x)


def name_of(part: Any) -> str:
    """Returns the name of a part of a search, for a message."""
    return getattr(part, "__name__", None) or type(part).__name__
