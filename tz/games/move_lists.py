"""Games as lists of moves: the position after a list, all positions on the way, and positions drawn from many games."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Shaped

from tz._arguments import check_one, check_one_game, check_one_key
from tz.games.chance import check_key, make_numbered_move, split_with_chance
from tz.games.env import Env, StepMetadata


def play_moves(env: Env, moves: Int[Array, " T"], *, key: PRNGKeyArray | None = None) -> tuple[PyTree, StepMetadata]:
    """The position after a list of moves from the beginning, for one game; `jax.vmap` over lists makes many openings.

    **Arguments:** `moves`, actions; -1 makes no move, so that lists of several lengths can be padded. `key`, for the
    first position, where it is drawn, and for nature's outcomes in a game with chance.

    **Raises:** a runtime error, through `eqx.error_if`, if a move is no action, or not legal where it is made;
    `ValueError` for a game with chance without a key.
    """
    check_key("play_moves", env, key)

    moves = jnp.asarray(moves)
    check_one("play_moves", "moves", moves, 1)
    key = jax.random.key(0) if key is None else key
    init_key, chance_key = (key, None) if env.outcome is None else split_with_chance(env, key, 1)
    no_draws = None if chance_key is None else jnp.int32(0)

    def play(carry, action):
        env_state, metadata, num_draws = carry
        is_move, num_actions = action != -1, metadata.action_mask.shape[0]
        there_is = (action >= 0) & (action < num_actions)
        action = jnp.clip(action, 0, num_actions - 1)
        legal = there_is & metadata.action_mask[action] & ~metadata.terminated
        action = eqx.error_if(action, is_move & ~legal, "play_moves: a move of the list is not legal where it is made.")
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
    """The positions of one game from its start on, `[T + 1, ...]`; -1 after its end leaves it there.

    **Arguments:** `chance_key`, of nature's draws in a game with chance, such as one of
    [`tz.matches.MatchResult`][]`.chance_keys`.

    **Raises:** `ValueError` for a game with chance without its key.
    """
    check_one_game("follow_moves", start[1])
    check_one("follow_moves", "actions", actions, 1)
    check_key("follow_moves", env, chance_key, "chance_key")
    no_draws = None if env.outcome is None else jnp.int32(0)

    def move(at, action):
        after = make_numbered_move(env, at[0], action, at[2], key=chance_key)
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
    """Positions in which a move was made, drawn from games: each is as likely as any other, and may be drawn again.

    `tz.starts_from(env, tz.played_positions(env, match.opening, match.actions, 4096, key=key))` is self-play from the
    positions of a match.

    **Arguments:** `openings`, where the games began, `[G, ...]`; `actions`, the moves from there, -1 after the end;
    `chance_keys`, of nature's draws in a game with chance, such as those of [`tz.matches.MatchResult`][].

    **Returns:** the environment's states and metadata, `[num_positions, ...]`.

    **Raises:** a runtime error, through `eqx.error_if`, if no move was made; `ValueError` for a game with chance
    without its keys.
    """
    if actions.ndim != 2:
        raise ValueError(
            f"played_positions: found actions of shape {actions.shape}, expected [G, T], of several games; add the "
            "axis of the games to one."
        )
    check_one_key("played_positions", key)
    positions = jax.vmap(lambda start, actions, key: follow_moves(env, start, actions, chance_key=key))(
        openings, actions, chance_keys
    )
    moved = actions >= 0
    moved = eqx.error_if(moved, ~jnp.any(moved), "played_positions: there is no move in these games.")
    weights = moved.ravel().astype(jnp.float32)
    drawn = jax.random.choice(key, moved.size, (num_positions,), p=weights / jnp.sum(weights))
    game, step = jnp.divmod(drawn, actions.shape[1])
    return jax.tree.map(lambda x: x[game, step], positions)
