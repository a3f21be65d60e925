"""Does a game keep the rules of `tz.env`? Found out by tracing it and by playing it at random."""

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz.env import Env, StepMetadata


def check_env(env: Env, *, key: PRNGKeyArray | None = None, num_games: int = 8, max_steps: int = 512) -> None:
    """Check a game against what tz asks of one, by tracing it and by playing random legal moves.

    It compiles one program, in which all games are played at once. Run it in the tests of a game of your own. It warns
    when no game ended within `max_steps`, since what follows the end of a game could then not be checked.

    **Arguments:**

    - `env`: the game.
    - `key`: decides the games and the moves; `jax.random.key(0)` unless given.
    - `num_games`: how many games are played.
    - `max_steps`: how many moves are made in each, those after its end included.

    **Raises:** `ValueError` for the first broken rule, with what was found, what is expected and how to mend it.
    """
    if num_games < 1 or max_steps < 1:
        raise ValueError(f"`num_games` and `max_steps` must be at least 1, found {num_games} and {max_steps}.")
    init_key, chance_key = jax.random.split(jax.random.key(0) if key is None else key)
    _check_types(env, init_key)
    # The chances are drawn here, not in `_play`, to keep the program small: compiling it is most of the time spent.
    chances = jax.random.uniform(chance_key, (num_games, max_steps + 1), jnp.float32)
    try:
        play = jax.jit(functools.partial(_play_games, env))
        sample, flags, history = jax.block_until_ready(play(jax.random.split(init_key, num_games), chances))
    except Exception as error:
        raise _failure(env, "a random game under `jax.jit`, `jax.vmap` and `jax.lax.scan` failed", error) from error
    _check_games(env, jax.device_get(flags), jax.device_get(history))
    _check_purity(env, sample)
    if not history.terminated.any():
        warnings.warn(
            f"{env.name}: none of {num_games} random games ended within {max_steps} moves, so that terminated states "
            "stay terminated was not checked. Raise `max_steps`.",
            stacklevel=2,
        )


