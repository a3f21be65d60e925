"""Nature's outcomes in a search tree: which outcome a visit of an edge takes, and the nodes that they lead to."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, UInt

from tz._arrays import data_of
from tz.games.chance import cumulative, outcome_at
from tz.games.env import StepMetadata


class EdgeChance(eqx.Module):
    """The chance of one edge, and the outcome that a simulation takes there.

    **Fields:** `cdf`, `[C]`, the cumulative distribution of the outcomes; `offset`, the random number of the edge;
    `outcome`.
    """

    cdf: Float[Array, " C"]
    offset: UInt[Array, ""]
    outcome: Int[Array, ""]


class ChanceColumns(eqx.Module):
    """The part of a tree that belongs to nature, `N` node slots with `C` outcomes each.

    Where chance answers a move, its edge leads to several nodes, one for each outcome that was tried. The first of them
    is in `Tree.children`, and its row here holds what belongs to the edge. So neither edges nor backups differ from
    those of other games: the `q` of an edge is the mean over its visits, whose outcomes follow the probabilities.
    Nature's own position, before the outcome, is not evaluated, since a network has never been trained on one. What
    that costs is in `experiments/results/chance_values.md`.

    **Fields:** `cdf`, `[N, C]`, of the outcomes; `children`, `[N, C]`, the node of each outcome, -1 where there is
    none; `offset`, `[N]`, a random number of the edge; `outcome`, `[N]`, the outcome that led to a node.
    """

    cdf: Float[Array, "N C"]
    children: Int[Array, "N C"]
    offset: UInt[Array, " N"]
    outcome: Int[Array, " N"]

    def child(self, first: Int[Array, ""], visit: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the node that a visit of an edge comes to, -1 where there is none yet.

        **Arguments:** `first`, the first node of the edge, or -1; `visit`, the number of the edge's visits before.
        """
        return self.known_child(first, self.outcome_of(first, visit))

    def outcome_of(self, first: Int[Array, ""], visit: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the outcome that a visit of the edge with this first node takes."""
        return outcome_at(self.cdf[first], nth_point(self.offset[first], visit))

    def known_child(self, first: Int[Array, ""], outcome: Int[Array, ""]) -> Int[Array, ""]:
        """Returns the node of an outcome of the edge with this first node, -1 where there is none."""
        return jnp.where(first >= 0, self.children[first, outcome], -1)

    def child_with_state(self, first: Int[Array, ""], states: PyTree, state: PyTree) -> Int[Array, ""]:
        """Returns the node among those of an edge that has this state, -1 where none has.

        **Arguments:** `first`, the first node of the edge, or -1; `states`, those of all nodes, `[N, ...]`.
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
        """Returns the chance of an edge at one of its visits; the key gives an edge without any nodes its offset."""
        offset = jnp.where(first >= 0, self.offset[first], jax.random.bits(key, (), jnp.uint32))
        cdf = cumulative(probabilities)
        return EdgeChance(cdf, offset, outcome_at(cdf, nth_point(offset, visit)))

    def append(
        self, first: Int[Array, ""], slot: Int[Array, ""], is_new: Bool[Array, ""], edge: EdgeChance
    ) -> "ChanceColumns":
        """Adds the node in `slot` as the one of an outcome; `first` is the first node of the edge, or -1."""
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
        """Moves the rows of the nodes that are kept.

        **Arguments:** `source`, where each slot is filled from; `used`, whether it is; `position`, the new slots of the
        nodes; `first`, the first node of each node's edge, in old slots, out of bounds for the new root.
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
    """Returns the columns of a tree that has only a root, or None for a game without chance."""
    if metadata.chance is None:
        return None
    shape = max_nodes, metadata.chance.shape[0]
    numbers = jnp.zeros(max_nodes, jnp.int32)
    return ChanceColumns(
        jnp.full(shape, -1, jnp.float32), jnp.full(shape, -1, jnp.int32), numbers.astype(jnp.uint32), numbers
    )


def nth_point(offset: UInt[Array, ""], visit: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the point, from 0 to below 1, of the cumulative distribution whose outcome a visit of an edge takes.

    The points are multiples of the golden ratio from a random offset on, modulo 1. Because of the offset each visit by
    itself is an honest draw. Because these multiples are spread as evenly as can be, the fractions of the visits come
    close to the probabilities much sooner than those of independent draws.
    """
    bits = offset + visit.astype(jnp.uint32) * jnp.uint32(0x9E3779B9)  # 2**32 times the golden ratio less 1
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2**-24)
