"""The three parts of a simulation: choose an edge, step along it and evaluate, add the node and back up."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from tz.games.env import Env, StepMetadata
from tz.mcts._chance import EdgeChance
from tz.mcts._evaluation import evaluate, largest, log_prior
from tz.mcts._part_checks import check_action, check_backup, name_of
from tz.mcts._solver import hopeful, solving_backup, solving_selector
from tz.mcts.backups import virtual_visit
from tz.mcts.models import Model, answered, stepped
from tz.mcts.settings import MCTS
from tz.mcts.tree import Tree, append, backup, descend


class Leaf(eqx.Module):
    """The edge where a simulation ends, the evaluated position that it leads to, and the return on the edge.

    `value` is for the player to move in that position, and `q` for the player to move before it.
    """

    node: Int[Array, ""]
    action: Int[Array, ""]
    env_state: PyTree
    metadata: StepMetadata
    log_prior: Float[Array, " K"]
    actions: Int[Array, " K"] | None
    value: Float[Array, ""]
    q: Float[Array, ""]
    chance: EdgeChance | None


def choose_edge(mcts: MCTS, tree: Tree, notes: PyTree) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""] | None]:
    """Returns the edge where a simulation ends: its node, its action and, in a game with chance, its visits so far."""

    def chosen(node):
        return check_action(f"selector {name_of(mcts.selector)}", mcts.selector(node))

    selector = solving_selector(chosen) if mcts.solve else chosen
    with jax.named_scope("root"):
        root = tree.node(jnp.int32(0))
        # `hopeful` hides lost moves from the root policy, so the selector that it may call needs no wrapper.
        root_action = mcts.root.select(hopeful(root) if mcts.solve else root, notes, chosen)
        root_action = check_action(f"{name_of(mcts.root)}.select", root_action)
    node, action = descend(tree, root_action, selector)
    return node, action, None if tree.chance is None else tree.visits[node, action]


def choose_edges(
    mcts: MCTS, tree: Tree, notes: PyTree
) -> tuple[Int[Array, " K"], Int[Array, " K"], Int[Array, " K"] | None]:
    """Returns the edges of `mcts.num_leaves` simulations, each chosen as if the earlier ones had returned as expected.

    The tree itself is not changed: the virtual visits are dropped, and `add_leaf` later backs up the real returns.
    """

    # The fields that a virtual visit changes. The rest of the tree, with its large states, stays outside the scan.
    def changing(tree):
        return tree.visits, tree.q, tree.q_low, tree.q_high

    def choose(statistics, _):
        marked = eqx.tree_at(changing, tree, statistics)
        edge = choose_edge(mcts, marked, notes)
        marked = backup(marked, *edge[:2], jnp.float32(0), 1.0, virtual_visit)  # `virtual_visit` ignores the return, 0
        return changing(marked), edge

    return lax.scan(choose, changing(tree), length=mcts.num_leaves)[1]


def expand_edge(
    mcts: MCTS, model: Env | Model, evaluator: Any, tree: Tree, root: StepMetadata, edge, key, chance_key
) -> Leaf:
    """Steps along an edge and evaluates the position that it leads to; `root` is the metadata of the root."""
    (node, action, visit), discount, chance = edge, jnp.float32(mcts.discount), None
    before = jax.tree.map(lambda x: x[node], tree.state)
    env_state, metadata = stepped(model, before, tree.env_action(node, action), root)
    if tree.chance is not None and metadata.chance is not None:
        # The key depends on the edge, by its index in the flattened `[N, A]`. So simulations that reach the same new
        # edge in the same step draw the same offset for it.
        edge_key = jax.random.fold_in(chance_key, node * tree.children.shape[1] + action)
        chance = tree.chance.edge(tree.children[node, action], visit, metadata.chance, key=edge_key)
        env_state, metadata = answered(model, env_state, metadata, chance, root)
    logits, value = evaluate(mcts, evaluator, env_state, metadata, key)
    actions = largest(mcts, logits)
    # The value is for the player to move in the new position, and `q` for the player who moves along the edge.
    mover = tree.player[node]
    sign = jnp.where(metadata.cur_player_id.astype(jnp.int32) == mover, jnp.float32(1), jnp.float32(-1))
    if metadata.discount is not None:
        discount *= metadata.discount.astype(jnp.float32)
    q = metadata.rewards[mover].astype(jnp.float32) + discount * sign * value
    return Leaf(node, action, env_state, metadata, log_prior(logits, actions), actions, value, q, chance)


def add_leaf(mcts: MCTS, tree: Tree, leaf: Leaf) -> Tree:
    """Adds the position of a leaf to the tree, and backs its return up to the root."""
    # If several leaves of a step are the same position, only the first is added, but every return counts.
    edge, position = (leaf.node, leaf.action), (leaf.env_state, leaf.metadata)
    tree = append(tree, *edge, *position, leaf.log_prior, leaf.actions, leaf.value, leaf.chance)

    def carried(*args):
        return check_backup(f"backup {name_of(mcts.backup)}", mcts.backup(*args))

    update = solving_backup(carried) if mcts.solve else carried
    return backup(tree, leaf.node, leaf.action, leaf.q, mcts.discount, update)
