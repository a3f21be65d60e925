"""Where games begin: after random moves, or after given ones."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from tz.env import Env, StepMetadata
from tz.given import check_ints, check_one, check_one_game, check_one_key


def random_opening(
    env: Env, max_plies: int, num_plies: int | Int[Array, ""] | None = None, *, key: PRNGKeyArray
) -> tuple[PyTree, StepMetadata]:
    """A new game after `num_plies` random legal moves, by default `max_plies`; one that would end it is not made."""

    check_ints("random_opening", max_plies=max_plies)
    check_one_key("random_opening", key)

    def ply(carry, key_and_index):
        (env_state, metadata), (key, index) = carry, key_and_index
        logits = jnp.where(metadata.action_mask, jnp.float32(0), -jnp.inf)
        action = jax.random.categorical(key, logits).astype(jnp.int32)
        after = env.step(env_state, action)
        stays = after[1].terminated if num_plies is None else after[1].terminated | (index >= num_plies)
        return jax.tree.map(lambda new, old: jnp.where(stays, old, new), after, carry), None

    init_key, key = jax.random.split(key)
    return lax.scan(
        ply, env.init(init_key), (jax.random.split(key, max_plies), jnp.arange(max_plies, dtype=jnp.int32))
    )[0]


def random_starts(env: Env, max_plies: int) -> Env:
    """The same game, begun after a random number of random legal moves, from 0 to `max_plies`, for varied self-play.

    Each start costs `max_plies` steps of the game.

    **Raises:** `ValueError` if `max_plies` is below 1.
    """
    check_ints("random_starts", max_plies=max_plies)
    if max_plies < 1:
        raise ValueError(f"random_starts: found max_plies={max_plies}, expected at least 1; raise it.")

    def init(key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        number_key, key = jax.random.split(key)
        num_plies = jax.random.randint(number_key, (), 0, max_plies + 1, jnp.int32)
        return _as_new(*random_opening(env, max_plies, num_plies, key=key))

    return dataclasses.replace(env, init=init)


def _as_new(env_state: PyTree, metadata: StepMetadata) -> tuple[PyTree, StepMetadata]:
    """A position as one to begin in, where nobody has been paid yet."""
    return env_state, dataclasses.replace(metadata, rewards=jnp.zeros_like(metadata.rewards))


class _StartsFrom(eqx.Module):
    """An `init` with a list of positions; a module, so that with another list of that length nothing is compiled."""

    init: Callable
    openings: tuple[PyTree, StepMetadata]
    share: float

    def __call__(self, key: PRNGKeyArray) -> tuple[PyTree, StepMetadata]:
        share_key, index_key, init_key = jax.random.split(key, 3)
        index = jax.random.randint(index_key, (), 0, len(self.openings[1].terminated))
        given = _as_new(*jax.tree.map(lambda x: x[index], self.openings))
        is_given = jax.random.bernoulli(share_key, self.share)
        return jax.tree.map(lambda one, other: jnp.where(is_given, one, other), given, self.init(init_key))


def starts_from(env: Env, openings: tuple[PyTree, StepMetadata], share: float = 0.5) -> Env:
    """The same game, a share of whose episodes begin in given positions, each as likely as any other.

    For self-play from where it does not go by itself, such as positions of games against another player, see
    [`tz.played_positions`][]. How many there are is part of what is compiled, which they are is not.

    **Arguments:** `openings`, the environment's states and metadata, `[N, ...]`, none of them over.

    **Raises:** `ValueError` if there is no opening, one is over or of another game, or the share is not from 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(
            f"starts_from: found share={share}, expected a number from 0 to 1; give the fraction of games."
        )
    over = openings[1].terminated
    if over.ndim != 1 or not len(over):
        raise ValueError(
            f"starts_from: found openings with `terminated` of shape {over.shape}, expected [N], at least one; for one "
            "position, add the axis: jax.tree.map(lambda x: x[None], position)."
        )
    if jnp.any(over):
        raise ValueError(
            f"starts_from: found {jnp.sum(over)} openings in which the game is over, expected none; leave them out."
        )
    expected = jax.eval_shape(lambda key: env.init(key), jax.random.key(0))
    found = jax.eval_shape(lambda openings: jax.tree.map(lambda x: x[0], openings), openings)
    if not eqx.tree_equal(_shapes(found), _shapes(expected)):
        raise ValueError(
            f"starts_from: found openings of another game, expected positions of {env.name}; make them with its `init` "
            "and `step`."
        )
    return dataclasses.replace(env, init=_StartsFrom(env.init, openings, share))


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: f"{x.shape} {x.dtype}", tree)


