"""Functions that replay lists of moves, and sample positions from games that were played."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_one, check_one_game, check_one_key
from tz._arrays import strong
from tz.games.chance import check_key, make_numbered_move, split_with_chance
from tz.games.env import Env, StepMetadata


def play_moves(env: Env, moves: Int[Array, " T"], *, key: PRNGKeyArray | None = None) -> tuple[PyTree, StepMetadata]:
    """Plays a list of moves from the start of one game. Use `jax.vmap` over lists to make many openings.

    **Arguments:**

    - `env`: the game.
    - `moves`: `[T]`, the actions in order. -1 makes no move, so lists of different lengths can be padded with it.
    - `key`: decides the first position, if the game draws it, and nature's outcomes. Only a game with chance needs a
        key; for other games, the default is `jax.random.key(0)`.

    **Returns:** the state and metadata after the moves.

    **Raises:** `ValueError` if a game with chance gets no key. A runtime error, through `eqx.error_if`, if a move is
    not an action of the game, or not legal in its position.
    """
    check_key("play_moves", env, key)

    moves = jnp.asarray(moves) if jnp.size(moves) else jnp.zeros(0, jnp.int32)
    check_one("play_moves", "moves", moves, 1)
    if not jnp.issubdtype(moves.dtype, jnp.integer):
        raise ValueError(f"play_moves: found moves of dtype {moves.dtype}, expected integers; cast them to int32.")
    key = jax.random.key(0) if key is None else key
    init_key, chance_key = (key, None) if env.outcome is None else split_with_chance(env, key, 1)
    no_draws = None if chance_key is None else jnp.int32(0)

    def play(carry, action):
        env_state, metadata, num_draws = carry
        is_move, num_actions = action != -1, metadata.action_mask.shape[0]
        # Indexing in JAX never fails: it would clamp an action that is too large, and wrap a negative one.
        there_is = (action >= 0) & (action < num_actions)
        action = jnp.clip(action, 0, num_actions - 1)
        legal = there_is & metadata.action_mask[action] & ~metadata.terminated
        action = eqx.error_if(
            action,
            is_move & ~legal,
            "play_moves: found a move that is not legal in its position, expected legal moves; check the list.",
        )
        after = make_numbered_move(env, env_state, action, num_draws, key=chance_key)
        return jax.tree.map(lambda new, old: jnp.where(is_move, new, old), after, carry), None

    return lax.scan(play, (*env.init(init_key), no_draws), moves)[0][:2]


def follow_moves(
    env: Env,
    start: tuple[PyTree, StepMetadata],
    actions: Int[Array, " T"],
    *,
    chance_key: PRNGKeyArray | None = None,
) -> tuple[PyTree, StepMetadata]:
    """Replays one game from a given start and returns all its positions.

    The moves are not checked. Use [`tz.play_moves`][] for a list that may have illegal moves.

    **Arguments:**

    - `env`: the game.
    - `start`: the state and metadata before the first move.
    - `actions`: `[T]`, the moves, padded with -1 after the end of the game. A -1 changes nothing, and has no rewards,
        so a game that was resigned stays at its last position.
    - `chance_key`: the key of nature's draws, such as an entry of `chance_keys` in [`tz.matches.MatchResult`][]. Only a
        game with chance needs it.

    **Returns:** the states and metadata, `[T + 1, ...]`, beginning with `start`.

    **Raises:** `ValueError` if a game with chance gets no key, or if `start` or `actions` has a batch axis.
    """
    check_one_game("follow_moves", start[1])
    actions = jnp.asarray(actions)
    check_one("follow_moves", "actions", actions, 1)
    check_key("follow_moves", env, chance_key, "chance_key")
    start = strong(start)  # a game may begin with Python numbers
    no_draws = None if env.outcome is None else jnp.int32(0)

    def move(at, action):
        after = make_numbered_move(env, at[0], action, at[2], key=chance_key)
        stays = (at[0], dataclasses.replace(at[1], rewards=jnp.zeros_like(at[1].rewards)), at[2])
        after = jax.tree.map(lambda old, new: jnp.where(action < 0, old, new), stays, after)
        return after, after[:2]

    after = lax.scan(move, (*start, no_draws), actions)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, after)


@eqx.filter_jit
def played_positions(
    env: Env,
    openings: tuple[PyTree, StepMetadata],
    actions: Int[Array, "G T"],
    num_positions: int,
    *,
    key: PRNGKeyArray,
    chance_keys: Shaped[PRNGKeyArray, " G"] | None = None,
) -> tuple[PyTree, StepMetadata]:
    """Samples positions from games that were played, uniformly and with replacement.

    Only positions in which a move was made are sampled. Use it with [`tz.games.starts_from`][] to start self-play from
    the positions of a match:

    ```python
    positions = tz.games.played_positions(env, match.opening, match.actions, 4096, key=key)
    env = tz.games.starts_from(env, positions)
    ```

    **Arguments:**

    - `env`: the game.
    - `openings`: the states and metadata in which the games began, `[G, ...]`.
    - `actions`: `[G, T]`, the moves from there, with -1 after the end.
    - `num_positions`: the number of positions to sample.
    - `key`: decides which positions are sampled.
    - `chance_keys`: `[G]`, the keys of nature's draws, such as `chance_keys` of [`tz.matches.MatchResult`][]. Only a
        game with chance needs them.

    **Returns:** states and metadata, `[num_positions, ...]`.

    **Raises:** `ValueError` if `actions` has another number of axes, or if a game with chance gets no `chance_keys`. A
    runtime error, through `eqx.error_if`, if no move was made in any game.
    """
    if actions.ndim != 2:
        raise ValueError(
            f"played_positions: found actions of shape {actions.shape}, expected [G, T], of several games; for one "
            "game, add the axis: actions[None]."
        )
    check_one_key("played_positions", key)
    positions = jax.vmap(lambda start, actions, key: follow_moves(env, start, actions, chance_key=key))(
        openings, actions, chance_keys
    )
    moved = actions >= 0
    moved = eqx.error_if(
        moved,
        ~jnp.any(moved),
        "played_positions: found no move in these games, expected at least one; pass games that were played.",
    )
    weights = moved.ravel().astype(jnp.float32)
    drawn = jax.random.choice(key, moved.size, (num_positions,), p=weights / jnp.sum(weights))
    game, step = jnp.divmod(drawn, actions.shape[1])
    return jax.tree.map(lambda x: x[game, step], positions)
