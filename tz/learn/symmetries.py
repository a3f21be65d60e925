"""Data augmentation: the same position seen in a mirror or from another side of the board.

An augmentation is a function `(sample, *, key) -> sample` of one sample. It turns the board, the action mask and the
policy together and leaves the value, so it is right only for games whose rules have the symmetry.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from tz.learn.trajectory import Sample


def dihedral(sample: Sample, index: Int[Array, ""]) -> Sample:
    """Turns a square board, with one action for each cell, by one of the eight symmetries of the square.

    **Arguments:**

    - `sample`: `observation` is `[S, S, C]`; the first `S * S` of the `A` actions are the cells, row by row. Actions
        after these, such as a pass, stay where they are.
    - `index`: from 0 to 7. `index % 4` quarter turns, counter-clockwise, after a left-right mirror if `index >= 4`.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` if the board is not square, or has more cells than there are actions.
    """
    shape = sample.observation.shape
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
    turned = [np.rot90(side, turns) for side in (board, board[:, ::-1]) for turns in range(4)]
    cells = np.stack(turned).reshape(8, num_cells)
    others = np.broadcast_to(np.arange(num_cells, num_actions), (8, num_actions - num_cells))
    source = jnp.asarray(np.concatenate([cells, others], axis=1), jnp.int32)[index]
    observation = sample.observation.reshape(num_cells, shape[2])[source[:num_cells]].reshape(shape)
    return dataclasses.replace(
        sample, observation=observation, action_mask=sample.action_mask[source], policy=sample.policy[source]
    )


def random_dihedral(sample: Sample, *, key: PRNGKeyArray) -> Sample:
    """Applies one of the eight symmetries of a square board, all equally likely; see [`tz.learn.dihedral`][].

    **Arguments:**

    - `sample`: as for `dihedral`.
    - `key`: decides which symmetry.

    **Returns:** the turned sample, with the same value.

    **Raises:** `ValueError` as `dihedral`.
    """
    return dihedral(sample, jax.random.randint(key, (), 0, 8, jnp.int32))


def mirror(sample: Sample) -> Sample:
    """Exchanges left and right on a board whose actions are its columns.

    **Arguments:**

    - `sample`: `observation` is `[H, W, C]`, and the `A = W` actions are the columns from left to right.

    **Returns:** the mirrored sample, with the same value.

    **Raises:** `ValueError` if the number of actions is not the number of columns.
    """
    shape = sample.observation.shape
    num_actions = sample.policy.shape[0]
    if len(shape) != 3 or shape[1] != num_actions:
        raise ValueError(
            f"observation has shape {list(shape)}, expected [H, {num_actions}, C]: one column for each of the "
            f"{num_actions} actions."
        )
    return dataclasses.replace(
        sample,
        observation=sample.observation[:, ::-1],
        action_mask=sample.action_mask[::-1],
        policy=sample.policy[::-1],
    )


def random_mirror(sample: Sample, *, key: PRNGKeyArray) -> Sample:
    """Applies [`tz.learn.mirror`][] with probability one half.

    **Arguments:**

    - `sample`: as for `mirror`.
    - `key`: decides whether.

    **Returns:** the sample or its mirror image, with the same value.

    **Raises:** `ValueError` as `mirror`.
    """
    flipped = jax.random.bernoulli(key)
    return jax.tree.map(lambda there, here: jnp.where(flipped, there, here), mirror(sample), sample)
