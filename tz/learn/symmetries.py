"""Data augmentation with the symmetries of a board: mirror images and rotations.

An augmentation is a function `(sample, *, key) -> sample` of one sample. It turns the board, the action mask and the
policy alike and keeps the value. So it is valid only for games whose rules have the symmetry.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from tz.learn.trajectory import Sample, Unroll

Turn = Callable[[Array], Array]
"""Turns an array like the observation. The array's first two axes are the board's rows and columns."""

TurnRecords = Callable[[Sample, Turn], Sample]
"""`(sample, turn) -> sample`: turns `extra` and `end.final` of a sample whose other fields are turned already."""


def _with_records(name: str, sample: Sample, turn: Turn, turn_records: TurnRecords | None) -> Sample:
    """Turns the records of a sample with the function that the user gave for them."""
    if turn_records is not None:
        return turn_records(sample, turn)
    final = None if sample.end is None else sample.end.final
    if jax.tree.leaves((sample.extra, final)):
        raise ValueError(
            f"{name}: found a sample with records, expected turn_records, a function (sample, turn) -> sample that "
            f"turns them with the board; pass functools.partial(tz.learn.{name}, turn_records=...). If the records "
            "need no turning, let the function return the sample unchanged."
        )
    return sample


def turn_unroll(augment: Callable[..., Sample], unroll: Unroll, *, key: PRNGKeyArray) -> Unroll:
    """Applies one symmetry to all positions and actions of an unroll.

    **Arguments:**

    - `augment`: an augmentation of samples, such as [`tz.random_mirror`][]. It must move each entry of the policy to
        the turned action.
    - `unroll`: one unroll, without a batch axis.
    - `key`: decides which symmetry is applied.

    **Returns:** the turned unroll, with the same values and rewards. Actions after the end of the episode are still 0.
    """

    # `augment` knows how to turn a policy, so the action is turned as a policy that is 1 there and 0 elsewhere.
    def moved(sample, action):
        chosen = jnp.arange(sample.policy.shape[0], dtype=jnp.int32) == action
        turned = augment(dataclasses.replace(sample, policy=chosen.astype(sample.policy.dtype)), key=key)
        return jnp.argmax(turned.policy).astype(action.dtype)

    # All positions get one key, and with it the same symmetry.
    positions = jax.vmap(lambda sample: augment(sample, key=key))(unroll.positions)
    before = jax.tree.map(lambda x: x[:-1], unroll.positions)
    action = jnp.where(unroll.is_in_episode[:-1], jax.vmap(moved)(before, unroll.action), 0)
    return dataclasses.replace(unroll, positions=positions, action=action)


def _shape(sample: Sample) -> tuple[int, ...]:
    if isinstance(sample, Unroll):
        raise ValueError(
            "mirror or dihedral: found an Unroll, expected a Sample; turn its positions and actions alike with "
            "tz.learn.turn_unroll(augment, unroll, key=key)."
        )
    if not hasattr(sample.observation, "shape"):
        raise ValueError(
            f"mirror or dihedral: found an observation that is a {type(sample.observation).__name__}, expected one "
            "array; write a function (sample, *, key) -> sample that turns its parts."
        )
    return sample.observation.shape


def dihedral(sample: Sample, index: Int[Array, ""], *, turn_records: TurnRecords | None = None) -> Sample:
    """Applies one of the eight symmetries of the square to a sample of a square board with one action for each cell.

    **Arguments:**

    - `sample`: its observation is `[S, S, C]`, and the first `S * S` of the `A` actions are the cells, row by row. The
        actions after them, such as a pass, stay where they are.
    - `index`: which symmetry, from 0 to 7: `index % 4` counter-clockwise quarter turns, after a left-right mirror if
        `index >= 4`.
    - `turn_records`: `(sample, turn) -> sample`, needed for samples with records, such as
        `lambda sample, turn: dataclasses.replace(sample, extra=turn(sample.extra))`. `turn` turns any array whose first
        two axes are the board, `[S, S, ...]`.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` if the board is not square, if it has more cells than there are actions, or if the sample
    has records and `turn_records` is missing.
    """
    shape = _shape(sample)
    num_actions = sample.policy.shape[0]
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(
            f"dihedral: found an observation of shape {list(shape)}, expected a square board [S, S, C]; use another "
            "augmentation for this game."
        )
    num_cells = shape[0] * shape[1]
    if num_actions < num_cells:
        raise ValueError(
            f"dihedral: found {num_actions} actions on a board of {shape[0]} x {shape[1]}, expected at least one for "
            f"each of its {num_cells} cells; use another augmentation for this game."
        )
    # `cells[index, cell]` is the cell of the original board that moves to `cell`.
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
    """Applies one of the eight symmetries of a square board, each with the same probability.

    **Arguments:**

    - `sample`, `turn_records`: as in [`tz.learn.dihedral`][].
    - `key`: decides which symmetry is applied.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` in the same cases as `dihedral`.
    """
    return dihedral(sample, jax.random.randint(key, (), 0, 8, jnp.int32), turn_records=turn_records)


def mirror(sample: Sample, *, turn_records: TurnRecords | None = None) -> Sample:
    """Exchanges left and right on a board whose actions are its columns, as in Connect Four.

    **Arguments:**

    - `sample`: its observation is `[H, W, C]`, and the `A = W` actions are the columns from left to right.
    - `turn_records`: as in [`tz.learn.dihedral`][]; here `turn` mirrors any array `[H, W, ...]`.

    **Returns:** the mirrored sample, with the same value.

    **Raises:** `ValueError` if the number of actions is not the number of columns, or if the sample has records and
    `turn_records` is missing.
    """
    shape = _shape(sample)
    num_actions = sample.policy.shape[0]
    if len(shape) != 3 or shape[1] != num_actions:
        raise ValueError(
            f"mirror: found an observation of shape {list(shape)}, expected [H, {num_actions}, C], one column for each "
            f"of the {num_actions} actions; use another augmentation for this game."
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

    - `sample`, `turn_records`: as in `mirror`.
    - `key`: decides whether the sample is mirrored.

    **Returns:** the sample or its mirror image, with the same value.

    **Raises:** `ValueError` in the same cases as `mirror`.
    """
    flipped = jax.random.bernoulli(key)
    return jax.tree.map(
        lambda there, here: jnp.where(flipped, there, here), mirror(sample, turn_records=turn_records), sample
    )
