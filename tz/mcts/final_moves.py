"""How the move is chosen in the end: any `(tree, discount, log_weights) -> log_weights`, before the temperature."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tz.mcts._any_game import any_game
from tz.mcts.selectors import best_action
from tz.mcts.tree import Tree


def by_weights(tree: Tree, discount: float | Float[Array, ""], log_weights: Float[Array, " A"]) -> Float[Array, " A"]:
    """As the root policy has it: by the visits, mostly."""
    del tree, discount
    return log_weights


def root_returns(
    tree: Tree, discount: float | Float[Array, ""]
) -> tuple[Int[Array, " A"], Float[Array, " A"], Float[Array, " A"]]:
    """What the evaluations in the tree say of each move at the root: their number, mean and variance.

    Every node stands for one simulation that ended with it, a terminal one for all that did. Simulations that found the
    tree full have no node and are missing.

    **Returns:** `count`, `mean` and `variance` (unbiased; 0 for fewer than two) of the returns, `[A]` each, for the
    player to move at the root.
    """

    discount = jnp.asarray(discount, jnp.float32)

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
    """Chooses the move with the largest `q - z * sqrt(variance / visits)`: good, and surely so.

    Only moves with `min_fraction` of the most visits, and at least two, are looked at; if there is none, the weights
    decide.

    **Fields:** `z`, standard errors to subtract; `min_fraction`, from 0 to 1.

    The final move of KataGo, whose settings are the defaults, and of Leela Zero, where it comes from.
    """

    z: float | Float[Array, ""] = 5.0
    min_fraction: float | Float[Array, ""] = 0.15

    def __call__(
        self, tree: Tree, discount: float | Float[Array, ""], log_weights: Float[Array, " A"]
    ) -> Float[Array, " A"]:
        """0 for the move chosen and -inf for the others."""
        count, mean, variance = root_returns(tree, discount)
        count = count.astype(jnp.float32)
        bound = mean - jnp.float32(self.z) * jnp.sqrt(variance / jnp.maximum(count, 1))
        eligible = (count >= 2) & (count >= jnp.float32(self.min_fraction) * jnp.max(count))
        best = best_action(jnp.where(eligible, bound, -jnp.inf))
        is_best = jnp.arange(len(bound), dtype=jnp.int32) == best
        return jnp.where(jnp.any(eligible), jnp.where(is_best, 0.0, -jnp.inf), log_weights)
