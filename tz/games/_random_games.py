"""Random games, played to see whether a game keeps the rules of `tz.env`, and what it pays."""

import functools
import math
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from tz.games._hidden_keys import is_same_without_keys, keys_used, with_other_keys
from tz.games.chance import cumulative, draw_answer, is_to_draw, outcome_at
from tz.games.env import Env, StepMetadata


class GameRecord(eqx.Module):
    """What was seen of random games, `[B, T]`; step `t` tells of the position before move `t`.

    **Fields:** `rewards`, `[B, T, P]`, `terminated` and `player`, of the metadata; `broken`, for each rule, in words,
    whether it was broken; `restarted`, whether a move that paid led to the first state; `foreseen`, for each thing that
    a game shows, whether it differs between two copies of the game that differ in the keys in their states; `hidden`,
    the same for two new games that look alike.
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
    """Plays random legal moves in several games at once, on after the end of a game.

    **Returns:** the calls of one game with their results, to be repeated; the record of the games, as NumPy arrays;
    and the names of the keys in the state.
    """
    init_key, action_key, other_key = jax.random.split(key, 3)
    # The chances are drawn here, not in `_play`, to keep the program small: compiling it is most of the time spent.
    chances = jax.random.uniform(action_key, (num_games, num_moves + 1), jnp.float32)
    keys = keys_used(env)
    init_keys, other_keys = jax.random.split(init_key, num_games), jax.random.split(other_key, num_games)
    played = _play_games(env, tuple(keys), init_keys, other_keys, chances)
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


def _play(
    env: Env, keys: tuple[str, ...], init_key: PRNGKeyArray, other_key: PRNGKeyArray, chances: Float[Array, " T"]
) -> tuple[PyTree, Any]:
    """Plays one game, and makes the same moves in another new game and, if the state has keys, in a copy of the first
    that differs in them. The three are in a leading axis.
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
        action = jnp.argmax(num_legal > chance * num_legal[-1]).astype(jnp.int32)
        afters = jax.vmap(env.step, (0, None))(states[0], action)
        made_move, nature, broken = jax.tree.map(lambda leaf: leaf[0], afters), None, {}
        if env.outcome is not None:
            key = jax.random.fold_in(chance_key, num_moves)
            nature, broken = _one_outcome(env, *made_move, key=key)
            afters = jax.vmap(functools.partial(draw_answer, env, key=key))(*afters)
            broken |= _broken_rules_of_nature(metadata, made_move[1], afters[1], is_new=num_moves == 0)
        made = (state, action, observation, made_move, nature)
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
    none_yet = (first[0], jnp.int32(0), unseen, first, nature)
    inputs = jnp.arange(chances.shape[0], dtype=jnp.int32), chances
    (*_, last), record = jax.lax.scan(move, (starts, jnp.bool_(False), none_yet), inputs)
    return (init_key, first, last), record


def _all_equal(metadata: StepMetadata, observations: PyTree) -> Bool[Array, ""]:
    """Whether two games, in a leading axis, show the same."""
    return ~jnp.stack(list(_differences(metadata, observations, 1).values())).any()


def _differences(metadata: StepMetadata, observations: PyTree, other: int) -> dict[str, Bool[Array, ""]]:
    """Compares what two games show: the first, and number `other`, in the leading axis."""
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
    """One of nature's possible outcomes, each as likely as the others: the call with its result, and broken rules."""
    assert env.outcome is not None
    assert metadata.chance is not None
    draw_key, outcome_key = jax.random.split(key)
    possible = metadata.chance > 0
    outcome = outcome_at(cumulative(possible.astype(jnp.float32)), jax.random.uniform(draw_key, (), jnp.float32))
    after = env.outcome(env_state, outcome, outcome_key)
    is_stuck = ~after[1].terminated & ~after[1].action_mask.any() & ~is_to_draw(after[1])
    rule = (
        "an outcome of nature, of a probability above 0, without a legal action though the game is not over, expected "
        "at least one; give it the probability 0 or an action"
    )
    return ((outcome, outcome_key), after), {rule: possible.any() & is_stuck}


def _broken_rules_of_nature(
    before: StepMetadata, nature: StepMetadata, after: StepMetadata, *, is_new: Bool[Array, ""]
) -> dict[str, Bool[Array, ""]]:
    """For each rule of nature's moves, in words, whether it is broken.

    **Arguments:** `before`, a player's move; `nature`, the position that it led to; `after`, those after nature's
    answer, of several copies of a game in a leading axis.
    """
    assert nature.chance is not None
    total, to_move = nature.chance.sum(), is_to_draw(nature)
    return {
        "negative probabilities of nature's outcomes, or NaN, expected numbers from 0 to 1; see how `step` makes "
        "`chance`": ~(nature.chance >= 0).all(),
        "probabilities of nature's outcomes whose sum is neither 1 nor 0, expected 1 where nature is to move and zeros "
        "elsewhere; divide them by their sum": to_move & (jnp.abs(total - 1) > 1e-3),
        "nature to move after the end of the game, expected zeros in `chance` there; set them where `terminated` is "
        "True": to_move & nature.terminated,
        "nature to move in a new game, expected a player; let `init` draw with its key": is_new & is_to_draw(before),
        "nature to move after an outcome of nature, expected a player or the end; make one draw of the two, of all "
        "pairs of outcomes": to_move & is_to_draw(after)[0],
    }


