"""Random games, which show whether a game follows the rules of `tz.Env` and how large its returns are."""

import functools
import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz._programs import RunOnce
from tz.games._hidden_keys import is_same_without_keys, keys_used, with_other_keys
from tz.games.chance import cumulative, draw_answer, is_to_draw, outcome_at
from tz.games.env import Env, StepMetadata

_FEW_MOVES = 128  # games of up to this many moves take longer to compile than to play


class GameRecord(eqx.Module):
    """A record of random games. Entry `[b, t]` belongs to the position of game `b` before move `t`.

    **Fields:**

    - `rewards`, `terminated`, `player`: from the metadata.
    - `broken`: for each rule, in words, whether it was broken.
    - `restarted`: whether a move with a reward led back to the first state.
    - `foreseen`: for each thing that a game shows, whether it differs between two copies of the game whose states have
        different keys.
    - `hidden`: for each thing that a game shows, whether it differs between two games whose first positions look alike.
    """

    rewards: Float[Array, "*T P"]
    terminated: Bool[Array, "*T"]
    player: Int[Array, "*T"]
    broken: dict[str, Bool[Array, "*T"]]
    restarted: Bool[Array, "*T"]
    foreseen: dict[str, Bool[Array, "*T"]]
    hidden: dict[str, Bool[Array, "*T"]]


def play_random_games(
    env: Env, *, key: PRNGKeyArray, num_games: int, num_moves: int
) -> tuple[PyTree, GameRecord, list[str]]:
    """Plays random legal moves in several games at once, and continues after the end of a game.

    **Returns:** some calls of the game's functions, as their arguments and results, so that they can be repeated; the
    record of the games, as NumPy arrays; and the names of the keys in the state.
    """
    init_key, action_key, other_key = jax.random.split(key, 3)
    # All chances are drawn here and not in `_play`, whose program should be small, as compiling it takes the most time.
    chances = jax.random.uniform(action_key, (num_games, num_moves + 1), jnp.float32)
    keys = keys_used(env)
    init_keys, other_keys = jax.random.split(init_key, num_games), jax.random.split(other_key, num_games)
    play = _play_few if num_moves <= _FEW_MOVES else _play_games
    played = play(env, tuple(keys), init_keys, other_keys, chances)
    sample, record = jax.block_until_ready(played)
    return sample, jax.device_get(record), [f"state{name}" for name in keys]


@eqx.filter_jit
def _play_games(
    env: Env,
    keys: tuple[str, ...],
    init_keys: Shaped[Array, "B ..."],
    other_keys: Shaped[Array, "B ..."],
    chances: Float[Array, "B T"],
) -> tuple[PyTree, GameRecord]:
    samples, record = jax.vmap(functools.partial(_play, env, keys))(init_keys, other_keys, chances)
    return jax.tree.map(lambda leaf: leaf[0], samples), record


_play_few = RunOnce(_play_games, level=1)


