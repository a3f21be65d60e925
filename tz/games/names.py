"""Functions that name moves as people know them, find moves by name, and show positions as text."""

import difflib
import re
from typing import Any, SupportsInt

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PyTree

from tz._arguments import shown
from tz._arrays import data_of
from tz.games.env import Env

_FEW = 8  # the most moves that a message lists


def move_label(env: Env, state: PyTree, action: SupportsInt) -> str:
    """Returns the name of a move as people know it, such as `"d3"`, `"pass"` or `"e7e8q"`.

    **Arguments:**

    - `env`: the game.
    - `state`: the state of one game before the move.
    - `action`: the move, legal or not.

    **Returns:** the name that `env.label` gives the move, or the number of the action if the game does not name moves.

    **Raises:** `ValueError` if the game has no such action, or if `env.label` returns anything but a text.
    """
    number, num_actions = int(action), env.num_actions
    if not 0 <= number < num_actions:
        raise ValueError(
            f"move_label: found action {number}, expected one from 0 to {num_actions - 1}; choose an action of "
            f"{env.name}."
        )
    return label_of(env, state, number)


def label_of(env: Env, state: PyTree, action: int) -> str:
    """Returns the name of an action, which must be one of the game."""
    if env.label is None:
        return str(action)
    name = env.label(state, action)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"label of {env.name}: found {shown(name)} for action {action}, expected a text that is not empty; return "
            "the name of the move."
        )
    return name


def find_move(env: Env, state: PyTree, action_mask: ArrayLike, text: str) -> int:
    """Finds the legal move that has the name that a user typed.

    Spaces are ignored, and so is case, unless two names differ only by case. If no action has this name, legal or not,
    the text may also be the number of a legal action. So `"3"` is never column 4 of Connect Four, whose number is 3.

    **Arguments:**

    - `env`: the game.
    - `state`: the state of one game.
    - `action_mask`: `[A]`, True for the actions that are legal in that state.
    - `text`: the name of the move, or its number.

    **Returns:** the action.

    **Raises:** `ValueError` if `text` is not a str, or if no legal move has this name. The message lists the closest
    legal moves.
    """
    if not isinstance(text, str):
        raise ValueError(f"find_move: found {shown(text)}, expected the name of a move; write it as a str.")
    legal = [int(action) for action in np.flatnonzero(np.asarray(action_mask))]
    names = {action: label_of(env, state, action) for action in legal}
    wanted = without_spaces(text[:200])
    for same in (
        lambda name: without_spaces(name) == wanted,
        lambda name: without_spaces(name).lower() == wanted.lower(),
    ):
        found = [action for action, name in names.items() if same(name)]
        if len(found) == 1:
            return found[0]
    if len(found) > 1:  # these names differ only by case, and the text matches none of them exactly
        choice = ", ".join(names[action] for action in found)
        raise ValueError(f"find_move: found {_short(text)!r}, expected one of {choice}; mind the case.")
    if re.fullmatch(r"0|[1-9][0-9]{0,8}", wanted) and int(wanted) in names and not _is_name(env, state, wanted):
        return int(wanted)
    raise ValueError(_no_such_move(env, state, names, text))


def legal_names(where: str, env: Env, state: PyTree, action_mask: ArrayLike) -> dict[str, int]:
    """Returns the actions of the legal moves by their names. Raises `ValueError` if two moves have one name."""
    names: dict[str, int] = {}
    seen: dict[str, int] = {}
    for action in map(int, np.flatnonzero(np.asarray(action_mask))):
        name = label_of(env, state, action)
        if (other := seen.setdefault(without_spaces(name), action)) != action:
            raise ValueError(
                f"{where}: found the name {name!r} for the legal actions {other} and {action} in one position, "
                "expected a name for each; let `label` return different names, since people and programs choose "
                "moves by name."
            )
        names[name] = action
    return names


def without_spaces(name: str) -> str:
    """Returns a name as two names are compared."""
    return "".join(name.split())


def _is_name(env: Env, state: PyTree, wanted: str) -> bool:
    """Returns True if an action of the game, legal or not, has this name, which has no spaces."""
    names = (label_of(env, state, action) for action in range(env.num_actions))
    return any(without_spaces(name).lower() == wanted.lower() for name in names)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _no_such_move(env: Env, state: PyTree, names: dict[int, str], text: str) -> str:
    if not names:
        return (
            f"find_move: found {_short(text)!r} in a position without legal moves, expected one in which {env.name} is "
            "not over; look at `terminated` first."
        )
    wanted = without_spaces(text[:200]).lower()
    problem = "which is not legal here" if _is_name(env, state, wanted) else "which names no move"
    close = difflib.get_close_matches(wanted, [name.lower() for name in names.values()], n=3, cutoff=0.5)
    near = [name for name in names.values() if name.lower() in close]
    listed = [*near, *(name for name in names.values() if name not in near)][:_FEW]
    more = f" and {len(names) - len(listed)} more" if len(names) > len(listed) else ""
    return (
        f"find_move: found {_short(text)!r}, {problem}, expected a legal move of {env.name}; "
        f"choose one of: {', '.join(listed)}{more}."
    )


def text_board(env: Env, state: PyTree) -> str:
    """Shows a position as text.

    **Arguments:**

    - `env`: the game.
    - `state`: the state of one game.

    **Returns:** the text of `env.text`, which has coordinates in the games of pgx. For a game without `text`, the
    arrays of the state with their names.

    **Raises:** `ValueError` if `env.text` returns anything but a text.
    """
    if env.text is not None:
        text = env.text(state)
        if not isinstance(text, str):
            raise ValueError(f"text of {env.name}: found {shown(text)}, expected a text; return a str.")
        return text
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(state)):
        name = jax.tree_util.keystr(path).lstrip(".") or "state"
        lines.append(_array_text(name, leaf))
    return "\n".join(lines) or "a state without arrays"


def _array_text(name: str, leaf: Any) -> str:
    leaf = np.asarray(data_of(leaf))
    values = np.array2string(leaf, threshold=200, edgeitems=4, max_line_width=100)
    return f"{name}:\n{values}" if "\n" in values else f"{name}: {values}"
