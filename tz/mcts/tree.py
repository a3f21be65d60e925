"""The search tree of one game, as arrays of a fixed size, and the loops that walk it.

Nodes are numbered in the order in which they are added, so a parent has a smaller index than its children. The root is
node 0. Statistics are stored on edges, so that selection finds all moves of a node in one row.

No `while_loop` carries a tree. Under `vmap`, the games of a batch need different numbers of iterations. JAX then runs
the loop until all are done, and in every iteration selects between the old and the new carry of each game, which copies
everything that is carried. So `descend` carries three integers and reads the tree from outside the loop, and `backup`
carries only the arrays that it writes. `any_game` removes the select as well, by a condition that is the same for all
games. In return, the body itself must leave finished games unchanged: it keeps their scalars with `jnp.where`, and
sends their array writes out of bounds, where `mode="drop"` discards them.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from tz._arrays import strong
from tz.games.env import StepMetadata
from tz.mcts._any_game import any_game
from tz.mcts._chance import ChanceColumns, EdgeChance, no_chance


class Tree(eqx.Module):
    """The search tree of one game, with `N` node slots. The first `size` of them are in use.

    If a node keeps only some of the actions (`max_actions` of [`tz.MCTS`][]), `A` is the number that it keeps. Each
    action in the tree is then an index into the row of its node in `actions`.

    **Fields:**

    - `state`: the states of the game, or of the model: a PyTree whose arrays have a leading axis `N`.
    - `player`: `[N]`, the player to move.
    - `terminated`: `[N]`, True where the game is over.
    - `raw_value`: `[N]`, the evaluator's value for the player to move; 0 where the game is over.
    - `reward`: `[N]`, the reward of the move that leads to the node, for the player who made it.
    - `parent`, `action`: `[N]`, the edge that leads to the node; -1 at the root.
    - `logits`: `[N, A]`, the log prior; -inf where illegal.
    - `children`: `[N, A]`, the node that an edge leads to; -1 if there is none. An edge that was first tried when the
        tree was full has visits but no child. With chance, an edge has a node for each outcome that was tried, and this
        is the first.
    - `visits`: `[N, A]`, the number of simulations that went through an edge.
    - `q`: `[N, A]`, the expected discounted return of an edge, for the player to move at its node; 0 if unvisited.
    - `actions`: `[N, A]`, the actions that each node keeps; None if nodes keep all actions.
    - `q_low`, `q_high`: the smallest and largest `q` that any edge has had; infinity and minus infinity at first.
    - `size`: the number of nodes.
    - `discount`: `[N]`, the discount that a model gives the edge that leads to the node; None without such a model.
    - `chance`: the arrays of nature's outcomes in a game with chance; None in other games.
    """

    state: PyTree
    player: Int[Array, " N"]
    terminated: Bool[Array, " N"]
    raw_value: Float[Array, " N"]
    reward: Float[Array, " N"]
    parent: Int[Array, " N"]
    action: Int[Array, " N"]
    logits: Float[Array, "N A"]
    children: Int[Array, "N A"]
    visits: Int[Array, "N A"]
    q: Float[Array, "N A"]
    actions: Int[Array, "N A"] | None
    q_low: Float[Array, ""]
    q_high: Float[Array, ""]
    size: Int[Array, ""]
    discount: Float[Array, " N"] | None = None
    chance: ChanceColumns | None = None

    @property
    def max_nodes(self) -> int:
        """The number of node slots, `N`."""
        return self.parent.shape[-1]

    def env_action(self, node: Int[Array, ""], action: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the game's action for an edge; it differs from `action` only if nodes do not keep all actions."""
        return action if self.actions is None else self.actions[node, action].astype(jnp.int32)

    def discount_of(self, node: Int[Array, "..."], discount: Float[Array, ""]) -> Float[Array, "..."]:
        """Returns the discount of the edge that leads to a node: the search's `discount` times the model's, if any."""
        return discount if self.discount is None else discount * self.discount[node]

    def node(self, index: Int[Array, ""]) -> "Node":
        """Returns the statistics of node `index`, as selectors and backups see them."""
        rows = self.logits[index], self.visits[index], self.q[index], self.raw_value[index]
        return Node(*rows, self.q_low, self.q_high)


