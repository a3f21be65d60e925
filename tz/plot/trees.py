"""Draws search trees."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from tz.games.env import Env
from tz.mcts.simulation import SearchState
from tz.plot.canvas import (
    GREY,
    ORANGE,
    Draw,
    MoveName,
    figure_of,
    move_names,
    new_axes,
    one_of_batch,
    picture,
    signed,
    value_limits,
)
from tz.plot.tree_view import ShownNode, show_nodes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 0.5  # inches between two levels, with room for the labels of edges


class Layout:
    """Places the nodes of a tree, in inches: a column for each leaf, and the most visited children on the left.

    **Fields:**

    - `place`: for each node's number, the middle of its box.
    - `box`: the width and height of a box.
    - `size`: the width and height of the whole tree.
    """

    def __init__(self, nodes: Sequence[ShownNode], box: tuple[float, float]):
        self.box, self.place, column = box, {}, 0
        for node in _depth_first(nodes[0]):
            if not node.children:
                self.place[node.number] = (column + 0.5) * (box[0] + 0.08), 0.0
                column += 1
        for node in reversed(nodes):  # children come after their parents, so they have their places by now
            if node.children:
                ends = self.place[node.children[0].number][0], self.place[node.children[-1].number][0]
                self.place[node.number] = sum(ends) / 2, 0.0
        for node in nodes:
            self.place[node.number] = self.place[node.number][0], -node.depth * (box[1] + _GAP)
        self.size = column * (box[0] + 0.08), max(node.depth for node in nodes) * (box[1] + _GAP) + box[1]


def _depth_first(node: ShownNode):
    """Yields a node and all nodes below it, from left to right."""
    yield node
    for child in node.children:
        yield from _depth_first(child)


def plot_tree(
    state: SearchState,
    *,
    labels: Sequence[str] | None = None,
    draw: Draw | None = None,
    max_depth: int | None = 4,
    min_visits: int = 1,
    max_leaves: int | None = None,
    outcomes: Sequence[str] | None = None,
    env: Env | None = None,
    index: int | None = None,
    ax: "Axes | None" = None,
) -> "Figure":
    """Draws the most visited nodes of a search tree, as many as are readable.

    A node shows its visits, its value (also by its colour) and how many nodes below it are left out. Values are from
    the perspective of the player to move *at the root*. An edge shows the action and its prior, and its width grows
    with the fraction of the visits. The principal variation, which follows the most visited edges, is black and runs
    down the left. A node with a double frame ends the game. At a round node nature is to move: its edges show outcomes
    and their probabilities. The values below them are values of the positions, without the rewards on the way, or
    the reward if the game is over.

    **Arguments:**

    - `state`: the state that [`tz.search`][] returned.
    - `env`: the game that was searched, which names the moves.
    - `labels`: other names for all `A` actions.
    - `draw`: `state -> SVG text or image [H, W, 3]`, to draw the positions, such as `env.draw` of a game of pgx.
    - `max_depth`: the largest depth below the root; None for any depth.
    - `min_visits`: the smallest number of visits of a node.
    - `max_leaves`: the largest number of columns, by default 16, or 10 with `draw`.
    - `outcomes`: the names of all `C` outcomes of nature.
    - `index`: the number of the game in a state of several games.
    - `ax`: the axes to draw in, by default in a new figure.

    **Returns:** the figure.

    **Raises:** `ValueError` if a limit is below 1, the number of labels is wrong, or the index does not fit the batch.
    `ImportError` for a position drawn from SVG if the extra `pictures` is not installed.
    """
    state = one_of_batch(state, index, np.shape(state.tree.size))
    names = move_names(state, labels, env)
    max_leaves = (16 if draw is None else 10) if max_leaves is None else max_leaves
    nodes = show_nodes(state, max_depth=max_depth, min_visits=min_visits, max_leaves=max_leaves)
    boards = draw_boards(draw, state, nodes)
    layout = Layout(nodes, (0.56, 0.36) if draw is None else (0.86, 1.0))
    if ax is None:
        ax = tree_axes(layout)
    draw_tree(ax, nodes, layout, names, boards, outcomes=outcomes)
    num_shown = sum(not node.is_nature for node in nodes)
    ax.set_title(f"{nodes[0].visits} visits, {int(state.tree.size)} nodes, {num_shown} of them shown", fontsize=10)
    return figure_of(ax)


def draw_boards(draw: Draw | None, state: SearchState, nodes: Sequence[ShownNode]) -> dict[int, np.ndarray]:
    """Returns an image of each node's position, by node number, except for nature's nodes; empty without `draw`."""
    if draw is None:
        return {}
    positions = jax.device_get(state.tree.state)
    numbers = [node.number for node in nodes if not node.is_nature]
    return {n: picture(draw, jax.tree.map(lambda x, n=n: x[n], positions), 160) for n in numbers}


def tree_axes(layout: Layout) -> "Axes":
    """Makes axes in a figure of the size of the tree, with room for a title and the scale of the colours."""
    (ax,) = new_axes(1, (max(layout.size[0], 6) + 0.3, layout.size[1] + 1.1))
    return ax


def draw_tree(
    ax: "Axes",
    nodes: Sequence[ShownNode],
    layout: Layout,
    names: MoveName,
    boards: dict[int, np.ndarray],
    path: frozenset[int] = frozenset(),
    outcomes: Sequence[str] | None = None,
) -> None:
    """Draws the nodes in the places of the layout; the nodes of `path` get an orange frame."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    limits = value_limits(node.value for node in nodes)
    colors = ScalarMappable(Normalize(*limits), "cividis")  # lighter for higher values, so it can be read in grey too
    most = max(nodes[0].visits, 1)
    for node in nodes:
        if node.parent >= 0:
            _draw_edge(ax, node, layout, node.edge_name(names, outcomes), node.visits / most)
    for node in nodes:
        _draw_node(
            ax,
            node,
            layout,
            tuple(colors.to_rgba(np.asarray(node.value))),
            boards.get(node.number),
            node.number in path,
        )
    width, height = layout.size
    spare = max(6 - width, 0) / 2  # `tree_axes` makes no figure narrower than 6 inches
    ax.set(xlim=(-spare, width + spare), ylim=(-height + layout.box[1] / 2 - 0.65, layout.box[1] / 2 + 0.05))
    ax.set_aspect("equal")
    ax.set_axis_off()
    scale = ax.inset_axes((width / 2 - 1.5, -height + layout.box[1] / 2 - 0.3, 3, 0.1), transform=ax.transData)
    bar = ax.figure.colorbar(colors, cax=scale, orientation="horizontal")
    bar.set_label("value for the player to move at the root", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _draw_edge(ax: "Axes", node: ShownNode, layout: Layout, name: str, fraction: float) -> None:
    """Draws the edge that leads to a node, with its name; `fraction` is the node's part of all visits."""
    (x0, y0), (x1, y1), height = layout.place[node.parent], layout.place[node.number], layout.box[1]
    top = y1 + height / 2
    color, width = ("black", 0.8 + 5 * fraction**0.5) if node.principal else (GREY, 0.4 + 5 * fraction**0.5)
    ax.plot([x0, x1, x1], [y0 - height / 2, top + 0.16, top + 0.12], color=color, linewidth=width, zorder=1)
    ax.text(
        *(x1, top + 0.04),
        name,
        ha="center",
        va="bottom",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        zorder=2,
    )


def _draw_node(ax: "Axes", node: ShownNode, layout: Layout, color, board: np.ndarray | None, pointed: bool) -> None:
    """Draws the box of a node, with its position if there is a `board`; `pointed` makes the frame orange."""
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = layout.place[node.number], layout.box
    height = min(height, 0.36) if node.is_nature else height
    edge, line = (ORANGE, 3.0) if pointed else ("black", 2.2 if node.principal else 0.7)

    def frame(inset: float, **style) -> None:
        corner, size = (x - width / 2 + inset, y - height / 2 + inset), (width - 2 * inset, height - 2 * inset)
        rounding = height / 2 if node.is_nature else 0.05
        ax.add_patch(FancyBboxPatch(corner, *size, boxstyle=f"round,pad=0,rounding_size={rounding}", **style))

    frame(0.0, facecolor=color, edgecolor=edge, linewidth=line, zorder=3)
    if node.terminated:
        frame(0.035, facecolor="none", edgecolor="white", linewidth=0.9, zorder=4)
    if board is not None:
        side = width - 0.12
        tall = min(side * board.shape[0] / board.shape[1], height - 0.3)
        wide = tall * board.shape[1] / board.shape[0]
        top = y + height / 2 - 0.06
        ax.imshow(board, extent=(x - wide / 2, x + wide / 2, top - tall, top), zorder=5, interpolation="antialiased")
    light = float(np.dot(color[:3], (0.299, 0.587, 0.114))) > 0.5  # the luma of ITU-R BT.601
    ink = "black" if light else "white"
    text = f"{node.visits}\n{signed(node.value)}" if board is None else f"{node.visits}  {signed(node.value)}"
    ax.text(
        *(x, y if board is None else y - height / 2 + 0.04),
        text,
        ha="center",
        va="center" if board is None else "bottom",
        fontsize=7.5,
        linespacing=1.1,
        color=ink,
        zorder=6,
    )
    if node.num_hidden:
        ax.text(
            *(x + width / 2 - 0.02, y - height / 2 - 0.03),
            f"+{node.num_hidden}",
            ha="right",
            va="top",
            fontsize=6.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            zorder=2,
        )
