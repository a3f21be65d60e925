"""The search tree of one game: fixed arrays that grow by one node a simulation, and the loops that walk it.

Nodes are numbered in the order in which they were added, so a parent's index is smaller than its children's; the root
is node 0. Statistics live on edges, where selection reads them in one row. Two rules keep the tree fast under `vmap`: a
loop ends when *every* game is done (`any_game`), and the body leaves finished games alone by writing out of bounds, so
nothing is ever copied to be selected from.
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
    """The search tree of one game, `N` node slots of which the first `size` are in use.

    Node fields, `[N]`: `state` (the game's or the model's), `player` (to move), `terminated`, `raw_value` (the
    evaluator's, for the player to move), `reward` (received by the player who moved here), `discount` (of a model, or
    None), `parent` and `action` (the edge that leads here; -1 at the root).

    Edge fields, `[N, A]`: `logits` (log prior, -inf where illegal), `children` (node index, -1 where there is none),
    `visits`, and `q` (expected discounted return of the edge for the player to move at its node). An edge can have
    visits and no child: the tree was full when it was first tried. Where a node keeps only some of the actions, `A` is
    their number, `actions` says which they are, and every action in this module is a place among them. `q_low` and
    `q_high` are the least and greatest value that any `q` has had; infinity and minus infinity at first. `chance` is
    nature's part in a game with chance, and None in others; there, an edge of several outcomes has a node for each, and
    `children` has the first of them.
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
        """`N`, the number of node slots."""
        return self.parent.shape[-1]

    def env_action(self, node: Int[Array, ""], action: Int[Array, ""]) -> Int[Array, ""]:
        """What the game calls the action of an edge."""
        return action if self.actions is None else self.actions[node, action].astype(jnp.int32)

    def discount_of(self, node: Int[Array, "..."], discount: Float[Array, ""]) -> Float[Array, "..."]:
        """The discount of the edge that leads to a node: that of the search, times that of the model."""
        return discount if self.discount is None else discount * self.discount[node]

    def node(self, index: Int[Array, ""]) -> "Node":
        """What selectors and backups see of node `index`."""
        rows = self.logits[index], self.visits[index], self.q[index], self.raw_value[index]
        return Node(*rows, self.q_low, self.q_high)


class Node(eqx.Module):
    """One node as selectors and backups see it; values are for the player to move there.

    **Fields:** `logits` (`[A]`, log prior, -inf where illegal), `visits` (`[A]`), `q` (`[A]`, 0 where unvisited),
    `raw_value` (the evaluator's), and `q_low` and `q_high` of the whole tree.
    """

    logits: Float[Array, " A"]
    visits: Int[Array, " A"]
    q: Float[Array, " A"]
    raw_value: Float[Array, ""]
    q_low: Float[Array, ""]
    q_high: Float[Array, ""]

    @property
    def num_visits(self) -> Int[Array, "..."]:
        """How often the search came here: once to evaluate the node and once for each visit of an edge."""
        return 1 + jnp.sum(self.visits.astype(jnp.float32), axis=-1).astype(jnp.int32)  # exact up to 2**24, and faster

    @property
    def value(self) -> Float[Array, "..."]:
        """The mean of the evaluator's value and all returns seen from here."""
        returns = jnp.sum(self.visits.astype(jnp.float32) * self.q, axis=-1)
        return (self.raw_value + returns) / self.num_visits.astype(jnp.float32)


