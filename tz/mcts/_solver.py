"""Proven wins and losses: the functions that `MCTS(solve=True)` wraps around the other settings of a search.

A `q` of exactly 1 or -1 is a proof, so proofs need no additional array. Every proof starts at a move that ends the
game: estimates are clipped so that they never reach 1 or -1. A position with a won move is won, and a position whose
legal moves are all lost is lost. This assumes that games end with a reward of 1 or -1, or 0 for a draw, and that all
earlier rewards are zero.

Winands, Björnsson and Saito, *Monte-Carlo tree search solver*, Computers and Games 2008.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tz.mcts.root_policies import RootResult
from tz.mcts.tree import Node

LARGEST_ESTIMATE = 1 - 2.0**-12  # an estimate with a larger absolute value would count as a proof


def estimate(value: Float[Array, ""]) -> Float[Array, ""]:
    """Clips an estimated value, so that it is not taken for a proof."""
    return jnp.clip(value, -LARGEST_ESTIMATE, LARGEST_ESTIMATE)


def proven(node: Node) -> tuple[Bool[Array, " A"], Bool[Array, " A"]]:
    """Returns two masks: the moves that are proven to win, and the moves that are proven to lose."""
    seen = node.visits > 0
    return seen & (node.q >= 1), seen & (node.q <= -1)


def _without_lost(node: Node) -> tuple[Float[Array, " A"], Bool[Array, " A"]]:
    """Returns the log prior with lost moves made illegal, and the mask of these moves.

    If all moves are lost, the log prior is unchanged and the mask is False everywhere.
    """
    lost = proven(node)[1]
    lost &= jnp.any((node.logits > -jnp.inf) & ~lost)
    return jnp.where(lost, -jnp.inf, node.logits), lost


def hopeful(node: Node) -> Node:
    """Returns the node as a selector should see it: lost moves are illegal, unless all moves are lost."""
    return Node(_without_lost(node)[0], node.visits, node.q, node.raw_value, node.q_low, node.q_high)


def solving_selector(selector: Callable[[Node], Int[Array, ""]]) -> Callable[[Node], Int[Array, ""]]:
    """Wraps a selector so that it sees lost moves as illegal, unless all moves are lost."""
    return lambda node: selector(hopeful(node))


def solving_backup(backup: Callable) -> Callable:
    """Wraps a backup so that proofs are kept, and passed up to the parent once the node is proven."""

    def update(node: Node, action: Int[Array, ""], q: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        new_q, value = backup(node, action, q)
        # An edge that has a proof keeps it. A return of 1 or -1 is a new proof. Any other result is an estimate.
        won, lost = proven(node)
        new_q = jnp.where((won | lost)[action], node.q[action], jnp.where(jnp.abs(q) >= 1, q, estimate(new_q)))
        # `node` is from before this visit, so a proof of the edge just taken is added to the masks.
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        won, lost = won | taken & (new_q >= 1), lost | taken & (new_q <= -1)
        value = jnp.where(jnp.all(lost | (node.logits == -jnp.inf)), -1.0, estimate(value))
        return new_q, jnp.where(jnp.any(won), 1.0, value)

    return update


def solved_result(node: Node, read: Callable[[Node], RootResult]) -> RootResult:
    """Returns the result at a root with proven moves: won moves have the whole policy, and lost moves have none of it.

    **Arguments:** `node`, the root; `read`, the root policy's function, which gets the root with lost moves shown as
    illegal and unvisited.

    **Returns:** the result of `read` with the policy and value corrected. `solved_weights` corrects the log weights
    later, after `mcts.final_move` has changed them.
    """
    logits, lost = _without_lost(node)
    visits = jnp.where(lost, 0, node.visits)
    result = read(Node(logits, visits, node.q, node.raw_value, node.q_low, node.q_high))
    illegal, (won, lost) = node.logits == -jnp.inf, proven(node)
    all_lost = jnp.all(lost | illegal) & ~jnp.all(illegal)  # a finished game without a legal action is not lost
    # Several won moves keep the proportions that `read` gives them. If it gives them nothing, they share equally.
    kept = jnp.where(won, result.policy, 0.0)
    kept = jnp.where(jnp.sum(kept) > 0, kept, won.astype(kept.dtype))
    policy = jnp.where(jnp.any(won), kept / jnp.maximum(jnp.sum(kept), jnp.finfo(kept.dtype).tiny), result.policy)
    value = jnp.where(all_lost, -1.0, estimate(result.value))
    value = jnp.where(jnp.any(won), 1.0, value)
    return RootResult(policy, value, result.log_weights)


def solved_weights(node: Node, log_weights: Float[Array, " A"]) -> Float[Array, " A"]:
    """Takes lost moves out of the log weights of the root. If a move is won, only won moves are left.

    If the moves that are left have no weight, their visits decide. If no move is left, nothing is changed.
    """
    won, lost = proven(node)
    allowed = jnp.where(jnp.any(won), won, (node.logits > -jnp.inf) & ~lost)
    kept = jnp.where(allowed, log_weights, -jnp.inf)
    by_visits = jnp.where(allowed, jnp.log1p(node.visits.astype(jnp.float32)), -jnp.inf)
    chosen = jnp.where(jnp.any(kept > -jnp.inf), kept, by_visits)
    return jnp.where(jnp.any(allowed), chosen, log_weights)
