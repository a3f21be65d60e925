"""The ring of one game, and how samples and unrolls are read from the rings of many."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz.learn._ends import EndColumns, end_of
from tz.learn.targets import Affine
from tz.learn.trajectory import Sample, Trajectory, Unroll

_Drawn = TypeVar("_Drawn")


class StepColumns(eqx.Module):
    """Columns of one ring for its steps.

    **Fields:** `action`; `reward`, of the mover; `player`, the mover; `terminated` and `truncated`, whether the step
    ended its episode or was its last.
    """

    action: Int[Array, " capacity"]
    reward: Float[Array, " capacity"]
    player: Int[Array, " capacity"]
    terminated: Bool[Array, " capacity"]
    truncated: Bool[Array, " capacity"]


def empty_steps(capacity: int) -> StepColumns:
    """Columns without any rows."""
    numbers, flags = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, bool)
    return StepColumns(numbers, jnp.zeros(capacity, jnp.float32), numbers, flags, flags)


def rows_of_steps(trajectory: Trajectory, reward: Float[Array, " T"]) -> StepColumns:
    """Returns the rows of new moves; `reward` is the movers'."""
    action, player = trajectory.action.astype(jnp.int32), trajectory.player.astype(jnp.int32)
    return StepColumns(action, reward.astype(jnp.float32), player, trajectory.terminated, trajectory.truncated)


class ReplayState(eqx.Module):
    """The ring of one game. Its oldest row is in slot `position - size`, its newest in `position - 1`, both modulo
    `capacity`. The `num_known` oldest rows have a known value target; the rest belong to the episode in progress.

    **Fields:**

    - `observation`: `[capacity, ...]`.
    - `action_mask`: `[capacity, A]`.
    - `policy`: `[capacity, A]`.
    - `value`: `[capacity]` functions from what follows the newest row, in the view of `last_player`, to the value
        target of each row, for its mover. A known row has `value.coefficient` 0, and `value.offset` is its target.
    - `policy_weight`: `[capacity]`.
    - `position`: the slot to be written next.
    - `size`: how many rows are in the ring, from 0 to `capacity`.
    - `num_known`: how many of them have a known value target.
    - `last_player`: the mover of the newest row.
    - `extra`: `[capacity, ...]`, the records of the positions, or None.
    - `ends`: the ends of the rows' episodes, as far as they are known, or None.
    - `steps`: the other columns that unrolls need, or None.
    """

    observation: PyTree[Shaped[Array, "capacity ..."]]
    action_mask: Bool[Array, "capacity A"]
    policy: Float[Array, "capacity A"]
    value: Affine
    policy_weight: Float[Array, " capacity"]
    position: Int[Array, ""]
    size: Int[Array, ""]
    num_known: Int[Array, ""]
    last_player: Int[Array, ""]
    extra: PyTree = None
    ends: EndColumns | None = None
    steps: StepColumns | None = None


def draw(
    state: ReplayState,
    num_samples: int,
    key: PRNGKeyArray,
    window: int | Int[Array, ""] | None,
    read: Callable[[ReplayState, Int[Array, ""], Int[Array, ""], Float[Array, ""]], _Drawn],
) -> _Drawn:
    """Reads the rings at rows with a known target, drawn uniformly and with replacement.

    **Arguments:** `state`, rings with the leading axis `B`; `window`, how many known rows of each game to draw from,
    the newest; None for all; `read`, `(state, game, slot, weight) -> sample`.

    **Returns:** the samples along a leading axis.
    """
    num_games, capacity = state.policy_weight.shape
    num_eligible = state.num_known if window is None else jnp.minimum(state.num_known, window)
    ends = jnp.cumsum(num_eligible, dtype=jnp.int32)
    weight = ends[-1].astype(jnp.float32) / (num_games * capacity)

    def one(rank):
        game = jnp.minimum(jnp.searchsorted(ends, rank, side="right").astype(jnp.int32), num_games - 1)
        # The known rows of a game are its oldest, and the last of them end with rank `ends[game] - 1`.
        age_order = rank - (ends[game] - state.num_known[game])
        slot = (state.position[game] - state.size[game] + age_order) % capacity
        return read(state, game, slot, weight)

    return jax.vmap(one)(jax.random.randint(key, (num_samples,), 0, jnp.maximum(ends[-1], 1), jnp.int32))


def sample_at(state: ReplayState, game: Int[Array, ""], slot: Int[Array, ""], weight: Float[Array, ""]) -> Sample:
    """Returns the sample of one row."""
    return Sample(
        observation=jax.tree.map(lambda column: column[game, slot], state.observation),
        action_mask=state.action_mask[game, slot],
        policy=state.policy[game, slot],
        value=state.value.offset[game, slot],
        weight=weight,
        policy_weight=state.policy_weight[game, slot],
        extra=jax.tree.map(lambda column: column[game, slot], state.extra),
        end=None if state.ends is None else end_of(state.ends, game, slot),
    )


def unroll_at(
    num_steps: int, state: ReplayState, game: Int[Array, ""], slot: Int[Array, ""], weight: Float[Array, ""]
) -> Unroll:
    """Returns the unroll of `num_steps` steps that begins at one row.

    The row has a known target, so the last row of its episode is newer and still in the ring: what is read before it
    does not cross the seam.
    """
    steps, capacity = state.steps, state.policy_weight.shape[1]
    assert steps is not None
    offsets = jnp.arange(num_steps + 1, dtype=jnp.int32)
    closed = (steps.terminated | steps.truncated)[game, (slot + offsets) % capacity]
    is_in_episode = jnp.cumsum(closed, dtype=jnp.int32) - closed.astype(jnp.int32) == 0
    num_rows = jnp.sum(is_in_episode, dtype=jnp.int32)
    slots = (slot + jnp.minimum(offsets, num_rows - 1)) % capacity

    def position(slot, is_played):
        sample = sample_at(state, game, slot, weight)
        masked = {name: jnp.where(is_played, getattr(sample, name), 0) for name in ("policy", "value", "weight")}
        return dataclasses.replace(sample, **masked)

    was_made = is_in_episode[:-1]
    return Unroll(
        positions=jax.vmap(position)(slots, is_in_episode),
        action=jnp.where(was_made, steps.action[game, slots[:-1]], 0),
        reward=jnp.where(was_made, steps.reward[game, slots[:-1]], 0),
        player=steps.player[game, slots],
        is_in_episode=is_in_episode,
        has_terminated=~is_in_episode & steps.terminated[game, slots[-1]],
        weight=weight,
    )
