"""Selects the nodes of a search tree that pictures show, with their numbers, and writes them as text for Graphviz."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tz.games.env import Env
from tz.mcts.simulation import SearchState
from tz.mcts.tree import Tree
from tz.plot.canvas import MoveName, check_limits, move_names, one_of_batch, signed


@dataclasses.dataclass
class ShownNode:
    """Holds the numbers of one node of a picture.

    It is a node of the tree, or a node where nature is to move. The tree itself has no nodes of the second kind: it
    stores nature's outcomes with the edges.

    **Fields:**

    - `number`: the index in the tree, or at least `N`, the number of slots, if nature is to move.
    - `parent`: the number of the node above, -1 for the root.
    - `depth`: the number of edges from the root.
    - `action`: the action that leads here.
    - `prior`: the prior of the action, or the probability of the outcome that leads here.
    - `visits`: the visits of the edge that leads here; at the root, of all its edges.
    - `value`: the expected return, from the perspective of the player to move *at the root*. After an outcome of
        nature, it is the value of the position, without the rewards on the way, or the reward if the game is over.
    - `terminated`: whether the game is over.
    - `outcome`: the outcome of nature that leads here, or -1.
    - `is_nature`: whether nature is to move.
    - `principal`: whether the node is on the principal variation.
    - `num_hidden`: the number of nodes below that are not drawn.
    - `children`: the children that are drawn.
    """

    number: int
    parent: int
    depth: int
    action: int
    prior: float
    visits: int
    value: float
    terminated: bool
    outcome: int = -1
    is_nature: bool = False
    principal: bool = False
    num_hidden: int = 0
    children: "list[ShownNode]" = dataclasses.field(default_factory=list)

    def edge_name(self, names: MoveName, outcomes: Sequence[str] | None = None) -> str:
        """Returns the name of the action or outcome that leads here, with its prior or probability."""
        if self.outcome < 0:
            return f"{names(self.parent, self.action)} {self.prior:.0%}"
        if outcomes is not None and self.outcome >= len(outcomes):
            raise ValueError(
                f"tz.plot: found {len(outcomes)} names in `outcomes`, expected one for each of nature's outcomes, and "
                f"outcome {self.outcome} has happened; name all."
            )
        name = f"#{self.outcome}" if outcomes is None else outcomes[self.outcome]
        return f"{name} {self.prior:.0%}"


def read_nodes(state: SearchState) -> list[ShownNode]:
    """Returns all nodes of the tree of one game, parents before children."""
    tree, nodes = jax.device_get(state.tree), []
    num_visits = int(tree.visits[0].sum())
    value = float(tree.raw_value[0] + np.sum(tree.visits[0] * tree.q[0])) / (1 + num_visits)
    nodes.append(ShownNode(0, -1, 0, -1, 1.0, num_visits, value, bool(tree.terminated[0])))
    for number in range(1, int(tree.size)):
        parent, place = int(tree.parent[number]), (int(tree.parent[number]), int(tree.action[number]))
        sign = 1 if tree.player[parent] == tree.player[0] else -1  # `q` is for the player to move at the parent
        action = place[1] if tree.actions is None else int(tree.actions[place])
        prior, visits, value = float(np.exp(tree.logits[place])), int(tree.visits[place]), float(sign * tree.q[place])
        ended = bool(tree.terminated[number])
        nodes.append(ShownNode(number, parent, nodes[parent].depth + 1, action, prior, visits, value, ended))
    return nodes if tree.chance is None else _with_nature(tree, nodes)


def _with_nature(tree: Tree, nodes: list[ShownNode]) -> list[ShownNode]:
    """Inserts a node of nature between each move with outcomes and the nodes of its outcomes.

    In the tree, the outcomes of a move are nodes with the same parent and action, and the first of them keeps what
    belongs to the edge. Before this call, all of them have the visits and the value of the edge. These go to the node
    of nature.
    """
    chance, edges = tree.chance, (tree.parent, tree.action)
    assert chance is not None
    first = tree.children[edges]  # for each node, the first node of its edge
    # The outcome of every visit of every edge. The tree does not store it, since it follows from the edge
    # and the number of the visit.
    visits = jnp.arange(max(int(tree.visits.max()), 1), dtype=jnp.int32)
    columns = jax.tree.map(jnp.asarray, chance)
    each = jax.vmap(jax.vmap(columns.outcome_of, (None, 0)), (0, None))
    taken = np.asarray(each(jnp.asarray(first), visits))
    # The cumulative distribution is -1 at impossible outcomes. There, the running maximum makes the difference 0.
    probabilities = np.diff(np.maximum.accumulate(np.maximum(chance.cdf, 0), axis=1), axis=1, prepend=0)
    result, natures = [nodes[0]], {}
    for node in nodes[1:]:
        above, own = nodes[node.parent], int(first[node.number])
        depth = above.depth + 1
        if chance.cdf[own].max() > 0:
            if own not in natures:
                number = len(tree.parent) + own  # beyond the slots, so it cannot be the number of a node of the tree
                changes = {"terminated": False, "is_nature": True, "children": []}
                natures[own] = dataclasses.replace(node, number=number, depth=depth, **changes)
                result.append(natures[own])
            outcome, sign = int(chance.outcome[node.number]), 1 if tree.player[node.number] == tree.player[0] else -1
            mean = tree.raw_value[node.number] + np.sum(tree.visits[node.number] * tree.q[node.number])
            node.value = float(sign * mean / (1 + tree.visits[node.number].sum()))
            if node.terminated:
                node.value = float(tree.reward[node.number] * (1 if tree.player[node.parent] == tree.player[0] else -1))
            node.visits = int((taken[node.number, : node.visits] == outcome).sum())
            node.parent, node.outcome, depth = natures[own].number, outcome, depth + 1
            node.prior = float(probabilities[own, outcome])
        node.depth = depth
        result.append(node)
    return result


def show_nodes(state: SearchState, *, max_depth: int | None, min_visits: int, max_leaves: int) -> list[ShownNode]:
    """Returns the most visited nodes of the tree of one game, within the limits; parents before children.

    **Raises:** `ValueError` if a limit is below 1.
    """
    check_limits("tz.plot", max_depth=max_depth, min_visits=min_visits, max_leaves=max_leaves)
    nodes = {node.number: node for node in read_nodes(state)}
    shown, num_leaves = {0}, 1
    for node in sorted(list(nodes.values())[1:], key=lambda node: (-node.visits, node.depth, node.number)):
        if node.parent not in shown or node.visits < min_visits or node.depth > (max_depth or node.depth):
            continue
        new_leaf = bool(nodes[node.parent].children)  # the first child takes the place of its parent as a leaf
        if num_leaves + new_leaf <= max_leaves:
            num_leaves += new_leaf
            shown.add(node.number)
            nodes[node.parent].children.append(node)
    for node in nodes.values():  # a hidden node counts at the nearest node above it that is shown
        if node.number not in shown:
            above = node.parent
            while above not in shown:
                above = nodes[above].parent
            nodes[above].num_hidden += not node.is_nature
    node = nodes[0]
    while node.children:
        node.principal = True
        node = node.children[0]  # children are in the order of their visits
    node.principal = True
    return [node for node in nodes.values() if node.number in shown]


def tree_to_dot(
    state: SearchState,
    *,
    labels: Sequence[str] | None = None,
    max_depth: int | None = 4,
    min_visits: int = 1,
    max_leaves: int = 50,
    outcomes: Sequence[str] | None = None,
    env: Env | None = None,
    index: int | None = None,
) -> str:
    """Writes a search tree in the language of [Graphviz](https://graphviz.org), whose programs draw trees of any size.

    A node shows its visits and its value, from the perspective of the player to move at the root. An edge shows its
    action and its prior. The principal variation is bold. Nodes where nature is to move are ellipses, and their edges
    show outcomes and their probabilities.

    **Arguments:**

    - `state`, `labels`, `max_depth`, `min_visits`, `outcomes`, `env`, `index`: as in [`tz.plot.plot_tree`][].
    - `max_leaves`: the largest number of nodes without children in the drawing.

    **Returns:** the text of a `digraph`.

    **Raises:** `ValueError`, as [`tz.plot.plot_tree`][] does.
    """
    state = one_of_batch(state, index, np.shape(state.tree.size))
    names = move_names(state, labels, env)
    lines = ["digraph search {", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in show_nodes(state, max_depth=max_depth, min_visits=min_visits, max_leaves=max_leaves):
        hidden = f"\\n+{node.num_hidden} nodes" if node.num_hidden else ""
        bold = ", penwidth=3" if node.principal else ""
        shape = ", shape=ellipse" if node.is_nature else ""
        lines.append(f'  {node.number} [label="{node.visits}\\n{signed(node.value)}{hidden}"{bold}{shape}];')
        if node.parent >= 0:
            name = node.edge_name(names, outcomes).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'  {node.parent} -> {node.number} [label="{name}"{bold}];')
    return "\n".join([*lines, "}"]) + "\n"
