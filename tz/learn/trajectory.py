"""The records of self-play, and the samples that training learns from."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from tz._arrays import named_arrays


class Trajectory(eqx.Module):
    """Consecutive moves of one game, oldest first, as self-play records them.

    Every field has the leading axis `T`. A single move does not have it, so that `jax.lax.scan` can stack moves. The
    moves may span several episodes: the move after one that is `terminated` or `truncated` belongs to a new episode.

    **Fields:**

    - `observation`: `[T, ...]`, the input of the network before the move, from the perspective of the player to move:
        an array, or a PyTree of arrays.
    - `action_mask`: `[T, A]`, True where an action was legal.
    - `policy`: `[T, A]`, the policy target, the probabilities that the search gave the actions.
    - `value`: `[T]`, the search's value of the position, from the perspective of the player to move.
    - `action`: `[T]`, the action played.
    - `action_value`: `[T]`, the search's estimate of the return of the action played, including the reward of this
        move, from the perspective of the player who played it.
    - `rewards`: `[T, P]`, the reward of each player for this move.
    - `player`: `[T]`, the player who made the move.
    - `terminated`: `[T]`, True where the move ended the episode.
    - `truncated`: `[T]`, True where the episode was cut off after the move; never together with `terminated`.
    - `policy_weight`: `[T]`, the weight of the policy target: 1, or 0 after a fast search, see [`tz.collect`][].
    - `extra`: arrays `[T, ...]`, the results of `record` of [`tz.collect`][] for each position; None without it.
    - `final`: arrays `[T, ...]`, the results of `record_end` for the state after each move, which may be the end of an
        episode; None without it.
    """

    observation: PyTree[Shaped[Array, "..."]]
    action_mask: Bool[Array, "*T A"]
    policy: Float[Array, "*T A"]
    value: Float[Array, "*T"]
    action: Int[Array, "*T"]
    action_value: Float[Array, "*T"]
    rewards: Float[Array, "*T P"]
    player: Int[Array, "*T"]
    terminated: Bool[Array, "*T"]
    truncated: Bool[Array, "*T"]
    policy_weight: Float[Array, "*T"]
    extra: PyTree = None
    final: PyTree = None


class EpisodeEnd(eqx.Module):
    """The end of the episode that a sample is from, as targets for a loss. It is known only after the last move.

    **Fields:**

    - `moves_left`: the number of moves from this position to the end of the episode, including the move made in this
        position; at least 1.
    - `outcome`: the discounted return from this position to the end, from the perspective of the player to move. If the
        episode was truncated, the return is bootstrapped.
    - `truncated`: whether the episode was truncated.
    - `player`: the player to move in this position. It can be used to turn `final` to that player's perspective.
    - `final`: the result of `record_end` for the last state of the episode.
    """

    moves_left: Int[Array, ""]
    outcome: Float[Array, ""]
    truncated: Bool[Array, ""]
    player: Int[Array, ""]
    final: PyTree


class Sample(eqx.Module):
    """One training example.

    **Fields:**

    - `observation`: `[...]`, the position, from the perspective of the player to move.
    - `action_mask`: `[A]`, True where an action is legal.
    - `policy`: `[A]`, the policy target, as probabilities.
    - `value`: the value target, from the perspective of the player to move.
    - `weight`: the weight of the sample in the mean loss of its batch. It is the same for all samples, unless they are
        drawn from parts of the buffer; see [`tz.EpisodeReplayBuffer.sample_parts`][].
    - `policy_weight`: the weight of the policy target: 1, or 0 after a fast search, see [`tz.collect`][].
    - `extra`: the result of `record` for this position; None without it.
    - `end`: a [`tz.learn.EpisodeEnd`][] if the moves were collected with `record_end`; None otherwise.
    """

    observation: PyTree[Shaped[Array, "..."]]
    action_mask: Bool[Array, " A"]
    policy: Float[Array, " A"]
    value: Float[Array, ""]
    weight: Float[Array, ""]
    policy_weight: Float[Array, ""]
    extra: PyTree = None
    end: EpisodeEnd | None = None


class Unroll(eqx.Module):
    """`K` consecutive moves of one episode, and the `K + 1` positions before, between and after them.

    An unroll is a sample for losses that train a model over several moves. It starts at any position whose value target
    is known and never continues into another episode. If the episode ends before `K` moves, its last position is
    repeated with a policy of zeros, a value of 0 and a weight of 0, and the actions and rewards after the end are 0.

    **Fields:**

    - `positions`: a [`tz.Sample`][] of the positions, `[K + 1, ...]`. The value of each is from the perspective of the
        player to move in it. Its `weight` is the weight of the unroll, and 0 after the end.
    - `action`: `[K]`, the action played in each position but the last.
    - `reward`: `[K]`, the reward of each move, from the perspective of the player who made it. In a game of two players
        the other player received the negative.
    - `player`: `[K + 1]`, the player to move in each position.
    - `is_in_episode`: `[K + 1]`, False after the end. Move `k` was made if entry `k` is True. It led to a position from
        which play continued if entry `k + 1` is True too.
    - `has_terminated`: `[K + 1]`, True after the end of an episode that terminated, where the value is really 0. After
        the end of a truncated episode it is False, as the value there is not known.
    - `weight`: the weight of the unroll in the mean loss of its batch.
    """

    positions: Sample
    action: Int[Array, " K"]
    reward: Float[Array, " K"]
    player: Int[Array, " K+1"]
    is_in_episode: Bool[Array, " K+1"]
    has_terminated: Bool[Array, " K+1"]
    weight: Float[Array, ""]


def check_trajectory(trajectory: Trajectory) -> None:
    """Raises `ValueError` if the shapes of the fields of one game's trajectory do not fit together."""
    if trajectory.player.ndim != 1 or trajectory.player.shape[0] < 1:
        raise ValueError(
            f"trajectory: found `player` of shape {trajectory.player.shape}, expected [T] with T at least 1: the moves "
            "of one game, no batch axis; jax.vmap the call."
        )
    num_steps = trajectory.player.shape[0]
    num_actions = trajectory.action_mask.shape[-1] if trajectory.action_mask.ndim else 0
    num_players = trajectory.rewards.shape[1] if trajectory.rewards.ndim == 2 else 2
    expected = {
        "action_mask": (num_steps, num_actions),
        "policy": (num_steps, num_actions),
        "rewards": (num_steps, num_players),
        **dict.fromkeys(("value", "action", "action_value", "terminated", "truncated", "policy_weight"), (num_steps,)),
    }
    for name, shape in expected.items():
        found = getattr(trajectory, name).shape
        if found != shape:
            raise ValueError(
                f"trajectory.{name}: found the shape {list(found)}, expected {list(shape)}, as there are "
                f"{num_steps} moves (by `player`) and {num_actions} actions (by `action_mask`); take all fields from "
                "the same moves."
            )
    for name in ("observation", "extra", "final"):
        for path, x in named_arrays(getattr(trajectory, name)):
            if x.shape[:1] != (num_steps,):
                raise ValueError(
                    f"trajectory.{name}{path}: found the shape {list(x.shape)}, expected [{num_steps}, ...], as there "
                    f"are {num_steps} moves (by `player`); take all fields from the same moves."
                )
    if num_players > 2:
        raise ValueError(
            f"trajectory.rewards: found {num_players} players, expected 1 or 2, as a value is negated when the player "
            "to move changes; take a game of one or two players."
        )


def check_rows(name: str, rows: PyTree, columns: PyTree, advice: str) -> None:
    """Raises `ValueError` unless the rows of new moves have the same shapes and dtypes as the rows of the ring."""
    found, expected = (
        {path: f"{x.dtype}{list(x.shape[1:])}" for path, x in named_arrays({name: tree})} for tree in (rows, columns)
    )
    if found != expected or (rows is None) != (columns is None):
        raise ValueError(
            f"add: found trajectory.{name} with rows of {_listed(found)}, expected {_listed(expected)} as in the ring; "
            f"{advice}."
        )


def _listed(rows: dict[str, str]) -> str:
    return ", ".join(f"{path.partition(']')[2]} {text}".strip() for path, text in rows.items()) or "nothing"
