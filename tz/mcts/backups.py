"""Backups, which carry the return of a simulation up the tree.

A backup is any function `(Node, action, q) -> (new q, value)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tz._arguments import check_number
from tz.mcts.tree import Node


class MeanBackup(eqx.Module):
    """AlphaZero's backup: the `q` of an edge is the mean of the returns seen through it."""

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Updates the edge `action` of `node` with a return.

        **Arguments:**

        - `node`: the node, before this visit is counted.
        - `action`: the edge that the simulation followed.
        - `q`: the return seen on this edge, for the player to move at `node`.

        **Returns:** the new `q` of the edge, and the value that the node passes up to its parent; here this is the
        return itself.
        """
        old = node.q[action]
        return old + (q - old) / (node.visits[action] + 1).astype(jnp.float32), q


class SoftmaxBackup(eqx.Module):
    """A backup by a softmax-weighted mean, in which good edges count for more than their fraction of the visits.

    The `q` of an edge is the last return seen on it, so it follows the current value of its child. The value of a node
    is `(raw value + visits * mean) / (1 + visits)`, where `mean` averages the `q` of the visited edges with the weights
    `softmax(q / temperature)`.

    **Fields:**

    - `temperature`: above 0. Towards 0, only the best edge counts, as in minimax.

    **Raises:** `ValueError` if `temperature` is not above 0.

    This is the weighted search of [turbozero](https://github.com/lowrollr/turbozero). For the softmax operator, see
    Asadi and Littman, *An alternative softmax operator for reinforcement learning*, ICML 2017.
    """

    temperature: float | Float[Array, ""] = 0.1

    def __check_init__(self):
        check_number("SoftmaxBackup", "temperature", self.temperature, above=True)

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the new `q` of the edge, which is the return seen, and the value of the node.

        **Arguments:** `node`, `action` and `q`, as in [`tz.mcts.MeanBackup`][].
        """
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        values, visits = jnp.where(taken, q, node.q), node.visits + taken.astype(jnp.int32)
        weights = jax.nn.softmax(jnp.where(visits > 0, values / jnp.float32(self.temperature), -jnp.inf))
        num_visits = jnp.sum(visits.astype(jnp.float32))
        return q, (node.raw_value + num_visits * jnp.sum(weights * values)) / (1 + num_visits)


class MaxBackup(eqx.Module):
    """MaxMCTS(lambda): a node passes up a mixture of the return seen and the `q` of its best edge.

    The `q` of an edge is the mean of the returns passed up to it, as with [`tz.mcts.MeanBackup`][].

    **Fields:**

    - `lambda_`: the weight of the return, from 0 to 1. With 1 this is [`tz.mcts.MeanBackup`][]; with 0 a node passes up
        only the `q` of its best edge.

    **Raises:** `ValueError` if `lambda_` is out of its range.

    Khandelwal et al., *On the analysis of complex backup strategies in Monte Carlo tree search*, ICML 2016.
    """

    lambda_: float | Float[Array, ""] = 0.8

    def __check_init__(self):
        check_number("MaxBackup", "lambda_", self.lambda_, high=1.0)

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the new `q` of the edge, which is the mean of the returns seen, and the value of the node.

        **Arguments:** `node`, `action` and `q`, as in [`tz.mcts.MeanBackup`][].
        """
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        new_q = node.q[action] + (q - node.q[action]) / (node.visits[action] + 1).astype(jnp.float32)
        best = jnp.max(jnp.where(taken, new_q, jnp.where(node.visits > 0, node.q, -jnp.inf)))
        lambda_ = jnp.float32(self.lambda_)
        return new_q, lambda_ * q + (1 - lambda_) * best


def virtual_visit(node: Node, action: Int[Array, ""], q: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Counts a simulation that is still under way as a visit that returned the expected value.

    A visited edge keeps its `q`, and an unvisited one gets the value of its node. Only the visits grow, which steers
    the next simulation to other edges.

    Liu et al., *Watch the unobserved: a simple approach to parallelizing Monte Carlo tree search*, ICLR 2020.
    """
    return jnp.where(node.visits[action] > 0, node.q[action], node.value), q
