"""Endless self-play: search, move, record, and start a new game when one has ended."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from tz._arguments import check_evaluator, check_ints, check_one_game, check_one_key
from tz._arrays import named_arrays, strong
from tz.games.chance import make_move, split_with_chance
from tz.games.conformance import check_no_discount
from tz.games.env import Env, StepMetadata
from tz.learn.trajectory import Trajectory
from tz.mcts.models import Model, model_of, root_of
from tz.mcts.results import action_weights, choose_action, root_value
from tz.mcts.settings import MCTS, on_trees_of
from tz.mcts.simulation import Evaluator, SearchState, advance, check_trees, init_search, search

Record = Callable[[PyTree, SearchState, StepMetadata], PyTree]
"""`(env_state, searched, metadata) -> arrays`: the record of a position after its search."""

EndRecord = Callable[[PyTree, StepMetadata], PyTree]
"""`(env_state, metadata) -> arrays`: the record of the state that a move led to."""


class CollectState(eqx.Module):
    """The state of one game in progress.

    **Fields:**

    - `search`: the search, whose root is the current position.
    - `episode_moves`: the number of moves made in the current episode.
    - `episode_return`: `[P]`, the sum of the rewards that each player received in the current episode, without any
        discount.
    - `step`: the number of moves made in all episodes.
    - `key`: the random key of the game. The randomness of a move depends only on `key` and `step`. So a batch plays the
        same games however it is split over devices, as long as numbers are rounded in the same way.
    - `env_state`, `metadata`: the current position in the game itself. It differs from the root of the search only if
        the search steps through a [`tz.mcts.Model`][].
    """

    search: SearchState
    episode_moves: Int[Array, ""]
    episode_return: Float[Array, " P"]
    step: Int[Array, ""]
    key: PRNGKeyArray
    env_state: PyTree
    metadata: StepMetadata


def init_collect(mcts: MCTS, env: Env, *, key: PRNGKeyArray, model: Model | None = None) -> CollectState:
    """Starts one game of self-play; `jax.vmap` over keys starts many.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `env`: the game.
    - `key`: decides the initial position and all later randomness of this game.
    - `model`: the model of the [`tz.mcts.ModelEvaluator`][] that [`tz.collect`][] will get; None, the default, if the
        search steps through the game itself.

    **Returns:** the state for [`tz.collect`][].

    **Raises:** `ValueError` if the game has more than two players or a `discount` in its metadata, or if the model does
    not fit the game.
    """
    check_one_key("init_collect", key)
    init_key, key = jax.random.split(key)
    env_state, metadata = strong(env.init(init_key))
    check_no_discount(f"init_collect of {env.name}", metadata)
    state = init_search(mcts, env_state, metadata, model=model)
    own = jax.tree.map(jnp.copy, (env_state, metadata))  # the search holds them too, and no array can be donated twice
    no_return = jnp.zeros(metadata.rewards.shape, jnp.float32)
    return CollectState(state, jnp.int32(0), no_return, jnp.int32(0), key, *own)


def collect(
    mcts: MCTS,
    env: Env,
    evaluator: Evaluator,
    state: CollectState,
    *,
    num_moves: int,
    max_episode_moves: int | None = None,
    fast_mcts: MCTS | None = None,
    is_fast: Bool[Array, " T"] | None = None,
    record: Record | None = None,
    record_end: EndRecord | None = None,
) -> tuple[CollectState, Trajectory]:
    """Plays `num_moves` moves of one game and records them. A new episode starts whenever one ends.

    With a [`tz.mcts.ModelEvaluator`][] the searches step through its model, and the game itself makes only the moves
    that are played. Each call then starts with a new tree, since the parameters of the model may have changed.

    **Arguments:**

    - `mcts`: the settings of the search.
    - `env`: the game.
    - `evaluator`: gives logits and a value for a position, such as a [`tz.NetworkEvaluator`][].
    - `state`: the game in progress, from [`tz.init_collect`][] or an earlier call.
    - `num_moves`: `T`, the number of moves to play.
    - `max_episode_moves`: an episode of this many moves is truncated; None lets every game end on its own.
    - `fast_mcts`: a search with fewer simulations for the moves that are True in `is_fast`. More games can be played
        that way, but the policies of these moves are not used as targets (playout cap randomisation; Wu, *Accelerating
        self-play learning in Go*, 2019).
    - `is_fast`: `[T]`, which moves use `fast_mcts`. It must be the same for all games of a batch.
    - `record`: `(env_state, searched, metadata) -> arrays`, called for each position after its search. The loss gets
        the result as `extra` of the sample.
    - `record_end`: `(env_state, metadata) -> arrays`, called for the state after each move. The loss gets the result
        for the last state of an episode as `end.final` of all its samples, along with the number of moves to the end
        and the outcome. Return `()` if only these two are wanted. See [`tz.learn.EpisodeEnd`][].

    **Returns:** the next state, and a [`tz.learn.Trajectory`][] with the leading axis `T`. It includes the last move of
    an episode, with its reward; the row after it belongs to a new game.

    **Raises:** `ValueError` if the state was made with other settings or another model, the two searches need different
    trees, or only one of `fast_mcts` and `is_fast` is given.
    """
    check_one_game("collect", state.search.metadata)
    check_evaluator("collect", evaluator)
    check_ints("collect", num_moves=num_moves)
    if (fast_mcts is None) != (is_fast is None):
        raise ValueError("collect: found only one of fast_mcts and is_fast, expected both or neither; give both.")
    if fast_mcts is not None:
        fast_mcts = on_trees_of(mcts, fast_mcts)
    check_trees(mcts, state.search)
    model = model_of(evaluator, env)
    _check_positions(model, state)
    if isinstance(model, Model):
        new = init_search(mcts, state.env_state, state.metadata, model=model)
        state = dataclasses.replace(state, search=SearchState(new.tree, new.metadata, state.search.notes))

    def find_move(mcts: MCTS, state: CollectState, search_key, action_key):
        searched = search(mcts, model, evaluator, state.search, key=search_key)
        action = choose_action(mcts, searched, key=action_key, num_moves=state.episode_moves)
        extra = None if record is None else strong(record(state.env_state, searched, state.metadata))
        # The notes are left out: their shapes depend on the settings, but both branches of a cond must return the same
        # shapes.
        return searched.tree, action, action_weights(mcts, searched), root_value(mcts, searched), extra

    def move(state: CollectState, fast):
        keys = split_with_chance(env, jax.random.fold_in(state.key, state.step), 3)
        search_key, action_key, init_key, chance_key = keys
        inputs = state, search_key, action_key
        if fast_mcts is None:
            tree, action, policy, value, extra = find_move(mcts, *inputs)
        else:
            # `is_fast` has no batch axis, so under `vmap` this stays a branch and each move pays for one search.
            searches = (functools.partial(find_move, settings) for settings in (fast_mcts, mcts))
            tree, action, policy, value, extra = lax.cond(fast, *searches, *inputs)
        searched = SearchState(tree, state.search.metadata, state.search.notes)

        root, before = searched.root, state.metadata
        next_state, after = make_move(env, state.env_state, action, key=chance_key)
        episode_moves = state.episode_moves + 1
        out_of_time = False if max_episode_moves is None else episode_moves >= max_episode_moves
        truncated = ~after.terminated & out_of_time
        ended = after.terminated | truncated

        made = Trajectory(
            observation=env.observe(state.env_state),
            action_mask=before.action_mask,
            policy=policy,
            value=value,
            action=action,
            # A move that the search never visited has no q, so the value of the position takes its place.
            action_value=jnp.where(root.visits[action] > 0, root.q[action], value),
            rewards=after.rewards,
            player=before.cur_player_id,
            terminated=after.terminated,
            truncated=truncated,
            policy_weight=jnp.float32(1) if fast is None else 1 - jnp.float32(fast),
            extra=extra,
            # `next_state` is still the end of the episode here; a new game takes its place below.
            final=None if record_end is None else strong(record_end(next_state, after)),
        )
        episode_return = jnp.where(ended, 0.0, state.episode_return + after.rewards.astype(jnp.float32))
        # A select and not a branch, since `vmap` would run both branches anyway.
        next_state, after = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), env.init(init_key), (next_state, after)
        )
        # The carry of a scan must keep its dtypes, but `step` may return others than `init`.
        next_state, after = jax.tree.map(
            lambda new, old: jnp.asarray(new, old.dtype), (next_state, after), (state.env_state, state.metadata)
        )
        moved = advance(mcts, searched, action, next_state, after, reset=ended, model=model)
        # Notes mean nothing between searches. The first ones are kept because shapes must not change in a scan.
        moved = SearchState(moved.tree, moved.metadata, state.search.notes)
        episode_moves = jnp.where(ended, 0, episode_moves)
        return CollectState(moved, episode_moves, episode_return, state.step + 1, state.key, next_state, after), made

    return lax.scan(move, state, is_fast, length=num_moves)


def returns_so_far(before: CollectState, trajectory: Trajectory) -> Float[Array, " T"]:
    """Sums the rewards of player 0 from the beginning of the episode to each move. At the last move it is the return.

    **Arguments:** `before`, the state that the trajectory was collected from. Its first episode may have begun earlier.

    **Returns:** `[T]`, the sums without any discount, each including the reward of its move.
    """

    def add(total, move):
        reward, ended = move
        total = total + reward.astype(jnp.float32)
        return jnp.where(ended, 0.0, total), total

    moves = trajectory.rewards[:, 0], trajectory.terminated | trajectory.truncated
    return lax.scan(add, before.episode_return[0], moves)[1]


@jax.jit
def mean_and_spread(
    returns: Float[Array, "B T"], ended: Bool[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the mean and the standard deviation of the returns where an episode ended; NaN if none did."""
    return jnp.mean(returns, where=ended), jnp.std(returns, where=ended)


def _check_positions(model: Env | Model, state: CollectState) -> None:
    """Raises `ValueError` if the positions in the search of a state do not have the shapes and dtypes of `model`."""
    row = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.search.tree.state)
    position = jax.eval_shape(lambda: root_of(model, state.env_state, state.metadata))
    found, expected = (
        [f"{x.dtype}{list(x.shape)}" for _, x in named_arrays(tree)]
        for tree in ((row, state.search.metadata), position)
    )
    if found != expected:
        raise ValueError(
            f"collect: found a state whose searches have positions and metadata of {', '.join(found)}, expected "
            f"{', '.join(expected)}, as in {model.name}; start with tz.init_collect and the same model, or with none."
        )