def _play(
    env: Env, keys: tuple[str, ...], init_key: PRNGKeyArray, other_key: PRNGKeyArray, chances: Float[Array, " T"]
) -> tuple[PyTree, Any]:
    """Plays one game and makes the same moves in a second new game, the twin.

    If the state has keys, a copy of the first game with different keys makes the same moves, too. All copies are
    stacked along a leading axis. The `chances`, from 0 to 1, choose the moves.
    """
    twin_key, chance_key = jax.random.split(other_key)
    new = jax.tree.map(jnp.asarray, jax.vmap(env.init)(jnp.stack([init_key, twin_key])))
    first, twin = (jax.tree.map(lambda leaf, i=i: leaf[i], new) for i in (0, 1))
    copies = [first, twin, (with_other_keys(first[0], keys), first[1])] if keys else [first, twin]
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)
    looks_alike = _all_equal(new[1], jax.vmap(env.observe)(new[0]))

    def move(carry: Any, inputs: tuple[Int[Array, ""], Float[Array, ""]]) -> tuple[Any, Any]:
        states, was_over, last = carry
        num_moves, chance = inputs
        observations = jax.vmap(env.observe)(states[0])
        (state, metadata), observation = jax.tree.map(lambda leaf: leaf[0], (states, observations))
        legal = metadata.action_mask | metadata.terminated  # after the end, no action may change anything
        num_legal = jnp.cumsum(legal, dtype=jnp.float32)
        # A chance in [0, 1) picks each legal action with the same probability.
        action = jnp.argmax(num_legal > chance * num_legal[-1]).astype(jnp.int32)
        afters = jax.vmap(env.step, (0, None))(states[0], action)
        made_move, nature, broken = jax.tree.map(lambda leaf: leaf[0], afters), None, {}
        if env.outcome is not None:
            key = jax.random.fold_in(chance_key, num_moves)
            nature, broken = _one_outcome(env, *made_move, key=key)
            afters = jax.vmap(functools.partial(draw_answer, env, key=key))(*afters)
            broken |= _broken_rules_of_nature(metadata, made_move[1], afters[1], is_new=num_moves == 0)
        made = ((state, metadata), action, observation, made_move, nature)
        # Keep the last move before the end of the game, which `check_env` repeats.
        last = jax.tree.map(lambda old, new: jnp.where(metadata.terminated, old, new), last, made)
        pays = (metadata.rewards != 0).any()
        record = GameRecord(
            rewards=metadata.rewards,
            terminated=metadata.terminated,
            player=metadata.cur_player_id,
            broken=broken | _broken_rules(metadata, observation, is_new=num_moves == 0, was_over=was_over),
            restarted=pays & ~metadata.terminated & ~was_over & is_same_without_keys(state, first[0], keys),
            foreseen=_differences(states[1], observations, 2) if keys else {},
            hidden={name: x & looks_alike for name, x in _differences(states[1], observations, 1).items()},
        )
        return (afters, metadata.terminated, last), record

    nature = None if env.outcome is None else _one_outcome(env, *first, key=chance_key)[0]
    unseen = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(env.observe, first[0]))
    # The loop needs a value of the right types for the last move before there is one.
    none_yet = (first, jnp.int32(0), unseen, first, nature)
    inputs = jnp.arange(chances.shape[0], dtype=jnp.int32), chances
    (*_, last), record = jax.lax.scan(move, (starts, jnp.bool_(False), none_yet), inputs)
    return (init_key, first, last), record


def _all_equal(metadata: StepMetadata, observations: PyTree) -> Bool[Array, ""]:
    """Returns whether two games, stacked along a leading axis, look alike."""
    return ~jnp.stack(list(_differences(metadata, observations, 1).values())).any()


def _differences(metadata: StepMetadata, observations: PyTree, other: int) -> dict[str, Bool[Array, ""]]:
    """Returns, for each thing that a game shows, whether games 0 and `other` of the leading axis differ in it."""
    shows = {
        "the rewards": metadata.rewards,
        "the legal actions": metadata.action_mask,
        "the end of the game": metadata.terminated,
        "the player to move": metadata.cur_player_id,
        "the observation": observations,
        "the probabilities of chance": metadata.chance,
    }

    def differ(x):
        x = x.astype(jnp.float32)
        return ~jnp.allclose(x[0], x[other], rtol=1e-4, atol=1e-4, equal_nan=True)

    leaves = {name: jax.tree.leaves(tree) for name, tree in shows.items()}
    return {name: jnp.stack([differ(x) for x in xs]).any() for name, xs in leaves.items() if xs}


