"""How the return of a simulation changes the edges above it: a backup is any `(Node, action, q) -> (new q, value)`."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tz.mcts.tree import Node


class MeanBackup(eqx.Module):
    """AlphaZero's backup: an edge's `q` is the mean of the returns seen through it."""

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The edge's new `q`, and the value that its node passes on to its own parent.

        **Arguments:** `node` before this visit is counted; `q`, the return seen on the edge `action`, for the player to
        move at `node`.
        """
        old = node.q[action]
        return old + (q - old) / (node.visits[action] + 1).astype(jnp.float32), q


class SoftmaxBackup(eqx.Module):
    """A node is worth a softmax-weighted mean of its edges, so the good ones count for more than their visits.

    An edge's `q` is what its child is worth now, and a node's value `(raw value + visits * mean) / (1 + visits)`, where
    the mean is that of `q` weighted by `softmax(q / temperature)` over the visited edges.

    **Fields:** `temperature`, above 0: towards 0 the best edge alone counts, as in minimax.

    The weighted search of [turbozero](https://github.com/lowrollr/turbozero); the softmax operator: Asadi and Littman,
    *An alternative softmax operator for reinforcement learning*, ICML 2017.
    """

    temperature: float | Float[Array, ""] = 0.1

    def __check_init__(self):
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise ValueError(f"SoftmaxBackup: temperature must be above 0, found {self.temperature}.")

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The edge's new `q`, which is the one seen, and the value of its node."""
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        values, visits = jnp.where(taken, q, node.q), node.visits + taken.astype(jnp.int32)
        weights = jax.nn.softmax(jnp.where(visits > 0, values / jnp.float32(self.temperature), -jnp.inf))
        num_visits = jnp.sum(visits.astype(jnp.float32))
        return q, (node.raw_value + num_visits * jnp.sum(weights * values)) / (1 + num_visits)


class MaxBackup(eqx.Module):
    """MaxMCTS(lambda): a node passes on a mixture of the return seen and of its best edge.

    **Fields:** `lambda_`, from 0 to 1: at 1 it is [`tz.mcts.MeanBackup`][], at 0 every return is cut off at the best
    edge.

    Khandelwal et al., *On the analysis of complex backup strategies in Monte Carlo tree search*, ICML 2016.
    """

    lambda_: float | Float[Array, ""] = 0.8

    def __check_init__(self):
        if isinstance(self.lambda_, int | float) and not 0 <= self.lambda_ <= 1:
            raise ValueError(f"MaxBackup: lambda_ must be from 0 to 1, found {self.lambda_}.")

    def __call__(
        self, node: Node, action: Int[Array, ""], q: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The edge's new `q`, the mean of the returns seen, and the value of its node."""
        taken = jnp.arange(len(node.q), dtype=jnp.int32) == action
        new_q = node.q[action] + (q - node.q[action]) / (node.visits[action] + 1).astype(jnp.float32)
        best = jnp.max(jnp.where(taken, new_q, jnp.where(node.visits > 0, node.q, -jnp.inf)))
        lambda_ = jnp.float32(self.lambda_)
        return new_q, lambda_ * q + (1 - lambda_) * best


def virtual_visit(node: Node, action: Int[Array, ""], q: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mark of a simulation under way, so that the next goes elsewhere: a visit that returned what was expected.

    An edge keeps its `q`, and one without visits gets the value of its node; only the visits grow.

    Liu et al., *Watch the unobserved: a simple approach to parallelizing Monte Carlo tree search*, ICLR 2020.
    """
    return jnp.where(node.visits[action] > 0, node.q[action], node.value), q