def _failure(env: Env, what: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return ValueError(
        f"{env.name}: {what} ({type(error).__name__}: {reason}). `init`, `step` and `observe` must be pure functions "
        "of arrays: `jnp.where` or `jax.lax.cond` in place of `if`, no Python or NumPy number taken from an array."
    )


def _trace(env: Env, name: str, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(lambda *inputs: getattr(env, name)(*inputs), *arguments)
    except Exception as error:
        raise _failure(env, f"`{name}` cannot be traced by JAX", error) from error


def _check_types(env: Env, key: PRNGKeyArray) -> None:
    """Check everything that shapes and dtypes alone tell."""
    start = _trace(env, "init", key)
    _check_result(env, "init", start)
    after = _trace(env, "step", start[0], jax.ShapeDtypeStruct((), jnp.int32))
    _check_result(env, "step", after)
    for part, first, second in zip(("state", "metadata"), start, after, strict=True):
        _check_same(env, part, first, second)
    first, second = _trace(env, "observe", start[0]), _trace(env, "observe", after[0])
    if not isinstance(first, jax.ShapeDtypeStruct) or jnp.issubdtype(first.dtype, jax.dtypes.extended):
        raise ValueError(
            f"{env.name}: `observe` returned {_describe(first)}, expected one array of numbers or booleans. "
            "Stack the parts, for instance with `jnp.stack`."
        )
    if _describe(first) != _describe(second):
        raise ValueError(
            f"{env.name}: `observe` gave {_describe(first)} in an initial state and {_describe(second)} after a move, "
            "expected one shape and dtype. Let both depend on constants only."
        )


def _describe(leaf: Any) -> str:
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return f"a {type(leaf).__name__}"
    return f"{leaf.dtype}{list(leaf.shape)}"


def _check_result(env: Env, name: str, result: Any) -> None:
    """Check that `init` or `step` returned a state and a metadata of the right types."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], StepMetadata):
        kinds = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
        raise ValueError(f"{env.name}: `{name}` returned {kinds}, expected a pair `(state, tz.StepMetadata)`.")
    metadata = result[1]
    for field, kind, ndim, expected in (
        ("rewards", jnp.floating, 1, "a float array of shape [P], one reward for each player"),
        ("action_mask", jnp.bool_, 1, "a boolean array of shape [A], one entry for each action"),
        ("terminated", jnp.bool_, 0, "a boolean scalar"),
        ("cur_player_id", jnp.integer, 0, "an integer scalar"),
    ):
        leaf = getattr(metadata, field)
        if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, kind) or leaf.ndim != ndim:
            raise ValueError(
                f"{env.name}: `{field}` in the metadata from `{name}` is {_describe(leaf)}, expected {expected}."
            )
    if metadata.rewards.shape[0] not in (1, 2):
        raise ValueError(
            f"{env.name}: `rewards` from `{name}` has {metadata.rewards.shape[0]} entries, one for each player; "
            "tz plays games of one or two players."
        )
    if metadata.action_mask.shape[0] == 0:
        raise ValueError(f"{env.name}: `action_mask` from `{name}` is empty, expected at least one action.")


def _check_same(env: Env, part: str, first: PyTree, second: PyTree) -> None:
    """Check that `step` returns the tree, shapes and dtypes that `init` does."""
    before, after = (
        {part + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (first, second)
    )
    for path in before | after:
        found = [_describe(leaves[path]) if path in leaves else "missing" for leaves in (before, after)]
        if found[0] != found[1]:
            raise ValueError(
                f"{env.name}: `{path}` is {found[0]} from `init` and {found[1]} from `step`; both must return the same "
                "tree of the same shapes and dtypes. Name the dtype where the array is made, for instance "
                "`jnp.zeros(shape, jnp.int32)` or `jnp.float32(number)`, and add no part later."
            )
    structures = jax.tree.structure(first), jax.tree.structure(second)
    if structures[0] != structures[1]:
        raise ValueError(
            f"{env.name}: the {part} has the structure {structures[0]} from `init` and {structures[1]} from `step`, "
            "expected the same. Use the same containers, and keep what changes in a game in arrays."
        )


def _play_games(env: Env, init_keys: Shaped[Array, "B ..."], chances: Float[Array, "B T"]) -> tuple[PyTree, Any, Any]:
    """Play random games: one game's first and last calls with their results; flags and metadata of all states."""
    samples, flags, history = jax.vmap(functools.partial(_play, env))(init_keys, chances)
    return jax.tree.map(lambda leaf: leaf[0], samples), flags, history


def _play(env: Env, init_key: PRNGKeyArray, chances: Float[Array, " T"]) -> tuple[PyTree, Any, Any]:
    start = env.init(init_key)

    def move(carry: Any, inputs: tuple[Int[Array, ""], Float[Array, ""]]) -> tuple[Any, Any]:
        state, metadata, was_over, last = carry
        num_moves, chance = inputs
        observation = env.observe(state)
        flags = _broken_rules(metadata, observation, is_new=num_moves == 0, was_over=was_over)
        legal = metadata.action_mask | metadata.terminated  # after the end, no action may change anything
        num_legal = jnp.cumsum(legal, dtype=jnp.float32)
        action = jnp.argmax(num_legal > chance * num_legal[-1]).astype(jnp.int32)
        after = env.step(state, action)
        made = (state, action, observation, after)
        last = jax.tree.map(lambda old, new: jnp.where(metadata.terminated, old, new), last, made)
        return (*after, metadata.terminated, last), (flags, metadata)

    unseen = jax.eval_shape(env.observe, start[0])
    none_yet = (start[0], jnp.int32(0), jnp.zeros(unseen.shape, unseen.dtype), start)
    inputs = jnp.arange(chances.shape[0], dtype=jnp.int32), chances
    (*_, last), (flags, history) = jax.lax.scan(move, (*start, jnp.bool_(False), none_yet), inputs)
    return (init_key, start, last), flags, history


def _broken_rules(
    metadata: StepMetadata, observation: Shaped[Array, "..."], *, is_new: Bool[Array, ""], was_over: Bool[Array, ""]
) -> dict[str, Bool[Array, ""]]:
    """For each rule of a single state, in words, whether it is broken; `was_over` tells of the state before it."""
    rewards, player, over = metadata.rewards, metadata.cur_player_id, metadata.terminated
    num_players = rewards.shape[0]
    pays = (rewards != 0).any()
    unbalanced = jnp.abs(rewards.sum()) > 1e-4 * jnp.maximum(1, jnp.abs(rewards).max())
    return {
        "a new game is terminated already, expected a state to move in.": is_new & over,
        "an initial state has rewards, expected zeros. Pay them in `step`.": is_new & pays,
        "a step from a terminated state is not terminated, expected the game to stay over. Return the state as it is "
        "when it is terminated already.": was_over & ~over,
        "a step from a terminated state paid again, expected rewards of zero after the end.": was_over & pays,
        "no action is legal though the game is not over. Terminate it, or add an action that passes.": ~over
        & ~metadata.action_mask.any(),
        f"`cur_player_id` is out of range, expected 0 to {num_players - 1}.": (player < 0) | (player >= num_players),
        "`rewards` has NaN or infinity, expected finite numbers.": ~jnp.isfinite(rewards).all(),
        "the rewards of the two players do not sum to zero. What one wins, the other loses: give the loser the "
        "negative of the winner's reward.": unbalanced & (num_players == 2),
        "`observe` returned NaN or infinity, expected finite numbers.": ~jnp.isfinite(observation).all(),
    }


def _check_games(env: Env, flags: dict[str, Any], history: StepMetadata) -> None:
    """Report the first broken rule; all arrays have the axes `[B, T]` in front."""
    found = [(int(step), int(game), rule) for rule, broken in flags.items() for game, step in np.argwhere(broken)]
    if found:
        step, game, rule = min(found)
        raise ValueError(
            f"{env.name}: in game {game} after {step} moves: {rule} There, rewards = {history.rewards[game, step]}, "
            f"cur_player_id = {history.cur_player_id[game, step]}, terminated = {history.terminated[game, step]}."
        )


def _check_purity(env: Env, sample: PyTree) -> None:
    """Repeat, eagerly, three calls whose results in the compiled games are known."""
    init_key, start, (before, action, observation, after) = sample
    for name, arguments, compiled in (
        ("init", (init_key,), start),
        ("step", (before, action), after),
        ("observe", (before,), observation),
    ):
        try:
            first, second = (getattr(env, name)(*arguments) for _ in range(2))
        except Exception as error:
            raise _failure(env, f"`{name}` fails outside `jax.jit`", error) from error
        if (path := _difference(first, second, tolerance=0.0)) is not None:
            raise ValueError(
                f"{env.name}: `{name}` is impure: called twice with the same arguments, its results differ at "
                f"`{path}`. Keep all that changes in the state, and draw at random only in `init`, from its key."
            )
        if (path := _difference(first, compiled, tolerance=1e-4)) is not None:
            raise ValueError(
                f"{env.name}: `{name}` gives another result under `jax.jit` and `jax.vmap` than without, at `{path}`. "
                "Let it depend on its arguments alone, and not on what was called before or on being traced."
            )


def _difference(first: PyTree, second: PyTree, *, tolerance: float) -> str | None:
    """The path of the first leaf that differs (a float: by more than `tolerance`), or None."""
    if jax.tree.structure(first) != jax.tree.structure(second):
        return "the tree structure"
    for (path, left), right in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        is_key = isinstance(left, jax.Array) and jnp.issubdtype(left.dtype, jax.dtypes.prng_key)
        left, right = (np.asarray(jax.random.key_data(leaf) if is_key else leaf) for leaf in (left, right))
        if jnp.issubdtype(left.dtype, jnp.inexact) and left.shape == right.shape:
            left, right = left.astype(np.complex128), right.astype(np.complex128)
            same = np.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True)
        else:
            same = np.array_equal(left, right)
        if not same:
            return jax.tree_util.keystr(path)
    return None
