"""Chance in a search tree: nature's outcome at each visit of an edge, and the nodes of the outcomes.

Nature is the player that rolls the dice, see `tz/games/chance.py`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt

from tz._arrays import data_of
from tz.games.chance import cumulative, outcome_at
from tz.games.env import StepMetadata


class EdgeChance(eqx.Module):
    """The distribution of nature's outcomes at one edge, and the outcome that one simulation takes there.

    **Fields:**

    - `cdf`: `[C]`, the cumulative distribution of the `C` outcomes, -1 for those that cannot happen.
    - `offset`: a random number, drawn once for the edge, that shifts its sequence of outcomes; see `nth_point`.
    - `outcome`: the outcome taken; 0 if a player is to move after the edge.
    """

    cdf: Float[Array, " C"]
    offset: UInt[Array, ""]
    outcome: Int[Array, ""]


class ChanceColumns(eqx.Module):
    """The arrays of a tree that belong to nature: `N` node slots with `C` outcomes each.

    If chance follows a move, the edge of the move leads to several nodes, one for each outcome tried so far. The first
    of these nodes is the one in `Tree.children`. Its row in these arrays holds the data of the edge. So edges and
    backups work as in other games: the `q` of an edge is the mean over its visits, whose outcomes follow the
    probabilities.

    The position before the outcome, in which nature is to move, is not evaluated, since networks are not trained on
    these positions. `experiments/results/chance_values.md` measures the cost.

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
        """Returns the node that an edge leads to and that holds the state `state`; -1 if there is none.

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
        """Returns the `EdgeChance` of one visit of an edge; `key` draws the offset if the edge has no node yet."""
        offset = jnp.where(first >= 0, self.offset[first], jax.random.bits(key, (), jnp.uint32))
        cdf = cumulative(probabilities)
        return EdgeChance(cdf, offset, outcome_at(cdf, nth_point(offset, visit)))

    def append(
        self, first: Int[Array, ""], slot: Int[Array, ""], is_new: Bool[Array, ""], edge: EdgeChance
    ) -> "ChanceColumns":
        """Adds the node in `slot`, which has the outcome of `edge`; `first` is the first node of the edge, or -1."""
        # The data of the edge are in the row of its first node, which is the new node if there was none. As in the
        # tree, a write that must not happen goes out of bounds. If the node is not new, `slot` is out of bounds, too.
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
        """Moves the rows of the kept nodes to their new slots.

        **Arguments:** `source`, the old slot that each new slot is filled from; `used`, whether it is filled;
        `position`, the new slot of each old one; `first`, the first node of the edge that leads to each node, in old
        slots; out of bounds for the new root, whose edge is gone.
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
    much sooner than they would with independent draws.
    """
    # The point is `bits / 2**32`. A uint32 wraps around, which takes the modulo. The factor is 2**32 * (g - 1), where g
    # is the golden ratio. A float32 holds the upper 24 bits exactly; more bits could round up to 1.
    bits = offset + visit.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
