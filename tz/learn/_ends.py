"""The columns of a replay ring that say how the episode of each row ended."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from tz.learn.targets import Affine, change_of_side, compose
from tz.learn.trajectory import EpisodeEnd, Trajectory


class EndColumns(eqx.Module):
    """Holds the columns of one ring. A row is complete once its episode has ended.

    **Fields:**

    - `moves_left`: the number of moves from the row to the last one of its episode, both included; 0 while unknown.
    - `outcome`: functions of the return that follows the newest row, like `value` of [`tz.learn.ReplayState`][].
    - `truncated`: whether the episode was truncated right after this row.
    - `player`: the player to move.
    - `final`: the record of the state that the move of this row led to.
    """

    moves_left: Int[Array, " capacity"]
    outcome: Affine
    truncated: Bool[Array, " capacity"]
    player: Int[Array, " capacity"]
    final: PyTree


def empty_ends(example: Trajectory, capacity: int) -> EndColumns | None:
    """Returns empty columns, or None if the trajectory has no records of final states."""
    if example.final is None:
        return None
    zeros, numbers = jnp.zeros(capacity, jnp.float32), jnp.zeros(capacity, jnp.int32)
    final = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), example.final)
    return EndColumns(numbers, Affine(zeros, zeros), jnp.zeros(capacity, bool), numbers, final)


def rows_of_ends(trajectory: Trajectory, outcome: Affine) -> EndColumns:
    """Returns the rows of these columns for new moves.

    **Arguments:** `outcome`, the returns of the moves, bootstrapped only where an episode was truncated.
    """
    closed = trajectory.terminated | trajectory.truncated
    slots = jnp.arange(len(closed), dtype=jnp.int32)
    # The index of the next closing move, at or after each move; `len(closed)` where the episode is still open.
    end = lax.cummin(jnp.where(closed, slots, len(closed)), reverse=True)
    moves_left = jnp.where(end < len(closed), end - slots + 1, 0)
    return EndColumns(moves_left, outcome, trajectory.truncated, trajectory.player.astype(jnp.int32), trajectory.final)


def settled_ends(
    columns: EndColumns, first: Affine, closed: Bool[Array, " T"], age: Int[Array, " capacity"], last_player, player
) -> EndColumns:
    """Returns the columns of the earlier rows, updated with what the new moves reveal about them.

    **Arguments:** `first`, the return from the first new move on, as a function of the return that follows the last
    one; `closed`, whether each new move ended an episode; `age`, the number of rows newer than each row, or -1 if the
    row's episode has ended; `last_player`, the player who made the move of the newest row; `player`, the player who
    made the first new move.
    """
    ended, end = jnp.any(closed), jnp.argmax(closed).astype(jnp.int32)
    # The moves left are the row's own move, the moves of the `age` newer rows, and the new moves 0 to `end`.
    moves_left = jnp.where((age >= 0) & ended, age + end + 2, columns.moves_left)
    # An outcome that is already known is a constant, which `compose` does not change.
    outcome = compose(columns.outcome, compose(change_of_side(last_player, player), first))
    return EndColumns(moves_left, outcome, columns.truncated, columns.player, columns.final)


def end_of(columns: EndColumns, game: Int[Array, ""], slot: Int[Array, ""]) -> EpisodeEnd:
    """Returns the end of one row's episode."""
    # The last row of the episode is at least as new as this row, so it is still in the ring.
    moves_left = columns.moves_left[game, slot]
    last = (slot + moves_left - 1) % columns.moves_left.shape[1]
    return EpisodeEnd(
        moves_left=moves_left,
        outcome=columns.outcome.offset[game, slot],
        truncated=columns.truncated[game, last],
        player=columns.player[game, slot],
        final=jax.tree.map(lambda x: x[game, last], columns.final),
    )
