"""Checks that a game follows the rules of `tz.Env`, by tracing it and by playing it at random."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from tz._arguments import check_ints, check_one_key, shown
from tz.games._random_games import check_record, play_random_games
from tz.games.chance import check_nature
from tz.games.env import Env, StepMetadata
from tz.games.names import legal_names


def check_env(env: Env, *, key: PRNGKeyArray | None = None, num_games: int = 8, max_moves: int = 512) -> None:
    """Checks that a game follows the rules of [`tz.Env`][], by tracing it and by playing random legal moves.

    Run it in the tests of a game of your own. It compiles one program, which plays all games at once.

    It warns if

    - no game ended within `max_moves`, since the rules for terminated states could then not be checked;
    - the game depends on a random key in its state, since a search would know in advance what is drawn with the key. To
        find this, it makes the same moves in two copies of each game with different keys;
    - the same moves lead to different positions in two new games that look alike, since the state then hides something
        that a search knows, such as a shuffled deck;
    - no game ended, but moves with a reward led back to the first state, as if `step` started new games by itself.

    If the game names its moves with `label`, it also checks that legal moves have different names.

    **Arguments:**

    - `env`: the game.
    - `key`: decides the games and the moves. By default, `jax.random.key(0)`.
    - `num_games`: the number of random games.
    - `max_moves`: the number of moves in each game, including moves after its end.

    **Raises:** `ValueError` for the first broken rule. The message says what was found, what was expected and how to
    fix it.
    """
    check_ints("check_env", num_games=num_games, max_moves=max_moves)
    if num_games < 1 or max_moves < 1:
        raise ValueError(
            f"check_env: found num_games={num_games} and max_moves={max_moves}, expected at least 1 for both; play "
            "at least one move of one game."
        )
    key = jax.random.key(0) if key is None else key
    check_one_key("check_env", key)
    check_types(env)
    try:
        sample, record, keys = play_random_games(env, key=key, num_games=num_games, num_moves=max_moves)
    except Exception as error:
        where = "under `jax.jit`, `jax.vmap` and `jax.lax.scan`"
        raise _failure(env, f"that a random game fails {where}", error) from error
    check_record(env, record, keys)
    _check_purity(env, sample)
    _check_names(env, sample)
    if not record.terminated.any():
        warnings.warn(
            f"{env.name}: found no end in {num_games} random games of {max_moves} moves, expected at least one, to see "
            "whether terminated states stay terminated; raise `max_moves`.",
            stacklevel=2,
        )


def _failure(env: Env, what: str, error: Exception) -> ValueError:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return ValueError(
        f"{env.name}: found {what} ({type(error).__name__}: {reason}), expected pure functions of arrays for one game; "
        "write `jnp.where` or `jax.lax.cond` in place of `if`, and take no Python or NumPy number from an array."
    )


def _trace(env: Env, name: str, *arguments: Any) -> Any:
    try:
        return jax.eval_shape(lambda *inputs: getattr(env, name)(*inputs), *arguments)
    except Exception as error:
        raise _failure(env, f"that `{name}` cannot be traced by JAX", error) from error


def check_types(env: Env) -> None:
    """Checks the rules that need only shapes and dtypes. The game is traced but not played.

    **Raises:** `ValueError` for the first broken rule.
    """
    if not isinstance(env, Env):
        fix = "adapt a game of pgx with tz.from_pgx" if hasattr(env, "observation_shape") else "make one with tz.Env"
        raise ValueError(f"env: found {shown(env)} as the game, expected a tz.Env of init, step and observe; {fix}.")
    _check_hashable(env)
    start = _trace(env, "init", jax.random.key(0))
    _check_result(env, "init", start)
    after = _trace(env, "step", start[0], jax.ShapeDtypeStruct((), jnp.int32))
    _check_result(env, "step", after)
    check_nature("", env, start[1])
    others = {"step": after}
    if env.outcome is not None:
        numbers = jax.ShapeDtypeStruct((), jnp.int32), jax.random.key(0)
        others["outcome"] = _trace(env, "outcome", after[0], *numbers)
        _check_result(env, "outcome", others["outcome"])
    for name, result in others.items():
        for part, first, second in zip(("state", "metadata"), start, result, strict=True):
            _check_same(env, name, part, first, second)
    first, second = _trace(env, "observe", start[0]), _trace(env, "observe", after[0])
    leaves = jax.tree.leaves(first)
    if not leaves or any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in leaves):
        raise ValueError(
            f"{env.name}: found {_describe(first)} returned by `observe`, expected an array of numbers or booleans, or "
            "a PyTree of such arrays; return the input of the network."
        )
    if _describe(first) != _describe(second):
        raise ValueError(
            f"{env.name}: found {_describe(first)} from `observe` in an initial state and {_describe(second)} after a "
            "move, expected one tree of the same shapes and dtypes; let them depend on constants only."
        )


def _check_hashable(env: Env) -> None:
    """Raises `ValueError` for a function that `jax.jit` cannot take, as it needs a hash of what is not an array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(env, eqx.is_array, inverse=True)):
        try:
            hash(leaf)
        except TypeError as error:
            raise ValueError(
                f"{env.name}: found {shown(leaf)} as `{jax.tree_util.keystr(path).lstrip('.')}`, which has no hash "
                f"({error}), expected a function that has one; make its class an eqx.Module, or a "
                "dataclass(frozen=True)."
            ) from error


def _describe(leaf: Any) -> str:
    if jax.tree.leaves(leaf) not in ([], [leaf]):
        return str(jax.tree.map(_describe, leaf))
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return f"a {type(leaf).__name__}"
    return f"{leaf.dtype}{list(leaf.shape)}"


