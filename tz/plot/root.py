"""Draws the root of a search: prior, visits and values of its moves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from tz.games.boards import Note, annotated, draw_board
from tz.games.env import Env
from tz.games.names import label_of
from tz.mcts._solver import solved_result
from tz.mcts.gumbel_root import Gumbel
from tz.mcts.root_policies import RootResult
from tz.mcts.settings import MCTS
from tz.mcts.simulation import SearchState
from tz.mcts.tree import Node
from tz.plot.canvas import (
    BLUE,
    ORANGE,
    check_limits,
    check_states_of,
    figure_of,
    move_names,
    new_axes,
    one_of_batch,
    picture,
    signed,
    value_limits,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VALUE = "value for the player to move"


def plot_root(
    state: SearchState,
    *,
    env: Env | None = None,
    labels: Sequence[str] | None = None,
    board: tuple[int, int] | bool | None = None,
    max_actions: int = 12,
    mcts: MCTS | None = None,
    index: int | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draws the result of a search at its root: the prior, the visits and the values of the legal actions.

    Values are `q`, from the perspective of the player to move. If the root policy of `mcts` is [`tz.Gumbel`][], the
    improved policy, which self-play records, is drawn too.

    **Arguments:**

    - `state`: the state that [`tz.search`][] returned.
    - `env`: the game, which names the moves and draws the position.
    - `labels`: other names for all `A` actions.
    - `board`: True to write the numbers on the position itself instead of drawing bars; this needs an `env` with a
        `board`. With such an `env`, a pair (the numbers of rows and columns) has the same effect. Without one, it draws
        heat maps, for a game whose first actions are the cells of a board, row by row.
    - `max_actions`: the largest number of bars; the most visited actions are shown.
    - `mcts`: the settings of the search, for the improved policy, which depends on them.
    - `index`: the number of the game in a state of several games.
    - `ax`: the axes in which the bars are drawn, by default in a new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if `max_actions` is below 1, the number of labels or cells does not fit the actions, `ax`
    and `board` are given together, `board=True` has no `env` that draws it, the searched states are not those of `env`,
    or the index does not fit the batch. `ImportError` for a position drawn from SVG if the extra `pictures` is not
    installed.
    """
    check_limits("plot_root", max_actions=max_actions)
    state = one_of_batch(state, index, np.shape(state.tree.size))
    root, names = state.root, move_names(state, labels, env)
    columns = {}
    if mcts is not None and isinstance(mcts.root, Gumbel):
        columns["improved policy"] = _improved_policy(mcts, mcts.root, state)
    root = jax.device_get(root)
    columns = {"prior": np.exp(root.logits), "visits": root.visits / max(root.visits.sum(), 1), **columns}
    if board is None or board is False:
        return _bars(root, columns, lambda action: names(0, action), max_actions, ax)
    if ax is not None:
        raise ValueError(
            "plot_root: found `board` and `ax`, expected one of them, as boards need several axes; leave one out."
        )
    if env is not None and env.board is not None:
        check_states_of(env, state)
        return _on_position(env, state, root, columns)
    if board is True:
        raise ValueError(
            "plot_root: found board=True, expected env= with a `board` to draw; give it, or rows and columns."
        )
    if board[0] * board[1] > len(root.logits):
        raise ValueError(
            f"plot_root: found a board of {board[0]} x {board[1]} and {len(root.logits)} actions, expected an action "
            "for each cell; where moves are not cells, as in Connect Four, give env= to draw on the position itself."
        )
    return _maps(root, columns, board)


def _improved_policy(mcts: MCTS, gumbel: Gumbel, state: SearchState) -> np.ndarray:
    """Returns the improved policy over all actions, `[A]`, which does not depend on the noise of the search."""

    def read(node: Node) -> RootResult:
        policy = gumbel.policy(node)
        return RootResult(policy, node.value, node.logits)

    node = state.tree.node(jnp.int32(0))
    policy = (solved_result(node, read) if mcts.solve else read(node)).policy
    return np.asarray(state.spread(policy, 0.0))