def init_tree(state: PyTree, metadata: StepMetadata, max_nodes: int, max_actions: int | None = None) -> Tree:
    """A tree with only a root, not yet evaluated.

    **Arguments:** `state` and `metadata` of the root, one game; `max_nodes`, the number of slots `N`; `max_actions`,
    how many actions a node keeps, all of them by default.
    """
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
    """Follows `select` from the root until the edge has no child (for the outcome of this visit), or a terminal one.

    **Arguments:** `root_action`, already chosen at the root; `select`, `Node -> action`, for every node below.

    **Returns:** the edge that the simulation ends with: its node and its action.
    """

    def next_node(node, action):
        child = tree.children[node, action]
        if tree.chance is not None:
            child = tree.chance.child(child, tree.visits[node, action])
        return jnp.where((child >= 0) & ~tree.terminated[child], child, -1)

    def body(carry):
        node, action, child = carry
        inside = child >= 0
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
    """Adds the child that edge `(node, action)` leads to; does nothing where it exists or the tree is full.

    **Arguments:** `state`, `metadata`, `logits` (log prior, -inf where illegal), `actions` (those kept, unless all) and
    `value` (for its own player to move, 0 if terminal) of the child; `chance`, that led to it.
    """
    first = known = tree.children[node, action]
    if tree.chance is not None and chance is not None:
        known = tree.chance.known_child(first, chance.outcome)
    is_new = is_first = (known < 0) & (tree.size < tree.max_nodes)
    if tree.chance is not None:
        is_first = is_new & (first < 0)
    slot = jnp.where(is_new, tree.size, tree.max_nodes)  # out of bounds: the write is dropped

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
    """Carries the result of a simulation from edge `(node, action)` up to the root.

    **Arguments:** `q`, the return seen on that edge, for the player to move at `node`; `update`,
    `(Node, action, q) -> (new q of the edge, value of the node to carry up)`.
    """
    discount = jnp.asarray(discount, jnp.float32)

    def seen(node, action, q, visits, edge_q):
        rows = tree.logits[node], visits[node], edge_q[node], tree.raw_value[node]
        new_q, value = update(Node(*rows, tree.q_low, tree.q_high), action, q)
        return jnp.asarray(new_q, jnp.float32), jnp.asarray(value, jnp.float32)

    def body(carry):
        # An edge is read one turn before it is written: read and written in one turn, XLA copies both arrays each time.
        node, action, (new_q, value), visits, edge_q, low, high = carry
        low = jnp.where(node >= 0, jnp.minimum(low, new_q), low)
        high = jnp.where(node >= 0, jnp.maximum(high, new_q), high)
        row = jnp.where(node >= 0, node, tree.max_nodes)  # a finished game writes out of bounds
        visits = visits.at[row, action].add(1, mode="drop")
        edge_q = edge_q.at[row, action].set(new_q, mode="drop")
        parent, action = jnp.where(node >= 0, tree.parent[node], -1), tree.action[node]
        sign = jnp.where(tree.player[parent] == tree.player[node], 1.0, -1.0)
        q = tree.reward[node] + tree.discount_of(node, discount) * sign * value
        return parent, action, seen(parent, action, q, visits, edge_q), visits, edge_q, low, high

    carry = node, action, seen(node, action, q, tree.visits, tree.q), tree.visits, tree.q, tree.q_low, tree.q_high
    _, _, _, *after = lax.while_loop(lambda carry: any_game(carry[0] >= 0), body, carry)
    return eqx.tree_at(lambda tree: (tree.visits, tree.q, tree.q_low, tree.q_high), tree, tuple(after))


@jax.named_scope("reroot")
def reroot(tree: Tree, child: Int[Array, ""], state: PyTree, metadata: StepMetadata) -> Tree:
    """The subtree of node `child` as a tree of its own, its statistics unchanged and its nodes in the same order.

    **Arguments:** `child`, the node to keep, or -1 for only the new root; `state` and `metadata` of that root.
    """
    slots = jnp.arange(tree.max_nodes, dtype=jnp.int32)
    # Pointer doubling: after k rounds every node points 2**k steps up, stopping at `child` or the old root.
    child = jnp.asarray(child, jnp.int32)
    up = jnp.where((slots == child) | (slots == 0), slots, tree.parent)
    up = lax.while_loop(lambda up: any_game(jnp.any(up != up[up])), lambda up: up[up], up)
    keep = (up == child) & (slots < tree.size)
    position = jnp.cumsum(keep, dtype=jnp.int32) - 1
    source = jnp.zeros_like(slots).at[jnp.where(keep, position, tree.max_nodes)].set(slots, mode="drop")
    used = slots <= position[-1]

    def moved(column, empty):
        used_rows = used.reshape(-1, *(1,) * (column.ndim - 1))
        return jnp.where(used_rows, column.at[source].get(mode="promise_in_bounds"), empty)

    parent = moved(tree.parent, -1)
    parent = jnp.where((parent >= 0) & (slots > 0), position[parent], -1)
    action = jnp.where(slots > 0, moved(tree.action, -1), -1)
    row, chance = jnp.where(parent >= 0, parent, tree.max_nodes), tree.chance
    if chance is not None:
        first = jnp.where(slots == child, tree.max_nodes, tree.children[tree.parent, tree.action])
        chance = chance.reroot(source, used, position, first)
        row = jnp.where(first[source] == source, row, tree.max_nodes)  # the others are children of outcomes alone
    children = jnp.full_like(tree.children, -1).at[row, action].set(slots, mode="drop")
    return Tree(
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
