"""Self-play without end: search, move, record, and start anew where a game is over."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray

from tz.env import Env
from tz.mcts import MCTS
from tz.replay import Trajectory
from tz.search import Evaluator, SearchState, action_weights, advance, choose_action, init_search, search


class CollectState(eqx.Module):
    """One game in progress.

    **Fields:** `search`, whose root is the position to move in; `episode_steps`, moves made in this episode; `step`,
    moves made since the beginning; `key`, of this game. The randomness of move `step` depends on these two alone, so a
    batch plays the same games however it is split over devices.
    """

    search: SearchState
    episode_steps: Int[Array, ""]
    step: Int[Array, ""]
    key: PRNGKeyArray


def init_collect(mcts: MCTS, env: Env, *, key: PRNGKeyArray) -> CollectState:
    """Starts one game; `jax.vmap` over keys starts many.

    **Raises:** `ValueError` for games of more than two players.
    """
    init_key, key = jax.random.split(key)
    return CollectState(init_search(mcts, *env.init(init_key)), jnp.int32(0), jnp.int32(0), key)


def collect(
    mcts: MCTS,
    env: Env,
    evaluator: Evaluator,
    state: CollectState,
    *,
    num_steps: int,
    max_episode_steps: int | None = None,
) -> tuple[CollectState, Trajectory]:
    """Plays `num_steps` moves of one game, beginning a new episode wherever one ends.

    **Arguments:** `max_episode_steps`, after which an episode is truncated; None lets every game end on its own.

    **Returns:** the state to go on from and the [`tz.Trajectory`][], `[T, ...]`. The last move of an episode is part of
    it, with its reward; the row after it belongs to a new game.
    """

    def move(state: CollectState, _):
        search_key, action_key, init_key = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        searched = search(mcts, env, evaluator, state.search, key=search_key)
        action = choose_action(mcts, searched, key=action_key)

        root, before = searched.root, searched.metadata
        env_state = jax.tree.map(lambda x: x[0], searched.tree.state)
        next_state, after = env.step(env_state, action)
        episode_steps = state.episode_steps + 1
        out_of_time = False if max_episode_steps is None else episode_steps >= max_episode_steps
        truncated = ~after.terminated & out_of_time
        ended = after.terminated | truncated

        record = Trajectory(
            observation=env.observe(env_state),
            action_mask=before.action_mask,
            policy=action_weights(mcts, searched),
            value=root.value,
            action=action,
            action_value=jnp.where(root.visits[action] > 0, root.q[action], root.value),
            rewards=after.rewards,
            player=before.cur_player_id,
            terminated=after.terminated,
            truncated=truncated,
        )
        next_state, after = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), env.init(init_key), (next_state, after)
        )
        searched = advance(mcts, searched, action, next_state, after, reset=ended)
        return CollectState(searched, jnp.where(ended, 0, episode_steps), state.step + 1, state.key), record

    return lax.scan(move, state, length=num_steps)