def _check_result(env: Env, name: str, result: Any) -> None:
    """Checks that `init`, `step` or `outcome` returns a state and metadata of the right types."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], StepMetadata):
        kinds = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
        raise ValueError(
            f"{env.name}: found {kinds} returned by `{name}`, expected a pair `(state, tz.StepMetadata)`; return "
            "a tz.StepMetadata as the second part."
        )
    metadata = result[1]
    for field, kind, ndim, expected in (
        ("rewards", jnp.floating, 1, "a float array of shape [P], one reward for each player"),
        ("action_mask", jnp.bool_, 1, "a boolean array of shape [A], one entry for each action"),
        ("terminated", jnp.bool_, 0, "a boolean scalar"),
        ("cur_player_id", jnp.integer, 0, "an integer scalar"),
    ):
        leaf = getattr(metadata, field)
        if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, kind) or leaf.ndim != ndim:
            advice = "make an array of this dtype, for instance with `astype`"
            if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.ndim != ndim:
                advice = f"make `{name}` a function of one game, without a batch axis"
                if leaf.ndim < ndim:
                    advice = f"add an axis to `{field}`, for example by `x[None]`"
            raise ValueError(
                f"{env.name}: found {_describe(leaf)} as `{field}` in the metadata from `{name}`, expected {expected}; "
                f"{advice}."
            )
    check_no_discount(env.name, metadata)
    _check_chance(env, name, metadata.chance)
    if metadata.rewards.shape[0] not in (1, 2):
        raise ValueError(
            f"{env.name}: found {metadata.rewards.shape[0]} entries in `rewards` from `{name}`, one for each player, "
            "expected 1 or 2; tz plays games of one or two players."
        )
    if metadata.action_mask.shape[0] == 0:
        raise ValueError(
            f"{env.name}: found an empty `action_mask` from `{name}`, expected an entry for each action; add at "
            "least one."
        )


def _check_chance(env: Env, name: str, chance: Any) -> None:
    """Checks that `chance` is None or a float array of at least one probability."""
    if chance is None:
        return
    is_array = isinstance(chance, jax.ShapeDtypeStruct) and jnp.issubdtype(chance.dtype, jnp.floating)
    if not is_array or chance.ndim != 1 or chance.shape[0] == 0:
        raise ValueError(
            f"{env.name}: found {_describe(chance)} as `chance` in the metadata from `{name}`, expected a float array "
            "of shape [C], one probability for each of nature's outcomes; give zeros where a player is to move."
        )


def check_no_discount(where: str, metadata: StepMetadata) -> None:
    """Raises `ValueError` for a game that sets `discount`, since the learned returns would not include it."""
    if metadata.discount is not None:
        raise ValueError(
            f"{where}: found a `discount` in the metadata of a game, expected None, as only a tz.mcts.Model may have "
            "one; leave it out, and set the discount of tz.MCTS."
        )


def _check_same(env: Env, name: str, part: str, first: PyTree, second: PyTree) -> None:
    """Checks that `step` or `outcome` returns the same tree, shapes and dtypes as `init`."""
    before, after = (
        {part + jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (first, second)
    )
    for path in before | after:
        found = [_describe(leaves[path]) if path in leaves else "missing" for leaves in (before, after)]
        if found[0] != found[1]:
            raise ValueError(
                f"{env.name}: found `{path}` to be {found[0]} from `init` and {found[1]} from `{name}`, expected "
                "one tree of the same shapes and dtypes; name the dtype where the array is made, for instance "
                "`jnp.zeros(shape, jnp.int32)` or `jnp.float32(number)`, and make all parts in `init`."
            )
    structures = jax.tree.structure(first), jax.tree.structure(second)
    if structures[0] != structures[1]:
        raise ValueError(
            f"{env.name}: found the {part} to have the structure {structures[0]} from `init` and {structures[1]} from "
            f"`{name}`, expected the same; use the same containers, and keep everything that changes in arrays."
        )


def _check_purity(env: Env, sample: PyTree) -> None:
    """Repeats calls of the compiled games without `jax.jit`, and checks that the results are the same."""
    init_key, start, ((before, _), action, observation, after, nature) = sample
    calls = [("init", (init_key,), start), ("step", (before, action), after), ("observe", (before,), observation)]
    if nature is not None:
        calls.append(("outcome", (after[0], *nature[0]), nature[1]))
    for name, arguments, compiled in calls:
        try:
            first, second = (getattr(env, name)(*arguments) for _ in range(2))
        except Exception as error:
            raise _failure(env, f"that `{name}` fails outside `jax.jit`", error) from error
        if (path := _difference(first, second, tolerance=0.0)) is not None:
            raise ValueError(
                f"{env.name}: found `{name}` to be impure, as two calls with the same arguments differ in their "
                f"results at `{path}`, expected the same; keep everything that changes in the state, and draw at "
                "random only in `init`, from its key."
            )
        if (path := _difference(first, compiled, tolerance=1e-4)) is not None:
            raise ValueError(
                f"{env.name}: found `{name}` to give another result under `jax.jit` and `jax.vmap` than without, at "
                f"`{path}`, expected the same; let it depend only on its arguments, not on earlier calls or on "
                "tracing."
            )


def _check_names(env: Env, sample: PyTree) -> None:
    """Checks that no two legal moves have one name, in the first and the last position of a game before its end."""
    _, start, (before, *_) = sample
    for state, metadata in (start, before) if env.label is not None else ():
        legal_names(env.name, env, state, metadata.action_mask)


def _difference(first: PyTree, second: PyTree, *, tolerance: float) -> str | None:
    """Returns the path of the first leaf that differs (for a float: by more than `tolerance`), or None."""
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