def _titled_values(root: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the numbers that are drawn on boards, `[A]` each, by their titles."""
    maps = {
        "prior": columns["prior"],
        f"{root.visits.sum()} visits": columns["visits"],
        _VALUE: np.where(root.visits > 0, root.q, np.nan),
    }
    return maps | {name: column for name, column in columns.items() if name == "improved policy"}


def _on_position(env: Env, state: SearchState, root: Any, columns: dict[str, np.ndarray]) -> "Figure":
    """Draws the position once for each kind of number, with the numbers on the squares of their moves.

    Larger numbers have stronger colours. The values are coloured by the visits of their moves instead.
    """
    position = jax.device_get(jax.tree.map(lambda x: x[0], state.tree.state))
    board, maps = draw_board(env, position), _titled_values(root, columns)
    axes = new_axes(len(maps), (3.2 * len(maps), 3.2 * board.height / board.width + 0.75))
    legal = np.flatnonzero(root.logits > -np.inf)  # the prior of a legal move may be 0
    squares = {int(action): board.squares_of(label_of(env, position, int(action))) for action in legal}
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        notes, best = [], max((v for v in values[legal] if np.isfinite(v)), default=0.0)
        for action, places in squares.items():
            if np.isnan(values[action]):
                continue
            text = signed(float(values[action])) if name == _VALUE else _percent(float(values[action]))
            strength = float(columns["visits"][action] if name == _VALUE else values[action])
            is_best = values[action] == best and (name == _VALUE or best > 0)
            notes.append(Note(places, (text,), strength, bool(is_best)))
        ax.imshow(picture(lambda _, notes=notes: annotated(board, (), notes), position, 480))
        ax.set_axis_off()
        ax.set_title(name if name == _VALUE else f"{name}, %", fontsize=10)
    if board.sides:
        figure_of(axes[0]).supxlabel(f"{board.sides[board.to_move]} to move", fontsize=10)
    return figure_of(axes[0])


def _percent(fraction: float) -> str:
    """Formats a fraction as a number of percent; a small fraction is "<1", as only 0 is "0"."""
    return "<1" if 0 < fraction < 0.005 else f"{100 * fraction:.0f}"


def _bars(root, columns, names, max_actions, ax) -> "Figure":
    """Draws a group of bars for each of the most visited actions, with its value above."""
    order = [int(a) for a in np.lexsort((-root.logits, -root.visits)) if root.logits[a] > -np.inf][:max_actions]
    place = np.arange(len(order))
    (ax,) = new_axes(1, (9.0, 3.2)) if ax is None else (ax,)
    looks = {"prior": ("white", None), "visits": (BLUE, None), "improved policy": (ORANGE, "///")}
    for number, (name, fraction) in enumerate(columns.items()):
        shift = 0.27 * (number - (len(columns) - 1) / 2)
        color, hatch = looks[name]
        ax.bar(
            place + shift,
            fraction[order],
            0.27,
            color=color,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.6,
            label=name,
        )
    for x, action in enumerate(order):
        text, height = (
            signed(root.q[action]) if root.visits[action] else "-",
            max(c[action] for c in columns.values()),
        )
        ax.text(x, height + 0.01, text, ha="center", va="bottom", fontsize=9)
    ax.set_xticks(place, [names(action) for action in order])
    title = f"{root.visits.sum()} visits; above the bars: value (q) for the player to move"
    ax.set(xlabel="action", ylabel="fraction", title=title)
    ax.margins(y=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure_of(ax)


def _maps(root, columns, board) -> "Figure":
    """Draws a heat map of the board for each kind of number; cells of illegal moves stay empty."""
    rows, width = board
    legal = root.logits[: rows * width] > -np.inf
    maps = _titled_values(root, columns)
    axes = new_axes(len(maps), (3.0 * len(maps), 0.6 + 2.9 * rows / width + 0.4))
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        cells = np.where(legal, values[: rows * width], np.nan).reshape(board)
        is_value = name == _VALUE
        low, high = value_limits(cells.flat) if is_value else (0, max(np.nanmax(cells, initial=0), 1e-9))
        ax.imshow(cells, cmap="cividis", vmin=low, vmax=high)
        for row, column in np.argwhere(~np.isnan(cells)):
            fraction = cells[row, column]
            text = f"{100 * fraction:.0f}"
            if is_value:
                text = signed(float(fraction))
            size = min(9, (48 if is_value else 60) / width)
            ink = "black" if (fraction - low) / (high - low) > 0.5 else "white"
            ax.text(
                column,
                row,
                text,
                ha="center",
                va="center",
                color=ink,
                fontsize=size,
            )
        ax.set_xticks(range(width), [chr(ord("a") + c) for c in range(width)])
        ax.set_yticks(range(rows), [str(r + 1) for r in range(rows)])
        ax.set_title(name if is_value else f"{name}, %", fontsize=10)
    return figure_of(axes[0])
