"""What self-play records, and what training learns from."""

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, Shaped


class Trajectory(eqx.Module):
    """Consecutive steps of one game, oldest first, as self-play records them.

    Every field has the leading axis `T`; a single step has none, so that `jax.lax.scan` may stack steps. The steps may
    span several episodes: the step after one that `terminated` or was `truncated` belongs to a new episode.

    **Fields:**

    - `observation`: `[T, ...]`, what the network saw before the move, in the view of the mover.
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
    """

    observation: Shaped[Array, "..."]
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
    """

    observation: Shaped[Array, "..."]
    action_mask: Bool[Array, " A"]
    policy: Float[Array, " A"]
    value: Float[Array, ""]
    weight: Float[Array, ""]
    policy_weight: Float[Array, ""]


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
        "observation": (num_steps, *trajectory.observation.shape[1:]),
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
    if num_players > 2:
        raise ValueError(
            f"trajectory.rewards has {num_players} players, but a value that changes sign with the side needs 1 or 2."
        )