class Node(eqx.Module):
    """The statistics of one node, as selectors and backups see them. All values are for the player to move there.

    **Fields:**

    - `logits`: `[A]`, the log prior; -inf where illegal.
    - `visits`: `[A]`, the number of simulations that went through each edge.
    - `q`: `[A]`, the expected discounted return of each edge; 0 if unvisited.
    - `raw_value`: the evaluator's value.
    - `q_low`, `q_high`: the smallest and largest `q` in the whole tree so far, each from the perspective of its mover.
    """

    logits: Float[Array, " A"]
    visits: Int[Array, " A"]
    q: Float[Array, " A"]
    raw_value: Float[Array, ""]
    q_low: Float[Array, ""]
    q_high: Float[Array, ""]

    @property
    def num_visits(self) -> Int[Array, "..."]:
        """The number of visits of the node: one for its evaluation, and one for each visit of its edges."""
        # A sum in floats is faster than in integers, and exact up to 2**24.
        return 1 + jnp.sum(self.visits.astype(jnp.float32), axis=-1).astype(jnp.int32)

    @property
    def value(self) -> Float[Array, "..."]:
        """The mean of the evaluator's value and of all returns seen from this node."""
        returns = jnp.sum(self.visits.astype(jnp.float32) * self.q, axis=-1)
        return (self.raw_value + returns) / self.num_visits.astype(jnp.float32)


def init_tree(state: PyTree, metadata: StepMetadata, max_nodes: int, max_actions: int | None = None) -> Tree:
    """Returns a tree of `max_nodes` slots that has only a root, not evaluated yet, from the position of one game."""
    num_actions = metadata.action_mask.shape[0] if max_actions is None else max_actions
    state = strong(state)

    def slots(value, *shape, dtype):
        return jnp.full((max_nodes, *shape), value, dtype)

    return Tree(
        state=jax.tree.map(lambda x: jnp.broadcast_to(x, (max_nodes, *x.shape)), state),
        player=slots(0, dtype=jnp.int32).at[0].set(metadata.cur_player_id.astype(jnp.int32)),
        terminated=slots(False, dtype=bool).at[0].set(metadata.terminated),
        raw_value=slots(0, dtype=jnp.float32),
        reward=slots(0, dtype=jnp.float32),
        parent=slots(-1, dtype=jnp.int32),
        action=slots(-1, dtype=jnp.int32),
        logits=slots(-jnp.inf, num_actions, dtype=jnp.float32),
        children=slots(-1, num_actions, dtype=jnp.int32),
        visits=slots(0, num_actions, dtype=jnp.int32),
        q=slots(0, num_actions, dtype=jnp.float32),
        actions=None if max_actions is None else slots(0, num_actions, dtype=jnp.int16),
        q_low=jnp.float32(jnp.inf),
        q_high=jnp.float32(-jnp.inf),
        size=jnp.int32(1),
        discount=None if metadata.discount is None else slots(1, dtype=jnp.float32),
        chance=no_chance(metadata, max_nodes),
    )


