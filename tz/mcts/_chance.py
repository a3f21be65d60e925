"""Nature's outcomes in a search tree: the outcome that each visit of an edge takes, and the nodes of the outcomes."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt

from tz._arrays import data_of
from tz.games.chance import cumulative, outcome_at
from tz.games.env import StepMetadata


class EdgeChance(eqx.Module):
    """The chance of one edge, and the outcome that one simulation takes there.

    **Fields:**

    - `cdf`: `[C]`, the cumulative distribution of the outcomes, -1 for those that cannot happen.
    - `offset`: the random number of the edge, with which its sequence of outcomes begins.
    - `outcome`: the outcome taken; 0 if a player is to move after the edge.
    """

    cdf: Float[Array, " C"]
    offset: UInt[Array, ""]
    outcome: Int[Array, ""]


class ChanceColumns(eqx.Module):
    """The arrays of a tree that belong to nature: `N` node slots with `C` outcomes each.

    If chance follows a move, the edge of the move leads to several nodes, one for each outcome tried so far. The first
    of these nodes is the one in `Tree.children`. Its row in these arrays holds the data of the edge. So edges and
    backups are the same as in other games: the `q` of an edge is the mean over its visits, whose outcomes follow the
    probabilities.

    Nature's own position, before the outcome, is not evaluated, since networks are not trained on such positions.
    `experiments/results/chance_values.md` shows the cost of that.

    **Fields:**

    - `cdf`: `[N, C]`, the cumulative distribution of the outcomes of the edge that leads to a node.
    - `children`: `[N, C]`, in the row of an edge's first node, the node of each outcome; -1 if there is none.
    - `offset`: `[N]`, the random number of the edge that leads to a node.
    - `outcome`: `[N]`, the outcome that led to a node.
    """

    cdf: Float[Array, "N C"]
    children: Int[Array, "N C"]
    offset: UInt[Array, " N"]
    outcome: Int[Array, " N"]

    def child(self, first: Int[Array, ""], visit: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the node that a visit of an edge leads to; -1 if it does not exist yet.

        **Arguments:** `first`, the first node of the edge, or -1; `visit`, the number of earlier visits of the edge.
        """
        # If `first` is -1, the outcome is read from the last row and means nothing, but `known_child` returns -1.
        return self.known_child(first, self.outcome_of(first, visit))

    def outcome_of(self, first: Int[Array, ""], visit: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the outcome that a visit takes, for the edge with this first node."""
        return outcome_at(self.cdf[first], nth_point(self.offset[first], visit))

    def known_child(self, first: Int[Array, ""], outcome: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the node of an outcome, for the edge with this first node; -1 if there is none."""
        return jnp.where(first >= 0, self.children[first, outcome], -1)

    def child_with_state(self, first: Int[Array, ""], states: PyTree, state: PyTree) -> Int[Array, ""]:
        """Returns the node of an edge whose state equals `state`; -1 if there is none.

        A real game shows the state after an outcome, but not the number of the outcome.

        **Arguments:** `first`, the first node of the edge, or -1; `states`, the states of all nodes, `[N, ...]`.
        """
        nodes = jnp.where(first >= 0, self.children[first], -1)

        def is_equal(column, x):
            column, x = data_of(column), data_of(x)
            return jnp.all((column[nodes] == x[None]).reshape(len(nodes), -1), axis=1)

        equal = jax.tree.leaves(jax.tree.map(is_equal, states, state))
        return jnp.max(jnp.where(jnp.stack([nodes >= 0, *equal]).all(0), nodes, -1))

    def edge(
        self, first: Int[Array, ""], visit: Int[Array, ""], probabilities: Float[Array, " C"], *, key: PRNGKeyArray
    ) -> EdgeChance:
        """Returns the chance of an edge for one of its visits; `key` draws the offset if the edge has no node yet."""
        offset = jnp.where(first >= 0, self.offset[first], jax.random.bits(key, (), jnp.uint32))
        cdf = cumulative(probabilities)
        return EdgeChance(cdf, offset, outcome_at(cdf, nth_point(offset, visit)))

    def append(
        self, first: Int[Array, ""], slot: Int[Array, ""], is_new: Bool[Array, ""], edge: EdgeChance
    ) -> "ChanceColumns":
        """Adds the node in `slot`, of the outcome of `edge`; `first` is the first node of the edge, or -1."""
        # The data of the edge are in the row of its first node, which is the new one if there was none. As in the tree,
        # a write that must not happen goes out of bounds; `slot` is out of bounds then, too.
        out_of_bounds = self.outcome.shape[0]
        row = jnp.where(is_new, jnp.where(first >= 0, first, slot), out_of_bounds)
        return ChanceColumns(
            cdf=self.cdf.at[slot].set(edge.cdf, mode="drop"),
            children=self.children.at[row, edge.outcome].set(slot, mode="drop"),
            offset=self.offset.at[slot].set(edge.offset, mode="drop"),
            outcome=self.outcome.at[slot].set(edge.outcome, mode="drop"),
        )

    def reroot(
        self, source: Int[Array, " N"], used: Bool[Array, " N"], position: Int[Array, " N"], first: Int[Array, " N"]
    ) -> "ChanceColumns":
        """Moves the rows of the nodes that are kept to their new slots.

        **Arguments:** `source`, the old slot that each new slot is filled from; `used`, whether it is filled;
        `position`, the new slot of each old one; `first`, the first node of the edge that leads to each node, in old
        slots, and out of bounds for the new root, whose edge is gone.
        """
        slots = jnp.arange(self.outcome.shape[0], dtype=jnp.int32)
        outcome = jnp.where(used, self.outcome[source], 0)
        row = position.at[first[source]].get(mode="fill", fill_value=len(slots))
        row = jnp.where(used, row, len(slots))
        return ChanceColumns(
            cdf=jnp.where(used[:, None], self.cdf[source], -1.0),
            children=jnp.full_like(self.children, -1).at[row, outcome].set(slots, mode="drop"),
            offset=jnp.where(used, self.offset[source], 0),
            outcome=outcome,
        )


def no_chance(metadata: StepMetadata, max_nodes: int) -> ChanceColumns | None:
    """Returns the arrays for a tree that has only a root, or None for a game without chance."""
    if metadata.chance is None:
        return None
    shape = max_nodes, metadata.chance.shape[0]
    numbers = jnp.zeros(max_nodes, jnp.int32)
    return ChanceColumns(
        jnp.full(shape, -1, jnp.float32), jnp.full(shape, -1, jnp.int32), numbers.astype(jnp.uint32), numbers
    )


def nth_point(offset: UInt[Array, ""], visit: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the point in [0, 1) at which a visit of an edge reads its outcome from the cumulative distribution.

    The points are the multiples of the golden ratio, modulo 1, shifted by a random offset. The offset makes each single
    visit a fair draw. The multiples are spread very evenly, so the fractions of the visits approach the probabilities
    much sooner than independent draws would.
    """
    # The point is `bits / 2**32`, and uint32 wraps around, which is the modulo. The factor is 2**32 times the golden
    # ratio minus 1. A float32 holds the upper 24 bits exactly; more could round up to 1.
    bits = offset + visit.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
