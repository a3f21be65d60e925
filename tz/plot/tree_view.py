"""Which part of a search tree is shown, and what is said of its nodes; as text for Graphviz too."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from tz.mcts.simulation import SearchState
from tz.plot.canvas import check_names, one_of_batch, signed


@dataclasses.dataclass
class ShownNode:
    """A node that is drawn.

    **Fields:** `number` in the tree; `parent`, its number, -1 for the root; `depth`; `action` that leads
    here; `prior` of that action; `visits`; `value`, the expected return for the player to move *at the root*;
    `terminated`; `principal`, whether it is on the principal variation; `num_hidden`, the nodes below that are not
    drawn; `children` that are.
    """

    number: int
    parent: int
    depth: int
    action: int
    prior: float
    visits: int
    value: float
    terminated: bool
    principal: bool = False
    num_hidden: int = 0
    children: "list[ShownNode]" = dataclasses.field(default_factory=list)


def read_nodes(state: SearchState) -> list[ShownNode]:
    """All nodes of the tree of one game, parents before children."""
    tree, nodes = jax.device_get(state.tree), []
    num_visits = int(tree.visits[0].sum())
    value = float(tree.raw_value[0] + np.sum(tree.visits[0] * tree.q[0])) / (1 + num_visits)
    nodes.append(ShownNode(0, -1, 0, -1, 1.0, num_visits, value, bool(tree.terminated[0])))
    for number in range(1, int(tree.size)):
        parent, place = int(tree.parent[number]), (int(tree.parent[number]), int(tree.action[number]))
        sign = 1 if tree.player[parent] == tree.player[0] else -1
        action = place[1] if tree.actions is None else int(tree.actions[place])
        prior, visits, value = float(np.exp(tree.logits[place])), int(tree.visits[place]), float(sign * tree.q[place])
        ended = bool(tree.terminated[number])
        nodes.append(ShownNode(number, parent, nodes[parent].depth + 1, action, prior, visits, value, ended))
    return nodes


def show_nodes(state: SearchState, *, max_depth: int | None, min_visits: int, max_leaves: int) -> list[ShownNode]:
    """The most visited nodes of one game's tree, as many as there is room for; parents before children.

    **Raises:** `ValueError` for limits below 1.
    """
    for name, limit in (("max_depth", max_depth), ("min_visits", min_visits), ("max_leaves", max_leaves)):
        if limit is not None and limit < 1:
            raise ValueError(f"`{name}` must be at least 1, found {limit}.")
    nodes = read_nodes(state)
    shown, num_leaves = {0}, 1
    for node in sorted(nodes[1:], key=lambda node: (-node.visits, node.number)):
        if node.parent not in shown or node.visits < min_visits or node.depth > (max_depth or node.depth):
            continue
        new_leaf = bool(nodes[node.parent].children)
        if num_leaves + new_leaf <= max_leaves:
            num_leaves += new_leaf
            shown.add(node.number)
            nodes[node.parent].children.append(node)
    for node in nodes:
        if node.number not in shown:
            above = node.parent
            while above not in shown:
                above = nodes[above].parent
            nodes[above].num_hidden += 1
    node = nodes[0]
    while node.children:
        node.principal = True
        node = node.children[0]  # the most visited
    node.principal = True
    return [node for node in nodes if node.number in shown]


def tree_to_dot(
    state: SearchState,
    *,
    labels: Sequence[str] | None = None,
    max_depth: int | None = 4,
    min_visits: int = 1,
    max_leaves: int = 50,
    index: int | None = None,
) -> str:
    """A search tree in the language of [Graphviz](https://graphviz.org), whose programs draw trees of any size.

    **Arguments:** as [`tz.plot.plot_tree`][]'s.

    **Returns:** the text of a `digraph`. A node says its visits, and its value for the player to move at the root; an
    edge its action and its prior; the principal variation is bold.
    """
    state = one_of_batch(state, index, np.shape(state.tree.size))
    names = check_names(labels, len(state.metadata.action_mask))
    lines = ["digraph search {", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in show_nodes(state, max_depth=max_depth, min_visits=min_visits, max_leaves=max_leaves):
        hidden = f"\\n+{node.num_hidden} nodes" if node.num_hidden else ""
        bold = ", penwidth=3" if node.principal else ""
        lines.append(f'  {node.number} [label="{node.visits}\\n{signed(node.value)}{hidden}"{bold}];')
        if node.parent >= 0:
            name = names[node.action].replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'  {node.parent} -> {node.number} [label="{name} {node.prior:.0%}"{bold}];')
    return "\n".join([*lines, "}"]) + "\n"
