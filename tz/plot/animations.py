"""Animates a search: its tree grows from simulation to simulation."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from tz.games.env import Env
from tz.mcts.models import Model
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator, SearchState, search_step, start_search
from tz.mcts.tree import Tree
from tz.plot.canvas import Draw, figure_of, move_names, player_of_frames
from tz.plot.tree_view import ShownNode, read_nodes, show_nodes
from tz.plot.trees import Layout, draw_boards, draw_tree, tree_axes

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation


class _Counts(eqx.Module):
    """The part of a tree that a search changes: its size, and the visits and `q` of its edges.

    A step adds a node and never changes one, so everything else is taken from the last tree: all steps of a search in
    chess would not fit into memory. For the same reason, only the root has all its edges here, and the other nodes have
    those that lead to a node. With chance, the whole arrays are needed, see `read_nodes`.
    """

    size: Array
    root: tuple[Array, Array]
    edges: tuple[Array, Array]

    @staticmethod
    def of(tree: Tree) -> "_Counts":
        edges = (tree.visits, tree.q)
        if tree.chance is None:
            edges = tree.visits[tree.parent, tree.action], tree.q[tree.parent, tree.action]
        return _Counts(tree.size, (tree.visits[0], tree.q[0]), edges)

    def put_into(self, last: SearchState) -> SearchState:
        """Returns the state after a step, made from the last one; all arrays are those of NumPy."""
        tree, columns = last.tree, []
        used = slice(1, int(self.size))
        for row, edges, x in zip(self.root, self.edges, (tree.visits, tree.q), strict=True):
            if tree.chance is None:
                x = np.zeros_like(x)
                x[tree.parent[used], tree.action[used]] = edges[used]
                x[0] = row
            columns.append(x if tree.chance is None else edges)
        return eqx.tree_at(lambda s: (s.tree.size, s.tree.visits, s.tree.q), last, (self.size, *columns))


@eqx.filter_jit
def _record(mcts: MCTS, env: Env | Model, evaluator: Evaluator, state: SearchState, key: PRNGKeyArray):
    """Runs a search with the keys of [`tz.search`][].

    **Returns:** the last state, and the `_Counts` before the first step and after each step, `[steps + 1, ...]`.
    """
    root_key, key = jax.random.split(key)
    state = start_search(mcts, evaluator, state, key=root_key)

    def body(state, key):
        state = search_step(mcts, env, evaluator, state, key=key)
        return state, _Counts.of(state.tree)

    last, rest = jax.lax.scan(body, state, jax.random.split(key, mcts.num_simulations // mcts.num_leaves))
    return last, jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), _Counts.of(state.tree), rest)


def animate_search(
    mcts: MCTS,
    env: Env | Model,
    evaluator: Evaluator,
    state: SearchState,
    *,
    key: PRNGKeyArray,
    labels: Sequence[str] | None = None,
    draw: Draw | None = None,
    max_depth: int | None = 4,
    min_visits: int = 1,
    max_leaves: int | None = None,
    seconds_per_frame: float = 0.5,
) -> "FuncAnimation":
    """Runs a search and animates its tree, with one frame for each step of the search.

    The search is the one that [`tz.search`][] runs with the same arguments. The nodes of the final tree that
    [`tz.plot.plot_tree`][] would draw appear as the search adds them, each in its final place. The nodes that the
    latest step went through have an orange frame. A step is `mcts.num_leaves` simulations, by default one.

    **Arguments:**

    - `mcts`, `env`, `evaluator`, `state`, `key`: as in [`tz.search`][], for one game. The moves have the names that
        `env` gives them; a [`tz.mcts.Model`][] gives none.
    - `labels`, `draw`, `max_depth`, `min_visits`, `max_leaves`: as in [`tz.plot.plot_tree`][].
    - `seconds_per_frame`: the time in seconds for which a frame is shown.

    **Returns:** the animation. A notebook shows it with buttons if it is the value of a cell, and
    `animation.save("search.gif")` writes a file.

    **Raises:** the errors of [`tz.plot.plot_tree`][], and `ValueError` for a state of several games.
    """
    if np.ndim(state.tree.size) > 0:
        raise ValueError(
            f"animate_search: found the states of {len(state.tree.size)} games, expected that of one; take game i by "
            "jax.tree.map(lambda x: x[i], state)."
        )
    last_state, counts = jax.device_get(_record(mcts, env, evaluator, state, key))
    num_frames = len(counts.size)

    @functools.lru_cache(2)  # a frame needs its own step and the one before
    def at(step: int) -> SearchState:
        return jax.tree.map(lambda x: x[step], counts).put_into(last_state)

    max_leaves = (16 if draw is None else 10) if max_leaves is None else max_leaves
    limits = {"max_depth": max_depth, "min_visits": min_visits, "max_leaves": max_leaves}
    names = move_names(last_state, labels, env)
    last = show_nodes(last_state, **limits)
    layout = Layout(last, (0.56, 0.36) if draw is None else (0.86, 1.0))
    boards, ax = draw_boards(draw, last_state, last), tree_axes(layout)
    shown = {node.number for node in last}

    def frame(step: int) -> None:
        """Draws the tree after a step, without the nodes that are not there yet."""
        ax.clear()
        nodes = [node for node in _everything(at(step)) if node.number in shown]
        path = _path(at(step - 1), at(step)) if step else frozenset()
        draw_tree(ax, nodes, layout, names, boards, path)
        done, total = step * mcts.num_leaves, mcts.num_simulations
        ax.set_title(f"after {done} of {total} simulations: {int(counts.size[step])} nodes", fontsize=10)

    return player_of_frames(figure_of(ax), frame, num_frames, seconds_per_frame)


def _everything(state: SearchState) -> list[ShownNode]:
    """Returns all nodes of a tree, without any limit."""
    return show_nodes(state, max_depth=None, min_visits=1, max_leaves=len(state.tree.parent))


def _path(before: SearchState, after: SearchState) -> frozenset[int]:
    """Returns the numbers of the nodes whose visits differ between two states: those that a step went through."""
    visits = {node.number: node.visits for node in read_nodes(before)}
    return frozenset(node.number for node in read_nodes(after) if node.visits != visits.get(node.number))
