"""Wins and losses that a tree has proven: what `MCTS(solve=True)` wraps around the other settings of a search.

A `q` of exactly 1 or -1 is a proof, so no array is needed for it: a move that ends the game begins one, and whatever is
only estimated is kept short of 1. A position with a won move is won, one with nothing but lost moves is lost.

Winands, Björnsson and Saito, *Monte-Carlo tree search solver*, Computers and Games 2008.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tz.mcts.root_policies import RootResult
from tz.mcts.tree import Node

LARGEST_ESTIMATE = 1 - 2.0**-12


def estimate(value: Float[Array, ""]) -> Float[Array, ""]:
    """The value, short of a proof."""
    return jnp.clip(value, -LARGEST_ESTIMATE, LARGEST_ESTIMATE)


def proven(node: Node) -> tuple[Bool[Array, " A"], Bool[Array, " A"]]:
    """Which moves are known to win and which to lose."""
    seen = node.visits > 0
    return seen & (node.q >= 1), seen & (node.q <= -1)


def _without_lost(node: Node) -> tuple[Float[Array, " A"], Bool[Array, " A"]]:
    """The log prior in which lost moves are illegal as long as there are others, and which moves that concerns."""
    lost = proven(node)[1]
    lost &= jnp.any((node.logits > -jnp.inf) & ~lost)
    return jnp.where(lost, -jnp.inf, node.logits), lost


def hopeful(node: Node) -> Node:
    """The node to select from: lost moves are illegal as long as there are others."""
    return Node(_without_lost(node)[0], node.visits, node.q, node.raw_value, node.q_low, node.q_high)


def solving_selector(selector: Callable[[Node], Int[Array, ""]]) -> Callable[[Node], Int[Array, ""]]:
    """The same selector, which sees lost moves as illegal as long as there are others."""
    return lambda node: selector(hopeful(node))


def solving_backup(backup: Callable) -> Callable:
    """The same backup, except that a proof stays what it is and goes on to the parent once the node is proven."""

    def update(node: Node, action: Int[Array, ""], q: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        new_q, value = backup(node, action, q)
        won, lost = proven(node)
        new_q = jnp.where((won | lost)[action], node.q[action], jnp.where(jnp.abs(q) >= 1, q, estimate(new_q)))
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        won, lost = won | taken & (new_q >= 1), lost | taken & (new_q <= -1)
        value = jnp.where(jnp.all(lost | (node.logits == -jnp.inf)), -1.0, estimate(value))
        return new_q, jnp.where(jnp.any(won), 1.0, value)

    return update


def solved_result(node: Node, read: Callable[[Node], RootResult]) -> RootResult:
    """The conclusions at a root with proven moves: a won move is the whole policy, a lost one is none of it.

    **Arguments:** `node`, the root; `read`, of its root policy, which is shown the lost moves as illegal and unvisited.

    **Returns:** the conclusions; their log weights are left to `solved_weights`, which comes last.
    """
    logits, lost = _without_lost(node)
    visits = jnp.where(lost, 0, node.visits)
    result = read(Node(logits, visits, node.q, node.raw_value, node.q_low, node.q_high))
    won, all_lost = proven(node)[0], jnp.all(proven(node)[1] | (node.logits == -jnp.inf))
    kept = jnp.where(won, result.policy, 0.0)
    kept = jnp.where(jnp.sum(kept) > 0, kept, won.astype(kept.dtype))
    policy = jnp.where(jnp.any(won), kept / jnp.maximum(jnp.sum(kept), jnp.finfo(kept.dtype).tiny), result.policy)
    value = jnp.where(all_lost, -1.0, estimate(result.value))
    value = jnp.where(jnp.any(won), 1.0, value)
    return RootResult(policy, value, result.log_weights)


def solved_weights(node: Node, log_weights: Float[Array, " A"]) -> Float[Array, " A"]:
    """The log weights of the moves at the root, without those that lose, and without others where one wins.

    Where that leaves no weight, the visits decide among the moves that are left.
    """
    won, lost = proven(node)
    allowed = jnp.where(jnp.any(won), won, (node.logits > -jnp.inf) & ~lost)
    kept = jnp.where(allowed, log_weights, -jnp.inf)
    by_visits = jnp.where(allowed, jnp.log1p(node.visits.astype(jnp.float32)), -jnp.inf)
    chosen = jnp.where(jnp.any(kept > -jnp.inf), kept, by_visits)
    return jnp.where(jnp.any(allowed), chosen, log_weights)
