"""Data augmentation: the same position seen in a mirror or from another side of the board.

An augmentation is a function `(sample, *, key) -> sample` of one sample. It turns the board, the action mask and the
policy together and leaves the value, so it is right only for games whose rules have the symmetry.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from tz.learn.trajectory import Sample, Unroll

Turn = Callable[[Array], Array]
"""Turns an array whose first axes are the rows and columns of the board as the observation was turned."""

TurnRecords = Callable[[Sample, Turn], Sample]
"""`(sample, turn) -> sample`, which turns `extra` and `end.final` of a sample that is turned otherwise."""


def _with_records(name: str, sample: Sample, turn: Turn, turn_records: TurnRecords | None) -> Sample:
    """The sample with its records turned too, as the user says how."""
    if turn_records is not None:
        return turn_records(sample, turn)
    final = None if sample.end is None else sample.end.final
    if jax.tree.leaves((sample.extra, final)):
        raise ValueError(
            f"{name}: found a sample with records, expected turn_records, which turns them with the board; pass "
            f"functools.partial(tz.learn.{name}, turn_records=...), a function (sample, turn) -> sample. One that "
            "returns the sample as it is says that they need no turning."
        )
    return sample


def turn_unroll(augment: Callable[..., Sample], unroll: Unroll, *, key: PRNGKeyArray) -> Unroll:
    """Turns all positions of an unroll alike, and its actions with them.

    **Arguments:** `augment`, such as [`tz.random_mirror`][], which moves the policy as it moves the actions; `unroll`,
    one, without a batch axis; `key`, of the symmetry.

    **Returns:** the turned unroll, with the same values and rewards.
    """

    def moved(sample, action):
        chosen = jnp.arange(sample.policy.shape[0], dtype=jnp.int32) == action
        turned = augment(dataclasses.replace(sample, policy=chosen.astype(sample.policy.dtype)), key=key)
        return jnp.argmax(turned.policy).astype(action.dtype)

    positions = jax.vmap(lambda sample: augment(sample, key=key))(unroll.positions)
    before = jax.tree.map(lambda x: x[:-1], unroll.positions)
    return dataclasses.replace(unroll, positions=positions, action=jax.vmap(moved)(before, unroll.action))


def _shape(sample: Sample) -> tuple[int, ...]:
    if isinstance(sample, Unroll):
        raise ValueError(
            "found an Unroll, expected a Sample; turn its positions and actions alike by "
            "tz.learn.turn_unroll(augment, unroll, key=key)."
        )
    if not hasattr(sample.observation, "shape"):
        raise ValueError(
            f"found an observation that is a {type(sample.observation).__name__}, expected one array; write a function "
            "(sample, *, key) -> sample that turns its parts."
        )
    return sample.observation.shape


def dihedral(sample: Sample, index: Int[Array, ""], *, turn_records: TurnRecords | None = None) -> Sample:
    """Turns a square board, with one action for each cell, by one of the eight symmetries of the square.

    **Arguments:**

    - `sample`: `observation` is `[S, S, C]`; the first `S * S` of the `A` actions are the cells, row by row. Actions
        after these, such as a pass, stay where they are.
    - `index`: from 0 to 7. `index % 4` quarter turns, counter-clockwise, after a left-right mirror if `index >= 4`.
    - `turn_records`: for samples with records, `(sample, turn) -> sample`, such as
        `lambda sample, turn: dataclasses.replace(sample, extra=turn(sample.extra))`. `turn` turns any array whose first
        two axes are the board, `[S, S, ...]`.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` if the board is not square, or has more cells than there are actions, or the sample has
    records and it is not said how to turn them.
    """
    shape = _shape(sample)
    num_actions = sample.policy.shape[0]
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(f"observation has shape {list(shape)}, expected a square board [S, S, C].")
    num_cells = shape[0] * shape[1]
    if num_actions < num_cells:
        raise ValueError(
            f"policy has {num_actions} actions, but a board of {shape[0]} x {shape[1]} needs one for each of its "
            f"{num_cells} cells."
        )
    board = np.arange(num_cells).reshape(shape[:2])
    sides = [np.rot90(side, turns) for side in (board, board[:, ::-1]) for turns in range(4)]
    cells = np.stack(sides).reshape(8, num_cells)
    others = np.broadcast_to(np.arange(num_cells, num_actions), (8, num_actions - num_cells))
    source = jnp.asarray(np.concatenate([cells, others], axis=1), jnp.int32)[index]

    def turn(board):
        return board.reshape(num_cells, *board.shape[2:])[source[:num_cells]].reshape(board.shape)

    turned = dataclasses.replace(
        sample,
        observation=turn(sample.observation),
        action_mask=sample.action_mask[source],
        policy=sample.policy[source],
    )
    return _with_records("dihedral", turned, turn, turn_records)


def random_dihedral(sample: Sample, *, key: PRNGKeyArray, turn_records: TurnRecords | None = None) -> Sample:
    """Applies one of the eight symmetries of a square board, all equally likely; see [`tz.learn.dihedral`][].

    **Arguments:**

    - `sample`, `turn_records`: as for `dihedral`.
    - `key`: decides which symmetry.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` as `dihedral`.
    """
    return dihedral(sample, jax.random.randint(key, (), 0, 8, jnp.int32), turn_records=turn_records)


def mirror(sample: Sample, *, turn_records: TurnRecords | None = None) -> Sample:
    """Exchanges left and right on a board whose actions are its columns.

    **Arguments:**

    - `sample`: `observation` is `[H, W, C]`, and the `A = W` actions are the columns from left to right.
    - `turn_records`: as for [`tz.learn.dihedral`][]; `turn` mirrors any array `[H, W, ...]`.

    **Returns:** the mirrored sample, with the same value.

    **Raises:** `ValueError` if the number of actions is not the number of columns, or the sample has records and it is
    not said how to turn them.
    """
    shape = _shape(sample)
    num_actions = sample.policy.shape[0]
    if len(shape) != 3 or shape[1] != num_actions:
        raise ValueError(
            f"observation has shape {list(shape)}, expected [H, {num_actions}, C]: one column for each of the "
            f"{num_actions} actions."
        )
    turned = dataclasses.replace(
        sample,
        observation=sample.observation[:, ::-1],
        action_mask=sample.action_mask[::-1],
        policy=sample.policy[::-1],
    )
    return _with_records("mirror", turned, lambda board: board[:, ::-1], turn_records)


def random_mirror(sample: Sample, *, key: PRNGKeyArray, turn_records: TurnRecords | None = None) -> Sample:
    """Applies [`tz.learn.mirror`][] with probability one half.

    **Arguments:**

    - `sample`, `turn_records`: as for `mirror`.
    - `key`: decides whether.

    **Returns:** the sample or its mirror image, with the same value.

    **Raises:** `ValueError` as `mirror`.
    """
    flipped = jax.random.bernoulli(key)
    return jax.tree.map(
        lambda there, here: jnp.where(flipped, there, here), mirror(sample, turn_records=turn_records), sample
    )