@jax.named_scope("descend")
def descend(
    tree: Tree, root_action: Int[Array, ""], select: Callable[[Node], Int[Array, ""]]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Goes down from the root to the first edge without a child, or with a terminal child, and returns that edge.

    With chance, the child is the node of the outcome that this visit of the edge takes.

    **Arguments:** `root_action`, the action chosen at the root; `select`, `Node -> action`, chooses at all nodes below.
    """

    def next_node(node, action):
        child = tree.children[node, action]
        if tree.chance is not None:
            child = tree.chance.child(child, tree.visits[node, action])
        return jnp.where((child >= 0) & ~tree.terminated[child], child, -1)

    def body(carry):
        node, action, child = carry
        inside = child >= 0  # False once this game has found its edge and waits for the others of the batch
        node = jnp.where(inside, child, node)
        action = jnp.where(inside, jnp.asarray(select(tree.node(node)), jnp.int32), action)
        return node, action, jnp.where(inside, next_node(node, action), -1)

    root_action = jnp.asarray(root_action, jnp.int32)
    carry = jnp.int32(0), root_action, next_node(jnp.int32(0), root_action)
    node, action, _ = lax.while_loop(lambda carry: any_game(carry[2] >= 0), body, carry)
    return node, action


@jax.named_scope("append")
def append(
    tree: Tree,
    node: Int[Array, ""],
    action: Int[Array, ""],
    state: PyTree,
    metadata: StepMetadata,
    logits: Float[Array, " A"],
    actions: Int[Array, " A"] | None,
    value: Float[Array, ""],
    chance: EdgeChance | None = None,
) -> Tree:
    """Adds the child of edge `(node, action)`; changes nothing if the child exists or the tree is full.

    **Arguments:** the child's `state`, `metadata`, `logits` (log prior, -inf where illegal), `actions` (those that
    it keeps; None for all) and `value` (for the player to move there, 0 if the game is over); the edge's `chance`.
    """
    # `first` is the first node of the edge, `known` the node of this outcome. Without chance, the two are the same.
    first = known = tree.children[node, action]
    if tree.chance is not None and chance is not None:
        known = tree.chance.known_child(first, chance.outcome)
    is_new = is_first = (known < 0) & (tree.size < tree.max_nodes)
    if tree.chance is not None:
        is_first = is_new & (first < 0)
    slot = jnp.where(is_new, tree.size, tree.max_nodes)  # `max_nodes` is out of bounds, so nothing is written

    def put(column, x):
        return column.at[slot].set(x, mode="drop")

    return Tree(
        state=jax.tree.map(put, tree.state, state),
        player=put(tree.player, metadata.cur_player_id.astype(jnp.int32)),
        terminated=put(tree.terminated, metadata.terminated),
        raw_value=put(tree.raw_value, value),
        reward=put(tree.reward, metadata.rewards[tree.player[node]].astype(jnp.float32)),
        parent=put(tree.parent, node),
        action=put(tree.action, action),
        logits=put(tree.logits, logits),
        children=tree.children.at[jnp.where(is_first, node, tree.max_nodes), action].set(slot, mode="drop"),
        visits=tree.visits,
        q=tree.q,
        actions=jax.tree.map(put, tree.actions, actions),
        q_low=tree.q_low,
        q_high=tree.q_high,
        size=tree.size + is_new.astype(jnp.int32),
        discount=jax.tree.map(lambda all, x: put(all, x.astype(jnp.float32)), tree.discount, metadata.discount),
        chance=None if tree.chance is None or chance is None else tree.chance.append(first, slot, is_new, chance),
    )


@jax.named_scope("backup")
def backup(
    tree: Tree,
    node: Int[Array, ""],
    action: Int[Array, ""],
    q: Float[Array, ""],
    discount: float | Float[Array, ""],
    update: Callable[[Node, Int[Array, ""], Float[Array, ""]], tuple[Float[Array, ""], Float[Array, ""]]],
) -> Tree:
    """Backs up the return of a simulation from edge `(node, action)` to the root, and counts a visit of each edge.

    **Arguments:** `q`, the return seen on that edge, for the player to move at `node`; `update`, the backup,
    `(Node, action, q) -> (new q of the edge, value of the node)`. The value is carried up to the parent.
    """
    discount = jnp.asarray(discount, jnp.float32)

    def seen(node, action, q, visits, edge_q):
        rows = tree.logits[node], visits[node], edge_q[node], tree.raw_value[node]
        new_q, value = update(Node(*rows, tree.q_low, tree.q_high), action, q)
        return jnp.asarray(new_q, jnp.float32), jnp.asarray(value, jnp.float32)

    def body(carry):
        # Each iteration writes its edge and then reads the next one up. If it read an edge and then wrote to it, XLA
        # could not write in place and would copy `visits` and `edge_q` every time.
        node, action, (new_q, value), visits, edge_q, low, high = carry
        low = jnp.where(node >= 0, jnp.minimum(low, new_q), low)
        high = jnp.where(node >= 0, jnp.maximum(high, new_q), high)
        # Above the root, `node` is -1. As an index to read, -1 means the last row, whose values are not used; to write,
        # it must be out of bounds.
        row = jnp.where(node >= 0, node, tree.max_nodes)
        visits = visits.at[row, action].add(1, mode="drop")
        edge_q = edge_q.at[row, action].set(new_q, mode="drop")
        parent, action = jnp.where(node >= 0, tree.parent[node], -1), tree.action[node]
        sign = jnp.where(tree.player[parent] == tree.player[node], 1.0, -1.0)  # a player may move twice
        q = tree.reward[node] + tree.discount_of(node, discount) * sign * value
        return parent, action, seen(parent, action, q, visits, edge_q), visits, edge_q, low, high

    carry = node, action, seen(node, action, q, tree.visits, tree.q), tree.visits, tree.q, tree.q_low, tree.q_high
    _, _, _, *after = lax.while_loop(lambda carry: any_game(carry[0] >= 0), body, carry)
    return eqx.tree_at(lambda tree: (tree.visits, tree.q, tree.q_low, tree.q_high), tree, tuple(after))


@jax.named_scope("reroot")
def reroot(tree: Tree, child: Int[Array, ""], state: PyTree, metadata: StepMetadata) -> Tree:
    """Returns the subtree of node `child` as a new tree, with the same statistics and the nodes in the same order.

    **Arguments:** `child`, or -1 for a tree that has only a new root; `state` and `metadata`, of the new root.
    """
    slots = jnp.arange(tree.max_nodes, dtype=jnp.int32)
    # Pointer doubling finds the nodes below `child`, all at once. At first each node points to its parent, except that
    # `child` and the old root point to themselves. In each round, a node takes over the pointer of the node that it
    # points to. So after k rounds it points 2**k levels up, or to `child` or the old root, where all pointers end. More
    # rounds than a game needs change nothing.
    child = jnp.asarray(child, jnp.int32)
    up = jnp.where((slots == child) | (slots == 0), slots, tree.parent)
    up = lax.while_loop(lambda up: any_game(jnp.any(up != up[up])), lambda up: up[up], up)
    keep = (up == child) & (slots < tree.size)  # unused slots point to -1, which may be `child`
    # A kept node moves to `position`, the number of kept nodes before it, so parents stay before their children.
    # `source` is the inverse: the old slot that each new slot is filled from.
    position = jnp.cumsum(keep, dtype=jnp.int32) - 1
    source = jnp.zeros_like(slots).at[jnp.where(keep, position, tree.max_nodes)].set(slots, mode="drop")
    used = slots <= position[-1]

    def moved(column, empty):
        used_rows = used.reshape(-1, *(1,) * (column.ndim - 1))
        return jnp.where(used_rows, column.at[source].get(mode="promise_in_bounds"), empty)

    parent = moved(tree.parent, -1)  # in old slots; the next line translates them to new ones
    parent = jnp.where((parent >= 0) & (slots > 0), position[parent], -1)
    action = jnp.where(slots > 0, moved(tree.action, -1), -1)
    row, chance = jnp.where(parent >= 0, parent, tree.max_nodes), tree.chance
    if chance is not None:
        # The first node of the edge that leads to each node, in old slots; the edge to the new root is gone.
        first = jnp.where(slots == child, tree.max_nodes, tree.children[tree.parent, tree.action])
        chance = chance.reroot(source, used, position, first)
        row = jnp.where(first[source] == source, row, tree.max_nodes)  # only the first node of an edge is in `children`
    # Each node writes its new slot into the row of its parent. Edges to nodes that are gone stay at -1.
    children = jnp.full_like(tree.children, -1).at[row, action].set(slots, mode="drop")
    return Tree(
        # Unused slots hold a copy of the old root's state, which nothing reads.
        state=jax.tree.map(lambda column, x: column[source].at[0].set(x), tree.state, state),
        player=moved(tree.player, 0).at[0].set(metadata.cur_player_id.astype(jnp.int32)),
        terminated=moved(tree.terminated, False).at[0].set(metadata.terminated),
        raw_value=moved(tree.raw_value, 0.0),
        reward=moved(tree.reward, 0.0),
        parent=parent,
        action=action,
        logits=moved(tree.logits, -jnp.inf),
        children=children,
        visits=moved(tree.visits, 0),
        q=moved(tree.q, 0.0),
        actions=jax.tree.map(lambda column: moved(column, 0), tree.actions),
        q_low=jnp.where(child >= 0, tree.q_low, jnp.inf),
        q_high=jnp.where(child >= 0, tree.q_high, -jnp.inf),
        size=jnp.maximum(position[-1] + 1, 1),
        discount=None if tree.discount is None else moved(tree.discount, 1.0),
        chance=chance,
    )
