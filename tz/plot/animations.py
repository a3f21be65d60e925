"""A search in motion."""

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
    """The state before each simulation and after the last, with the keys of [`tz.search`][]."""
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
    """Runs the search that [`tz.search`][] would run, and shows its tree growing, a simulation a frame.

    The moves have the names that the game gives them. What is shown of the tree, and where, is as
    [`tz.plot.plot_tree`][] would draw it in the end. The nodes that the simulation went through have an orange frame.

    **Arguments:** those of [`tz.search`][], one game; those of [`tz.plot.plot_tree`][]; `seconds_per_frame`.

    **Returns:** the animation. As the value of a notebook's cell it is a player that needs nothing else, and
    `animation.save("search.gif")` writes a file.

    **Raises:** as [`tz.plot.plot_tree`][].
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
        ax.clear()
        nodes = [node for node in _everything(states[step]) if node.number in shown]
        path = _path(states[step - 1], states[step]) if step else frozenset()
        draw_tree(ax, nodes, layout, names, boards, path)
        done, total = step * mcts.num_leaves, mcts.num_simulations
        ax.set_title(f"after {done} of {total} simulations: {int(states[step].tree.size)} nodes", fontsize=10)

    return player_of_frames(figure_of(ax), frame, len(states), seconds_per_frame)


def _everything(state: SearchState) -> list[ShownNode]:
    return show_nodes(state, max_depth=None, min_visits=1, max_leaves=len(state.tree.parent))


def _path(before: SearchState, after: SearchState) -> frozenset[int]:
    """The nodes that the simulation between two states went through."""
    visits = {node.number: node.visits for node in read_nodes(before)}
    return frozenset(node.number for node in read_nodes(after) if node.visits != visits.get(node.number))
