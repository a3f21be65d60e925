"""What self-play records, and what training learns from."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from tz._arrays import named_arrays


class Trajectory(eqx.Module):
    """Consecutive steps of one game, oldest first, as self-play records them.

    Every field has the leading axis `T`; a single step has none, so that `jax.lax.scan` may stack steps. The steps may
    span several episodes: the step after one that `terminated` or was `truncated` belongs to a new episode.

    **Fields:**

    - `observation`: `[T, ...]`, what the network saw before the move, in the view of the mover: an array, or a PyTree
        of arrays.
    - `action_mask`: `[T, A]`, True where an action was legal.
    - `policy`: `[T, A]`, the policy target of the search; probabilities.
    - `value`: `[T]`, the search's value of the position, for the mover.
    - `action`: `[T]`, the action played.
    - `action_value`: `[T]`, the search's estimate of the return from the action played, the reward of this move
        included, for the mover.
    - `rewards`: `[T, P]`, what each player received for this move.
    - `player`: `[T]`, the mover.
    - `terminated`: `[T]`, the move ended the episode.
    - `truncated`: `[T]`, the episode was cut off after this move without an end. Never together with `terminated`.
    - `policy_weight`: `[T]`, how much the policy target counts: 1, or 0 after a fast search, see [`tz.collect`][].
    - `extra`: arrays `[T, ...]`, what the `record` of [`tz.collect`][] returned for each position; None without one.
    - `final`: arrays `[T, ...]`, what its `record_end` returned for the state after each move, the one that ended an
        episode included; None without one.
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
    """The rest of the episode of a sample, known only after its last move.

    **Fields:**

    - `moves_left`: moves from this position to the last of its episode, both included; at least 1.
    - `outcome`: the discounted return from this position to the end, from the perspective of the player to move in it.
        Where the episode was truncated, the return is bootstrapped.
    - `truncated`: whether the episode was cut off.
    - `player`: the player to move in this position, to turn `final` to that player's perspective.
    - `final`: what `record_end` returned for the last state of the episode.
    """

    moves_left: Int[Array, ""]
    outcome: Float[Array, ""]
    truncated: Bool[Array, ""]
    player: Int[Array, ""]
    final: PyTree


class Sample(eqx.Module):
    """One training example.

    **Fields:**

    - `observation`: `[...]`, the position, in the view of the player to move.
    - `action_mask`: `[A]`, True where an action is legal.
    - `policy`: `[A]`, the policy target; probabilities.
    - `value`: the value target, for the player to move.
    - `weight`: how much the sample counts in the mean loss of its batch. Where all samples are drawn from all games it
        is the same for all; see [`tz.EpisodeReplayBuffer.sample_parts`][].
    - `policy_weight`: how much its policy counts beside its value; 1 but for fast searches, see [`tz.collect`][].
    - `extra`: what `record` returned for this position; None without one.
    - `end`: a [`tz.learn.EpisodeEnd`][], where moves were collected with `record_end`; None otherwise.
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
    """`K` consecutive steps of one episode: the actions, and the positions before, between and after them.

    It begins at any position whose value target is known. Where the episode ends before `K` steps, its last position is
    repeated, with a policy of zeros, a value of 0 and a weight of 0; the actions and rewards of these steps are 0. It
    never runs into another episode.

    **Fields:**

    - `positions`: a [`tz.Sample`][] of `K + 1` positions, `[K + 1, ...]`: the values, each for the player to move
        there, the policies and the rest. Their `weight` is that of the unroll, and 0 after the end.
    - `action`: `[K]`, the action played in each position but the last.
    - `reward`: `[K]`, what the player who moved received for it, from that player's perspective. Of two players, the
        other received the negative.
    - `player`: `[K + 1]`, the player to move in each position.
    - `is_in_episode`: `[K + 1]`, False after the end: step `k` was made if it is True for `k`, and led to a position
        that was played on if it is True for `k + 1`.
    - `has_terminated`: `[K + 1]`, True after the end of an episode that terminated: there the value of 0 is a
        fact. After an episode that was cut off, nothing is known.
    - `weight`: how much the unroll counts in the mean loss of its batch.
    """

    positions: Sample
    action: Int[Array, " K"]
    reward: Float[Array, " K"]
    player: Int[Array, " K+1"]
    is_in_episode: Bool[Array, " K+1"]
    has_terminated: Bool[Array, " K+1"]
    weight: Float[Array, ""]


def check_trajectory(trajectory: Trajectory) -> None:
    """Raises `ValueError` where the shapes of one game's trajectory contradict each other."""
    if trajectory.player.ndim != 1 or trajectory.player.shape[0] < 1:
        raise ValueError(
            f"trajectory: found `player` of shape {trajectory.player.shape}, expected [T] with T at least 1, the steps "
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
                f"trajectory.{name} has shape {list(found)}, but {list(shape)} fits its {num_steps} steps (by "
                f"`player`) and {num_actions} actions (by `action_mask`)."
            )
    for name in ("observation", "extra", "final"):
        for path, x in named_arrays(getattr(trajectory, name)):
            if x.shape[:1] != (num_steps,):
                raise ValueError(
                    f"trajectory.{name}{path} has shape {list(x.shape)}, but [{num_steps}, ...] fits its {num_steps} "
                    "steps (by `player`)."
                )
    if num_players > 2:
        raise ValueError(
            f"trajectory.rewards has {num_players} players, but a value that changes sign with the side needs 1 or 2."
        )


def check_rows(name: str, rows: PyTree, columns: PyTree, advice: str) -> None:
    """Raises `ValueError` unless the rows of new moves have the shapes and dtypes of those in a ring."""
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
