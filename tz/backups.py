"""How the return of a simulation changes the edges above it: a backup is any `(Node, action, q) -> (new q, value)`."""

import equinox as eqx
from jaxtyping import Array, Float, Int

from tz.tree import Node


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
        return old + (q - old) / (node.visits[action] + 1), q