def play_moves(env: Env, moves: Int[Array, " T"], *, key: PRNGKeyArray | None = None) -> tuple[PyTree, StepMetadata]:
    """The position after a list of moves from the beginning, for one game; `jax.vmap` over lists makes many openings.

    **Arguments:** `moves`, actions; -1 makes no move, so that lists of several lengths can be padded. `key`, for the
    first position, where it is drawn.

    **Raises:** a runtime error, through `eqx.error_if`, if a move is no action, or not legal where it is made.
    """

    moves = jnp.asarray(moves)
    check_one("play_moves", "moves", moves, 1)
    if key is not None:
        check_one_key("play_moves", key)

    def ply(carry, action):
        _, metadata = carry
        is_move, num_actions = action != -1, metadata.action_mask.shape[0]
        there_is = (action >= 0) & (action < num_actions)
        action = jnp.clip(action, 0, num_actions - 1)
        legal = there_is & metadata.action_mask[action] & ~metadata.terminated
        action = eqx.error_if(action, is_move & ~legal, "play_moves: a move of the list is not legal where it is made.")
        after = env.step(carry[0], action)
        return jax.tree.map(lambda new, old: jnp.where(is_move, new, old), after, carry), None

    return lax.scan(ply, env.init(jax.random.key(0) if key is None else key), moves)[0]


def follow_moves(
    env: Env, start: tuple[PyTree, StepMetadata], actions: Int[Array, " T"]
) -> tuple[PyTree, StepMetadata]:
    """The positions of one game from its start on, `[T + 1, ...]`; -1 after its end leaves it there."""

    check_one_game("follow_moves", start[1])
    check_one("follow_moves", "actions", actions, 1)

    def move(at, action):
        after = env.step(at[0], action)
        return after, after

    after = lax.scan(move, start, actions)[1]
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, after)


@eqx.filter_jit
def played_positions(
    env: Env,
    openings: tuple[PyTree, StepMetadata],
    actions: Int[Array, "G T"],
    num_positions: int,
    *,
    key: PRNGKeyArray,
) -> tuple[PyTree, StepMetadata]:
    """Positions in which a move was made, drawn from games: each is as likely as any other, and may be drawn again.

    `tz.starts_from(env, tz.played_positions(env, match.opening, match.actions, 4096, key=key))` is self-play from the
    positions of a match.

    **Arguments:** `openings`, where the games began, `[G, ...]`; `actions`, the moves from there, -1 after the end.

    **Returns:** the environment's states and metadata, `[num_positions, ...]`.

    **Raises:** a runtime error, through `eqx.error_if`, if no move was made.
    """
    if actions.ndim != 2:
        raise ValueError(
            f"played_positions: found actions of shape {actions.shape}, expected [G, T], of several games; add the "
            "axis of the games to one."
        )
    check_one_key("played_positions", key)
    positions = jax.vmap(lambda *game: follow_moves(env, *game))(openings, actions)
    moved = actions >= 0
    moved = eqx.error_if(moved, ~jnp.any(moved), "played_positions: there is no move in these games.")
    weights = moved.ravel().astype(jnp.float32)
    drawn = jax.random.choice(key, moved.size, (num_positions,), p=weights / jnp.sum(weights))
    game, step = jnp.divmod(drawn, actions.shape[1])
    return jax.tree.map(lambda x: x[game, step], positions)