def _one_outcome(
    env: Env, env_state: PyTree, metadata: StepMetadata, *, key: PRNGKeyArray
) -> tuple[PyTree, dict[str, Bool[Array, ""]]]:
    """Makes a uniformly drawn possible move of nature; returns the call with its result, and the broken rules."""
    assert env.outcome is not None
    assert metadata.chance is not None
    draw_key, outcome_key = jax.random.split(key)
    possible = metadata.chance > 0
    outcome = outcome_at(cumulative(possible.astype(jnp.float32)), jax.random.uniform(draw_key, (), jnp.float32))
    after = env.outcome(env_state, outcome, outcome_key)
    is_stuck = ~after[1].terminated & ~after[1].action_mask.any() & ~is_to_draw(after[1])
    rule = (
        "an outcome of nature with a probability above 0 and no legal action after it, though the game is not over, "
        "expected at least one; set its probability to 0, or let the player pass"
    )
    return ((outcome, outcome_key), after), {rule: possible.any() & is_stuck}


def _broken_rules_of_nature(
    before: StepMetadata, nature: StepMetadata, after: StepMetadata, *, is_new: Bool[Array, ""]
) -> dict[str, Bool[Array, ""]]:
    """Returns, for each rule about nature's moves, whether it is broken.

    **Arguments:** `before`, the metadata before a move of a player; `nature`, the metadata after that move; `after`,
    the metadata after nature's outcome, with several copies of a game in a leading axis.
    """
    assert nature.chance is not None
    total, to_move = nature.chance.sum(), is_to_draw(nature)
    return {
        "negative probabilities of nature's outcomes, or NaN, expected numbers from 0 to 1; look at how `step` makes "
        "`chance`": ~(nature.chance >= 0).all(),
        "probabilities of nature's outcomes whose sum is neither 1 nor 0, expected 1 if nature is to move and 0 "
        "otherwise; divide them by their sum": to_move & (jnp.abs(total - 1) > 1e-3),
        "nature to move after the end of the game, expected zeros in `chance` there; write zeros if `terminated` is "
        "True": to_move & nature.terminated,
        "nature to move in a new game, expected a player; let `init` draw with its key": is_new & is_to_draw(before),
        "nature to move after an outcome of nature, expected a player to move or the end of the game; merge the "
        "two draws into one, whose outcomes are all pairs": to_move & is_to_draw(after)[0],
    }


def _broken_rules(
    metadata: StepMetadata, observation: PyTree, *, is_new: Bool[Array, ""], was_over: Bool[Array, ""]
) -> dict[str, Bool[Array, ""]]:
    """Returns, for each rule about a state, whether it is broken; `was_over` is `terminated` of the previous state."""
    rewards, player, over = metadata.rewards, metadata.cur_player_id, metadata.terminated
    num_players = rewards.shape[0]
    pays = (rewards != 0).any()
    # Relative to the largest reward, so that rounding in large rewards does not count.
    unbalanced = jnp.abs(rewards.sum()) > 1e-4 * jnp.maximum(1, jnp.abs(rewards).max())
    is_finite = (
        jnp.isfinite(rewards).all(),
        jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(observation)]).all(),
    )
    return {
        "a new game that is over, expected a player to move; let `init` return a state that is not terminated": is_new
        & over,
        "a new game that pays, expected rewards of zero; give rewards in `step` only": is_new & pays,
        "a step from a terminated state that leads to a game that is not over, expected it to stay over; return a "
        "terminated state as it is. If `step` starts a new game by itself (auto-reset), remove that: self-play starts "
        "new games with `init`": was_over & ~over,
        "a step from a terminated state that pays again, expected rewards of zero after the end; give the last rewards "
        "only for the move that ends the game": was_over & pays,
        "no legal action though the game is not over, expected at least one; set `terminated`, or add an action "
        "for a pass": ~over & ~metadata.action_mask.any(),
        f"`cur_player_id` out of range, expected 0 to {num_players - 1}, as `rewards` has {num_players} "
        f"{'entries' if num_players > 1 else 'entry'}, one for each player; number the players from 0, in a terminated "
        "state too, and give `rewards` an entry for each": (player < 0) | (player >= num_players),
        "NaN or infinity in `rewards`, expected finite numbers; look for a division by zero": ~is_finite[0],
        "rewards of two players that do not sum to zero, expected one player to lose what the other wins; give the "
        "loser the negative of the winner's reward": unbalanced & (num_players == 2),
        "NaN or infinity from `observe`, expected finite numbers; look for a division by zero": ~is_finite[1],
    }


