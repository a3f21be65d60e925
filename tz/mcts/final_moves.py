"""Final moves, which change the weights by which a search chooses its move.

A final move is any function `(tree, discount, log_weights) -> log_weights`. The temperature is applied to its result.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tz._arguments import check_number, check_one
from tz.mcts._any_game import any_game
from tz.mcts.selectors import best_action
from tz.mcts.tree import Tree


def by_weights(tree: Tree, discount: float | Float[Array, ""], log_weights: Float[Array, " A"]) -> Float[Array, " A"]:
    """Returns the log weights of the root policy unchanged. Most root policies weigh moves by their visits."""
    del tree, discount
    return log_weights


def root_returns(
    tree: Tree, discount: float | Float[Array, ""]
) -> tuple[Int[Array, " A"], Float[Array, " A"], Float[Array, " A"]]:
    """Returns the number, mean and variance of the returns of each move at the root, from the evaluations in the tree.

    A node counts as one return, of the simulation that added it. A terminal node counts as often as simulations ended
    there. Simulations that found the tree full left no node and are not counted.

    **Arguments:**

    - `tree`: the tree of a search, of one game.
    - `discount`: the discount of the search.

    **Returns:** `count`, `mean` and `variance` of the returns, `[A]` each, for the player to move at the root. The
    variance is unbiased, and 0 for fewer than two returns.

    **Raises:** `ValueError` for the trees of several games, and for a tree of a game with chance, where a terminal node
    would count for all visits of its edge, whatever their outcome.
    """
    check_one("root_returns", "tree.size", tree.size)
    if tree.chance is not None:
        raise ValueError(
            "root_returns: found a tree of a game with chance, expected one without, since the visits of each outcome "
            "are not counted; use the `q` of the tree, the mean over all outcomes."
        )
    discount = jnp.asarray(discount, jnp.float32)

    # All nodes climb together, one level per iteration, until each is at its ancestor just below the root. On the way,
    # `value` takes in the reward and the discount of each edge. It is always for the player to move at `node`.
    def climb(carry):
        node, value = carry
        parent = tree.parent[node]
        sign = jnp.where(tree.player[node] == tree.player[parent], 1.0, -1.0)
        value = jnp.where(parent > 0, tree.reward[node] + tree.discount_of(node, discount) * sign * value, value)
        return jnp.where(parent > 0, parent, node), value

    slots = jnp.arange(tree.max_nodes, dtype=jnp.int32)
    used = (slots > 0) & (slots < tree.size)
    start = jnp.where(used, slots, 0), jnp.where(tree.terminated, 0.0, tree.raw_value)
    top, value = lax.while_loop(lambda carry: any_game(jnp.any(tree.parent[carry[0]] > 0)), climb, start)
    sign = jnp.where(tree.player[top] == tree.player[0], 1.0, -1.0)
    value = tree.reward[top] + tree.discount_of(top, discount) * sign * value
    weight = jnp.where(used, jnp.where(tree.terminated, tree.visits[tree.parent, tree.action], 1), 0)
    num_actions = tree.visits.shape[-1]

    def total(x):
        return jnp.zeros(num_actions, x.dtype).at[jnp.where(used, tree.action[top], num_actions)].add(x, mode="drop")

    count, weight = total(weight), weight.astype(jnp.float32)
    mean = total(weight * value) / jnp.maximum(count, 1).astype(jnp.float32)
    squares = total(weight * (value - mean[tree.action[top]]) ** 2)
    return count, mean, squares / jnp.maximum(count - 1, 1).astype(jnp.float32)


class LowerConfidenceBound(eqx.Module):
    """Chooses the move with the largest lower confidence bound, `mean - z * sqrt(variance / count)`.

    The bound is high for a move whose returns are both good and certain. The number of visits alone does not show this.
    The count, mean and variance come from [`tz.mcts.root_returns`][]. A move is eligible if it has at least two
    returns, and at least `min_fraction` of the largest count. If no move is eligible, the weights of the root policy
    decide.

    **Fields:**

    - `z`: the number of standard errors that are subtracted.
    - `min_fraction`: the fraction of the largest count that a move needs, from 0 to 1.

    **Raises:** `ValueError` if `min_fraction` is not from 0 to 1.

    This final move comes from Leela Zero. KataGo uses it, too, and the defaults are KataGo's settings.
    """

    z: float | Float[Array, ""] = 5.0
    min_fraction: float | Float[Array, ""] = 0.15

    def __check_init__(self):
        check_number("LowerConfidenceBound", "min_fraction", self.min_fraction, high=1.0)

    def __call__(
        self, tree: Tree, discount: float | Float[Array, ""], log_weights: Float[Array, " A"]
    ) -> Float[Array, " A"]:
        """Returns log weights of 0 for the chosen move and -inf for the others.

        **Arguments:**

        - `tree`, `discount`: the tree and the discount of the search.
        - `log_weights`: `[A]`, the weights of the root policy, returned unchanged if no move is eligible.
        """
        count, mean, variance = root_returns(tree, discount)
        count = count.astype(jnp.float32)
        bound = mean - jnp.float32(self.z) * jnp.sqrt(variance / jnp.maximum(count, 1))
        eligible = (count >= 2) & (count >= jnp.float32(self.min_fraction) * jnp.max(count))
        best = best_action(jnp.where(eligible, bound, -jnp.inf))
        is_best = jnp.arange(len(bound), dtype=jnp.int32) == best
        return jnp.where(jnp.any(eligible), jnp.where(is_best, 0.0, -jnp.inf), log_weights)