def _broken_rules(
    metadata: StepMetadata, observation: PyTree, *, is_new: Bool[Array, ""], was_over: Bool[Array, ""]
) -> dict[str, Bool[Array, ""]]:
    """For each rule of a single state, in words, whether it is broken; `was_over` tells of the state before it."""
    rewards, player, over = metadata.rewards, metadata.cur_player_id, metadata.terminated
    num_players = rewards.shape[0]
    pays = (rewards != 0).any()
    unbalanced = jnp.abs(rewards.sum()) > 1e-4 * jnp.maximum(1, jnp.abs(rewards).max())
    is_finite = (
        jnp.isfinite(rewards).all(),
        jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(observation)]).all(),
    )
    return {
        "a new game that is over, expected one to move in; let `init` return a state that is not terminated": is_new
        & over,
        "a new game that pays, expected rewards of zero; pay them in `step`": is_new & pays,
        "a step from a terminated state that leads to a game that is not over, expected it to stay over; return the "
        "state as it is when it is terminated already. If `step` begins a new game by itself (auto-reset), give tz the "
        "step without it: self-play begins new games by `init`": was_over & ~over,
        "a step from a terminated state that pays again, expected rewards of zero after the end; pay in the move that "
        "ends the game alone": was_over & pays,
        "no legal action though the game is not over, expected at least one; terminate it, or add an action that "
        "passes": ~over & ~metadata.action_mask.any(),
        f"`cur_player_id` out of range, expected 0 to {num_players - 1}, as `rewards` has {num_players} "
        f"{'entries' if num_players > 1 else 'entry'}, one for each player; number the players from 0, in a terminated "
        "state too, and give `rewards` an entry for each": (player < 0) | (player >= num_players),
        "NaN or infinity in `rewards`, expected finite numbers; see what `step` divides by": ~is_finite[0],
        "rewards of two players that do not sum to zero, expected what one wins to be what the other loses; give the "
        "loser the negative of the winner's reward": unbalanced & (num_players == 2),
        "NaN or infinity from `observe`, expected finite numbers; see what `observe` divides by": ~is_finite[1],
    }


def check_record(env: Env, record: GameRecord, keys: list[str], *, may_go_on: bool = False) -> None:
    """Reports the first broken rule of random games, and warns of what may be meant but seldom is.

    **Arguments:** `keys`, the names of the keys in the state; `may_go_on`, whether a game may be without an end.

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
            "expected the moves alone to decide. A search steps through the very states that will be played, so it "
            "foresees what is drawn with the key, and its values and moves are a clairvoyant's; let nature draw, by "
            "`outcome` of tz.Env, or by tz.games.sampled_chance for a step that takes a key.",
            stacklevel=4,
        )
    hidden = [] if foreseen else [name for name, differs in record.hidden.items() if differs.any()]
    if hidden:
        warnings.warn(
            f"{env.name}: found two new games that look alike in which the same moves lead to differences in "
            f"{_listed(hidden)}, expected that what the game shows decides what follows. Something that only the state "
            "holds decides it, such as a shuffled deck, and a search foresees it; let nature draw, by `outcome` of "
            "tz.Env. Games of hidden information are not supported.",
            stacklevel=4,
        )
    num_restarts = int(record.restarted.sum())
    if num_restarts and not record.terminated.any() and not may_go_on:
        warnings.warn(
            f"{env.name}: found no game that ended, but {num_restarts} moves that paid and led to the first state, "
            "expected `terminated` to be True after the last move; if `step` begins a new game by itself (auto-reset), "
            "give tz the step without it: self-play begins new games by `init`.",
            stacklevel=4,
        )


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def proven_returns(record: GameRecord, discount: float, low: float, high: float) -> tuple[float, float]:
    """The least and the greatest return from some position on, as far as the games prove that there are such returns.

    Where a game was not seen to its end, what was paid so far and what will be paid from there on make a return. The
    rest is taken to be whatever from `low` to `high` brings the return closest to these. So the least return is below
    `low` only if some return is, of this position or of the last one seen; the same for the greatest and `high`.

    **Arguments:** `discount`, a move; `low` and `high`, between which returns are expected.

    **Returns:** both from the perspective of the player to move.
    """
    rewards, player = np.asarray(record.rewards), np.asarray(record.player)
    paid = np.take_along_axis(rewards[:, 1:], player[:, :-1, None], -1)[..., 0]
    sign = np.where(player[:, 1:] == player[:, :-1], 1.0, -1.0)
    least, greatest = math.inf, -math.inf
    total, rest = np.zeros(len(paid)), np.where(record.terminated[:, -1], 0.0, 1.0)  # of what follows the last move
    for step in reversed(range(paid.shape[1])):
        total = paid[:, step] + discount * sign[:, step] * total
        rest = discount * sign[:, step] * rest
        over = record.terminated[:, step]
        total = np.where(over, 0.0, total)
        least = min(least, float(np.where(over, np.inf, total + np.maximum(rest * low, rest * high)).min()))
        greatest = max(greatest, float(np.where(over, -np.inf, total + np.minimum(rest * low, rest * high)).max()))
    return least, greatest