def check_record(env: Env, record: GameRecord, keys: list[str], *, may_go_on: bool = False) -> None:
    """Reports the first broken rule of random games, and warns about designs that are allowed but rarely intended.

    **Arguments:** `keys`, the names of the keys in the state; `may_go_on`, whether a game may have no end.

    **Raises:** `ValueError` for a broken rule.
    """
    found = [
        (int(step), int(game), rule) for rule, broken in record.broken.items() for game, step in np.argwhere(broken)
    ]
    if found:
        step, game, rule = min(found)
        what, expected = rule.split(", expected ", 1)
        there = (
            f"rewards = {record.rewards[game, step]}, cur_player_id = {record.player[game, step]}, "
            f"terminated = {record.terminated[game, step]}"
        )
        raise ValueError(f"{env.name}, game {game} after {step} moves: found {what} ({there}), expected {expected}.")
    foreseen = [name for name, differs in record.foreseen.items() if differs.any()]
    if foreseen:
        warnings.warn(
            f"{env.name}: found that {_listed(foreseen)} depend on a random key in the state ({_listed(keys)}), "
            "expected only the moves to decide. A search steps through the same states as the game, so it knows in "
            "advance what is drawn with the key; let nature draw, with `outcome` of tz.Env, or with "
            "tz.games.sampled_chance if `step` takes a key.",
            stacklevel=4,
        )
    hidden = [] if foreseen else [name for name, differs in record.hidden.items() if differs.any()]
    if hidden:
        warnings.warn(
            f"{env.name}: found two new games that look alike in which the same moves lead to differences in "
            f"{_listed(hidden)}, expected the visible position to decide what follows. The state hides something "
            "that a search knows, such as a shuffled deck; let nature draw, with `outcome` of tz.Env. Games with "
            "hidden information are not supported.",
            stacklevel=4,
        )
    num_restarts = int(record.restarted.sum())
    if num_restarts and not record.terminated.any() and not may_go_on:
        warnings.warn(
            f"{env.name}: found no game that ended, but {num_restarts} moves that paid and led to the first state, "
            "expected `terminated` to be True after the last move; if `step` starts a new game by itself (auto-reset), "
            "remove that: self-play starts new games with `init`.",
            stacklevel=4,
        )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def proven_returns(record: GameRecord, discount: float, low: float, high: float) -> tuple[float, float]:
    """Returns the smallest and the largest return of any position, as far as the games prove them.

    If a game was cut off before its end, the return from its last position on is unknown. It is assumed to be the
    number from `low` to `high` that makes the smallest return as large, or the largest return as small, as possible. So
    a result outside of this range proves that some return is outside of it: the return from that position, or from the
    last position of its game.

    **Arguments:** `record`, of the games; `discount`, for each move; `low` and `high`, the range of expected returns.

    **Returns:** both returns, from the perspective of the player to move.
    """
    rewards, player = np.asarray(record.rewards), np.asarray(record.player)
    paid = np.take_along_axis(rewards[:, 1:], player[:, :-1, None], -1)[..., 0]
    sign = np.where(player[:, 1:] == player[:, :-1], 1.0, -1.0)
    least, greatest = math.inf, -math.inf
    total, rest = np.zeros(len(paid)), np.where(record.terminated[:, -1], 0.0, 1.0)  # after the last move
    for step in reversed(range(paid.shape[1])):
        total = paid[:, step] + discount * sign[:, step] * total
        rest = discount * sign[:, step] * rest
        over = record.terminated[:, step]
        total = np.where(over, 0.0, total)
        least = min(least, float(np.where(over, np.inf, total + np.maximum(rest * low, rest * high)).min()))
        greatest = max(greatest, float(np.where(over, -np.inf, total + np.minimum(rest * low, rest * high)).max()))
    return least, greatest
