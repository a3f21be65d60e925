"""Columns of a replay ring for the end of each row's episode."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int, PyTree

from tz.learn.targets import Affine, change_of_side, compose
from tz.learn.trajectory import EpisodeEnd, Trajectory


class EndColumns(eqx.Module):
    """Columns of one ring; a row is complete once its episode has ended.

    **Fields:** `moves_left`, 0 while it is unknown; `outcome`, functions of what follows the newest row, as the value
    targets of the ring are; `truncated`, whether the episode was cut off after the row; `player`; `final`, the record
    of the state that the row's move led to.
    """

    moves_left: Int[Array, " capacity"]
    outcome: Affine
    truncated: Bool[Array, " capacity"]
    player: Int[Array, " capacity"]
    final: PyTree


def empty_ends(example: Trajectory, capacity: int) -> EndColumns | None:
    """Columns without any rows; None where the trajectory has no records of final states."""
    if example.final is None:
        return None
    zeros, numbers = jnp.zeros(capacity, jnp.float32), jnp.zeros(capacity, jnp.int32)
    final = jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape[1:]), x.dtype), example.final)
    return EndColumns(numbers, Affine(zeros, zeros), jnp.zeros(capacity, bool), numbers, final)


def rows_of_ends(trajectory: Trajectory, outcome: Affine) -> EndColumns:
    """Returns the rows of new moves.

    **Arguments:** `outcome`, the returns of the moves without any bootstrapping but that of truncated episodes.
    """
    closed = trajectory.terminated | trajectory.truncated
    slots = jnp.arange(len(closed), dtype=jnp.int32)
    end = lax.cummin(jnp.where(closed, slots, len(closed)), reverse=True)
    moves_left = jnp.where(end < len(closed), end - slots + 1, 0)
    return EndColumns(moves_left, outcome, trajectory.truncated, trajectory.player.astype(jnp.int32), trajectory.final)


def settled_ends(
    columns: EndColumns, first: Affine, closed: Bool[Array, " T"], age: Int[Array, " capacity"], last_player, player
) -> EndColumns:
    """The columns of the rows before new moves, as far as these settle them.

    **Arguments:** `first`, the function that settles the outcomes of the rows before; `closed`, whether a new move
    ended an episode; `age`, how many rows are newer than a row, -1 for rows whose episode has ended; `last_player`,
    the mover of the newest row, and `player`, the mover of the first new one.
    """
    ended, end = jnp.any(closed), jnp.argmax(closed).astype(jnp.int32)
    moves_left = jnp.where((age >= 0) & ended, age + end + 2, columns.moves_left)
    outcome = compose(columns.outcome, compose(change_of_side(last_player, player), first))
    return EndColumns(moves_left, outcome, columns.truncated, columns.player, columns.final)


def end_of(columns: EndColumns, game: Int[Array, ""], slot: Int[Array, ""]) -> EpisodeEnd:
    """Returns the end of one row's episode. Its last row is newer than the others, so it is still in the ring."""
    moves_left = columns.moves_left[game, slot]
    last = (slot + moves_left - 1) % columns.moves_left.shape[1]
    return EpisodeEnd(
        moves_left=moves_left,
        outcome=columns.outcome.offset[game, slot],
        truncated=columns.truncated[game, last],
        player=columns.player[game, slot],
        final=jax.tree.map(lambda x: x[game, last], columns.final),
    )
