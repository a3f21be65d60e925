"""What a search thinks of its root."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from tz.mcts.selectors import CompletedQ
from tz.mcts.simulation import SearchState
from tz.plot.canvas import BLUE, ORANGE, check_names, figure_of, new_axes, one_of_batch, signed, value_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_root(
    state: SearchState,
    *,
    labels: Sequence[str] | None = None,
    board: tuple[int, int] | None = None,
    max_actions: int = 12,
    completed_q: CompletedQ | None = None,
    index: int | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draws what a search thinks of its root: prior, visits, value and improved policy of the legal actions.

    The value is `q`, for the player to move; the improved policy is the softmax of log prior and completed `q`, as
    Gumbel AlphaZero has it.

    **Arguments:** `state`, after [`tz.search`][]; `labels`, the names of all `A` actions; `board`, rows and columns,
    for four heat maps of a game whose first actions are its cells row by row, in place of bars; `max_actions`, how many
    bars, those of the most visited; `completed_q`, of the improved policy, a [`tz.mcts.CompletedQ`][]; `index`, of the
    game, for a state of several; `ax`, to draw the bars there.

    **Returns:** the figure.

    **Raises:** `ValueError` for labels of another number than there are actions, a board that does not fit them, `ax`
    together with `board`, or an index that does not fit the batch.
    """
    root = one_of_batch(state, index, np.shape(state.tree.size)).root
    names = check_names(labels, len(root.logits))
    completed_q = CompletedQ() if completed_q is None else completed_q
    improved = np.asarray(jax.nn.softmax(root.logits + completed_q(root)))
    root = jax.device_get(root)
    columns = {
        "prior": np.exp(root.logits),
        "visits": root.visits / max(root.visits.sum(), 1),
        "improved policy": improved,
    }
    if board is None:
        return _bars(root, columns, names, max_actions, ax)
    if ax is not None or board[0] * board[1] > len(root.logits):
        raise ValueError(
            f"A board of {board[0]} x {board[1]} needs as many actions, and four axes of its own; found "
            f"{len(root.logits)} actions{'' if ax is None else ' and one `ax`'}."
        )
    return _maps(root, columns, board)


def _bars(root, columns, names, max_actions, ax) -> "Figure":
    order = [int(a) for a in np.lexsort((-columns["prior"], -root.visits)) if columns["prior"][a] > 0][:max_actions]
    place = np.arange(len(order))
    (ax,) = new_axes(1, (9.0, 3.2)) if ax is None else (ax,)
    looks = {"prior": ("white", None), "visits": (BLUE, None), "improved policy": (ORANGE, "///")}
    for shift, (name, fraction) in zip((-0.27, 0, 0.27), columns.items(), strict=True):
        color, hatch = looks[name]
        label = "improved policy" if name == "policy" else name
        ax.bar(
            place + shift,
            fraction[order],
            0.27,
            color=color,
            hatch=hatch,
            edgecolor="black",
            linewidth=0.6,
            label=label,
        )
    for x, action in enumerate(order):
        text, height = (
            signed(root.q[action]) if root.visits[action] else "-",
            max(c[action] for c in columns.values()),
        )
        ax.text(x, height + 0.01, text, ha="center", va="bottom", fontsize=9)
    ax.set_xticks(place, [names[action] for action in order])
    title = f"{root.visits.sum()} visits; above the bars: value (q) for the player to move"
    ax.set(xlabel="action", ylabel="fraction", title=title)
    ax.margins(y=0.15)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure_of(ax)


def _maps(root, columns, board) -> "Figure":
    rows, width = board
    legal = columns["prior"][: rows * width] > 0
    maps = {
        "prior": columns["prior"],
        f"{root.visits.sum()} visits": columns["visits"],
        "value for the player to move": np.where(root.visits > 0, root.q, np.nan),
        "improved policy": columns["improved policy"],
    }
    axes = new_axes(4, (12.0, 0.6 + 2.9 * rows / width + 0.4))
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        cells = np.where(legal, values[: rows * width], np.nan).reshape(board)
        is_value = name.startswith("value")
        low, high = value_limits(cells.flat) if is_value else (0, max(np.nanmax(cells, initial=0), 1e-9))
        ax.imshow(cells, cmap="cividis", vmin=low, vmax=high)
        for row, column in np.argwhere(~np.isnan(cells)):
            fraction = cells[row, column]
            text = f"{100 * fraction:.0f}"
            if is_value:
                text = f"{fraction:+.1f}" if high == 1 else signed(float(fraction))
            ink = "black" if (fraction - low) / (high - low) > 0.5 else "white"
            ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=min(9, 60 / width))
        ax.set_xticks(range(width), [chr(ord("a") + c) for c in range(width)])
        ax.set_yticks(range(rows), [str(r + 1) for r in range(rows)])
        ax.set_title(name if is_value else f"{name}, %", fontsize=10)
    return figure_of(axes[0])
