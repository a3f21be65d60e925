"""Animates a search: its tree grows from simulation to simulation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from tz.games.env import Env
from tz.mcts.settings import MCTS
from tz.mcts.simulation import Evaluator, SearchState, search_step, start_search
from tz.plot.canvas import Draw, figure_of, move_names, one_of_batch, player_of_frames
from tz.plot.tree_view import ShownNode, read_nodes, show_nodes
from tz.plot.trees import Layout, draw_boards, draw_tree, tree_axes

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation


@eqx.filter_jit
def _record(mcts: MCTS, env: Env, evaluator: Evaluator, state: SearchState, key: PRNGKeyArray):
    """Runs a search with the keys of [`tz.search`][]; returns the state before the first step and after each step."""
    root_key, key = jax.random.split(key)
    state = start_search(mcts, evaluator, state, key=root_key)

    def body(state, key):
        state = search_step(mcts, env, evaluator, state, key=key)
        return state, state

    _, states = jax.lax.scan(body, state, jax.random.split(key, mcts.num_simulations // mcts.num_leaves))
    return state, states


def animate_search(
    mcts: MCTS,
    env: Env,
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
        `env` gives them.
    - `labels`, `draw`, `max_depth`, `min_visits`, `max_leaves`: as in [`tz.plot.plot_tree`][].
    - `seconds_per_frame`: the time in seconds for which a frame is shown.

    **Returns:** the animation. A notebook shows it with buttons if it is the value of a cell, and
    `animation.save("search.gif")` writes a file.

    **Raises:** the errors of [`tz.plot.plot_tree`][].
    """
    state = one_of_batch(state, None, np.shape(state.tree.size))
    first, rest = jax.device_get(_record(mcts, env, evaluator, state, key))
    states = [first, *(jax.tree.map(lambda x, i=i: x[i], rest) for i in range(len(rest.tree.size)))]
    max_leaves = (16 if draw is None else 10) if max_leaves is None else max_leaves
    limits = {"max_depth": max_depth, "min_visits": min_visits, "max_leaves": max_leaves}
    names = move_names(states[-1], labels, env)
    last = show_nodes(states[-1], **limits)
    layout = Layout(last, (0.56, 0.36) if draw is None else (0.86, 1.0))
    boards, ax = draw_boards(draw, states[-1], last), tree_axes(layout)
    shown = {node.number for node in last}

    def frame(step: int) -> None:
        """Draws the tree after a step, without the nodes that are not there yet."""
        ax.clear()
        nodes = [node for node in _everything(states[step]) if node.number in shown]
        path = _path(states[step - 1], states[step]) if step else frozenset()
        draw_tree(ax, nodes, layout, names, boards, path)
        done, total = step * mcts.num_leaves, mcts.num_simulations
        ax.set_title(f"after {done} of {total} simulations: {int(states[step].tree.size)} nodes", fontsize=10)

    return player_of_frames(figure_of(ax), frame, len(states), seconds_per_frame)


def _everything(state: SearchState) -> list[ShownNode]:
    """Returns all nodes of a tree, without any limit."""
    return show_nodes(state, max_depth=None, min_visits=1, max_leaves=len(state.tree.parent))


def _path(before: SearchState, after: SearchState) -> frozenset[int]:
    """Returns the numbers of the nodes whose visits differ between two states: those that a step went through."""
    visits = {node.number: node.visits for node in read_nodes(before)}
    return frozenset(node.number for node in read_nodes(after) if node.visits != visits.get(node.number))
