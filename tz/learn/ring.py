"""The ring of one game, and the functions that read samples and unrolls from the rings of many games."""

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
    """Holds the additional columns of one ring that unrolls need.

    **Fields:** `action`, the action played; `reward`, for the player who played it; `player`, that player;
    `terminated`, whether the move ended its episode; `truncated`, whether the episode was cut off after it.
    """

    action: Int[Array, " capacity"]
    reward: Float[Array, " capacity"]
    player: Int[Array, " capacity"]
    terminated: Bool[Array, " capacity"]
    truncated: Bool[Array, " capacity"]


def empty_steps(capacity: int) -> StepColumns:
    """Returns empty columns."""
    numbers, flags = jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, bool)
    return StepColumns(numbers, jnp.zeros(capacity, jnp.float32), numbers, flags, flags)


def rows_of_steps(trajectory: Trajectory, reward: Float[Array, " T"]) -> StepColumns:
    """Returns the rows of these columns for new moves; each reward is from the perspective of the player who moved."""
    action, player = trajectory.action.astype(jnp.int32), trajectory.player.astype(jnp.int32)
    return StepColumns(action, reward.astype(jnp.float32), player, trajectory.terminated, trajectory.truncated)


class ReplayState(eqx.Module):
    """The ring of one game, with one row for each position.

    The oldest row is in slot `position - size` and the newest in slot `position - 1`, both modulo `capacity`. The
    `num_known` oldest rows have a known value target; the other rows belong to the episode in progress.

    **Fields:**

    - `observation`: `[capacity, ...]`, the input of the network.
    - `action_mask`: `[capacity, A]`, True where an action was legal.
    - `policy`: `[capacity, A]`, the policy targets.
    - `value`: `[capacity]` affine functions. Each takes the value that follows the newest row, from the perspective of
        `last_player`, and gives the value target of its row, from the perspective of the row's player to move. A known
        row has `value.coefficient` 0, and `value.offset` is its target.
    - `policy_weight`: `[capacity]`, the weights of the policy targets.
    - `position`: the slot that is written next.
    - `size`: the number of rows in the ring, from 0 to `capacity`.
    - `num_known`: the number of rows with a known value target.
    - `last_player`: the player who made the move of the newest row.
    - `extra`: `[capacity, ...]`, the records of the positions, or None.
    - `ends`: what is known about the end of each row's episode, or None if moves are collected without `record_end`.
    - `steps`: the actions, rewards and ends that unrolls need, or None if the buffer has no `max_unroll`.
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
    """Draws rows with a known target uniformly, with replacement, and reads a sample from each.

    **Arguments:** `state`, rings with the leading axis `B`; `window`, how many of the newest known rows of each game
    are eligible, None for all; `read`, `(state, game, slot, weight) -> sample`.

    **Returns:** the samples along a leading axis.
    """
    num_games, capacity = state.policy_weight.shape
    num_eligible = state.num_known if window is None else jnp.minimum(state.num_known, window)
    ends = jnp.cumsum(num_eligible, dtype=jnp.int32)
    # Each part of the buffer gives equally many samples, so a sample from a part with more rows stands for more rows.
    weight = ends[-1].astype(jnp.float32) / (num_games * capacity)

    def one(rank):
        # `ends` are cumulative counts: a rank belongs to the first game whose count is above it. If no row is eligible,
        # there is no such game; the minimum keeps the index valid, and the weight of the sample is 0.
        game = jnp.minimum(jnp.searchsorted(ends, rank, side="right").astype(jnp.int32), num_games - 1)
        # The last rank of a game, `ends[game] - 1`, is its newest known row, which is row `num_known - 1` counted from
        # the oldest. With a window, the first ranks skip the oldest rows.
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
    """Returns the unroll of `num_steps` moves that begins at one row.

    The row has a known target, so the last row of its episode is in the ring too, at or after it. The slots beyond that
    last row may hold anything, even the oldest rows of the ring, so they are not used.
    """
    steps, capacity = state.steps, state.policy_weight.shape[1]
    assert steps is not None
    offsets = jnp.arange(num_steps + 1, dtype=jnp.int32)
    closed = (steps.terminated | steps.truncated)[game, (slot + offsets) % capacity]
    # The exclusive sum counts the closing moves before each row, so it is 0 up to and including the first closing row.
    is_in_episode = jnp.cumsum(closed, dtype=jnp.int32) - closed.astype(jnp.int32) == 0
    num_rows = jnp.sum(is_in_episode, dtype=jnp.int32)
    # After the end, the last row of the episode is repeated.
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
